"""The statistics of the values of tensors, block by block, so that memory stays small however large they are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from fastload import casting
from fastload.checkpoint import Checkpoint, tensors_of
from fastload.crew import in_order
from fastload.dtypes import CODES, numpy_dtype
from fastload.entry import TensorEntry
from fastload.errors import LimitError, UnsupportedError
from fastload.planned import PlannedTensors
from fastload.tensors import Tensors

__all__ = [
    "MAX_OVERLAP",
    "PACKED",
    "NotFinite",
    "Statistics",
    "find_not_finite",
    "first_values",
    "statistics",
    "survey",
]

PIECE = 1 << 16  # elements that are counted at a time: they stay in the nearest caches, and are enough for numpy
BLOCK = 1 << 22  # elements for one thread at a time
FIRST = 8  # values that are shown
MAX_OVERLAP = 64  # times that the elements may repeat the bytes of their storage, beside those of stride 0

# Arrays of these hold packed bytes, whose numbers say nothing about the elements.
PACKED = (
    "float4_e2m1fn",
    "float6_e2m3fn",
    "float6_e3m2fn",
    "float4_e2m1fn_x2",
    "bits",
    "quint4x2",
    "quint2x4",
    "qfloat",
)
NUMPYS = ("float32", "float64")  # that numpy counts with fastest as they are
WHOLE = ("bool", "int", "uint", "qint", "quint", *PACKED)  # dtypes that have neither NaN nor infinity


class Statistics(NamedTuple):
    """The statistics of a tensor's values.

    Attributes
    ----------
    min, max : int, float or None
        Of the finite values; None where there are none, and for complex numbers, which have no order.
    mean, std : float, complex or None
        Of the finite values; `std` is that of the population.
    zeros, nans, infinities : int
        How many of the values are so; of complex numbers, in any part.
    """

    min: int | float | None
    max: int | float | None
    mean: float | complex | None
    std: float | None
    zeros: int
    nans: int
    infinities: int


class NotFinite(NamedTuple):
    """How many of a tensor's values are NaN, and how many are infinite."""

    nans: int
    infinities: int


class _Counts:
    """How many values are not finite."""

    def __init__(self, values: np.ndarray | None = None) -> None:
        self.nans = self.infinities = 0
        if values is not None and values.dtype.kind in "fc" and not _is_finite(values):
            self.nans = int(np.count_nonzero(np.isnan(values)))
            self.infinities = values.size - self.nans - int(np.count_nonzero(np.isfinite(values)))

    def add(self, other: _Counts) -> None:
        self.nans += other.nans
        self.infinities += other.infinities

    def times(self, repeats: int) -> NotFinite:
        return NotFinite(self.nans * repeats, self.infinities * repeats)


class _Sums:
    """Counts, extremes, the mean, and the squares around it."""

    def __init__(self, values: np.ndarray | None = None) -> None:
        self.counts = _Counts(values)
        self.count = self.zeros = 0
        self.low: Any = None
        self.high: Any = None
        self.mean: Any = 0.0
        self.squares: Any = 0.0
        if values is None:
            return
        self.zeros = int(np.count_nonzero(values == 0))
        if self.counts.nans or self.counts.infinities:
            values = values[np.isfinite(values)]
        self.count = values.size
        if not values.size:
            return
        if values.dtype.kind != "c":
            self.low, self.high = values.min(), values.max()
        wide: np.ndarray = values.astype(_wide(values.dtype))
        self.mean = wide.mean()
        wide -= self.mean
        if wide.dtype.kind == "c":
            self.squares = (wide.real**2 + wide.imag**2).sum()
        else:
            np.multiply(wide, wide, out=wide)
            self.squares = wide.sum()

    def add(self, other: _Sums) -> None:
        self.counts.add(other.counts)
        self.zeros += other.zeros
        if not other.count:
            return
        if other.low is not None:
            self.low = other.low if self.low is None or other.low < self.low else self.low
            self.high = other.high if self.high is None or other.high > self.high else self.high
        # Chan's way to put two means together: no large sums, which would lose the small differences.
        total = self.count + other.count
        shift = other.mean - self.mean
        self.mean = self.mean + shift * (other.count / total)
        self.squares = self.squares + other.squares + abs(shift) ** 2 * (self.count / total * other.count)
        self.count = total

    def times(self, repeats: int) -> Statistics:
        return Statistics(
            _item(self.low),
            _item(self.high),
            _item(self.mean) if self.count else None,
            _item(np.sqrt(self.squares / self.count)) if self.count else None,
            self.zeros * repeats,
            *self.counts.times(repeats),
        )


class Surveyed(NamedTuple):
    """One tensor, and what was found of its values; else why nothing could be."""

    entry: TensorEntry
    found: Any
    error: UnsupportedError | LimitError | None


Report = Callable[[int, int], object]  # (bytes done, in all)


def survey(checkpoint: Checkpoint, threads: int | None = None, report: Report | None = None) -> Iterator[Surveyed]:
    """Each tensor of a checkpoint, in order, with its `Statistics`.

    They are the same to the last bit however many threads there are. No more than some blocks of a tensor are in
    memory, but for one that cannot be a view of its file (inflated, read, put together): each thread holds one of them.

    Parameters
    ----------
    checkpoint : Checkpoint
    threads : int, optional
        How many work; as many as suit, if not given.
    report : function, optional
        Called with the bytes of the tensors that are done, and those of all.
    """
    return _each(checkpoint, checkpoint.entries(), _Sums, threads, report)


def find_not_finite(
    checkpoint: Checkpoint, threads: int | None = None, report: Report | None = None
) -> Iterator[Surveyed]:
    """Each tensor that can hold NaN or infinity, in order, with how many it holds: a `NotFinite`. Else as `survey`."""
    able = [entry for entry in checkpoint.entries() if not entry.dtype.startswith(WHOLE)]
    return _each(checkpoint, able, _Counts, threads, report)


def statistics(checkpoint: Checkpoint, name: str, threads: int | None = None) -> Statistics:
    """The statistics of one tensor.

    Raises
    ------
    UnsupportedError
        Its elements are no numbers that numpy knows, or the file has none of them.
    LimitError
        It repeats its storage so often that this would take for ever.
    """
    (surveyed,) = _each(checkpoint, [checkpoint.entry(name)], _Sums, threads, None)
    if surveyed.error is not None:
        raise surveyed.error
    found: Statistics = surveyed.found
    return found


def first_values(array: np.ndarray, entry: TensorEntry) -> list[Any]:
    """The first values in row-major order, as Python's."""
    if not array.size:
        return []
    if entry.dtype == "complex32":
        pairs = array[np.unravel_index(range(min(array.size // 2, FIRST)), array.shape[:-1])]
        return [complex(float(real), float(imaginary)) for real, imaginary in pairs]
    values = array[np.unravel_index(range(min(array.size, FIRST)), array.shape)] if array.ndim else array.reshape(1)
    return list((values.astype(np.float32) if entry.dtype in casting.FLOATS else values).tolist())


# Which blocks there are, and who goes through them.


class _Part(NamedTuple):
    """What was found of one block of a tensor, or of all of it."""

    entry: TensorEntry
    is_last: bool
    found: Any
    repeats: int
    error: UnsupportedError | LimitError | None = None


Task = Callable[[], _Part]


def _each(
    checkpoint: Checkpoint,
    entries: list[TensorEntry],
    kind: type[_Sums] | type[_Counts],
    threads: int | None,
    report: Report | None,
) -> Iterator[Surveyed]:
    total = sum(entry.nbytes for entry in entries)
    done = 0
    whole: Any = kind()
    for part in in_order(_tasks(tensors_of(checkpoint), entries, kind), threads):
        if part.error is None:
            with np.errstate(all="ignore"):  # of values near the limits, squares may be infinite, and are shown so
                whole.add(part.found)
        if part.is_last:
            with np.errstate(all="ignore"):
                found = None if part.error is not None else whole.times(part.repeats)
            yield Surveyed(part.entry, found, part.error)
            whole = kind()
            done += part.entry.nbytes
            if report is not None:
                report(done, total)


def _tasks(tensors: Tensors, entries: Iterable[TensorEntry], kind: type[_Sums] | type[_Counts]) -> Iterator[Task]:
    """What is to be done: a block at a time of a large tensor that is mapped, and any other tensor as a whole."""
    for entry in entries:
        row = tensors.find(entry.name)
        source = tensors.source_of(row) if entry.zero_copy and entry.nbytes > BLOCK else None
        if source is None or source.region is None:
            yield partial(_whole, tensors, row, entry, kind)
            continue
        try:
            array, repeats = _laid_out(tensors.array(row), entry)
        except (UnsupportedError, LimitError) as error:
            yield partial(_Part, entry, True, None, 1, error)
            continue
        blocks = casting.blocks((array,), BLOCK)
        (block,) = next(blocks)
        for (following,) in blocks:
            yield partial(_part, entry, False, kind, block, repeats)
            block = following
        yield partial(_part, entry, True, kind, block, repeats)


def _whole(tensors: Tensors, row: int, entry: TensorEntry, kind: type[_Sums] | type[_Counts]) -> _Part:
    whole: Any = kind()
    repeats = 1
    try:
        chunks = tensors.chunks(row, BLOCK) if isinstance(tensors, PlannedTensors) else None
        if chunks is not None:  # cast a run at a time, as it is written
            _check(numpy_dtype(CODES[entry.dtype]), entry)
            blocks: Iterable[np.ndarray] = (_array_of(chunk, entry.dtype) for chunk in chunks)
        else:
            array, repeats = _laid_out(tensors.array(row), entry)
            blocks = (block for (block,) in casting.blocks((array,), BLOCK))
        for block in blocks:
            whole.add(_part(entry, True, kind, block, repeats).found)
    except (UnsupportedError, LimitError) as error:
        return _Part(entry, True, None, 1, error)
    return _Part(entry, True, whole, repeats)


def _part(
    entry: TensorEntry, is_last: bool, kind: type[_Sums] | type[_Counts], block: np.ndarray, repeats: int
) -> _Part:
    found: Any = kind()
    with np.errstate(all="ignore"):
        for (piece,) in casting.blocks((block,), PIECE):
            found.add(kind(np.atleast_1d(_numbers(piece, entry.dtype))))
    return _Part(entry, is_last, found, repeats)


def _laid_out(array: np.ndarray, entry: TensorEntry) -> tuple[np.ndarray, int]:
    """The elements in the order in which they lie in memory, each that is broadcast once; and how often that is."""
    _check(array.dtype, entry)
    kept = array.ndim - (entry.dtype == "complex32")  # whose parts are a last axis of 2
    axes = tuple(slice(0, 1) if stride == 0 else slice(None) for stride in array.strides[:kept])
    once = array[axes] if array.size else array
    if entry.storage is not None and once.nbytes > MAX_OVERLAP * max(entry.storage_nbytes, 1):
        raise LimitError("the tensor repeats its storage too often to be gone through")
    order = sorted(range(kept), key=lambda axis: -abs(once.strides[axis]))
    return once.transpose(*order, *range(kept, array.ndim)), array.size // once.size if once.size else 1


def _check(dtype: np.dtype[Any], entry: TensorEntry) -> None:
    if entry.dtype.startswith(PACKED):
        raise UnsupportedError(f"elements of {entry.dtype} are packed into bytes")
    if entry.dtype not in casting.FLOATS and dtype.kind not in "biufc":
        raise UnsupportedError(f"elements of {entry.dtype} are no numbers")


def _array_of(chunk: memoryview, dtype: str) -> np.ndarray:
    """Little-endian bytes as the array that they are."""
    found = numpy_dtype(CODES[dtype])
    if dtype == "complex32":
        return np.frombuffer(chunk, found).reshape(-1, 2)
    if found.kind in "biufc":
        return np.frombuffer(chunk, found)
    plain = np.frombuffer(chunk, f"<u{found.itemsize}")  # one of ml_dtypes', which have one order alone
    return plain.astype(plain.dtype.newbyteorder("="), copy=False).view(found)


def _numbers(piece: np.ndarray, dtype: str) -> np.ndarray:
    """A piece as numbers that numpy can count with, element by element."""
    if dtype == "complex32":
        return casting.cast(piece, "float16", "float32").view(np.complex64)
    if dtype == "bool":  # a byte of a file may be another than 0 and 1
        flags: np.ndarray = piece.view(np.uint8) != 0
        return flags
    return piece if dtype not in casting.FLOATS or dtype in NUMPYS else casting.cast(piece, dtype, "float32")


def _is_finite(values: np.ndarray) -> bool:
    """Whether all of them are; told by the extremes, which is sooner seen than by all."""
    if not values.size:
        return True
    if values.dtype.kind == "c":
        return bool(np.isfinite(values).all())
    return bool(np.isfinite(values.min()) and np.isfinite(values.max()))


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
