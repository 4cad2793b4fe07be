"""What a list of tensors comes to: tensors, parameters and bytes, by dtype and in all, and the storages under them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

from fastload.entry import TensorEntry

__all__ = ["Sum", "by_dtype", "overall", "storage_nbytes"]


class Sum(NamedTuple):
    """Some tensors: how many, their elements (parameters, as people say), and the bytes of those."""

    tensors: int
    parameters: int
    nbytes: int


def by_dtype(entries: Iterable[TensorEntry]) -> dict[str, Sum]:
    """The sum for each dtype, the one with most bytes first."""
    sums: dict[str, list[int]] = {}
    for entry in entries:
        found = sums.setdefault(entry.dtype, [0, 0, 0])
        found[0] += 1
        found[1] += math.prod(entry.shape)
        found[2] += entry.nbytes
    return {dtype: Sum(*found) for dtype, found in sorted(sums.items(), key=lambda item: -item[1][2])}


def overall(sums: Iterable[Sum]) -> Sum:
    """The sum of sums."""
    return Sum(*map(sum, zip(Sum(0, 0, 0), *sums, strict=True)))


def storage_nbytes(entries: Iterable[TensorEntry]) -> int:
    """The bytes of the storages that hold the tensors, each counted once.

    Less than the tensors' own where they share storages or repeat elements (stride 0); more where a tensor is a slice
    of a storage that was kept whole; and nothing for meta tensors, which have none.
    """
    return sum({entry.storage: entry.storage_nbytes for entry in entries}.values())
