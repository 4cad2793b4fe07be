"""TensorEntry: the description of one tensor. Native, since a checkpoint may have 200,000 of them."""

from fastload._native import TensorEntry

__all__ = ["TensorEntry"]
