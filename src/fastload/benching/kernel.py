"""What the system knows of this process and of files: memory, page faults, what of a file lies in the page cache.

What it does not tell is None: only Linux tells all of it.
"""

from __future__ import annotations

import mmap
import os
import platform
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np

__all__ = ["Memory", "cpu_name", "evict", "faults", "forget_peak", "huge_pages", "memory", "open_file", "residency"]

ROLLUP = "/proc/self/smaps_rollup"
STATUS = "/proc/self/status"
HUGE_PAGES = "/sys/kernel/mm/transparent_hugepage/enabled"
CPU_INFO = "/proc/cpuinfo"
CLEAR_REFS = "/proc/self/clear_refs"
RESET_PEAK = b"5"  # what CLEAR_REFS takes to begin the peak anew, see proc(5)


class Memory(NamedTuple):
    """What a process holds, in bytes.

    Attributes
    ----------
    private : int
        Its own: neither shared nor to be had from a file again.
    page_cache : int
        Pages of files that it has mapped: the system can take them back, and processes share them.
    peak : int
        The most of both together since `forget_peak`.
    """

    private: int
    page_cache: int
    peak: int


@contextmanager
def open_file(path: str, flags: int = 0) -> Iterator[int]:
    """A descriptor of a file that is read, as bare as it can be had."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | flags)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def memory() -> Memory | None:
    """The memory of this process."""
    rollup, status = _fields(ROLLUP), _fields(STATUS)
    try:
        private = _bytes(rollup["Anonymous"])
        return Memory(private, _bytes(rollup["Rss"]) - private, _bytes(status["VmHWM"]))
    except KeyError:
        return None


def forget_peak() -> bool:
    """Begin the peak anew from what is held now; whether that worked."""
    try:
        descriptor = os.open(CLEAR_REFS, os.O_WRONLY)
    except OSError:
        return False
    try:
        return os.write(descriptor, RESET_PEAK) == len(RESET_PEAK)
    except OSError:
        return False
    finally:
        os.close(descriptor)


def faults() -> tuple[int, int] | None:
    """The page faults of this process so far: those met from memory, and those that had to read."""
    if sys.platform == "win32":
        return None
    import resource

    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_minflt, used.ru_majflt


def residency(path: str) -> float | None:
    """The share of a file's pages that lie in the page cache, as mincore(2) counts them."""
    if not sys.platform.startswith("linux"):
        return None
    import ctypes

    with open_file(path) as descriptor:
        size = os.fstat(descriptor).st_size
        if not size:
            return 1.0
        with mmap.mmap(descriptor, size, access=mmap.ACCESS_READ) as mapping:
            view = np.frombuffer(mapping, np.uint8)
            pages = np.zeros(-(-size // mmap.PAGESIZE), np.uint8)
            mincore = ctypes.CDLL(None, use_errno=True).mincore
            mincore.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p)
            failed = mincore(view.ctypes.data, size, pages.ctypes.data)
            del view
    return None if failed else float(np.count_nonzero(pages & 1) / len(pages))


def evict(paths: Iterable[str]) -> str | None:
    """Have files leave the page cache, and look whether they did; None if so, else why not."""
    if not hasattr(os, "posix_fadvise"):
        return f"{platform.system()} has no way to take a file out of the page cache"
    for path in paths:
        with open_file(path) as descriptor:
            os.fdatasync(descriptor)  # pages that are still to be written are not let go
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        left = residency(path)
        if left is None:
            return "the system does not tell what lies in the page cache"
        if left:
            held = "its file system is memory (tmpfs), or a process has it mapped"
            return f"{100 * left:.0f} % of it stay in memory: {held}"
    return None


def huge_pages() -> str | None:
    """When the system gives huge pages: always, madvise or never."""
    chosen = _text(HUGE_PAGES).partition("[")[2].partition("]")[0]
    return chosen or None


def cpu_name() -> str:
    """What the processor calls itself."""
    named = [line.partition(":")[2].strip() for line in _text(CPU_INFO).splitlines() if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def _fields(path: str) -> dict[str, str]:
    lines = (line.partition(":") for line in _text(path).splitlines())
    return {field: value for field, _, value in lines}


def _bytes(value: str) -> int:
    """The bytes of `  1234 kB`."""
    return int(value.split()[0]) * 1024


def _text(path: str) -> str:
    """What a file of the system says; "" where there is none."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""
