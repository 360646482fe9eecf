"""The domain: specs, jobs, scheduling, searches and their storage; no HTTP, no Ray, no torch."""
