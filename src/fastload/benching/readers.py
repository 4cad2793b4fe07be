"""The peers: every reader that is measured, and what it does for its time. Each imports its library when it is asked.

None runs what a file holds: torch unpickles with its list of what is allowed, NumPy refuses pickles.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np

import fastload
from fastload.casting import FLOATS
from fastload.dtypes import CODES, numpy_dtype

__all__ = ["FASTLOAD", "PEERS", "QUESTIONS", "READERS", "Job", "Reader", "arrays_in", "touch"]

Array = np.ndarray[Any, np.dtype[Any]]

QUESTIONS = {
    "open": "open: the header is read and understood",
    "list": "list: name, shape and dtype of every tensor",
    "views": "all tensors as arrays, by the quickest way that the reader has",
    "touch": "the same, and every byte read once",
    "load": "all tensors in memory of one's own",
    "cast": "the same, floats in another dtype",
}

_HEADER = b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}  '
TINY = struct.pack("<Q", len(_HEADER)) + _HEADER + bytes(4)  # a safetensors file to warm up with


@dataclass(frozen=True)
class Job:
    """What is to be read.

    Attributes
    ----------
    source : str
        The path that the user gave.
    paths : sequence of str
        The files that hold the tensors; several for a folder.
    dtype : str
        That floats are cast to, where a cast is asked for.
    threads : int or None
        That may be used; None leaves it to the reader.
    member : str or None
        What to read of the file; fastload alone can.
    """

    source: str
    paths: Sequence[str]
    dtype: str
    threads: int | None
    member: str | None = None


@dataclass(frozen=True)
class Reader:
    """One way to read a checkpoint.

    Attributes
    ----------
    name : str
    distribution : str
        What pip calls it.
    modules : tuple of str
        What must be importable.
    formats : tuple of str
        That it reads, as `Checkpoint.format` has them; none: all.
    work : str
        Who copies, who checks, who makes objects.
    copies : bool
        Whether its views are copies.
    executes : str
        What of a file it would run.
    answers : mapping
        Of questions, to what is timed.
    warm_up : callable
        What is done before, so that nobody pays for imports.
    """

    name: str
    distribution: str
    modules: tuple[str, ...]
    formats: tuple[str, ...]
    work: str
    copies: bool
    executes: str
    answers: Mapping[str, Callable[[Job], Any]]
    warm_up: Callable[[Job], object]

    @property
    def version(self) -> str | None:
        """The version that is installed; None where there is none."""
        if self.name == fastload.__name__:
            return fastload.__version__
        from importlib.metadata import PackageNotFoundError, version  # 20 ms, and only the bench asks

        if not all(map(find_spec, self.modules)):
            return None
        try:
            return version(self.distribution)
        except PackageNotFoundError:  # it was installed by other means than pip
            return "unknown"

    def reads(self, format: str) -> bool:
        """Whether it is made for files of a format, or for folders of them."""
        return not self.formats or format.removeprefix("sharded-") in self.formats


def touch(arrays: Iterable[Array]) -> int:
    """Read every byte of *arrays*, at the speed of the memory; the largest, which means nothing."""
    most = 0
    for array in arrays:
        if array.size:
            same = array if array.flags.c_contiguous else np.ascontiguousarray(array)
            most = max(most, int(np.maximum.reduce(same.reshape(-1).view(np.uint8))))
    return most


def arrays_in(result: Any) -> Iterator[Array]:
    """The tensors within what a reader returned, as bytes; none are copied."""
    if isinstance(result, np.ndarray):
        yield result
    elif isinstance(result, Mapping):
        for value in result.values():
            yield from arrays_in(value)
    elif isinstance(result, (list, tuple)):
        for value in result:
            yield from arrays_in(value)
    elif type(result).__module__.startswith("torch"):
        yield from _bytes_of_torch(result)
    elif type(result).__module__.startswith("mlx"):
        yield _bytes_of_mlx(result)


def _then_touch(read: Callable[[Job], Any]) -> Callable[[Job], Any]:
    def touched(job: Job) -> Any:
        result = read(job)
        touch(arrays_in(result))
        return result

    return touched


# fastload


def _fastload_warm_up(job: Job) -> None:
    fastload.load(TINY, dtype=job.dtype, threads=job.threads)
    _fastload_open(job).close()


def _fastload_open(job: Job) -> fastload.Checkpoint:
    return fastload.open(job.source, member=job.member)


def _fastload_list(job: Job) -> Any:
    return [(entry.name, entry.shape, entry.dtype) for entry in _fastload_open(job).entries()]


def _fastload_views(job: Job) -> Any:
    return dict(_fastload_open(job))


def _fastload_load(job: Job) -> Any:
    return fastload.load(job.source, threads=job.threads, member=job.member)


def _fastload_cast(job: Job) -> Any:
    return fastload.load(job.source, dtype=job.dtype, threads=job.threads, member=job.member)


# safetensors


def _safe_open(job: Job, framework: str = "np") -> Any:
    import safetensors

    return [safetensors.safe_open(path, framework=framework) for path in job.paths]


def _safe_open_torch(job: Job) -> Any:
    return _safe_open(job, "pt")


def _safe_list(job: Job) -> Any:
    listed = []
    for file in _safe_open(job):
        for name in file.keys():  # noqa: SIM118  # it is no mapping, and cannot be iterated over
            part = file.get_slice(name)
            listed.append((name, part.get_shape(), part.get_dtype()))
    return listed


def _safe_numpy(job: Job) -> Any:
    from safetensors.numpy import load_file

    return _merged(load_file(path) for path in job.paths)


def _safe_numpy_cast(job: Job) -> Any:
    return {name: _cast_numpy(array, job.dtype) for name, array in _safe_numpy(job).items()}


def _safe_numpy_warm_up(job: Job) -> None:
    from safetensors.numpy import load

    load(TINY)


def _safe_torch(job: Job) -> Any:
    from safetensors.torch import load_file

    return _merged(load_file(path) for path in job.paths)


def _safe_torch_warm_up(job: Job) -> None:
    from safetensors.torch import load

    _set_threads(job)
    load(TINY)["w"].clone()


# torch


def _torch_plain(job: Job) -> Any:
    return _torch_load(job, mmap=False)


def _torch_mmap(job: Job) -> Any:
    return _torch_load(job, mmap=True)


def _torch_load(job: Job, mmap: bool) -> Any:
    import torch

    return [torch.load(path, map_location="cpu", mmap=mmap, weights_only=True) for path in job.paths]


def _torch_warm_up(job: Job) -> None:
    import torch

    _set_threads(job)
    with io.BytesIO() as file:
        torch.save({"w": torch.zeros(1)}, file)
        file.seek(0)
        torch.load(file, weights_only=True)["w"].clone()


def _set_threads(job: Job) -> None:
    import torch

    if job.threads:
        torch.set_num_threads(job.threads)


def _torch_list(read: Callable[[Job], Any]) -> Callable[[Job], Any]:
    return lambda job: [(tuple(tensor.shape), str(tensor.dtype)) for tensor in _tensors(read(job))]


def _torch_cloned(read: Callable[[Job], Any]) -> Callable[[Job], Any]:
    return lambda job: [tensor.clone() for tensor in _tensors(read(job))]


def _torch_cast(read: Callable[[Job], Any]) -> Callable[[Job], Any]:
    def cast(job: Job) -> Any:
        import torch

        dtype = getattr(torch, job.dtype)
        return [tensor.to(dtype) if tensor.is_floating_point() else tensor for tensor in _tensors(read(job))]

    return cast


def _tensors(value: Any) -> Iterator[Any]:
    """The tensors in what torch has read, at any depth."""
    import torch

    if isinstance(value, torch.Tensor):
        yield value.detach()
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)


def _bytes_of_torch(value: Any) -> Iterator[Array]:
    import torch

    for tensor in _tensors(value):
        plain = tensor.int_repr() if tensor.is_quantized else tensor.resolve_conj().resolve_neg()
        yield plain.contiguous().reshape(-1).view(torch.uint8).numpy()


# numpy


def _numpy_open(job: Job) -> Any:
    return [np.load(path, mmap_mode="r", allow_pickle=False) for path in job.paths]


def _numpy_views(job: Job) -> Any:
    """NumPy maps an .npy, and reads the members of an .npz."""
    return [file if isinstance(file, np.ndarray) else dict(file) for file in _numpy_open(job)]


def _numpy_load(job: Job) -> Any:
    files = [np.load(path, allow_pickle=False) for path in job.paths]
    return [file if isinstance(file, np.ndarray) else dict(file) for file in files]


def _numpy_cast(job: Job) -> Any:
    return [_cast_numpy(array, job.dtype) for array in arrays_in(_numpy_load(job))]


def _numpy_warm_up(job: Job) -> None:
    with io.BytesIO() as file:
        np.savez(file, w=np.zeros(1))
        file.seek(0)
        dict(np.load(file))


def _cast_numpy(array: Array, dtype: str) -> Array:
    if array.dtype.name not in FLOATS:
        return array
    return array.astype(numpy_dtype(CODES[dtype]))


# mlx


def _mlx_open(job: Job) -> Any:
    import mlx.core

    return [mlx.core.load(path) for path in job.paths]


def _mlx_list(job: Job) -> Any:
    return [(name, array.shape, array.dtype) for file in _mlx_open(job) for name, array in file.items()]


def _mlx_load(job: Job) -> Any:
    import mlx.core

    loaded = _mlx_open(job)
    mlx.core.eval(loaded)
    return loaded


def _mlx_cast(job: Job) -> Any:
    import mlx.core

    dtype = getattr(mlx.core, job.dtype)

    def cast(array: Any) -> Any:
        return array.astype(dtype) if mlx.core.issubdtype(array.dtype, mlx.core.floating) else array

    loaded = [{name: cast(array) for name, array in file.items()} for file in _mlx_open(job)]
    mlx.core.eval(loaded)
    return loaded


def _mlx_warm_up(job: Job) -> None:
    import mlx.core

    mlx.core.eval(mlx.core.zeros(1))


def _bytes_of_mlx(array: Any) -> Array:
    import mlx.core

    return np.asarray(memoryview(mlx.core.view(mlx.core.flatten(array), mlx.core.uint8)))


# runai


def _runai(job: Job) -> Any:
    from runai_model_streamer import SafetensorsStreamer

    with SafetensorsStreamer() as streamer:
        streamer.stream_files(list(job.paths))
        return dict(streamer.get_tensors())


def _runai_warm_up(job: Job) -> None:
    import runai_model_streamer  # noqa: F401

    _set_threads(job)


def _merged(parts: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    return {name: array for part in parts for name, array in part.items()}


ZIP, LEGACY = "pytorch-zip", "pytorch-legacy"

FASTLOAD = Reader(
    "fastload",
    "fastload-ckpt",
    ("fastload",),
    (),
    "reads or maps, and checks everything; views copy nothing; load() fills one piece of memory, from 4 MiB on by a few"
    " threads and on huge pages, and casts on the way",
    False,
    "nothing",
    {
        "open": _fastload_open,
        "list": _fastload_list,
        "views": _fastload_views,
        "touch": _then_touch(_fastload_views),
        "load": _fastload_load,
        "cast": _fastload_cast,
    },
    _fastload_warm_up,
)

READERS = (
    FASTLOAD,
    Reader(
        "safetensors",
        "safetensors",
        ("safetensors",),
        ("safetensors",),
        "numpy.load_file: maps and checks the header; copies every tensor into new memory; then astype",
        True,
        "nothing",
        {
            "open": _safe_open,
            "list": _safe_list,
            "views": _safe_numpy,
            "touch": _then_touch(_safe_numpy),
            "load": _safe_numpy,
            "cast": _safe_numpy_cast,
        },
        _safe_numpy_warm_up,
    ),
    Reader(
        "safetensors-torch",
        "safetensors",
        ("safetensors", "torch"),
        ("safetensors",),
        "torch.load_file: maps and checks the header; tensors are views; clone() to own them, to() to cast",
        False,
        "nothing",
        {
            "open": _safe_open_torch,
            "views": _safe_torch,
            "touch": _then_touch(_safe_torch),
            "load": _torch_cloned(_safe_torch),
            "cast": _torch_cast(_safe_torch),
        },
        _safe_torch_warm_up,
    ),
    Reader(
        "torch",
        "torch",
        ("torch",),
        (ZIP, LEGACY),
        "torch.load(weights_only=True): unpickles in Python; reads every tensor into new memory; to() to cast",
        True,
        "what is on torch's list",
        {
            "views": _torch_plain,
            "touch": _then_touch(_torch_plain),
            "load": _torch_plain,
            "cast": _torch_cast(_torch_plain),
        },
        _torch_warm_up,
    ),
    Reader(
        "torch-mmap",
        "torch",
        ("torch",),
        (ZIP,),
        "torch.load(mmap=True, weights_only=True): unpickles in Python; maps; clone() to own tensors, to() to cast",
        False,
        "what is on torch's list",
        {
            "open": _torch_mmap,
            "list": _torch_list(_torch_mmap),
            "views": _torch_mmap,
            "touch": _then_touch(_torch_mmap),
            "load": _torch_cloned(_torch_mmap),
            "cast": _torch_cast(_torch_mmap),
        },
        _torch_warm_up,
    ),
    Reader(
        "numpy",
        "numpy",
        ("numpy",),
        ("npz", "npy"),
        "np.load(allow_pickle=False): maps an .npy, reads and checksums the members of an .npz; then astype",
        True,
        "nothing",
        {
            "open": _numpy_open,
            "views": _numpy_views,
            "touch": _then_touch(_numpy_views),
            "load": _numpy_load,
            "cast": _numpy_cast,
        },
        _numpy_warm_up,
    ),
    Reader(
        "mlx",
        "mlx",
        ("mlx",),
        ("safetensors", "npz"),
        "mlx.core.load: reads the header; tensors are lazy; eval() reads them into new memory, astype on the way",
        True,
        "nothing",
        {
            "open": _mlx_open,
            "list": _mlx_list,
            "views": _mlx_load,
            "touch": _then_touch(_mlx_load),
            "load": _mlx_load,
            "cast": _mlx_cast,
        },
        _mlx_warm_up,
    ),
    Reader(
        "runai",
        "runai-model-streamer",
        ("runai_model_streamer", "torch"),
        ("safetensors",),
        "SafetensorsStreamer: its threads read into buffers, of which each tensor is given a copy; to() to cast",
        True,
        "nothing",
        {
            "views": _runai,
            "touch": _then_touch(_runai),
            "load": _runai,
            "cast": _torch_cast(_runai),
        },
        _runai_warm_up,
    ),
)

PEERS = {reader.name: reader for reader in READERS if reader is not FASTLOAD}
