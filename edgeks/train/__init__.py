"""Training: data sets, the training loop, its settings and its progress."""
