"""Delivers reports and checkpoints of a training process to the API without blocking it."""
