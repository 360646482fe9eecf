"""What the speed claims rest on; `make bench-NAME` runs benchmarks.NAME."""
