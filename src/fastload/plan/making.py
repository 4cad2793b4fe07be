"""Makings: how a planned tensor is made of the tensors of a file. A plain one is its row, a number.

A making knows what it will be (dtype, shape, whether a view) without reading anything, and makes the array when asked.
Transposes and slices of views are views.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from fastload._native import Region
from fastload.casting import INTEGERS, blocks, cast, cast_chunks
from fastload.dtypes import CODES, DTYPES
from fastload.entry import TensorEntry
from fastload.errors import PlanError

__all__ = [
    "Cast",
    "Concatenated",
    "Making",
    "Permuted",
    "Rows",
    "Sliced",
    "array_of",
    "casts_last",
    "check_divisible",
    "chunks_of",
    "entry_of",
    "is_cast_to_integers",
    "rows_of",
]


class Rows(Protocol):
    """The tensors that a plan begins with."""

    def entry(self, row: int) -> TensorEntry:
        """The description of one tensor."""

    def array(self, row: int) -> np.ndarray:
        """The array of one tensor, made anew."""


@dataclass(frozen=True, slots=True)
class Permuted:
    """A tensor with its axes in another order: a view."""

    of: Making
    axes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Sliced:
    """The run from *start* to *stop* along an axis: a view."""

    of: Making
    axis: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Concatenated:
    """Several tensors end to end along an axis: a copy."""

    of: tuple[Making, ...]
    axis: int


@dataclass(frozen=True, slots=True)
class Cast:
    """A tensor in another dtype: a copy."""

    of: Making
    dtype: str


Making = int | Permuted | Sliced | Concatenated | Cast


def rows_of(making: Making) -> list[int]:
    """The rows that a tensor is made of."""
    if isinstance(making, int):
        return [making]
    if isinstance(making, Concatenated):
        return [row for part in making.of for row in rows_of(part)]
    return rows_of(making.of)


def is_cast_to_integers(making: Making) -> bool:
    """Whether a cast to integers is on the way, which fails at numbers that do not fit. One to floats never does."""
    if isinstance(making, int):
        return False
    if isinstance(making, Concatenated):
        return any(map(is_cast_to_integers, making.of))
    return (isinstance(making, Cast) and making.dtype in INTEGERS) or is_cast_to_integers(making.of)


def entry_of(making: Making, rows: Rows) -> TensorEntry:
    """The description of a tensor, under the name that its first row has."""
    if isinstance(making, int):
        return rows.entry(making)
    if isinstance(making, Permuted):
        entry = entry_of(making.of, rows)
        shape = tuple(entry.shape[axis] for axis in making.axes)
        strides = entry.strides
        assert strides is not None, "checked by the step"
        return entry.changed(shape=shape, strides=tuple(strides[axis] for axis in making.axes))
    if isinstance(making, Sliced):
        entry = entry_of(making.of, rows)
        strides = entry.strides
        assert strides is not None, "checked by the step"
        shape = (*entry.shape[: making.axis], making.stop - making.start, *entry.shape[making.axis + 1 :])
        offset = None if entry.offset is None else entry.offset + making.start * strides[making.axis]
        nbytes = _nbytes(entry, shape)
        return entry.changed(shape=shape, strides=strides, offset=offset, nbytes=nbytes)
    if isinstance(making, Cast):
        entry = entry_of(making.of, rows)
        return copied(entry, making.dtype, entry.shape, math.prod(entry.shape) * DTYPES[CODES[making.dtype]].bits // 8)
    parts = [entry_of(part, rows) for part in making.of]
    first = parts[0]
    shape = (
        *first.shape[: making.axis],
        sum(part.shape[making.axis] for part in parts),
        *first.shape[making.axis + 1 :],
    )
    return copied(first, first.dtype, shape, sum(part.nbytes for part in parts))


def check_divisible(entry: TensorEntry, step: str) -> None:
    """See that the elements of a tensor can be taken one from another.

    Raises
    ------
    PlanError
        Several lie in one byte, or their quantisation follows the axes as they are.
    """
    if entry.strides is None:
        raise PlanError(f"{step}: {entry.name!r} is {entry.dtype}, which is packed below the byte: it must stay whole")
    found = entry.quantization if entry.kind == "quantised" else None
    if found is not None and getattr(found, "axis", 0) is not None:
        raise PlanError(f"{step}: {entry.name!r} is quantised along its axes: it must stay whole")


def copied(entry: TensorEntry, dtype: str, shape: tuple[int, ...], nbytes: int) -> TensorEntry:
    """The description of a copy: in memory of its own, C-contiguous."""
    size = nbytes // max(math.prod(shape), 1)
    strides = []
    for length in shape[::-1]:
        strides.append(size)
        size *= max(length, 1)
    return entry.changed(
        dtype=dtype,
        shape=shape,
        strides=tuple(strides[::-1]),
        offset=None,
        nbytes=nbytes,
        storage=None,
        zero_copy=False,
    )


def _nbytes(entry: TensorEntry, shape: tuple[int, ...]) -> int:
    elements = math.prod(entry.shape)
    return entry.nbytes // elements * math.prod(shape) if elements else 0


def array_of(making: Making, rows: Rows) -> np.ndarray:
    """The array of a tensor: read-only, a view where its parts let it be one."""
    if isinstance(making, int):
        return rows.array(making)
    if isinstance(making, Permuted):
        array = array_of(making.of, rows)
        extra = range(len(making.axes), array.ndim)  # the halves of a complex32
        return array.transpose(*making.axes, *extra)
    if isinstance(making, Sliced):
        array = array_of(making.of, rows)
        return array[(slice(None),) * making.axis + (slice(making.start, making.stop),)]
    if isinstance(making, Cast):
        source = entry_of(making.of, rows)
        try:  # whether integers are meant was settled when the step was stated
            return read_only(cast(array_of(making.of, rows), source.dtype, making.dtype, allow_integers=True))
        except PlanError as error:
            raise PlanError(f"tensor {source.name!r}: {error.message}") from None
    return read_only(np.concatenate([array_of(part, rows) for part in making.of], axis=making.axis))


def chunks_of(making: Making, rows: Rows, chunk_bytes: int) -> Iterator[memoryview] | None:
    """The bytes of a tensor that is cast, C-contiguous and little-endian, in runs; None for one that is not cast.

    A run is cast when it is asked for, so that the cast array is never in memory as a whole, unless its parts are put
    together after they were cast, in the midst of rows.
    """
    making = casts_last(making)
    if isinstance(making, Concatenated):
        first = entry_of(making.of[0], rows)
        if any(length != 1 for length in first.shape[: making.axis]):
            return None
        runs = [chunks_of(part, rows, chunk_bytes) for part in making.of]
        found = [run for run in runs if run is not None]
        return itertools.chain.from_iterable(found) if len(found) == len(runs) else None
    if not isinstance(making, Cast):
        return None
    steps = [making.dtype]
    source = making.of
    while isinstance(source, Cast):
        steps.append(source.dtype)
        source = source.of
    return _cast_runs(source, rows, steps[::-1], chunk_bytes)


def _cast_runs(source: Making, rows: Rows, dtypes: list[str], chunk_bytes: int) -> Iterator[memoryview]:
    """The runs of a tensor that is cast to one dtype after the other: twice rounded is not once rounded."""
    array, dtype = array_of(source, rows), entry_of(source, rows).dtype
    if len(dtypes) == 1:
        yield from cast_chunks(array, dtype, dtypes[0], chunk_bytes, allow_integers=True)
        return
    widest = max(DTYPES[CODES[name]].bits // 8 for name in [dtype, *dtypes])
    # The halves of a complex32 are an axis of their own, and must stay together.
    limit = max(chunk_bytes // widest, 1)
    if "complex32" in (dtype, *dtypes):
        yield from cast_chunks(
            array_of(_chained(source, dtypes[:-1]), rows), dtypes[-2], dtypes[-1], chunk_bytes, allow_integers=True
        )
        return
    for (block,) in blocks((array,), limit):
        part, known = block, dtype
        for name in dtypes[:-1]:
            part, known = cast(part, known, name, allow_integers=True), name
        yield from cast_chunks(part, known, dtypes[-1], chunk_bytes, allow_integers=True)


def _chained(making: Making, dtypes: list[str]) -> Making:
    for name in dtypes:
        making = Cast(making, name)
    return making


def casts_last(making: Making) -> Making:
    """The same tensor with casts as the last thing that is done to it, wherever order does not matter."""
    if isinstance(making, (Permuted, Sliced)):
        inner = casts_last(making.of)
        if isinstance(inner, Cast):
            return Cast(casts_last(replace(making, of=inner.of)), inner.dtype)
        return replace(making, of=inner)
    if isinstance(making, Cast):
        return Cast(casts_last(making.of), making.dtype)
    return making


def read_only(array: np.ndarray) -> np.ndarray:
    """The same array over memory that nobody can make writable."""
    data = memoryview(Region(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data))
    return np.ndarray(array.shape, array.dtype, data)
