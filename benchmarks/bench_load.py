"""How long until all tensors of a 2 GiB file are in memory of one's own, as they are or cast, warm and cold?

Every way runs once a round, in turn, so that a busy moment of the machine falls on all; the tables have medians, and
the ratio of each pair with its spread is in `extra_info`. What limits all of them is measured among them: a copy out of
a mapping of the file into fresh huge pages, by two threads of numpy, and of a cold file, reading around the page cache
into memory that is there already. A file is cold when it was evicted from the page cache and mincore finds none of it.

Most of the time goes to fresh memory. On a virtual machine its host may have to find it first, which costs whoever
comes first: hence the turns, and hence memory of the size of the result is touched and let go before each run.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import statistics
import threading
from functools import partial

import numpy as np
import pytest

import fastload
import inputs
from fastload._native import count_cached
from pairs import Side, in_turn, timed

HUGE_PAGE = 1 << 21
BLOCK = 1 << 22
ROUNDS = 3 if inputs.QUICK else 9
MADV_POPULATE_WRITE = 23
CASTS = [("float16", "float32"), ("bfloat16", "float32"), ("float32", "bfloat16"), ("float8_e4m3fn", "float32")]
WORK = {
    "fastload": "two threads read straight into one block of fresh huge pages, and cast on the way",
    "fastload .pt": "the same of a PyTorch archive",
    "copy into fresh huge pages": "a limit: two threads of numpy copy from a mapping; nothing is parsed",
    "disk alone": "a limit: eight threads read around the page cache into 32 MiB, over and over",
    "safetensors.numpy.load_file": "maps; copies each tensor into bytes, of which numpy makes an array",
    "torch.load": "reads each record into fresh memory",
    "torch.load mmap, .to": "maps, and casts tensor by tensor into fresh memory, with torch's threads",
}


def fresh_memory(size):
    """Anonymous memory on huge pages, none of it touched."""
    # Private, which mmap.mmap is not by itself: shared memory comes in small pages.
    mapping = mmap.mmap(-1, size + HUGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    mapping.madvise(mmap.MADV_HUGEPAGE)
    memory = np.frombuffer(mapping, np.uint8)
    start = -memory.ctypes.data % HUGE_PAGE
    return memory[start : start + size]


def by_threads(count, work):
    """Let threads do *work* of their number, the calling one among them."""
    threads = [threading.Thread(target=work, args=(number,)) for number in range(1, count)]
    for thread in threads:
        thread.start()
    work(0)
    for thread in threads:
        thread.join()


def copy_limit(path):
    """What copying alone costs: out of a mapping, into fresh huge pages, page by page in two threads."""
    source = np.memmap(path, np.uint8, "r")
    target = fresh_memory(len(source))

    def copy(number):
        for start in range(number * HUGE_PAGE, len(source), 2 * HUGE_PAGE):
            target[start : start + HUGE_PAGE] = source[start : start + HUGE_PAGE]

    by_threads(2, copy)
    return target


def disk_limit(path):
    """What the disk alone costs: direct reads of eight threads into a little memory on huge pages, over and over."""
    size = os.path.getsize(path)
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECT)

    def read(number):
        place = fresh_memory(BLOCK)
        for start in range(number * BLOCK, size, 8 * BLOCK):
            os.preadv(descriptor, [place], start)

    by_threads(8, read)
    os.close(descriptor)


def safetensors_numpy(path):
    from safetensors.numpy import load_file

    return load_file(path)


def torch_load(path):
    import torch

    return torch.load(path, weights_only=True)


def torch_cast(target):
    import torch

    def run(path):
        loaded = torch.load(path, mmap=True, weights_only=True)
        return {name: tensor.to(getattr(torch, target)) for name, tensor in loaded.items()}

    return run


def touch_memory(size):
    """Have the host give the memory that the next run needs, and let it go."""
    memory = fresh_memory(size)
    ctypes.CDLL(None).madvise(ctypes.c_void_p(memory.ctypes.data), ctypes.c_size_t(size), MADV_POPULATE_WRITE)


def evict(path):
    """Take a file out of the page cache, and see that it is."""
    with open(path, "rb") as file:
        os.fdatasync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        pages = range(0, os.path.getsize(path), mmap.PAGESIZE)
        assert count_cached(file.fileno(), pages[:: max(len(pages) // 4096, 1)]) == 0, "still in the page cache"


def times_of(ways, prepare):
    """Seconds of each way, by name, in rounds."""

    def measure(name):
        run, path = ways[name]
        prepare(path)
        return timed(Side(name, WORK[name], partial(run, path)))

    return dict(zip(ways, in_turn([partial(measure, name) for name in ways], ROUNDS), strict=True))


@pytest.fixture
def compare(replay, results, benchmark):
    """Runs all in turn; hands the times of fastload to pytest-benchmark, and those of all to the closing table."""

    def run(group, ways, prepare):
        seconds = times_of(ways, prepare)
        replay(group, "fastload", WORK["fastload"], seconds["fastload"])
        for name, times in seconds.items():
            results.times[group][name] = (statistics.median(times), WORK[name])
            benchmark.extra_info[name] = beside(seconds["fastload"], times)
            print(f"\n{group}: {name}: {benchmark.extra_info[name]}")

    return run


def beside(ours, all_theirs):
    """Median of the times, and of the ratios to ours within a round, with the lowest and the highest."""
    ratios = sorted(theirs / our for our, theirs in zip(ours, all_theirs, strict=True))
    milliseconds = statistics.median(all_theirs) * 1e3
    return f"{milliseconds:,.0f} ms; {statistics.median(ratios):.2f} × [{ratios[0]:.2f} to {ratios[-1]:.2f}]"


def same(loaded, expected):
    """Whether tensors of numpy or torch have the right bytes."""
    return all(
        np.array_equal(np.asarray(loaded[name]).view(np.uint8), np.asarray(array).view(np.uint8))
        for name, array in expected.items()
    )


def test_warm(compare, files):
    path, archive = files.large("safetensors"), files.large("pt")
    assert same(fastload.load(path), inputs.large()) and same(fastload.load(archive), inputs.large())
    ways = {
        "fastload": (fastload.load, path),
        "fastload .pt": (fastload.load, archive),
        "copy into fresh huge pages": (copy_limit, path),
        "safetensors.numpy.load_file": (safetensors_numpy, path),
        "torch.load": (torch_load, archive),
    }

    compare("load 2 GiB, warm", ways, lambda path: touch_memory(path.stat().st_size))


def test_cold(compare, files):
    path, archive = files.large("safetensors"), files.large("pt")
    ways = {
        "fastload": (fastload.load, path),
        "fastload .pt": (fastload.load, archive),
        "disk alone": (disk_limit, path),
        "safetensors.numpy.load_file": (safetensors_numpy, path),
        "torch.load": (torch_load, archive),
    }

    def prepare(path):
        touch_memory(path.stat().st_size)
        evict(path)

    compare("load 2 GiB, cold", ways, prepare)


@pytest.mark.parametrize(("source", "target"), CASTS)
def test_cast(compare, tmp_path, source, target):
    import torch

    count, shape = (4, (256, 256)) if inputs.QUICK else (64, (2048, 2048))
    normal = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(getattr(torch, source))
    tensors = {f"layer.{number}.weight": normal.clone() for number in range(count)}
    path = tmp_path / "model.pt"
    torch.save(tensors, path)
    expected = normal.to(getattr(torch, target)).view(torch.uint8).numpy()
    loaded = fastload.load(path, dtype=target)
    assert all(np.array_equal(array.view(np.uint8), expected) for array in loaded.values())
    del loaded, tensors
    result = expected.nbytes * count
    ways = {
        "fastload": (lambda path: fastload.load(path, dtype=target), path),
        "torch.load mmap, .to": (torch_cast(target), path),
    }

    compare(f"load {source} as {target}", ways, lambda path: touch_memory(result))
