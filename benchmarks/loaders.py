"""The loaders: every way to bring a whole file into memory of one's own, what each does for its time, and the limits.

Each load has a process of its own (`child.serve_loads`), as a program has that loads a model: one that has loaded
before has memory that it may use again, of which some allocators keep as much as the model took.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import threading
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

HUGE_PAGE = 1 << 21
BLOCK = 1 << 22
SCRATCH = 1 << 20
MADV_POPULATE_WRITE = 23


@dataclass(frozen=True)
class Loader:
    """One way to load a file.

    Attributes
    ----------
    work : str
        What it does for its time.
    load : callable
        What is timed; takes the path, and the dtype that floats are cast to, or None. A mapping of names to tensors.
    imports : tuple of str
        Modules that it needs.
    brings : bool
        Whether what it loads is tensors; the limits bring none.
    """

    work: str
    load: Callable[[str, str | None], Any]
    imports: tuple[str, ...] = ("fastload",)
    brings: bool = True


def fresh_memory(size: int) -> np.ndarray:
    """Anonymous memory on huge pages, none of it touched."""
    # Private, which mmap.mmap is not by itself: shared memory comes in small pages.
    mapping = mmap.mmap(-1, size + HUGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    mapping.madvise(mmap.MADV_HUGEPAGE)
    memory = np.frombuffer(mapping, np.uint8)
    start = -memory.ctypes.data % HUGE_PAGE
    return memory[start : start + size]


def touch_memory(size: int) -> None:
    """Have the host give the memory that the next load needs, and let it go."""
    memory = fresh_memory(size)
    ctypes.CDLL(None).madvise(ctypes.c_void_p(memory.ctypes.data), ctypes.c_size_t(size), MADV_POPULATE_WRITE)


def by_threads(count: int, work: Callable[[int], object]) -> None:
    """Let threads do *work* of their number, the calling one among them."""
    threads = [threading.Thread(target=work, args=(number,)) for number in range(1, count)]
    for thread in threads:
        thread.start()
    work(0)
    for thread in threads:
        thread.join()


def copy_limit(path: str, dtype: str | None) -> Any:
    """What copying alone costs: out of a mapping, into fresh huge pages, page by page in two threads."""
    source = np.memmap(path, np.uint8, "r")
    target = fresh_memory(len(source))

    def copy(number: int) -> None:
        for start in range(number * HUGE_PAGE, len(source), 2 * HUGE_PAGE):
            target[start : start + HUGE_PAGE] = source[start : start + HUGE_PAGE]

    by_threads(2, copy)
    return target


def cast_limit(path: str, dtype: str | None) -> Any:
    """What a cast costs beside the cast: two threads read the file, over and over into the same little memory.

    And they have the system give the memory for the result, a huge page before the bytes that would be cast into it.
    """
    import fastload

    with fastload.open(path, cast=dtype) as checkpoint:
        size = sum(entry.nbytes for entry in checkpoint.entries())
    target = fresh_memory(size)
    pages = range(0, size, HUGE_PAGE)
    share = -(-os.path.getsize(path) // len(pages))
    block = -(-share // -(-share // SCRATCH))
    descriptor = os.open(path, os.O_RDONLY)
    populate = ctypes.CDLL(None).madvise

    def read(number: int) -> None:
        place = np.ones(block, np.uint8)
        for page in pages[number::2]:
            start = ctypes.c_void_p(target.ctypes.data + page)
            populate(start, ctypes.c_size_t(min(HUGE_PAGE, size - page)), MADV_POPULATE_WRITE)
            begin = page // HUGE_PAGE * share
            for position in range(begin, begin + share, block):
                os.preadv(descriptor, [place], position)

    by_threads(2, read)
    os.close(descriptor)
    return target


def disk_limit(path: str, dtype: str | None) -> Any:
    """What the disk alone costs: direct reads of eight threads into a little memory on huge pages, over and over."""
    size = os.path.getsize(path)
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECT)

    def read(number: int) -> None:
        place = fresh_memory(BLOCK)
        for start in range(number * BLOCK, size, 8 * BLOCK):
            os.preadv(descriptor, [place], start)

    by_threads(8, read)
    os.close(descriptor)


def by_fastload(path: str, dtype: str | None) -> Any:
    import fastload

    return fastload.load(path, dtype=dtype)


def by_safetensors(path: str, dtype: str | None) -> Any:
    from safetensors.numpy import load_file

    return load_file(path)


def by_torch(path: str, dtype: str | None) -> Any:
    import torch

    return torch.load(path, weights_only=True)


def by_torch_and_cast(path: str, dtype: str | None) -> Any:
    import torch

    loaded = torch.load(path, mmap=True, weights_only=True)
    return {name: tensor.to(getattr(torch, str(dtype))) for name, tensor in loaded.items()}


def by_mlx(path: str, dtype: str | None) -> Any:
    import mlx.core

    loaded = mlx.core.load(path)
    mlx.core.eval(loaded)
    return loaded


def by_runai(path: str, dtype: str | None) -> Any:
    from runai_model_streamer import SafetensorsStreamer

    with SafetensorsStreamer() as streamer:
        streamer.stream_file(path)
        return dict(streamer.get_tensors())


def by_tensorizer(path: str, dtype: str | None) -> Any:
    from tensorizer import TensorDeserializer

    with TensorDeserializer(path, device="cpu") as deserializer:
        return dict(deserializer.items())


LOADERS = {
    "fastload": Loader(
        "reads straight into one block, and casts on the way; from 4 MiB on by threads, and on huge pages",
        by_fastload,
    ),
    "copy into fresh huge pages": Loader(
        "a limit: two threads of numpy copy from a mapping; nothing is parsed", copy_limit, brings=False
    ),
    "read, and fresh huge pages": Loader(
        "a limit: two threads read the file into 1 MiB each, over and over, and have the result's pages given",
        cast_limit,
        brings=False,
    ),
    "disk alone": Loader(
        "a limit: eight threads read around the page cache into 32 MiB, over and over", disk_limit, brings=False
    ),
    "safetensors.numpy.load_file": Loader(
        "maps; copies each tensor into bytes, of which numpy makes an array",
        by_safetensors,
        ("safetensors.numpy",),
    ),
    "torch.load": Loader("reads each record into fresh memory", by_torch, ("torch",)),
    "torch.load mmap, .to": Loader(
        "maps, and casts tensor by tensor into fresh memory, with torch's threads",
        by_torch_and_cast,
        ("torch",),
    ),
    "mlx": Loader("mlx.core.load and eval: its threads read each tensor into memory of its own", by_mlx, ("mlx.core",)),
    "runai": Loader(
        "SafetensorsStreamer: its threads read into buffers, of which each tensor is given a copy of its own",
        by_runai,
        ("runai_model_streamer",),
    ),
    "tensorizer": Loader(
        "TensorDeserializer of a file of its own format: reads each tensor into fresh memory, and hashes nothing",
        by_tensorizer,
        ("tensorizer",),
    ),
}


def sums(loaded: Any) -> dict[str, int]:
    """The checksums of the bytes of all tensors, whoever they belong to."""
    from fastload.benching.readers import arrays_in

    return {
        name: zlib.crc32(np.ascontiguousarray(next(arrays_in(loaded[name]))).reshape(-1).view(np.uint8))
        for name in sorted(loaded)
    }
