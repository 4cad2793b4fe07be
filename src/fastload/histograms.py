"""How the values of tensors spread: histograms of samples, so that even of a huge file little is read.

A sample is a number of runs that lie evenly over a tensor, in the order in which it lies in memory; a tensor that is no
larger than a sample is taken whole. So a histogram reads at most SAMPLE_BYTES of a tensor that is a view of its file.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from fastload.entry import TensorEntry
from fastload.errors import LimitError, UnsupportedError
from fastload.statistics import PACKED

__all__ = ["BINS", "MAX_COPIED_BYTES", "SAMPLE_BYTES", "Histogram", "histogram", "largest"]

BINS = 64
SAMPLE_BYTES = 1 << 20  # of one tensor
RUNS = 64  # in which a sample is taken: each is a few pages
# A tensor that is no view of its file is made whole before it can be sampled, so these bound memory and time.
MAX_COPIED_BYTES = 64 << 20  # of one tensor
MAX_COPIED_BYTES_IN_ALL = 1 << 30

Array = np.ndarray[Any, np.dtype[Any]]
Tell = Callable[[int, int], object]  # (tensors that are done, in all)


class Histogram(NamedTuple):
    """How the values of a sample spread; of complex numbers, their absolute values.

    Attributes
    ----------
    values : int
        How many were looked at.
    counts : list of int
        How many of the finite ones lie in each of equal bins: at most BINS, fewer where values or integers are few.
    low, high : float or None
        Where the first bin begins and the last one ends; None where no value is finite.
    min, max, mean, std : float or None
        Of the finite values; `std` is that of the population.
    zeros, nans, infinities : int
        How many of the values are so.
    """

    values: int
    counts: list[int]
    low: float | None
    high: float | None
    min: float | None
    max: float | None
    mean: float | None
    std: float | None
    zeros: int
    nans: int
    infinities: int


def largest(
    checkpoint: Mapping[str, Array], entries: Iterable[TensorEntry], count: int, tell: Tell | None = None
) -> dict[int, Histogram | str]:
    """Histograms of the *count* largest tensors, in the order of *entries*.

    Parameters
    ----------
    checkpoint : mapping of str to numpy.ndarray
        What gives the tensors by name.
    entries : iterable of TensorEntry
        All of its entries.
    count : int
        How many to look at.
    tell : callable, optional
        Called with how many tensors are done, and how many there are.

    Returns
    -------
    dict of int to Histogram or str
        By position in *entries*; or why there is none of a tensor that was to have one.
    """
    with_data = [(row, entry) for row, entry in enumerate(entries) if entry.kind != "meta" and 0 not in entry.shape]
    with_data.sort(key=lambda pair: -pair[1].nbytes)
    chosen = sorted(with_data[:count], key=lambda pair: pair[0])
    found: dict[int, Histogram | str] = {}
    copied = 0
    for done, (row, entry) in enumerate(chosen):
        if not entry.zero_copy:
            size = max(entry.nbytes, entry.storage_nbytes)
            copied += size
            if size > MAX_COPIED_BYTES or copied > MAX_COPIED_BYTES_IN_ALL:
                found[row] = "not sampled: the tensor is no view of its file, and too large to be made for this"
                copied -= size
                continue
        try:
            found[row] = histogram(checkpoint[entry.name], entry.dtype)
        except (UnsupportedError, LimitError) as error:
            found[row] = error.message
        if tell is not None:
            tell(done + 1, len(chosen))
    return found


def histogram(array: Array, dtype: str) -> Histogram:
    """The histogram of a sample of an array, as fastload gives those of *dtype*.

    Raises
    ------
    UnsupportedError
        Its elements are no numbers that numpy knows.
    """
    values = _sample(array, dtype)
    finite = values[np.isfinite(values)]
    nans = int(np.count_nonzero(np.isnan(values)))
    counts, low, high = _binned(finite, is_whole=array.dtype.kind in "biu")
    with np.errstate(all="ignore"):  # of values near the limits, squares may be infinite
        mean, std = (float(finite.mean()), float(finite.std())) if len(finite) else (None, None)
    return Histogram(
        values=len(values),
        counts=counts,
        low=low,
        high=high,
        min=float(finite.min()) if len(finite) else None,
        max=float(finite.max()) if len(finite) else None,
        mean=mean,
        std=std,
        zeros=len(values) - int(np.count_nonzero(values)),
        nans=nans,
        infinities=len(values) - len(finite) - nans,
    )


def _sample(array: Array, dtype: str) -> Array:
    """Some values of an array, as float64."""
    if dtype.startswith(PACKED):
        raise UnsupportedError(f"elements of {dtype} are packed into bytes")
    if dtype == "complex32":  # float16, whose last axis has the parts
        parts = [_sample(array[..., part], "float16") for part in (0, 1)]
        return np.hypot(*parts)
    is_ours = dtype.startswith(("bfloat", "float8"))
    if not (is_ours or array.dtype.kind in "biufc"):
        raise UnsupportedError(f"elements of {dtype} are no numbers")
    some = _some(array)
    if is_ours:
        some = some.astype(np.float32)
    with np.errstate(all="ignore"):
        return (np.abs(some) if some.dtype.kind == "c" else some).astype(np.float64)


def _some(array: Array) -> Array:
    """The elements of all runs of a sample."""
    # What is broadcast is looked at once; the rest in the order of memory, so that a run lies in few pages.
    array = array[tuple(slice(0, 1) if stride == 0 else slice(None) for stride in array.strides)]
    array = array.transpose(sorted(range(array.ndim), key=lambda axis: -abs(array.strides[axis])))
    limit = max(SAMPLE_BYTES // max(array.itemsize, 1), RUNS)
    if array.size <= limit:
        return array.reshape(-1)
    length = limit // RUNS
    starts = [(array.size - length) * run // (RUNS - 1) for run in range(RUNS)]
    if array.flags.c_contiguous:
        flat = array.reshape(-1)
        return np.concatenate([flat[start : start + length] for start in starts])
    places = np.add.outer(np.array(starts, np.int64), np.arange(length)).reshape(-1)
    some: Array = array[np.unravel_index(places, array.shape)]
    return some


def _binned(finite: Array, *, is_whole: bool) -> tuple[list[int], float | None, float | None]:
    """Counts by bin, and the ends of all bins."""
    if not len(finite):
        return [], None, None
    low, high = float(finite.min()), float(finite.max())
    if is_whole and high - low < BINS:  # a bin for each number
        counts = np.bincount((finite - low).astype(np.intp), minlength=int(high - low) + 1)
        return counts.tolist(), low - 0.5, high + 0.5
    scale = max(abs(low), abs(high))
    if low == high:
        return [len(finite)], low, high
    count = min(BINS, math.ceil(2 * math.sqrt(len(finite))))  # of few values, more bins would be empty or hold one
    # In parts of the largest value: nothing overflows, however far the ends lie apart, or however near.
    first, last = low / scale, high / scale
    bins = ((finite / scale - first) * (count / (last - first))).astype(np.intp)
    counts = np.bincount(np.minimum(bins, count - 1), minlength=count)
    return counts.tolist(), low, high
