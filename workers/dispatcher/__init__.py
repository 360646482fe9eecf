"""The dispatcher: starts queued jobs on Ray, watches what runs there, sends webhooks."""
