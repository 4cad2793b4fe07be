"""The plan: lazy steps between a checkpoint's tensors and those that its user wants. Knows neither formats nor files.

A step takes a `Table`, the names and makings of all tensors in order, and gives another one. Steps on names are applied
when they are stated, since a mistake in a pattern should be told there; nothing of a tensor's data is read before the
tensor is asked for.
"""
