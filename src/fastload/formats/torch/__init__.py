"""Everything that PyTorch writes; for now the zip archive of `torch.save`."""
