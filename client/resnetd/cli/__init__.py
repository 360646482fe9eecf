"""The `resnetd` command."""
