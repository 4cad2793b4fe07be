"""How long until every byte of a 2 GiB file has been read once, beside a bare touch of the same mapping?

The file lies in the page cache, and each side opens it anew. All use the same loop of numpy to read, which is as fast
as the memory; what differs is how the bytes come there.
"""

import itertools
import mmap
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import fastload
import inputs
from fastload.benching.readers import arrays_in, touch
from pairs import Side

BAR = "no slower than the bare touch; ≥ 10 × safetensors.numpy"


def bare(path, threads):
    with open(path, "rb") as file:
        whole = np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
    bounds = [len(whole) * part // threads for part in range(threads + 1)]
    return touch_by([whole[begin:end] for begin, end in itertools.pairwise(bounds)], threads)


def touch_by(arrays, threads):
    if threads == 1:
        return touch(arrays)
    with ThreadPoolExecutor(threads) as pool:
        return max(pool.map(touch, [arrays[part::threads] for part in range(threads)]))


def load_views(path):
    return dict(fastload.open(path))


def load_numpy(path):
    from safetensors.numpy import load_file

    return load_file(path)


def load_torch(path):
    from safetensors.torch import load_file

    return load_file(path)


@pytest.mark.parametrize("threads", [1, 2])
def test_touch(in_turn, files, threads):
    path = files.large("safetensors")
    nbytes = sum(array.nbytes for array in inputs.large().values())
    largest = touch(inputs.large().values())

    def touched(read):
        found = touch_by(list(arrays_in(read(path))), threads)
        assert found == largest

    sides = [
        Side("fastload", "maps; views of the mapping, touched", lambda: touched(load_views), nbytes),
        Side("bare touch", "maps; the mapping touched as one array", lambda: bare(path, threads), nbytes),
        Side("safetensors.torch", "maps; views of a second mapping, touched", lambda: touched(load_torch), nbytes),
        Side("safetensors.numpy", "copies all into new memory, touched", lambda: touched(load_numpy), nbytes),
    ]
    words = "1 thread" if threads == 1 else f"{threads} threads"
    in_turn(f"touch all of {nbytes >> 20:,} MiB, {words}", sides, bar=BAR)
