"""How long does it take to cast 64 Mi floats to other floats, beside torch and numpy?

Into new memory, as a caller of `cast` has it, on one thread; there the memory costs more than the cast, and the copy of
the source is a measure of that. And into memory that is there already, which is the cast alone, on one thread and on
two: there all take turns, and memcpy of as many bytes in all (read and written) is the limit.
"""

import functools
from concurrent.futures import ThreadPoolExecutor

import ml_dtypes
import numpy as np
import pytest
import torch

import inputs
from fastload import _native
from fastload.casting import cast
from pairs import Side, in_turn, timed

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
FLOATS = ["float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"]


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
INTO = {
    "fastload": "the native cast, the elements shared among the threads",
    "torch": "copy_ of one tensor into another",
    "numpy": "copyto, with the dtypes of ml_dtypes, on one thread",
    "memcpy": "numpy's copyto of as many bytes in all, which casts nothing, shared likewise",
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


@pytest.fixture(scope="module")
def times(values):
    """The seconds of each round by peer, in turns; measured when the first of them is asked for."""
    return functools.lru_cache(maxsize=1)(lambda *case: times_of(values, *case))


@pytest.mark.parametrize("peer", INTO)
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("source", "target"), [(a, b) for a in FLOATS for b in FLOATS if a != b])
def test_cast_into(replay, times, source, target, threads, peer):
    group = f"{source} into {target} that is there, {ELEMENTS >> 20} Mi, {threads} thread(s)"

    replay(group, peer, INTO[peer], times(source, target, threads)[peer])


def times_of(values, source, target, threads):
    array = values.astype(numpy_dtype(source))
    expected = array.astype(numpy_dtype(target))
    result = np.zeros_like(expected)
    half = (array.nbytes + result.nbytes) // 2
    there, here = np.ones(half, np.uint8), np.zeros(half, np.uint8)
    ends = _native.FLOATS.index(source), _native.FLOATS.index(target)
    slices = [slice(k * ELEMENTS // threads, (k + 1) * ELEMENTS // threads) for k in range(threads)]
    halves = [slice(k * half // threads, (k + 1) * half // threads) for k in range(threads)]
    read, written = as_torch(array, source), as_torch(result, target)

    def convert(part):
        _native.convert(array[part].view(np.uint8), ends[0], result[part].view(np.uint8), ends[1])

    with ThreadPoolExecutor(threads) as pool:
        runs = {
            "fastload": lambda: list(pool.map(convert, slices)),
            "torch": lambda: written.copy_(read),
            "numpy": lambda: np.copyto(result, array, casting="unsafe"),
            "memcpy": lambda: list(pool.map(lambda part: np.copyto(here[part], there[part]), halves)),
        }
        torch.set_num_threads(threads)
        runs["fastload"]()
        assert is_same(result, expected)
        sides = [Side(peer, INTO[peer], run) for peer, run in runs.items()]
        return dict(zip(runs, in_turn([functools.partial(timed, side) for side in sides], ROUNDS), strict=True))


def is_same(result, expected):
    return np.array_equal(result.view(f"u{result.itemsize}"), expected.view(f"u{expected.itemsize}"))
