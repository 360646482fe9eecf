"""Exports of jobs in the formats of other tools; each needs an extra of this package."""
