"""Who may call the API: users and their tokens."""
