"""Dispatcher, Ray processes, reporting and training."""
