"""The files that the benchmarks read: written once, with what a right reader must find in them.

FASTLOAD_BENCH_DIR names a folder that keeps the files for the next run; without it they live in a temporary one.
FASTLOAD_BENCH_QUICK=1 makes everything small: it tries the benchmarks, and its figures mean little.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import os
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from generate import Tensors, uniform, write_safetensors, write_torch_zip

QUICK = bool(os.environ.get("FASTLOAD_BENCH_QUICK"))
SAFETENSORS_COUNTS = (10, 1_000) if QUICK else (10, 1_000, 20_000, 200_000)
TORCH_COUNTS = (10, 1_000) if QUICK else (10, 1_000, 20_000)
LARGE_COUNT = 30 if QUICK else 300
LARGE_SHAPE = (700, 700) if QUICK else (1892, 1892)  # 300 of these in float16 are 2 GiB and 300 KB
WRITERS = {"safetensors": write_safetensors, "pt": write_torch_zip}  # by the ending of the file's name

Listing = list[tuple[str, tuple[int, ...], str]]


class Inputs:
    """The files in one folder, each written when it is first asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def many(self, count: int, suffix: str) -> Path:
        """A file of *count* small tensors."""
        return self._written(f"{count}.{suffix}", many(count))

    def large(self, suffix: str) -> Path:
        """A file of 2 GiB."""
        return self._written(f"large-{LARGE_COUNT}x{LARGE_SHAPE[0]}.{suffix}", large())

    def _written(self, name: str, tensors: Tensors) -> Path:
        path = self.folder / name
        if not path.exists():
            unfinished = self.folder / "unfinished" / name
            unfinished.parent.mkdir(parents=True, exist_ok=True)
            WRITERS[path.suffix[1:]](unfinished, tensors)
            unfinished.replace(path)
        return path


@contextlib.contextmanager
def folder() -> Iterator[Inputs]:
    """The files of one run."""
    kept = os.environ.get("FASTLOAD_BENCH_DIR")
    if kept:
        Path(kept).mkdir(parents=True, exist_ok=True)
        yield Inputs(Path(kept))
        return
    with tempfile.TemporaryDirectory(prefix="fastload-bench-") as temporary:
        yield Inputs(Path(temporary))


@functools.cache
def many(count: int) -> Tensors:
    """What `Inputs.many` holds."""
    return uniform(count)


@functools.cache
def large() -> Tensors:
    """What `Inputs.large` holds; one block of memory, a little more than its largest tensor."""
    return uniform(LARGE_COUNT, shape=LARGE_SHAPE, dtype="float16")


def names(tensors: Tensors) -> list[str]:
    """What a reader that was asked for names must answer."""
    return sorted(tensors)


def listing(tensors: Tensors) -> Listing:
    """What a reader that was asked for names, shapes and dtypes must answer."""
    return sorted((name, array.shape, array.dtype.name) for name, array in tensors.items())


def checksums(tensors: Tensors) -> dict[str, tuple[str, tuple[int, ...], int]]:
    """What a reader that was asked for arrays must answer: dtype, shape and a sum over the values of each."""
    return {
        name: (tensors[name].dtype.name, tensors[name].shape, zlib.crc32(np.ascontiguousarray(tensors[name])))
        for name in sorted(tensors)
    }


def fingerprint(answer: Any) -> int:
    """A number to compare answers by between processes."""
    return zlib.crc32(repr(answer).encode())


def freeze() -> None:
    """Keep all objects made so far, those of the right answers above all, out of the garbage collector's rounds.

    A reader that makes many objects would otherwise pay for passing over them again and again: it is not its work.
    """
    gc.collect()
    gc.freeze()


def extents(path: Path) -> Iterable[tuple[int, int]]:
    """Where in the file tensor data begins and ends, found without fastload."""
    with open(path, "rb") as file:
        if path.suffix == ".safetensors":
            return [(8 + struct.unpack("<Q", file.read(8))[0], path.stat().st_size)]
        found = []
        for record in zipfile.ZipFile(file).infolist():
            if "/data/" in record.filename:
                file.seek(record.header_offset + 26)
                start = record.header_offset + 30 + sum(struct.unpack("<2H", file.read(4)))
                found.append((start, start + record.file_size))
        return found
