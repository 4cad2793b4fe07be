"""How the values of two tensors differ, run by run, so that memory stays small however large they are."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from fastload.dtypes import CODES, DTYPES, numpy_dtype
from fastload.formats.writing import Outgoing, integers_of
from fastload.statistics import PACKED

__all__ = ["Differences", "differences"]

RUN = 1 << 18  # elements that are compared at a time


class Differences(NamedTuple):
    """How the values of two tensors differ, of which NaN equals NaN.

    Attributes
    ----------
    elements : int
        How many there are.
    differing : int
        How many of them are not equal; of packed dtypes, bytes.
    max_abs, max_rel : float or None
        The largest difference, as it is and by the larger of the two values, where both are finite; None where no
        such values differ, or the dtype is packed.
    """

    elements: int
    differing: int
    max_abs: float | None
    max_rel: float | None


def differences(first: Outgoing, second: Outgoing) -> Differences:
    """How the values of two tensors of one shape differ, whatever their dtypes; packed ones must be of the same."""
    elements = math.prod(first.shape)
    if first.dtype.startswith(PACKED) or second.dtype.startswith(PACKED):
        return _of_bytes(first, second, elements)
    differing = 0
    max_abs = max_rel = -1.0
    sizes = [DTYPES[CODES[tensor.dtype]].bits // 8 for tensor in (first, second)]
    runs = [_runs(tensor.chunks(), RUN * size) for tensor, size in zip((first, second), sizes, strict=True)]
    is_same_dtype = first.dtype == second.dtype
    for one, other in zip(*runs, strict=True):
        if is_same_dtype and np.array_equal(one, other):
            continue
        a, b = _numbers(one, first.dtype), _numbers(other, second.dtype)
        if a.dtype.kind != b.dtype.kind and {a.dtype.kind, b.dtype.kind} & {"f", "c"}:
            a, b = _wide(a), _wide(b)  # as float64, with which numpy compares, integers of 64 bits would be rounded
        with np.errstate(all="ignore"):
            unequal = (a != b) & ~(np.isnan(a) & np.isnan(b))
            a, b = a[unequal], b[unequal]
            differing += len(a)
            finite = np.isfinite(a) & np.isfinite(b)
            a, b = a[finite], b[finite]
            if len(a):
                away = np.abs(_wide(a) - _wide(b))
                larger = np.maximum(np.abs(_wide(a)), np.abs(_wide(b)))
                max_abs = max(max_abs, float(away.max()))
                max_rel = max(max_rel, float((away / larger).max()))
    return Differences(elements, differing, None if max_abs < 0 else max_abs, None if max_rel < 0 else max_rel)


def _of_bytes(first: Outgoing, second: Outgoing, elements: int) -> Differences:
    runs = [_runs(tensor.chunks(), RUN) for tensor in (first, second)]
    count = sum(int(np.count_nonzero(one != other)) for one, other in zip(*runs, strict=True))
    return Differences(elements, count, None, None)


def _runs(chunks: Iterable[memoryview], size: int) -> Iterator[np.ndarray]:
    """Bytes in runs of exactly *size*, but for the last."""
    kept: list[memoryview] = []
    length = 0
    for chunk in chunks:
        left = chunk
        while len(left):
            piece, left = left[: size - length], left[size - length :]
            kept.append(piece)
            length += len(piece)
            if length == size:
                yield _joined(kept)
                kept, length = [], 0
    if kept:
        yield _joined(kept)


def _joined(pieces: list[memoryview]) -> np.ndarray:
    return np.frombuffer(pieces[0] if len(pieces) == 1 else b"".join(pieces), np.uint8)


def _numbers(run: np.ndarray, dtype: str) -> np.ndarray:
    """Little-endian bytes as numbers that NumPy can compare: integers as they are, floats as they are or wider."""
    if dtype == "complex32":
        halves = run.view("<f2").astype(np.float32)
        pairs: np.ndarray = halves.view(np.complex64)
        return pairs
    row = numpy_dtype(CODES[integers_of(dtype)])
    if row.kind in "iufc":
        found: np.ndarray = run.view(row.newbyteorder("<"))
        return found
    if row.kind == "b":
        flags: np.ndarray = run != 0
        return flags.astype(np.uint8)
    return run.view(row).astype(np.float32)  # one of ml_dtypes', of which float32 has every number


def _wide(values: np.ndarray) -> np.ndarray[Any, Any]:
    """Numbers in which a difference neither wraps nor overflows."""
    kind = np.clongdouble if values.dtype.kind == "c" else np.longdouble
    return values.astype(kind)
