"""The statistics of an array's values, piece by piece, so that memory stays small however large it is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from fastload.entry import TensorEntry
from fastload.errors import LimitError, UnsupportedError

__all__ = ["Statistics", "statistics"]

PIECE = 1 << 16  # elements; in the nearest cache, and still large enough for numpy
FIRST = 8  # values that are shown
MAX_OVERLAP = 64  # times that the elements may repeat the bytes of their storage, beside those of stride 0

# Arrays of these hold packed bytes, whose numbers say nothing about the elements.
PACKED = ("float4_e2m1fn", "float6_e2m3fn", "float6_e3m2fn", "float4_e2m1fn_x2", "bits", "quint4x2", "quint2x4")


class Statistics(NamedTuple):
    """The statistics of an array's values.

    Attributes
    ----------
    min, max : int, float or None
        Of the finite values; None where there are none, and for complex numbers, which have no order.
    mean, std : float, complex or None
        Of the finite values; `std` is that of the population.
    zeros, nans, infinities : int
        How many of the values are so; of complex numbers, in any part.
    first : list
        The first values in row-major order.
    """

    min: int | float | None
    max: int | float | None
    mean: float | complex | None
    std: float | None
    zeros: int
    nans: int
    infinities: int
    first: list[Any]


class _Sums:
    """What is known of the values so far: counts, extremes, the mean, and the squares around it."""

    def __init__(self) -> None:
        self.count = self.zeros = self.nans = self.infinities = 0
        self.low: Any = None
        self.high: Any = None
        self.mean: Any = 0.0
        self.squares: Any = 0.0

    def add(self, values: np.ndarray) -> None:
        """Add one piece."""
        self.zeros += values.size - int(np.count_nonzero(values))
        if values.dtype.kind in "fc":
            finite = np.isfinite(values)
            count = int(np.count_nonzero(finite))
            if count < values.size:
                nans = int(np.count_nonzero(np.isnan(values)))
                self.nans += nans
                self.infinities += values.size - count - nans
                values = values[finite]
        if not values.size:
            return
        if values.dtype.kind != "c":
            low, high = values.min(), values.max()
            self.low = low if self.low is None or low < self.low else self.low
            self.high = high if self.high is None or high > self.high else self.high
        wide: np.ndarray = values.astype(_wide(values.dtype))
        # Chan's way to put two means together: no large sums, which would lose the small differences.
        mean = wide.mean()
        away = wide - mean
        squares = (away.real**2 + away.imag**2).sum() if wide.dtype.kind == "c" else (away**2).sum()
        total = self.count + wide.size
        shift = mean - self.mean
        self.mean = self.mean + shift * (wide.size / total)
        self.squares = self.squares + squares + abs(shift) ** 2 * (self.count / total * wide.size)
        self.count = total


def statistics(array: np.ndarray, entry: TensorEntry) -> Statistics:
    """The statistics of the values of a tensor.

    Raises
    ------
    UnsupportedError
        Its elements are no numbers that numpy knows.
    LimitError
        It repeats its storage so often that this would take for ever.
    """
    is_ours = entry.dtype.startswith(("bfloat", "float8"))
    if entry.dtype.startswith(PACKED):
        raise UnsupportedError(f"elements of {entry.dtype} are packed into bytes")
    if not (is_ours or array.dtype.kind in "biufc"):
        raise UnsupportedError(f"elements of {entry.dtype} are no numbers")
    axes = tuple(slice(0, 1) if stride == 0 else slice(None) for stride in array.strides)
    once = array[axes] if array.size else array  # what is broadcast counts each value alike
    if once.nbytes > MAX_OVERLAP * max(entry.storage_nbytes, 1):
        raise LimitError("the tensor repeats its storage too often to be gone through")
    repeats = array.size // once.size if once.size else 1
    sums = _Sums()
    is_half = entry.dtype == "complex32"  # whose parts are a last axis of 2
    # Of values near the limits of longdouble, squares may be infinite, and are shown so.
    with np.errstate(all="ignore"):
        for piece in _pieces(once, is_half, is_ours):
            sums.add(piece)
    return Statistics(
        _item(sums.low),
        _item(sums.high),
        _item(sums.mean) if sums.count else None,
        _item(np.sqrt(sums.squares / sums.count)) if sums.count else None,
        sums.zeros * repeats,
        sums.nans * repeats,
        sums.infinities * repeats,
        _first(array, is_half, is_ours),
    )


def _pieces(array: np.ndarray, is_half: bool, is_ours: bool) -> Iterator[np.ndarray]:
    """The values in the order in which they lie in memory, in pieces of one dimension that numpy can count with."""
    operands = [array[..., 0], array[..., 1]] if is_half else [array]
    if not array.size:
        return
    pieces = np.nditer(
        operands,
        flags=["external_loop", "buffered", "zerosize_ok"],
        op_flags=[["readonly"]] * len(operands),
        order="K",
        buffersize=PIECE,
    )
    for found in pieces:
        if is_half:
            real, imaginary = found
            yield real.astype(np.float32) + imaginary.astype(np.float32) * np.complex64(1j)
        else:
            piece = np.asarray(found)
            yield piece.astype(np.float32) if is_ours else piece


def _wide(dtype: np.dtype[Any]) -> type:
    """What to sum values of *dtype* in: wider than they are, where there is such a thing."""
    if dtype.kind == "c":
        return np.clongdouble if dtype.itemsize > 8 else np.complex128
    return np.longdouble if dtype.itemsize >= 8 else np.float64


def _item(value: Any) -> Any:
    """A numpy number as one of Python's."""
    if value is None:
        return None
    number = np.asarray(value)
    if number.dtype.kind == "c":
        return complex(number)
    return float(number) if number.dtype.kind == "f" else number.item()


def _first(array: np.ndarray, is_half: bool, is_ours: bool) -> list[Any]:
    if not array.size:
        return []
    if is_half:
        pairs = array[np.unravel_index(range(min(array.size // 2, FIRST)), array.shape[:-1])]
        return [complex(float(real), float(imaginary)) for real, imaginary in pairs]
    values = array[np.unravel_index(range(min(array.size, FIRST)), array.shape)] if array.ndim else array.reshape(1)
    return list((values.astype(np.float32) if is_ours else values).tolist())
