"""The training process's voice: what it has to tell reaches the API, and never holds it up."""
