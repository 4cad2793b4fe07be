"""Folders of torch.distributed.checkpoint (DCP): `.metadata`, a pickle, and the files with the bytes.

    .metadata             every tensor, its chunks, and the file and offset of each: see `dcp_metadata`
    __RANK_NUMBER.distcp  one torch.save archive after another, each of one chunk, or of one Python object
                          (or, written as SerializationFormat.SAFETENSORS, the objects and then one safetensors file)

Listing reads the metadata alone. A file is opened when a tensor of it is first asked for, and what is found there is
held against the metadata. A tensor of one chunk is a view of it; one of several is put together in new memory.

Objects that are no tensors are in `objects`. Tensors within such an object (a tuple of them, say) stand there as
entries; `attributes=True` lists them too, behind all others and under the object's name.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from typing import Any
from weakref import WeakValueDictionary

import numpy as np

from fastload import dtypes
from fastload._native import KINDS, Graph, Index, Record, Region, append, build, finish, parse, promise_storage
from fastload.entry import FreeNames, TensorEntry
from fastload.errors import FastloadError, FormatError, LimitError, TruncatedError, UnsupportedError, advised, located
from fastload.folders.dcp_metadata import MAX_COUNT, Chunk, Layout, Place, Stored, read_layout
from fastload.folders.paths import inside
from fastload.formats.torch import saved
from fastload.formats.torch.vocabulary import VOCABULARY
from fastload.options import Options
from fastload.source import Handing, Source
from fastload.tensors import PARTS, PrivateRun, Tensors, open_source

__all__ = ["METADATA", "NAME", "open_folder"]

METADATA = ".metadata"
NAME = "pytorch-dcp"

# About 300 bytes describe a chunk, so this is for a million; a longer pickle would take minutes and gigabytes to read.
MAX_METADATA_BYTES = 1 << 28
# How many times larger than the files that hold its chunks a tensor put together may be: chunks may be deflated or
# broadcast, though torch writes none that are, and a million of them may name one blob.
MAX_EXPANSION = 64
MAX_DIMENSIONS = 64  # of a numpy array
QUANTISED = KINDS.index("quantised")


def open_folder(path: str, options: Options) -> Tensors:
    """The tensors of a folder that `torch.distributed.checkpoint.save` has written.

    Raises
    ------
    FormatError
        The metadata is no sound pickle, or what it says makes no sense.
    UnsupportedError
        A tensor is of a dtype or layout that fastload does not know.
    """
    try:
        return _Folder(path, options)
    except FastloadError as error:
        raise located(error, os.path.join(path, METADATA), NAME) from None


class _File:
    """One file with blobs, opened when first asked; the `source` of the Index of the tensors that lie in it alone."""

    origin = 0  # where the source begins in the file, as the Index asks
    is_inflated = False

    def __init__(self, folder: str, name: str, options: Options) -> None:
        self.name = name
        self.tensors: list[Stored] = []  # by row of the Index
        self._folder = folder
        self._options = options
        self._lock = threading.Lock()
        self._source: Source | None = None
        self._blobs: dict[str, tuple[Tensors, int]] = {}  # by name of the tensor whose only chunk it is
        self._safetensors: dict[int, Tensors] = {}  # by where it begins
        self._saved_offsets: dict[int, Any] = {}  # what that one says of its chunks
        self.path = inside(folder, name, may_lack=True)  # of many files, only those that are asked for must be there

    def source(self) -> Source:
        """The file itself, opened once."""
        with self._lock:
            if self._source is None:
                self._source = Source.of(inside(self._folder, self.name), self._options.io)
            return self._source

    def blob(self, place: Place, shard: int = 0, options: Options | None = None) -> Tensors:
        """What lies at a place, opened anew where it is for one tensor or object."""
        if place.transforms:
            shown = ", ".join(place.transforms)
            raise UnsupportedError(f"was written through {shown} (transform_descriptors), which fastload cannot undo")
        source = self.source()
        if place.offset > source.size or place.length > source.size - place.offset:
            raise TruncatedError(
                f"{place.length:,} bytes at byte {place.offset:,} end beyond the {source.size:,} bytes of the file: the"
                " download or copy is incomplete; fetch it again"
            )
        rest = source.size - place.offset
        options = options or self._options
        head = bytes(source.fetch(place.offset, min(9, rest)))
        if head[8:] != b"{" or head.startswith(b"PK"):
            return open_source(source.part(place.offset, place.length), options, shard)
        # Written as safetensors, the tensors of a file are one safetensors file behind the objects. Each place names
        # its beginning, with the length of the tensor alone.
        tensors = self._safetensors.get(place.offset)
        if tensors is None:
            opened = open_source(source.part(place.offset, rest), options, shard)
            tensors = self._safetensors.setdefault(place.offset, opened)
        return tensors

    def chunk(self, stored: Stored, chunk: Chunk) -> tuple[Tensors, int]:
        """The tensor that holds a chunk, and its row there, opened anew and held against the metadata."""
        tensors = self.blob(chunk.place)
        if tensors.format == "safetensors":
            row = tensors.find(stored.name)
            if row < 0 or self._begin_of(stored.name, chunk, tensors) != list(chunk.offsets):
                # Of two chunks of one tensor in one file torch writes only the last.
                raise FormatError(f"the safetensors data of the file lack the chunk at {chunk.offsets}")
        else:
            row = tensors.find("")
            if row < 0 or len(tensors) != 1:
                raise UnsupportedError(f"its blob at byte {chunk.place.offset:,} is not one plain tensor")
        entry, dtype = tensors.entry(row), dtypes.DTYPES[stored.dtype].name
        if entry.dtype != dtype or entry.shape != chunk.sizes:
            raise FormatError(
                f"its chunk at {chunk.offsets} is {dtype} {chunk.sizes} in the metadata, and"
                f" {entry.dtype} {entry.shape} in the file"
            )
        return tensors, row

    def only_chunk(self, stored: Stored) -> tuple[Tensors, int]:
        """The tensor that is the one chunk of *stored*, opened once, so that arrays of it share what was read."""
        found = self._blobs.get(stored.name)
        if found is None:
            found = self._blobs.setdefault(stored.name, self.chunk(stored, stored.chunks[0]))
        return found

    def _begin_of(self, name: str, chunk: Chunk, tensors: Tensors) -> Any:
        """Where in the whole tensor the chunk begins that a safetensors file holds; None where it does not say."""
        said = self._saved_offsets.get(chunk.place.offset)
        if said is None:
            import json  # 2 ms, and few folders are written so

            try:
                said = json.loads(tensors.metadata()["DCP_SHARDING_INFO"])
            except (KeyError, ValueError, RecursionError):
                said = {}
            self._saved_offsets[chunk.place.offset] = said
        about = said.get(name) if isinstance(said, dict) else None
        return about.get("saved_offsets") if isinstance(about, dict) else None

    def entry_of(self, row: int) -> TensorEntry:
        """What the blob says of a tensor: the Index asks for what the metadata does not tell."""
        stored = self.tensors[row]
        try:
            tensors, own = self.only_chunk(stored)
            return tensors.entry(own)
        except FastloadError as error:
            raise _naming(error, f"tensor {stored.name!r}", self.path) from None

    def still_valid(self) -> bool:
        """Whether the file, if it was opened, is still the same."""
        return self._source is None or self._source.still_valid()


class _SeveralFiles:
    """The `source` of the Index of those tensors whose chunks lie in more files than one."""

    path = None
    origin = 0
    is_inflated = False


class _Folder:
    """The tensors of a folder."""

    def __init__(self, path: str, options: Options) -> None:
        self._path = path
        self._options = options
        self._metadata = Source.of(os.path.join(path, METADATA), options.io)
        if self._metadata.size > MAX_METADATA_BYTES:
            raise LimitError(
                f"has {self._metadata.size:,} bytes, and metadata of more than {MAX_METADATA_BYTES:,} is not read"
            )
        self._graph: Graph = parse(self._metadata.fetch(0, self._metadata.size))
        self._layout: Layout = read_layout(build(self._graph, VOCABULARY, {}))
        own = options._replace(attributes=False)
        self._files = {
            name: _File(path, name, own) for name in dict.fromkeys(place.file for place in self._layout.places())
        }
        self._where: list[tuple[Index | Tensors, int]] = []  # by row
        self._rows: dict[str, int] = {}
        self._assembled: WeakValueDictionary[int, Region] = WeakValueDictionary()
        self._list_tensors()
        if options.attributes:
            self._list_within_objects()
        self._names = list(self._rows)

    def _list_tensors(self) -> None:
        several = Index(_SeveralFiles(), dtypes.TABLE, shard=len(self._files))
        indices = {
            name: Index(file, dtypes.TABLE, shard=shard) for shard, (name, file) in enumerate(self._files.items())
        }
        for stored in self._layout.tensors:
            names = {chunk.place.file for chunk in stored.chunks}
            index = indices[names.pop()] if len(names) == 1 else several
            kind = QUANTISED if dtypes.DTYPES[stored.dtype].name.startswith("q") else 0
            if stored.nbytes > MAX_COUNT:
                raise LimitError(f"tensor {stored.name!r}: its size {stored.shape} does not fit 63 bits")
            is_view = len(stored.chunks) == 1 and not stored.chunks[0].place.transforms
            storage = promise_storage(index, stored.nbytes, is_view)
            append(index, (stored.name,), stored.dtype, stored.shape, storage=storage, kind=kind)
            if isinstance(index.source, _File):
                index.source.tensors.append(stored)
            self._rows[stored.name] = len(self._where)
            self._where.append((index, len(index) - 1))
        for index in (*indices.values(), several):
            finish(index)

    def _list_within_objects(self) -> None:
        names = FreeNames()
        for listed in self._rows:
            names.take(listed)
        for number, (name, place) in enumerate(self._layout.objects.items()):
            tensors = self._object(name, place, len(self._files) + 1 + number * PARTS)
            for row, own in enumerate(tensors.list_names()):
                self._rows[names.take(f"{name}.{own}" if own else name)] = len(self._where)
                self._where.append((tensors, row))

    @property
    def path(self) -> str | None:
        """The folder."""
        return self._path

    @property
    def format(self) -> str:
        """The name of the format."""
        return NAME

    def __len__(self) -> int:
        return len(self._where)

    def find(self, name: object) -> int:
        """The row of a name, or -1."""
        return self._rows.get(name, -1) if isinstance(name, str) else -1

    def list_names(self) -> list[str]:
        """All names, in the order of the metadata."""
        return list(self._names)

    def entry(self, row: int) -> TensorEntry:
        """The description of one tensor, from the metadata alone.

        What the metadata does not tell (offset, strides, quantization) opens the file when it is asked for.
        """
        part, own = self._where[row]
        entry = part.entry(own)
        if row < len(self._layout.tensors):
            return entry
        return entry.changed(name=self._names[row])

    def entries(self) -> list[TensorEntry]:
        """The descriptions of all tensors, in order."""
        listed = len(self._layout.tensors)
        entries = [part.entry(own) for part, own in self._where]
        renamed = [entry.changed(name=name) for entry, name in zip(entries[listed:], self._names[listed:], strict=True)]
        return entries[:listed] + renamed

    def array(self, row: int) -> np.ndarray:
        """The array of one tensor, made anew: a view of its only chunk, or its chunks put together."""
        if row >= len(self._layout.tensors):
            part, own = self._where[row]
            assert not isinstance(part, Index)
            return part.array(own)
        stored = self._layout.tensors[row]
        file = None
        try:
            if len(stored.chunks) != 1:
                return self._assembled_array(row, stored)
            file = self._files[stored.chunks[0].place.file]
            tensors, own = file.only_chunk(stored)
            return tensors.array(own)
        except FastloadError as error:
            raise _naming(error, f"tensor {stored.name!r}", file.path if file else self._path) from None

    def check(self, row: int) -> None:
        """See that the array of one tensor can be made; of several chunks, that each of them can."""
        if row >= len(self._layout.tensors) or len(self._layout.tensors[row].chunks) == 1:
            self.array(row)
            return
        stored = self._layout.tensors[row]
        try:
            self._check_copy(stored)
            for tensors, own in self._chunks(stored):
                tensors.check(own)
        except FastloadError as error:
            raise _naming(error, f"tensor {stored.name!r}", self._path) from None

    def private_array(self, row: int, handing: Handing) -> np.ndarray:
        """The array of one tensor, writable, over memory that was made for this handing over alone."""
        if row >= len(self._layout.tensors):
            part, own = self._where[row]
            assert not isinstance(part, Index)
            return part.private_array(own, handing)
        stored = self._layout.tensors[row]
        if len(stored.chunks) != 1:
            return np.array(self.array(row), order="C")
        file = self._files[stored.chunks[0].place.file]
        try:
            tensors, own = file.only_chunk(stored)
            return tensors.private_array(own, handing)
        except FastloadError as error:
            raise _naming(error, f"tensor {stored.name!r}", file.path) from None

    def private_run(self, row: int, handing: Handing) -> PrivateRun | None:
        """Where one tensor lies in memory as that of `private_array`: that tells it of chunks."""
        if row < len(self._layout.tensors):
            return None
        part, own = self._where[row]
        assert not isinstance(part, Index)
        return part.private_run(own, handing)

    def source_of(self, row: int) -> Source | None:
        """The source that the bytes of one tensor lie in; None where its chunks are several, or unpacked."""
        part, own = self._where[row]
        if not isinstance(part, Index):
            return part.source_of(own)
        stored = self._layout.tensors[row]
        if len(stored.chunks) != 1:
            return None
        file = self._files[stored.chunks[0].place.file]
        try:
            tensors, own = file.only_chunk(stored)
        except FastloadError as error:
            raise _naming(error, f"tensor {stored.name!r}", file.path) from None
        return tensors.source_of(own)

    def _check_copy(self, stored: Stored) -> None:
        if not self._options.allow_copy:
            raise UnsupportedError(
                f"cannot be a view: it lies in {len(stored.chunks):,} chunks; open it with allow_copy=True to have"
                " a copy"
            )

    def _assembled_array(self, row: int, stored: Stored) -> np.ndarray:
        self._check_copy(stored)
        described = dtypes.DTYPES[stored.dtype]
        dtype = dtypes.numpy_dtype(stored.dtype)
        shape = stored.shape if described.bits <= dtype.itemsize * 8 else (*stored.shape, 2)
        region = self._assembled.get(row)
        if region is None:
            made = self._assemble(stored, shape, dtype)
            # Over a Region, so that nobody can make it writable; as bytes, since ml_dtypes have no buffer format.
            # Another thread may have been faster: its Region then is the one that everybody shares.
            region = self._assembled.setdefault(row, Region(made.reshape(-1).view(np.uint8).data))
        return np.ndarray(shape, dtype, memoryview(region))

    def _assemble(self, stored: Stored, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
        """The chunks pasted into one array; it is not made before the files were found to hold as much."""
        found = self._chunks(stored)
        try:
            whole = np.empty(shape, dtype)
        except ValueError:
            raise UnsupportedError(
                f"cannot be a numpy array: its shape {stored.shape} is beyond what numpy can count"
            ) from None
        for chunk, (tensors, row) in zip(stored.chunks, found, strict=True):
            box = tuple(slice(begin, begin + size) for begin, size in zip(chunk.offsets, chunk.sizes, strict=True))
            whole[box] = tensors.array(row)
        return whole

    def _chunks(self, stored: Stored) -> list[tuple[Tensors, int]]:
        """The tensors that hold the chunks of one that must be put together, each held against the metadata."""
        row = dtypes.DTYPES[stored.dtype]
        if row.name.startswith("q"):
            raise UnsupportedError(
                f"lies in {len(stored.chunks):,} chunks, and is {row.name}, quantised for each apart"
            )
        if len(stored.shape) + (row.name == "complex32") > MAX_DIMENSIONS:
            raise UnsupportedError(f"cannot be a numpy array: it has {len(stored.shape)} dimensions")
        files = [self._files[name] for name in {chunk.place.file for chunk in stored.chunks}]
        if stored.nbytes > MAX_EXPANSION * sum(file.source().size for file in files):
            raise LimitError(f"claims {stored.nbytes:,} bytes, far more than the files that hold its chunks")
        found = []
        for chunk in stored.chunks:
            file = self._files[chunk.place.file]
            try:
                found.append(file.chunk(stored, chunk))
            except FastloadError as error:
                raise located(error, file.path) from None
        return found

    def _object(self, name: str, place: Place, shard: int = 0) -> Tensors:
        """The blob of a Python object."""
        file = self._files[place.file]
        try:
            return file.blob(place, shard, self._options)
        except FastloadError as error:
            raise _naming(error, f"object {name!r}", file.path) from None

    def metadata(self) -> dict[str, Any]:
        """The version of the format, storage_meta, and planner_data: where each name stood in the nested state dict."""
        state = build(self._graph, VOCABULARY, {}).state
        found = {key: state[key] for key in ("version", "planner_data", "storage_meta") if state.get(key) is not None}
        if isinstance(found.get("storage_meta"), Record):
            found["storage_meta"] = found["storage_meta"].state
        return found

    def objects(self) -> Any:
        """The Python objects beside the tensors, by name, each read from its blob."""
        return {name: self._object(name, place).objects() for name, place in self._layout.objects.items()}

    def list_globals(self) -> list[tuple[str, str]]:
        """(module, name) of every global that the pickles name, of the metadata and of every blob."""
        found = dict.fromkeys(saved.list_globals(self._graph))
        for blob in self._blobs():
            found.update(dict.fromkeys(blob.list_globals()))
        return list(found)

    def verify(self) -> None:
        """Open every blob, and check its structure, dtype and shape; no tensor data is read.

        Raises
        ------
        FormatError
            A blob is damaged, or not what the metadata says; or no tensor claims it.
        """
        last = None
        for blob in self._blobs():
            if blob is not last:  # one safetensors file has many tensors
                blob.verify()
            last = blob
        if self._layout.orphans:
            shown = ", ".join(repr(name) for name in self._layout.orphans[:10])
            raise FormatError(
                f"storage_data has {len(self._layout.orphans):,} blobs that no tensor claims: {shown}",
                path=os.path.join(self._path, METADATA),
            )

    def _blobs(self) -> Iterator[Tensors]:
        """Every blob, opened anew and held against the metadata."""
        for stored in self._layout.tensors:
            try:
                if len(stored.chunks) == 1:
                    file = self._files[stored.chunks[0].place.file]
                    yield file.chunk(stored, stored.chunks[0])[0]
                else:
                    yield from (tensors for tensors, _ in self._chunks(stored))
            except FastloadError as error:
                raise _naming(error, f"tensor {stored.name!r}", self._path) from None
        for name, place in self._layout.objects.items():
            yield self._object(name, place)

    def still_valid(self) -> bool:
        """Whether the metadata, and each file that was opened, are still the same."""
        return self._metadata.still_valid() and all(file.still_valid() for file in self._files.values())


def _naming(error: FastloadError, what: str, path: str | None) -> FastloadError:
    """*error* with what it concerns at the front of its message."""
    made = type(error)(f"{what}: {error.message}", path=error.path, offset=error.offset, format=error.format)
    return located(advised(made, *error.advice), path, NAME)
