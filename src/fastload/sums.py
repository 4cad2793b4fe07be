"""Checksums of tensors and files, and the file that keeps them, so that bits which flipped can be found later.

The sum of a tensor is that of its elements, C-contiguous and little-endian: the same in every format, so that a
checkpoint can be held against sums that were made before it was converted.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, Protocol

from fastload.checkpoint import Checkpoint, tensors_of
from fastload.crew import in_order
from fastload.entry import TensorEntry
from fastload.errors import FormatError, LimitError, NotInstalledError, UnsupportedError
from fastload.outgoing import of_tensor
from fastload.source import Source

__all__ = [
    "ALGORITHMS",
    "SCHEMA",
    "Difference",
    "FileSum",
    "Sums",
    "TensorSum",
    "compare",
    "files_of",
    "read",
    "sum_up",
]

SCHEMA = "fastload.sums/1"
READ_BYTES = 8 << 20  # of a file at a time
MAX_SUMS_BYTES = 1 << 30  # of a file of sums; that of 200,000 tensors has 40 MB


class Hash(Protocol):
    """What the modules have in common."""

    def update(self, data: memoryview, /) -> object:
        """Add bytes."""

    def hexdigest(self) -> str:
        """The sum of all of them."""


def _sha256() -> Callable[[], Hash]:
    import hashlib

    return hashlib.sha256


def _blake3() -> Callable[[], Hash]:
    import blake3

    make: Callable[[], Hash] = blake3.blake3
    return make


def _xxh3() -> Callable[[], Hash]:
    import xxhash

    make: Callable[[], Hash] = xxhash.xxh3_64
    return make


ALGORITHMS = {"sha256": _sha256, "blake3": _blake3, "xxh3": _xxh3}  # each imports the package that has it


class TensorSum(NamedTuple):
    """The sum of one tensor, in hexadecimal digits; None where the file has no data of it, or none of a known dtype."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    sum: str | None


class FileSum(NamedTuple):
    """The sum of one file, by its name within the folder of the checkpoint."""

    name: str
    nbytes: int
    sum: str


class Sums(NamedTuple):
    """The sums of a checkpoint."""

    algorithm: str
    files: list[FileSum]
    tensors: list[TensorSum]


class Difference(NamedTuple):
    """Where a checkpoint is not as its sums say.

    Attributes
    ----------
    kind : str
        "tensor" or "file".
    name : str
    what : str
        "missing" in the checkpoint, "new" in it, "dtype", "shape", "size" or "sum".
    expected, found : object
        What it was, and what it is; None where it is not there.
    """

    kind: str
    name: str
    what: str
    expected: Any
    found: Any


def sum_up(
    checkpoint: Checkpoint,
    algorithm: str,
    threads: int | None = None,
    report: Callable[[int, int], object] | None = None,
) -> Sums:
    """The sums of all tensors of a checkpoint, and of its files; each thread is at one of these.

    Parameters
    ----------
    checkpoint : Checkpoint
    algorithm : str
        Of `ALGORITHMS`.
    threads : int, optional
    report : function, optional
        Called with the bytes that are done, and all.

    Raises
    ------
    NotInstalledError
        The package that has the algorithm is not installed.
    """
    make = _maker(algorithm)
    entries, paths = checkpoint.entries(), files_of(checkpoint)
    sizes = [*map(os.path.getsize, paths.values()), *(entry.nbytes for entry in entries)]
    total, done = sum(sizes), 0
    found: list[Any] = []
    tasks: list[Callable[[], Any]] = [partial(_of_file, name, path, make) for name, path in paths.items()]
    tasks += [partial(_of_tensor, checkpoint, entry, make) for entry in entries]
    for size, result in zip(sizes, in_order(tasks, threads), strict=True):
        found.append(result)
        done += size
        if report is not None:
            report(done, total)
    return Sums(algorithm, found[: len(paths)], found[len(paths) :])


def compare(known: Sums, found: Sums) -> list[Difference]:
    """In what a checkpoint differs from the sums that were made of it; files count where both have one of that name."""
    differences = []
    files = {file.name: file for file in found.files}
    for file in known.files:
        other = files.get(file.name)
        if other is not None and file != other:
            what = "size" if file.nbytes != other.nbytes else "sum"
            expected, now = (one.nbytes if what == "size" else one.sum for one in (file, other))
            differences.append(Difference("file", file.name, what, expected, now))
    tensors = {tensor.name: tensor for tensor in found.tensors}
    for tensor in known.tensors:
        there = tensors.pop(tensor.name, None)
        if there is None:
            differences.append(Difference("tensor", tensor.name, "missing", tensor.sum, None))
            continue
        for what in ("dtype", "shape", "sum"):
            expected, now = getattr(tensor, what), getattr(there, what)
            if expected != now:
                differences.append(Difference("tensor", tensor.name, what, expected, now))
                break
    differences += [Difference("tensor", tensor.name, "new", None, tensor.sum) for tensor in tensors.values()]
    return differences


def read(path: str) -> Sums:
    """The sums in a file that has them.

    Raises
    ------
    FormatError
        It is none, or a later one.
    """
    import json

    source = Source.of(path, "read")
    if source.size > MAX_SUMS_BYTES:
        raise LimitError(f"has {source.size:,} bytes, which are too many for checksums", path=path)
    try:
        text = json.loads(bytes(source.fetch(0, source.size)))
        if not isinstance(text, dict) or text.get("schema") != SCHEMA:
            raise FormatError(f'holds no checksums of schema "{SCHEMA}": make them with --write-sums', path=path)
        sums = Sums(
            _text(text["algorithm"]),
            [FileSum(_text(row["name"]), int(row["nbytes"]), _text(row["sum"])) for row in text["files"]],
            [
                TensorSum(
                    _text(row["name"]),
                    _text(row["dtype"]),
                    tuple(map(int, row["shape"])),
                    None if row["sum"] is None else _text(row["sum"]),
                )
                for row in text["tensors"]
            ],
        )
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise FormatError(f"is no file of checksums ({type(error).__name__}: {error})", path=path) from None
    if sums.algorithm not in ALGORITHMS:
        raise FormatError(f"has sums by {sums.algorithm!r}; known are {', '.join(ALGORITHMS)}", path=path)
    return sums


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _maker(algorithm: str) -> Callable[[], Hash]:
    try:
        return ALGORITHMS[algorithm]()
    except ImportError as error:
        raise NotInstalledError(
            f"checksums by {algorithm} need a package that is not installed: pip install {error.name}"
        ) from None


def files_of(checkpoint: Checkpoint) -> dict[str, str]:
    """The files that the tensors lie in, by their names within the folder of the checkpoint."""
    tensors = tensors_of(checkpoint)
    sources = {tensors.source_of(row) for row in range(len(tensors))}
    paths = {source.path for source in sources if source is not None and source.path is not None}
    start = tensors.path
    if start is not None and os.path.isfile(start):
        paths.add(start)
        start = os.path.dirname(start)
    found = {os.path.relpath(path, start or os.curdir).replace(os.sep, "/"): path for path in paths}
    return dict(sorted(found.items()))


def _of_file(name: str, path: str, make: Callable[[], Hash]) -> FileSum:
    source = Source.of(path, "read")
    found = make()
    for begin in range(0, source.size, READ_BYTES):
        found.update(source.fetch(begin, min(READ_BYTES, source.size - begin)))
    return FileSum(name, source.size, found.hexdigest())


def _of_tensor(checkpoint: Checkpoint, entry: TensorEntry, make: Callable[[], Hash]) -> TensorSum:
    found = make()
    try:
        for chunk in of_tensor(checkpoint, entry.name).chunks():
            found.update(chunk)
    except UnsupportedError:
        return TensorSum(entry.name, entry.dtype, entry.shape, None)
    return TensorSum(entry.name, entry.dtype, entry.shape, found.hexdigest())
