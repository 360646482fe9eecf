"""`python -m resnetd` runs the `resnetd` command."""

from resnetd.cli.app import main

main()
