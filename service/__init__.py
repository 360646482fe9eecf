"""The core: what a job is, what may happen to it, where it is kept. No HTTP, no Ray, no torch."""
