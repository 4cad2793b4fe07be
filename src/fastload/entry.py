"""TensorEntry: the description of one tensor. Native, since a checkpoint may have 200,000 of them. And their names."""

from __future__ import annotations

from typing import Any, NamedTuple

from fastload._native import TensorEntry

__all__ = ["FreeNames", "Quantization", "TensorEntry"]


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


class FreeNames:
    """Gives each tensor a name of its own: the second and later of one name get `#2`, `#3` and so on."""

    def __init__(self) -> None:
        self._next: dict[str, int] = {}

    def take(self, name: str) -> str:
        """*name*, or its first variant that is not taken; it is taken from now on."""
        if name in self._next:
            number = self._next[name]
            while f"{name}#{number}" in self._next:
                number += 1
            self._next[name] = number + 1
            name = f"{name}#{number}"
        self._next[name] = 2
        return name
