"""Benchmarks of the service and of training; `make bench-NAME` runs benchmarks.NAME."""
