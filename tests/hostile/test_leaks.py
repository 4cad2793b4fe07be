"""No leak: a malformed file opened a thousand times leaves memory, mappings and descriptors as they were."""

import ctypes
import gc
import os
import pathlib
import sys
import time

import pytest

import fastload
from builders import SMALLEST, WRAPPED, smallest_file
from malformed import MALFORMED

TIMES = 1000
WARM_UP = 10
SECONDS = 1  # for one file; where opening is slow, as under a sanitizer, it is opened fewer times
BLOCKS = 40  # of Python's allocator: caches of interpreter and numpy breathe by a few
ROUNDS = 4
BYTES = 16 << 10  # of malloc, which the core uses; 17 a round would be noticed
SHARED = pathlib.Path(__file__).parents[3] / "shared" / "cases" / "malformed"


@pytest.fixture(autouse=True)
def few_objects_to_collect():
    """What was there before the test is left out of its many garbage collections."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def attempt(source, io="auto"):
    """Open and read everything; True if it was refused."""
    try:
        with fastload.open(source, io=io) as checkpoint:
            type(checkpoint.objects)  # its own repr may be endless
            for name in checkpoint:
                checkpoint[name]
    except (fastload.FastloadError, OSError):
        return True
    return False


class MallocInfo(ctypes.Structure):
    """`struct mallinfo2` of glibc."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()  # noqa: SIM905
    ]


def malloc_bytes():
    """Bytes that malloc has handed out and not got back; 0 where the C library cannot tell."""
    info = getattr(ctypes.CDLL(None), "mallinfo2", None)
    if info is None:
        return 0
    info.restype = MallocInfo
    found = info()
    return found.uordblks + found.hblkhd


def held():
    """(allocated blocks, malloc's bytes, mappings, descriptors) of this process."""
    gc.collect()
    with open("/proc/self/maps") as maps:
        mappings = sum(1 for _ in maps)
    return sys.getallocatedblocks(), malloc_bytes(), mappings, len(os.listdir("/proc/self/fd"))


def assert_flat(sources, times=TIMES, seconds=SECONDS, io="auto"):
    """Opening each source many times leaves nothing behind. Everything is warmed up first.

    The interpreter's own caches settle in their own time, so one quiet round of several is enough: a leak has none.
    """
    for source in sources:
        for _ in range(WARM_UP):
            attempt(source, io)
    for source in sources:
        grown = [growth(source, times, seconds, io)]
        while not is_flat(grown[-1]) and len(grown) < ROUNDS:
            grown.append(growth(source, times, seconds, io))
        shown = source if isinstance(source, os.PathLike) else f"{source!r:.80}"
        assert is_flat(grown[-1]), (shown, grown)


def growth(source, times, seconds, io):
    """What opening *source* so many times has left behind, as `held` counts it."""
    before = held()
    end = time.monotonic() + seconds
    for _ in range(times):
        attempt(source, io)
        if time.monotonic() > end:
            break
    return tuple(later - earlier for earlier, later in zip(before, held(), strict=True))


def is_flat(grown):
    blocks, size, mappings, descriptors = grown
    return blocks < BLOCKS and size < BYTES and mappings < 10 and descriptors <= 0


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_files_are_refused(name):
    assert attempt(MALFORMED[name])


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_buffer_leaves_nothing_behind(name):
    assert_flat([MALFORMED[name]])


@pytest.mark.parametrize("io", ["mmap", "read"])
def test_a_malformed_file_leaves_nothing_behind(io, tmp_path):
    for number, raw in enumerate(MALFORMED.values()):
        (tmp_path / f"{number}").write_bytes(raw)

    assert_flat(sorted(tmp_path.iterdir()), io=io)


@pytest.mark.parametrize("format_name", [*SMALLEST, *WRAPPED])
def test_a_good_file_leaves_nothing_behind(format_name, tmp_path):
    (tmp_path / "good").write_bytes(smallest_file(format_name))

    assert_flat([smallest_file(format_name), tmp_path / "good"])


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared cases are not beside this repository")
@pytest.mark.parametrize("folder", ["safetensors", "zip", "pickle", "whole"])
def test_the_shared_malformed_files_leave_nothing_behind(folder):
    small = [path for path in sorted((SHARED / folder).iterdir()) if path.stat().st_size < 1 << 20]

    assert_flat(small, times=200, seconds=0.2)


@pytest.mark.parametrize("format_name", [*SMALLEST, *WRAPPED])
def test_opening_leaves_the_references_to_none_alone(format_name):
    """Cython puts None into a buffer that is being filled, and whoever fills it must give that reference back."""
    whole = smallest_file(format_name)
    before = sys.getrefcount(None)
    for _ in range(TIMES):
        attempt(whole)

    assert sys.getrefcount(None) - before < TIMES // 2
