"""What a list of tensors comes to: tensors, parameters and bytes, by dtype and in all, and the storages under them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
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


def storage_nbytes(entries: Sequence[TensorEntry]) -> int:
    """The bytes that the tensors lie in, each counted once.

    Of a storage that is what its tensors reach, from the first byte to the last. Less than their own bytes where they
    share storages or repeat elements (stride 0), and nothing for meta tensors, which have none.
    """
    holders = Counter(entry.storage for entry in entries)
    shared: dict[int, list[TensorEntry]] = {storage: [] for storage, held in holders.items() if held > 1}
    total = 0
    for entry in entries:
        if entry.storage in shared:
            shared[entry.storage].append(entry)
        elif entry.storage is not None:
            total += _reach(entry)
    return total + sum(_reach_together(held) for storage, held in shared.items() if storage is not None)


def _reach(entry: TensorEntry) -> int:
    """Bytes from the first to the last of a tensor."""
    strides = entry.strides
    reach: int = entry.nbytes
    if strides is None or not reach:
        return reach
    reach //= math.prod(entry.shape)  # the last element
    for size, stride in zip(entry.shape, strides, strict=True):
        reach += (size - 1) * stride
    return reach


def _reach_together(entries: Sequence[TensorEntry]) -> int:
    """Bytes from the first to the last of several tensors in one storage."""
    filled = [entry for entry in entries if entry.nbytes]
    begins: list[int] = [entry.offset for entry in filled if entry.offset is not None]
    reaches = [_reach(entry) for entry in filled]
    if len(begins) < len(filled):  # inflated: no tensor says where in its storage it begins
        return max(reaches)
    ends = [begin + reach for begin, reach in zip(begins, reaches, strict=True)]
    return max(ends, default=0) - min(begins, default=0)
