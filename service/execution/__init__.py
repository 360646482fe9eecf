"""Attempts and the Ray jobs that run them: life cycle, tokens, reports, runners, the warm pool."""
