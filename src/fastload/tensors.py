"""Tensors: what a Checkpoint shows. Those of one file are here, those of several files in `folders`.

Everything above this module speaks of tensors by their row, and knows neither formats nor files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import count
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np

from fastload import formats
from fastload._native import LOAD, LOCATE, FileMapping, Index, Region, WritableRegion, direct_run, direct_view
from fastload.dtypes import NUMPY
from fastload.entry import FreeNames, TensorEntry
from fastload.errors import FastloadError, LimitError, UnsupportedError, located
from fastload.options import Options
from fastload.source import Handing, Source

__all__ = ["PARTS", "FileTensors", "JoinedTensors", "PrivateRun", "Tensors", "open_source"]

MAX_WRAPPINGS = 4  # of a file around a file around …; .tar.gz makes two, and a gzip file may even hold itself
MAX_FILES = 1 << 32  # that are numbered: a storage is told by the number of its file in 32 bits, and its own in 32
PARTS = 1 << 16  # of these numbers, that a file of several has for itself and the files within it
MAX_OVERLAP = 64  # times that the elements of a tensor that must be copied may repeat the bytes of its storage

Result = TypeVar("Result")


class PrivateRun(NamedTuple):
    """A tensor within a storage in private memory; all of it counted in elements, but for *begin* and *nbytes*.

    Attributes
    ----------
    code : int
        Of the dtype: a row of DTYPES.
    memory : FileMapping or WritableRegion
        What the storage lies in, for itself or with others.
    begin, nbytes : int
        Where it lies there, in bytes.
    offset : int
        Of the first element, from there on.
    shape, steps : tuple of int
        The sizes of the dimensions, and the distances between neighbours, none of them negative.
    """

    code: int
    memory: FileMapping | WritableRegion
    begin: int
    nbytes: int
    offset: int
    shape: tuple[int, ...]
    steps: tuple[int, ...]


class Tensors(Protocol):
    """Named tensors, in order, and what else came with them. A row is the number of a tensor in that order."""

    @property
    def path(self) -> str | None:
        """The file or folder; None for a buffer."""

    @property
    def format(self) -> str:
        """The name of the format."""

    def __len__(self) -> int: ...

    def find(self, name: object) -> int:
        """The row of a name, or -1."""

    def list_names(self) -> list[str]:
        """All names, in order."""

    def entry(self, row: int) -> TensorEntry:
        """The description of one tensor."""

    def entries(self) -> list[TensorEntry]:
        """The descriptions of all tensors, in order."""

    def array(self, row: int) -> np.ndarray:
        """The array of one tensor, made anew."""

    def check(self, row: int) -> None:
        """See that the array of one tensor can be made, putting nothing together that only would be a copy.

        Raises
        ------
        FastloadError
            It cannot.
        """

    def private_array(self, row: int, handing: Handing) -> np.ndarray:
        """The array of one tensor, writable, over memory that was made for this handing over alone."""

    def private_run(self, row: int, handing: Handing) -> PrivateRun | None:
        """Where one tensor lies in memory as that of `private_array`; None where only that can tell."""

    def source_of(self, row: int) -> Source | None:
        """The source that the bytes of one tensor lie in; None where they lie in several, or in none."""

    def metadata(self) -> dict[str, Any]:
        """What the format keeps about the tensors as a whole."""

    def objects(self) -> Any:
        """What else there is, as plain Python values."""

    def list_globals(self) -> list[tuple[str, str]]:
        """(module, name) of every global that the pickles name, once each."""

    def verify(self) -> None:
        """Check every structure and extent that opening left until it is needed."""

    def still_valid(self) -> bool:
        """Whether the files are still those that were opened."""


def open_source(source: Source, options: Options, shard: int = 0) -> Tensors:
    """The tensors of one source, whatever its format; of a file within it, where it is only a wrapper.

    Parameters
    ----------
    shard : int
        A number by which its storages are told from those of others: its own, and for each file within it one more.
    """
    return _open(source, options, count(shard), 0)


def _open(source: Source, options: Options, shards: Iterator[int], wrappings: int) -> Tensors:
    """The tensors of a source that *wrappings* containers are around; each file takes the next of *shards*."""
    try:
        container = formats.detect_container(source)
        if container is not None:
            if wrappings == MAX_WRAPPINGS:
                raise LimitError(f"is wrapped more than {MAX_WRAPPINGS} times over (gzip, tar): unpack it first")
            parts = container.parts(source, options)
            opened = [_open(part, options, shards, wrappings + 1) for part in parts]
            return opened[0] if len(opened) == 1 else JoinedTensors(opened, container.NAME)
        format = formats.detect(source)
    except FastloadError as error:
        raise located(error, source.path) from None
    shard = next(shards)
    if shard >= MAX_FILES:
        raise LimitError("is one of too many files within files: unpack them first", path=source.path)
    return FileTensors(source, format, options, shard)


class FileTensors:
    """The tensors of one file or buffer."""

    __slots__ = ("_format", "_index", "_options", "_region", "_source", "find")

    def __init__(self, source: Source, format: formats.Format, options: Options, shard: int = 0) -> None:
        self._source = source
        self._format = format
        self._options = options
        self._index: Index = self._located(lambda: format.index(source, options))
        self._index.shard = shard
        self._region: Region | None = None  # what an array may be a view of, once there is one
        self.find = self._index.find  # and no method around it, since every look-up goes this way

    @property
    def path(self) -> str | None:
        """The file; None for a buffer."""
        return self._source.path

    @property
    def format(self) -> str:
        """The name of the format."""
        return self._format.NAME

    @property
    def index(self) -> Index:
        """The native table of the tensors."""
        return self._index

    @property
    def source(self) -> Source:
        """What they lie in."""
        return self._source

    def __len__(self) -> int:
        return len(self._index)

    def list_names(self) -> list[str]:
        """All names, in order."""
        return self._index.list_names()

    def entry(self, row: int) -> TensorEntry:
        """The description of one tensor."""
        return self._index.entry(row)

    def entries(self) -> list[TensorEntry]:
        """The descriptions of all tensors, in order."""
        return self._index.entries()

    def array(self, row: int) -> np.ndarray:
        """The array of one tensor, made anew."""
        index = self._index
        try:
            if self._region is None and not self._source.is_inflated:
                self._region = self._source.region
            if self._region is not None:  # the common case, without a look at what else there may be
                direct = direct_view(index, row, self._region, NUMPY)
                if direct is not None:
                    return direct
            if index.access(row) == LOAD or self._source.is_inflated:
                self._check_copy(row)
            array = self._source.array(index, row)
            return self._resolved(array, row)
        except FastloadError as error:
            raise self._naming(error, row) from None

    def check(self, row: int) -> None:
        """See that the array of one tensor can be made: only inflating tells, so it is."""
        self.array(row)

    def private_array(self, row: int, handing: Handing) -> np.ndarray:
        """The array of one tensor, writable, over memory that was made for this handing over alone."""
        index = self._index
        try:
            if index.access(row) == LOAD or self._source.is_inflated:
                self._check_copy(row)
            if any(index.resolution(row)):
                return np.array(self._resolved(self._source.array(index, row), row), order="C")
            return self._source.private_array(index, row, handing)
        except FastloadError as error:
            raise self._naming(error, row) from None

    def private_run(self, row: int, handing: Handing) -> PrivateRun | None:
        """Where one tensor lies in memory as that of `private_array`; None where only that can tell."""
        index, source = self._index, self._source
        if source.is_inflated:
            return None
        try:
            if index.access(row) == LOCATE:
                assert index.records is not None
                source.locate(index.records, index.storage_of(row))
            found = direct_run(index, row, source.size)
            if found is None:
                return None
            code, number, position, nbytes, offset, shape, steps = found
            memory, begin = source.private_memory(index, number, position, handing)
            return PrivateRun(code, memory, begin, nbytes, offset, shape, steps)
        except FastloadError as error:
            raise self._naming(error, row) from None

    def source_of(self, row: int) -> Source | None:
        """The source that the bytes of one tensor lie in; None where it has none, or what it has was unpacked."""
        if self._source.is_inflated or self._index.entry(row).storage is None:
            return None
        return self._source

    def _resolved(self, array: np.ndarray, row: int) -> np.ndarray:
        conjugated, negated = self._index.resolution(row)
        if conjugated or negated:
            return _resolve(array, self._index.entry(row), conjugated, negated)
        return array

    def _naming(self, error: FastloadError, row: int) -> FastloadError:
        name = repr(self._index.entry(row).name)
        if name not in error.message:
            error.message = f"tensor {name}: {error.message}"
        return self._placed(error)

    def metadata(self) -> dict[str, Any]:
        """What the format keeps about the tensors as a whole."""
        return self._located(lambda: self._format.metadata(self._source, self._index))

    def objects(self) -> Any:
        """What else the file holds, as plain Python values."""
        return self._located(lambda: self._format.objects(self._source, self._options))

    def list_globals(self) -> list[tuple[str, str]]:
        """(module, name) of every global that the file's pickles name, once each."""
        return self._located(lambda: self._format.list_globals(self._source))

    def verify(self) -> None:
        """Check every structure and extent that opening left until it is needed."""
        self._located(lambda: self._format.verify(self._source, self._index))

    def still_valid(self) -> bool:
        """Whether the file is still the one that was opened."""
        return self._source.still_valid()

    def _located(self, act: Callable[[], Result]) -> Result:
        """What *act* returns; an error on the way is told where it happened."""
        try:
            return act()
        except FastloadError as error:
            raise self._placed(error) from None

    def _placed(self, error: FastloadError) -> FastloadError:
        """*error* with the file, the format, and its offset from the start of the file where this is a part of one."""
        if error.offset is not None and not self._source.is_inflated:
            error.offset += self._source.origin
        return located(error, self._source.path, self._format.NAME)

    def _check_copy(self, row: int) -> None:
        """See that a tensor that is no view of the file has data, and may be copied."""
        entry = self._index.entry(row)
        if entry.storage is None and entry.kind != "meta":
            raise UnsupportedError(
                f"{entry.name!r} is of a class or layout whose values only torch can tell: load the file with torch"
            )
        if entry.storage is None:
            raise UnsupportedError(
                f"{entry.name!r} is a meta tensor: the file holds its shape {entry.shape} and no data"
            )
        if not (entry.zero_copy or self._options.allow_copy):
            raise UnsupportedError(
                f"tensor {entry.name!r} cannot be a view: it is compressed, encoded, big-endian or conjugated in the"
                " file; open it with allow_copy=True to have a copy"
            )


def _resolve(array: np.ndarray, entry: TensorEntry, conjugated: bool, negated: bool) -> np.ndarray:
    """The conjugate, the negative or both of the values as they are stored."""
    # A broadcast dimension (stride 0) is resolved once, and broadcast again.
    once = array[tuple(slice(0, 1) if stride == 0 else slice(None) for stride in array.strides)]
    if once.nbytes > MAX_OVERLAP * entry.storage_nbytes:
        raise LimitError(f"tensor {entry.name!r} repeats its storage too often for a copy: its values are conjugated")
    resolved = np.array(once, order="C")
    if conjugated and entry.dtype == "complex32":
        resolved[..., 1] = -resolved[..., 1]
    elif conjugated:
        np.conjugate(resolved, out=resolved)
    if negated:
        np.negative(resolved, out=resolved)
    # Over a Region, so that nobody can make it writable; as bytes, since ml_dtypes have no buffer format.
    data = memoryview(Region(resolved.reshape(-1).view(np.uint8).data))
    held = np.ndarray(resolved.shape, resolved.dtype, data)
    return np.broadcast_to(held, array.shape) if held.shape != array.shape else held


class JoinedTensors:
    """The tensors of several sources, one after the other: of the files within one file.

    Where two come to one name, the later gets `#2`, `#3` and so on.
    """

    __slots__ = ("_format", "_names", "_parts", "_rows", "_where")

    def __init__(self, parts: Sequence[Tensors], format: str) -> None:
        self._parts = parts
        self._format = format
        self._where = [(part, row) for part in parts for row in range(len(part))]
        free = FreeNames()
        self._names = [free.take(name) for part in parts for name in part.list_names()]
        self._rows = {name: row for row, name in enumerate(self._names)}

    @property
    def path(self) -> str | None:
        """The file; None for a buffer."""
        return self._parts[0].path if self._parts else None

    @property
    def format(self) -> str:
        """The name of the format."""
        return self._format

    def __len__(self) -> int:
        return len(self._where)

    def find(self, name: object) -> int:
        """The row of a name, or -1."""
        return self._rows.get(name, -1) if isinstance(name, str) else -1

    def list_names(self) -> list[str]:
        """All names, in order."""
        return list(self._names)

    def entry(self, row: int) -> TensorEntry:
        """The description of one tensor."""
        part, own = self._where[row]
        entry, name = part.entry(own), self._names[row]
        return entry if entry.name == name else entry.changed(name=name)

    def entries(self) -> list[TensorEntry]:
        """The descriptions of all tensors, in order."""
        found = [entry for part in self._parts for entry in part.entries()]
        return [
            entry if entry.name == name else entry.changed(name=name)
            for entry, name in zip(found, self._rows, strict=True)
        ]

    def array(self, row: int) -> np.ndarray:
        """The array of one tensor, made anew."""
        part, own = self._where[row]
        return part.array(own)

    def check(self, row: int) -> None:
        """See that the array of one tensor can be made."""
        part, own = self._where[row]
        part.check(own)

    def private_array(self, row: int, handing: Handing) -> np.ndarray:
        """The array of one tensor, writable, over memory that was made for this handing over alone."""
        part, own = self._where[row]
        return part.private_array(own, handing)

    def private_run(self, row: int, handing: Handing) -> PrivateRun | None:
        """Where one tensor lies in memory as that of `private_array`; None where only that can tell."""
        part, own = self._where[row]
        return part.private_run(own, handing)

    def source_of(self, row: int) -> Source | None:
        """The source that the bytes of one tensor lie in; None where there is none."""
        part, own = self._where[row]
        return part.source_of(own)

    def metadata(self) -> dict[str, Any]:
        """What the parts keep about their tensors; of two that say the same thing, the first counts."""
        found: dict[str, Any] = {}
        for part in reversed(self._parts):
            found.update(part.metadata())
        return found

    def objects(self) -> Any:
        """What else there is, part by part."""
        return [part.objects() for part in self._parts]

    def list_globals(self) -> list[tuple[str, str]]:
        """(module, name) of every global that the pickles name, once each."""
        return list(dict.fromkeys(name for part in self._parts for name in part.list_globals()))

    def verify(self) -> None:
        """Check every structure and extent that opening left until it is needed."""
        for part in self._parts:
            part.verify()

    def still_valid(self) -> bool:
        """Whether the file is still the one that was opened."""
        return all(part.still_valid() for part in self._parts)
