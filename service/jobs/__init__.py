"""Jobs and their records: states, submission, commands, events, metrics, checkpoints, retention."""
