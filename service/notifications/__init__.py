"""Notifications of state changes: webhooks and the addresses that they may call."""
