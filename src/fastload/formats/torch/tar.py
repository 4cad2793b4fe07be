"""The tar archive of torch before 0.1.10.

    storages   pickle(n); n × { pickle((key, location, class)); number of elements in 8 bytes; the elements };
               pickle([(view key, root key, offset in elements, number of elements), …])
    tensors    pickle(n); n × { pickle((key, storage key, class)); number of dimensions in 4 bytes; 4 bytes of nothing;
               the sizes, the strides, the offset, in 8 bytes each }
    pickle     the object, in which the keys of the tensors are persistent ids

Format: `torch/serialization.py`, `legacy_load`, of torch 2.13.
"""

from __future__ import annotations

import struct
from typing import Any

from fastload._native import Index, Record, Records, build, parse
from fastload.dtypes import DTYPES, TORCH_STORAGES
from fastload.errors import FormatError, TruncatedError, UnsupportedError
from fastload.formats.tarred import Member, is_tar, walk
from fastload.formats.torch import saved
from fastload.formats.torch.vocabulary import VOCABULARY
from fastload.options import Options
from fastload.source import Source

NAME = "pytorch-tar"

MEMBERS = ("storages", "tensors", "pickle")
WINDOW_BYTES = 1 << 16  # of a member that is read at a time
MAX_DIMENSIONS = 1 << 16
MAX_PLACE = 1 << 62  # of a first element, so that two of them added are still a number of 64 bits


def probe(source: Source, head: bytes) -> bool:
    """Whether *source* is a tar archive with the three members."""
    return is_tar(head) and len(_members(source)) == len(MEMBERS)


def index(source: Source, options: Options) -> Index:
    """Describe every tensor; of the storages nothing is read.

    Raises
    ------
    TruncatedError
        A member ends too early.
    FormatError
        The members contradict each other.
    """
    return saved.index(_saved(source), source, options)


def metadata(source: Source, index: Index) -> dict[str, Any]:
    """What the archive keeps about the tensors as a whole: nothing."""
    return {}


def objects(source: Source, options: Options) -> Any:
    """The saved object as plain Python values; tensors are their entries, unknown classes are records."""
    return saved.objects(_saved(source), source, options)


def list_globals(source: Source) -> list[tuple[str, str]]:
    """(module, name) of every global that the pickle of the object names, once each."""
    return saved.list_globals(_saved(source).graph)


def verify(source: Source, index: Index) -> None:
    """Check what `index` has left unchecked: nothing, since it reads all but the elements."""


def _members(source: Source) -> dict[str, Member]:
    """The members that matter, by name."""
    return {member.name: member for member in walk(source) if member.kind == "file" and member.name in MEMBERS}


class _Section:
    """Reads pickles and numbers from a member, one after the other."""

    def __init__(self, source: Source, member: Member, name: str) -> None:
        self._source = source
        self._end = member.offset + member.size
        self._name = name
        self.at = member.offset

    def take(self, count: int) -> memoryview:
        """The next *count* bytes."""
        if self.at > self._source.size or count > min(self._end, self._source.size) - self.at:
            raise TruncatedError(f"the member {self._name!r} of the archive ends too early", offset=self.at)
        data = self._source.fetch(self.at, count)
        self.at += count
        return data

    def skip(self, count: int) -> None:
        """Step over *count* bytes."""
        self.take(0)
        if count > min(self._end, self._source.size) - self.at:
            raise TruncatedError(f"the member {self._name!r} of the archive ends too early", offset=self.at)
        self.at += count

    def number(self, format: str) -> int:
        """The next number, little-endian, of a `struct` format."""
        value: int = struct.unpack(f"<{format}", self.take(struct.calcsize(f"<{format}")))[0]
        return value

    def unpickle(self) -> Any:
        """The next pickle, as plain values and records."""
        left = min(self._end, self._source.size) - self.at
        window = min(left, WINDOW_BYTES)
        while True:
            try:
                graph = parse(self._source.fetch(self.at, window), self.at)
                break
            except TruncatedError:
                if window == left:
                    raise
                window = min(left, window * 16)
        self.at += graph.end
        return build(graph, VOCABULARY, {})

    def count(self) -> int:
        """The next pickle, which is a count."""
        value = self.unpickle()
        if type(value) is not int or value < 0:
            raise FormatError(f"the member {self._name!r} of the archive begins with no count", offset=self.at)
        return value

    def row(self, length: int) -> tuple[Any, ...]:
        """The next pickle, which is a tuple of *length*."""
        value = self.unpickle()
        if not isinstance(value, tuple) or len(value) != length:
            raise FormatError(f"the member {self._name!r} of the archive holds no tuple of {length}", offset=self.at)
        return value

    def key(self, value: Any) -> str:
        """A key of a storage or tensor: a number, which is a text where tensors refer to it."""
        if type(value) is not str and not (type(value) is int and value.bit_length() <= 64):
            raise FormatError(f"the member {self._name!r} of the archive has a key that is no number", offset=self.at)
        return str(value)


def _saved(source: Source) -> saved.Saved:
    members = _members(source)
    for name in MEMBERS:
        if name not in members:  # of a file that changes while it is open
            raise FormatError(f"the archive lacks its member {name!r}")
    runs, codes, views = _read_storages(_Section(source, members["storages"], "storages"))
    records = Records.of_runs([(key, position, size) for key, (position, size) in runs.items()])
    numbers = {key: number for number, key in enumerate(runs)}
    tensors = {}
    section = _Section(source, members["tensors"], "tensors")
    for _ in range(section.count()):
        key, storage, _class = section.row(3)
        key, storage = section.key(key), section.key(storage)
        ndim = section.number("i")
        section.skip(4)
        if not 0 <= ndim < MAX_DIMENSIONS:
            raise FormatError(f"tensor {key!r} of the archive has {ndim} dimensions", offset=section.at)
        geometry = struct.unpack(f"<{2 * ndim + 1}q", section.take(8 * (2 * ndim + 1)))
        root, base, _size = views.get(storage, (storage, 0, 0))
        if root not in numbers:
            raise FormatError(f"tensor {key!r} of the archive is of storage {storage!r}, which is not there")
        if min(geometry) < 0 or geometry[-1] >= MAX_PLACE:
            raise FormatError(f"tensor {key!r} of the archive has an impossible size, stride or offset")
        tensors[key] = (codes[root], numbers[root], base + geometry[-1], geometry[:ndim], geometry[ndim : 2 * ndim])
    pickled = members["pickle"]
    size = max(min(pickled.size, source.size - pickled.offset), 0)
    graph = parse(source.fetch(pickled.offset, size), pickled.offset)
    return saved.Saved(graph, records, tensors=tensors)


def _called(made_by: Any) -> str:
    return f"{made_by.module}.{made_by.name}" if isinstance(made_by, Record) else type(made_by).__name__


def _read_storages(
    section: _Section,
) -> tuple[dict[str, tuple[int, int]], dict[str, int], dict[str, tuple[str, int, int]]]:
    """The places of the storages, their dtypes, and the parts of them that are storages by themselves, by key."""
    runs: dict[str, tuple[int, int]] = {}
    codes: dict[str, int] = {}
    for _ in range(section.count()):
        key, _location, made_by = section.row(3)
        key = section.key(key)
        code = TORCH_STORAGES.get(made_by.name) if isinstance(made_by, Record) else None
        if code is None:
            raise UnsupportedError(f"storage {key!r} of the archive is of an unknown class: {_called(made_by)}")
        count = section.number("q")
        if count < 0:
            raise FormatError(f"storage {key!r} of the archive has a negative size", offset=section.at)
        size = count * DTYPES[code].bits // 8
        runs[key] = (section.at, size)
        codes[key] = code
        section.skip(size)
    views: dict[str, tuple[str, int, int]] = {}
    listed = section.unpickle()
    for view in listed if isinstance(listed, list) else []:
        if not isinstance(view, tuple) or len(view) != 4 or type(view[2]) is not int or not 0 <= view[2] < MAX_PLACE:
            raise FormatError("a view of a storage in the archive is described in an unknown way", offset=section.at)
        views[section.key(view[0])] = (section.key(view[1]), view[2], view[3])
    return runs, codes, views
