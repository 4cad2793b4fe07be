"""What a process holds of a file: counted by the kernel, not inferred from time. Linux alone, but for `status`.

`touched_pages` uses the bit that the processor sets in a page's table entry when it reads the page; `guard` takes away
the right to read, so that touching is fatal.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

MIB = 1 << 20
MADV_DONTNEED = 4
MADV_NOHUGEPAGE = 15
MADV_POPULATE_READ = 22  # Linux 5.14
PROT_NONE = 0


def status() -> dict[str, int]:
    """This process's memory in bytes, by the kernel's names; empty where the kernel does not tell."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        fields = dict(line.split(":", 1) for line in lines)
        return {field: int(fields[field].split()[0]) * 1024 for field in ("VmRSS", "RssAnon", "RssFile", "VmHWM")}
    except (OSError, KeyError):
        return {}


def added(before: dict[str, int]) -> dict[str, int]:
    """What has come since `status` said *before*, at whose time the peak was forgotten."""
    now = status()
    return {
        "anonymous": now["RssAnon"] - before["RssAnon"],
        "file": now["RssFile"] - before["RssFile"],
        "peak": now["VmHWM"] - before["VmRSS"],
    }


def read_bytes() -> int:
    """What was fetched from disks for this process so far."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(dict(line.split(":") for line in lines)["read_bytes"])


def forget_peak() -> None:
    """Let VmHWM begin anew from what is held now."""
    Path("/proc/self/clear_refs").write_text("5")


def mappings(path: Path) -> Iterator[tuple[int, int]]:
    """The addresses at which this process has *path* mapped."""
    real = os.path.realpath(path)
    for line in Path("/proc/self/maps").read_text().splitlines():
        if line.split(maxsplit=5)[5:] == [real]:
            begin, end = line.split(maxsplit=1)[0].split("-")
            yield int(begin, 16), int(end, 16)


def copied(path: Path, arrays: Iterable[np.ndarray]) -> int:
    """How many bytes of *arrays* lie outside the mapping of *path*; where there is no /proc, in memory of their own."""
    try:
        mapped = list(mappings(path))
    except OSError:
        return sum(array.nbytes for array in arrays if array.flags.owndata)

    def is_mapped(array: np.ndarray) -> bool:
        start = array.ctypes.data
        return any(begin <= start and start + array.nbytes <= end for begin, end in mapped)

    return sum(array.nbytes for array in arrays if not is_mapped(array))


def touched_pages(path: Path, work: Callable[[], object]) -> int:
    """How many 4 KiB pages of the mapping of *path* are read from while *work* runs.

    All of it is mapped first, page by page, so that none is marked for lying beside one that was needed.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    for begin, end in mappings(path):
        for advice in (MADV_DONTNEED, MADV_NOHUGEPAGE, MADV_POPULATE_READ):
            if libc.madvise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), advice):
                raise OSError(ctypes.get_errno(), f"madvise({advice})")
    Path("/proc/self/clear_refs").write_text("1")
    kept = work()
    touched = field_of_mapping(path, "Referenced") // mmap.PAGESIZE
    del kept
    return touched


def field_of_mapping(path: Path, field: str) -> int:
    """One field of /proc/self/smaps in bytes, over all mappings of *path*."""
    real = os.path.realpath(path)
    total, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        words = line.split(maxsplit=5)
        if not words[0].endswith(":"):
            inside = words[5:] == [real]
        elif inside and words[0] == f"{field}:":
            total += int(words[1]) * 1024
    return total


def guard(path: Path, extents: Iterable[tuple[int, int]]) -> tuple[mmap.mmap, int]:
    """A mapping of *path* in which the pages that lie wholly in *extents* kill the process that touches them.

    Returns
    -------
    mapping, pages
        The mapping and how many pages of it are guarded.
    """
    with open(path, "rb") as file:
        mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    start = np.frombuffer(mapping, np.uint8).ctypes.data
    libc = ctypes.CDLL(None, use_errno=True)
    pages = 0
    for begin, end in extents:
        first, last = -(-begin // mmap.PAGESIZE), end // mmap.PAGESIZE
        if first < last:
            pages += last - first
            address = ctypes.c_void_p(start + first * mmap.PAGESIZE)
            if libc.mprotect(address, ctypes.c_size_t((last - first) * mmap.PAGESIZE), PROT_NONE):
                raise OSError(ctypes.get_errno(), "mprotect")
    return mapping, pages
