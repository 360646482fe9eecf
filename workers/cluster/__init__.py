"""Runs attempts and searches on a Ray cluster: runners, their ranks, drivers of searches."""
