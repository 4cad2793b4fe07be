"""What does one array cost, asked for by name, beside a bare call of numpy with all numbers in hand?"""

import mmap

import numpy as np
import pytest

import fastload
import inputs

COUNT = 1_000
TIMES = {"rounds": 20, "iterations": 2_000}


@pytest.fixture(scope="module")
def checkpoint(files):
    return fastload.open(files.many(COUNT, "safetensors"))


@pytest.fixture(scope="module")
def numbers(files, checkpoint):
    """The arguments of `np.ndarray` for one tensor."""
    name = list(inputs.many(COUNT))[COUNT // 2]
    with open(checkpoint.path, "rb") as file:
        mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    entry = checkpoint.entry(name)
    return name, (entry.shape, np.dtype(entry.dtype), mapping, entry.offset, entry.strides)


@pytest.mark.benchmark(group="one array of 1,000 by name")
def test_fastload(benchmark, results, checkpoint, numbers):
    name, _ = numbers

    array = benchmark.pedantic(checkpoint.__getitem__, (name,), **TIMES)

    assert np.array_equal(array, inputs.many(COUNT)[name])
    results.add_time(benchmark, "fastload", "finds the name, makes the view")


@pytest.mark.benchmark(group="one array of 1,000 by name")
def test_numpy(benchmark, results, numbers):
    name, arguments = numbers

    array = benchmark.pedantic(np.ndarray, arguments, **TIMES)

    assert np.array_equal(array, inputs.many(COUNT)[name])
    results.add_time(benchmark, "bare np.ndarray", "is told shape, dtype, buffer, offset and strides; makes the view")
