"""TensorEntry: the description of one tensor. Native, since a checkpoint may have 200,000 of them."""

from __future__ import annotations

from typing import Any, NamedTuple

from fastload._native import TensorEntry

__all__ = ["Quantization", "TensorEntry"]


class Quantization(NamedTuple):
    """How the integers of a quantised tensor stand for floats: ``(integer - zero_point) * scale``.

    Attributes
    ----------
    scheme : str
        What torch calls it, such as ``"per_tensor_affine"`` or ``"per_channel_affine"``.
    scale, zero_point : number, list or array
        One for the tensor, or one for each place along *axis*.
    axis : int or None
        The dimension along which they differ; None where they do not.
    """

    scheme: str
    scale: Any
    zero_point: Any
    axis: int | None
