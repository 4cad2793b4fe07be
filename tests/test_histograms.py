"""Histograms: what numpy counts, of samples that are bounded, and of the ends of what floats can be."""

import ml_dtypes
import numpy as np
import pytest

from fastload import histograms
from fastload.errors import UnsupportedError
from fastload.histograms import BINS, SAMPLE_BYTES, histogram


@pytest.mark.parametrize(
    "dtype", ["float16", "float32", "float64", "bfloat16", "float8_e4m3fn", "int64", "uint8", "bool", "complex64"]
)
def test_counts_come_to_all_finite_values(dtype):
    numpy_dtype = getattr(ml_dtypes, dtype, None) or np.dtype(dtype)
    values = np.random.default_rng(0).integers(0, 200, 5000).astype(numpy_dtype)

    found = histogram(values.reshape(50, 100), dtype)

    assert found.values == 5000 and sum(found.counts) == 5000 and len(found.counts) <= BINS
    assert found.zeros == 5000 - np.count_nonzero(values)


def test_bins_are_those_of_numpy():
    values = np.random.default_rng(0).standard_normal(20_000)

    found = histogram(values, "float64")

    assert found.counts == np.histogram(values, BINS)[0].tolist()
    assert (found.low, found.high) == (values.min(), values.max())
    assert (found.mean, found.std) == pytest.approx((values.mean(), values.std()))


def test_few_integers_have_a_bin_each():
    found = histogram(np.array([3, 3, 5, -1], np.int64), "int64")

    assert (found.counts, found.low, found.high) == ([1, 0, 0, 0, 2, 0, 1], -1.5, 5.5)


def test_what_is_not_finite_is_counted_apart():
    found = histogram(np.array([np.nan, np.inf, -np.inf, 0, 1], np.float32), "float32")

    assert (found.nans, found.infinities, found.zeros, sum(found.counts)) == (1, 2, 1, 2)
    assert histogram(np.array([np.nan]), "float64").counts == []


@pytest.mark.parametrize("ends", [(-1.7e308, 1.7e308), (0, 5e-324), (1, 1 + 2**-52), (-5e-324, 1e308), (7, 7)], ids=str)
def test_no_range_is_too_wide_or_too_narrow(ends):
    found = histogram(np.array(ends, np.float64), "float64")

    assert sum(found.counts) == 2 and (found.low, found.high) == ends


@pytest.mark.parametrize("order", ["C", "F", "strided", "reversed"])
def test_a_sample_is_bounded_and_lies_over_the_whole(order):
    whole = np.arange(4_000_000, dtype=np.float32).reshape(2000, 2000)
    array = {"C": whole, "F": whole.T, "strided": whole[:, ::2], "reversed": whole[::-1]}[order]

    found = histogram(array, "float32")

    assert found.values <= SAMPLE_BYTES // 4
    assert found.min < 4000 and found.max > 3_990_000
    assert min(found.counts) > 0


def test_what_is_broadcast_is_looked_at_once():
    array = np.broadcast_to(np.float32([[1], [2]]), (2, 1 << 50))

    assert histogram(array, "float32").values == 2


def test_complex_numbers_count_by_their_size():
    halves = np.array([[3, 4], [0, 0]], np.float16)

    assert histogram(halves, "complex32").max == histogram(np.array([3 + 4j]), "complex128").max == 5


def test_packed_elements_are_no_numbers():
    with pytest.raises(UnsupportedError, match="packed"):
        histogram(np.zeros(2, np.uint8), "float4_e2m1fn")


class Entry:
    """As much of an entry as sampling asks for."""

    def __init__(self, name, nbytes, *, zero_copy=True, kind="tensor"):
        self.name, self.nbytes, self.zero_copy, self.kind = name, nbytes, zero_copy, kind
        self.shape, self.dtype, self.storage_nbytes = (nbytes,), "uint8", nbytes


def test_the_largest_are_sampled_in_the_order_of_the_file():
    entries = [Entry("a", 5), Entry("b", 1), Entry("c", 9), Entry("meta", 99, kind="meta"), Entry("empty", 0)]
    arrays = {entry.name: np.zeros(entry.nbytes, np.uint8) for entry in entries}
    told = []

    found = histograms.largest(arrays, entries, 2, lambda *numbers: told.append(numbers))

    assert list(found) == [0, 2]
    assert told == [(1, 2), (2, 2)]


@pytest.mark.parametrize(("more", "is_sampled"), [(0, True), (1, False)])
def test_a_copy_is_made_for_a_sample_up_to_a_limit(monkeypatch, more, is_sampled):
    monkeypatch.setattr(histograms, "MAX_COPIED_BYTES", 100)
    entries = [Entry("view", 1000), Entry("copy", 100 + more, zero_copy=False)]
    arrays = {"view": np.zeros(1000, np.uint8), "copy": np.zeros(101, np.uint8)}

    found = histograms.largest(arrays, entries, 2)

    assert isinstance(found[1], histograms.Histogram) is is_sampled
    assert isinstance(found[0], histograms.Histogram)


@pytest.mark.parametrize(("most", "sampled"), [(200, 2), (199, 1)])
def test_copies_for_samples_are_bounded_in_all(monkeypatch, most, sampled):
    monkeypatch.setattr(histograms, "MAX_COPIED_BYTES_IN_ALL", most)
    entries = [Entry("a", 100, zero_copy=False), Entry("b", 100, zero_copy=False)]
    arrays = {name: np.zeros(100, np.uint8) for name in "ab"}

    found = histograms.largest(arrays, entries, 2)

    assert sum(isinstance(one, histograms.Histogram) for one in found.values()) == sampled
