"""Extents: where in a file the bytes of tensors lie, for those who read, copy or fetch them ahead by themselves."""

from __future__ import annotations

from typing import NamedTuple

from fastload.entry import TensorEntry
from fastload.source import Source
from fastload.tensors import Tensors

__all__ = ["Extent", "extent_of"]


class Extent(NamedTuple):
    """The run of bytes from the first to the last that a tensor lies in.

    Attributes
    ----------
    source : Source
        What holds them: a file, or a buffer.
    offset : int
        In bytes from the start of that file, or of that buffer.
    nbytes : int
    is_plain : bool
        Whether the bytes are the elements in C order, one after the other and nothing between.
    """

    source: Source
    offset: int
    nbytes: int
    is_plain: bool


def extent_of(tensors: Tensors, row: int) -> Extent | None:
    """Where the bytes of one tensor lie; None where it is no view of one file: unpacked, swapped, made by a plan."""
    source = tensors.source_of(row)
    entry = tensors.entry(row)
    if source is None or entry.offset is None:
        return None
    if entry.strides is None or not entry.nbytes:
        return Extent(source, entry.offset, entry.nbytes, True)
    steps = [(length - 1) * stride for length, stride in zip(entry.shape, entry.strides, strict=True)]
    first = sum(step for step in steps if step < 0)
    last = sum(step for step in steps if step > 0)
    nbytes = last - first + _item_bytes(entry)
    return Extent(source, entry.offset + first, nbytes, is_contiguous(entry))


def is_contiguous(entry: TensorEntry) -> bool:
    """Whether the elements of a tensor lie in C order, one after the other."""
    assert entry.strides is not None
    return is_c_order(entry.shape, entry.strides, _item_bytes(entry))


def is_c_order(shape: tuple[int, ...], strides: tuple[int, ...], item_bytes: int) -> bool:
    """Whether elements of that shape and those strides lie one after the other."""
    expected = item_bytes
    for length, stride in zip(shape[::-1], strides[::-1], strict=True):
        if length != 1 and stride != expected:
            return False
        expected *= length
    return True


def _item_bytes(entry: TensorEntry) -> int:
    count = 1
    for length in entry.shape:
        count *= length
    return entry.nbytes // count
