"""What several tests need: servers that are real, and gone without a trace."""
