"""Everything that PyTorch writes, and has written."""
