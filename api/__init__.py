"""The HTTP API over `service`."""
