"""The files that the benchmarks read: written once, with what a right reader must find in them.

FASTLOAD_BENCH_DIR names a folder that keeps the files for the next run; without it they live in a temporary one.
FASTLOAD_BENCH_QUICK=1 makes everything small: it tries the benchmarks, and its figures mean little.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import os
import pickle
import random
import struct
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from generate import Tensors, uniform, write_safetensors, write_torch_legacy, write_torch_zip

QUICK = bool(os.environ.get("FASTLOAD_BENCH_QUICK"))
SAFETENSORS_COUNTS = (10, 1_000) if QUICK else (10, 1_000, 20_000, 200_000)
TORCH_COUNTS = (10, 1_000) if QUICK else (10, 1_000, 20_000)
LARGE_COUNT = 30 if QUICK else 300
LARGE_SHAPE = (700, 700) if QUICK else (1892, 1892)  # 300 of these in float16 are 2 GiB and 300 KB
SCALARS = 1_800 if QUICK else 180_000
TENSORS_BESIDE_SCALARS = 22
ONLY_FOR_TORCH = Path(__file__).parent / "only_for_torch"  # the class of the whole module

Listing = list[tuple[str, tuple[int, ...], str]]

# Of a plan: what the names of a model are changed by.
RULES = [
    (r"^model\.", ""),
    (r"\.attn\.", ".attention."),
    (r"layers\.(\d+)", r"blocks.\1"),
    (r"weight$", "w"),
    (r"bias$", "b"),
]


def write_pickle_of_torch(path: Path, tensors: Tensors) -> None:
    """A dict of tensors as `pickle` has it, without torch.save: each storage a stream of its own within the pickle."""
    import torch

    with open(path, "wb") as file:
        pickle.dump({name: torch.tensor(array) for name, array in tensors.items()}, file, protocol=4)


def write_pickle_of_numpy(path: Path, tensors: Tensors) -> None:
    """A dict of arrays as `pickle` has it."""
    with open(path, "wb") as file:
        pickle.dump(dict(tensors), file, protocol=4)


# By the ending of the file's name; those of the first are small and large, and the others small.
WRITERS = {"safetensors": write_safetensors, "pt": write_torch_zip}
WRITERS_OF_MANY = {
    **WRITERS,
    "legacy": write_torch_legacy,
    "torch-pickle": write_pickle_of_torch,
    "numpy-pickle": write_pickle_of_numpy,
}


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

    def large_tensorized(self) -> Path:
        """The same in the format of tensorizer, written by it in a process of its own."""
        program = (
            "import sys, torch, tensorizer; file = tensorizer.TensorSerializer(sys.argv[2]);"
            " file.write_state_dict(torch.load(sys.argv[1], mmap=True)); file.close()"
        )

        def write(path: Path) -> None:
            subprocess.run([sys.executable, "-c", program, str(self.large("pt")), str(path)], check=True)

        return self._made(f"large-{LARGE_COUNT}x{LARGE_SHAPE[0]}.tensors", write)

    def sized(self, mib: int) -> Path:
        """A safetensors file of so many tensors of 1 MiB."""
        return self._written(f"{mib}-mib.safetensors", uniform(mib, shape=(512, 1024), dtype="float16"))

    def module(self, count: int) -> Path:
        """An archive of a whole module of *count* tensors, written by torch in a process that has its class."""
        program = (
            "import sys, torch, whole_model; torch.save(whole_model.WholeModel(int(sys.argv[1]) // 4), sys.argv[2])"
        )
        environment = {**os.environ, "PYTHONPATH": str(ONLY_FOR_TORCH)}

        def write(path: Path) -> None:
            subprocess.run([sys.executable, "-c", program, str(count), str(path)], check=True, env=environment)

        return self._made(f"module-{count}.pt", write)

    def scalars(self) -> Path:
        """An archive whose pickle holds numbers and texts by the ten thousand, and few tensors."""

        def write(path: Path) -> None:
            import torch

            numbers = random.Random(0)
            third = SCALARS // 3
            note = "step {} done, loss below the last, weights kept, the next one begins at {}:{:02}"
            saved = {
                "vocabulary": {f"▁token{number}": number for number in range(third)},
                "losses": [numbers.random() for _ in range(third)],
                "history": [
                    {"step": step, "loss": numbers.random(), "note": note.format(step, step // 60, step % 60)}
                    for step in range(third // 3)
                ],
                "model": {name: torch.tensor(array) for name, array in beside_scalars().items()},
            }
            torch.save(saved, path)

        return self._made(f"scalars-{SCALARS}.pt", write)

    def _written(self, name: str, tensors: Tensors) -> Path:
        return self._made(name, lambda path: WRITERS_OF_MANY[path.suffix[1:]](path, tensors))

    def _made(self, name: str, write: Callable[[Path], None]) -> Path:
        path = self.folder / name
        if not path.exists():
            unfinished = self.folder / "unfinished" / name
            unfinished.parent.mkdir(parents=True, exist_ok=True)
            write(unfinished)
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


def beside_scalars() -> Tensors:
    """The tensors that `Inputs.scalars` holds, by the end of their names."""
    return uniform(TENSORS_BESIDE_SCALARS, shape=(100, 100))


def listing_of_module(count: int) -> Listing:
    """What `Inputs.module` holds."""
    shapes = {"weight": (4, 4), "bias": (4,)}
    return sorted(
        (f"layers.{layer}.{part}.{kind}", shapes[kind], "float32")
        for layer in range(count // 4)
        for part in ("attn", "mlp")
        for kind in shapes
    )


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
