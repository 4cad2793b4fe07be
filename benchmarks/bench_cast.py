"""How long does it take to cast 256 MiB of float32 to smaller floats and back, beside torch and numpy?

All run on one thread, into new memory, as a caller has it. The copy is of the source, as a measure of the memory: a
cast to half the size moves three quarters of its bytes.
"""

import ml_dtypes
import numpy as np
import pytest
import torch

import inputs
from fastload.casting import cast

ELEMENTS = (1 if inputs.QUICK else 64) << 20
ROUNDS = 3 if inputs.QUICK else 9
PAIRS = [
    ("float32", "bfloat16"),
    ("bfloat16", "float32"),
    ("float32", "float16"),
    ("float16", "float32"),
    ("float32", "float8_e4m3fn"),
    ("float32", "float64"),
]
TORCH_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32}


def numpy_dtype(name):
    return np.dtype(getattr(ml_dtypes, name, None) or name)


def numpy_cast(array, source, target):
    return array.astype(numpy_dtype(target))


def torch_cast(array, source, target):
    return as_torch(array, source).to(getattr(torch, target))


def copy(array, source, target):
    return array.copy()


def as_torch(array, name):
    signed = array.view(np.uint8 if array.itemsize == 1 else f"i{array.itemsize}")
    return torch.from_numpy(signed).view(getattr(torch, name))


PEERS = {
    "fastload": (cast, "one native pass over memory"),
    "torch": (torch_cast, "tensor.to on one thread"),
    "numpy": (numpy_cast, "astype, with the dtypes of ml_dtypes"),
    "copy of the source": (copy, "numpy's copy, which casts nothing"),
}


@pytest.fixture(scope="module")
def values():
    return np.random.default_rng(0).standard_normal(ELEMENTS, dtype=np.float32)


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("peer", PEERS)
@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_cast(benchmark, results, values, source, target, peer):
    array = values.astype(numpy_dtype(source))
    run, work = PEERS[peer]
    expected = array if peer == "copy of the source" else array.astype(numpy_dtype(target))
    found = run(array, source, target)
    found = found.view(torch.uint8).numpy() if isinstance(found, torch.Tensor) else found.view(np.uint8)
    assert np.array_equal(found, expected.view(np.uint8))
    del found, expected
    benchmark.group = f"{source} to {target}, {array.nbytes >> 20} MiB"

    benchmark.pedantic(run, (array, source, target), rounds=ROUNDS, warmup_rounds=1)

    results.add_time(benchmark, peer, work)
