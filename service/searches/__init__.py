"""Hyperparameter searches: trials, drivers, importance of parameters, export."""
