"""The hands: the dispatcher, the Ray boundary, the training code."""
