"""Training in plain torch: the networks, the data, the loop, and what it leaves behind."""
