"""What the machine can do at best: reading memory, copying it, and reading the disk, as bare as it can be had.

A reader that makes no copy has the first as its limit; one that hands over memory of its own cannot be faster than a
copy into fresh pages, and those of 4 KiB cost the system much more than huge ones.
"""

from __future__ import annotations

import itertools
import mmap
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from fastload.benching.kernel import evict, open_file, residency

__all__ = ["DISK", "LIMITS", "Limit", "measure_disk", "measure_memory", "read_through"]

Array = np.ndarray[Any, np.dtype[Any]]

MIN_BYTES = 64 << 20  # less fits into the caches of many processors
MAX_BYTES = 512 << 20  # more takes time and tells the same
BLOCK_BYTES = 4 << 20  # of one read of the disk
DISK_THREADS = 8  # that read at the same time, since few leave a fast disk idle
HUGE_PAGE_BYTES = 2 << 20


class Limit(NamedTuple):
    """One limit: its name, and what is done to find it."""

    name: str
    work: str


LIMITS = (
    Limit("read memory", "every byte of memory is read, and nothing is written"),
    Limit("copy memory", "from memory to memory, all of it in use already"),
    Limit("copy into fresh huge pages", "from memory to memory that the system first has to give, by 2 MiB"),
    Limit("copy into fresh 4 KiB pages", "from memory to memory that the system first has to give, by 4 KiB"),
)
DISK = Limit("read the disk", f"all files, cold, by {DISK_THREADS} threads in blocks of {BLOCK_BYTES >> 20} MiB")


def measure_memory(nbytes: int, threads: int) -> list[tuple[str, int, int, float]]:
    """(limit, threads, bytes, seconds) of every limit of the memory, for one thread and for *threads*."""
    size = min(max(nbytes, MIN_BYTES), MAX_BYTES)
    source = np.full(size, 1, np.uint8)
    target = np.full(size, 2, np.uint8)
    works: list[Callable[[int], float]] = [
        lambda parts: _timed(lambda at: np.maximum.reduce(source[at]), size, parts),
        lambda parts: _timed(lambda at: np.copyto(target[at], source[at]), size, parts),
    ]
    if hasattr(mmap, "MADV_HUGEPAGE"):  # where pages are as the system pleases, nobody knows what would be measured
        works += [
            lambda parts: _into_fresh(source, mmap.MADV_HUGEPAGE, parts),
            lambda parts: _into_fresh(source, mmap.MADV_NOHUGEPAGE, parts),
        ]
    counts = sorted({1, threads})
    return [
        (limit.name, count, size, work(count)) for limit, work in zip(LIMITS, works, strict=False) for count in counts
    ]


def measure_disk(paths: Sequence[str]) -> tuple[str, int, int, float] | str:
    """(limit, threads, bytes, seconds) of reading cold files; or why they cannot be cold."""
    reason = evict(paths)
    if reason:
        return reason
    blocks = [
        (path, offset, min(BLOCK_BYTES, size - offset))
        for path in paths
        for size in [os.path.getsize(path)]
        for offset in range(0, size, BLOCK_BYTES)
    ]
    shares = [blocks[number::DISK_THREADS] for number in range(DISK_THREADS)]
    with ThreadPoolExecutor(DISK_THREADS) as pool:
        start = time.perf_counter()
        total = sum(pool.map(_read_blocks, shares))
        seconds = time.perf_counter() - start
    return DISK.name, DISK_THREADS, total, seconds


def read_through(paths: Sequence[str]) -> float | None:
    """Read all of some files once; the least share of one that then lies in the page cache, where that can be told."""
    for path in paths:
        with open_file(path) as descriptor:
            while os.read(descriptor, BLOCK_BYTES):
                pass
    shares = [share for share in map(residency, paths) if share is not None]
    return min(shares, default=None)


def _timed(work: Callable[[slice], object], size: int, parts: int) -> float:
    """Seconds that *work* takes for all of *size* bytes, in so many parts at once."""
    bounds = [size * number // parts for number in range(parts + 1)]
    slices = [slice(begin, end) for begin, end in itertools.pairwise(bounds)]
    if parts == 1:
        start = time.perf_counter()
        work(slices[0])
        return time.perf_counter() - start
    with ThreadPoolExecutor(parts) as pool:
        list(pool.map(len, [b""] * parts))  # the threads begin before the clock does
        start = time.perf_counter()
        list(pool.map(work, slices))
        return time.perf_counter() - start


def _fresh(size: int, advice: int) -> Array:
    """Memory that no process has used before, on pages of the kind that is advised."""
    mapping = mmap.mmap(-1, size + HUGE_PAGE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    mapping.madvise(advice)
    whole = np.frombuffer(mapping, np.uint8)
    return whole[-whole.ctypes.data % HUGE_PAGE_BYTES :][:size]


def _into_fresh(source: Array, advice: int, parts: int) -> float:
    """Seconds of a copy into memory that no process has used before."""
    target = _fresh(len(source), advice)
    return _timed(lambda at: np.copyto(target[at], source[at]), len(source), parts)


def _read_blocks(blocks: Sequence[tuple[str, int, int]]) -> int:
    """Read blocks of files past the page cache, or through it where the file system insists; the bytes that came."""
    total = 0
    # A disk writes to a whole page in half the time that it takes to many small ones.
    view = memoryview(
        _fresh(BLOCK_BYTES, mmap.MADV_HUGEPAGE).data if hasattr(mmap, "MADV_HUGEPAGE") else bytearray(BLOCK_BYTES)
    )
    for path, offset, size in blocks:
        direct = getattr(os, "O_DIRECT", 0)
        try:
            total += _read_block(path, offset, view, direct)
        except OSError:
            total += _read_block(path, offset, view[:size], 0)
    return total


def _read_block(path: str, offset: int, view: memoryview, flags: int) -> int:
    with open_file(path, flags) as descriptor:
        return os.preadv(descriptor, [view], offset)
