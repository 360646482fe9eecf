"""The door: HTTP only. What may happen is decided in `service`."""
