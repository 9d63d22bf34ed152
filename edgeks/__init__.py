"""edgeks: kernel-sharing CNNs from PyTorch to a board, every shared kernel stored exactly once."""

__version__ = "0.1.0"
