"""What several tests need: real servers, which leave nothing behind."""
