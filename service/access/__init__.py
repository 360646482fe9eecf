"""Who may do what: people, roles, tokens."""
