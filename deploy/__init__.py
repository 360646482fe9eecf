"""How the service is run: on one machine without Docker, in containers, on several machines."""
