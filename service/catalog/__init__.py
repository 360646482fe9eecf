"""What can be trained: architectures, recipes and datasets."""
