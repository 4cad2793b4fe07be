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
from typing import Any, NamedTuple

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
MAX_KEY_BITS = 64  # of one that is a number: it was an address

# (dtype code, record, offset, sizes, strides, whether it is a bare storage), all but the first two in elements
Described = tuple[int, int, int, tuple[int, ...], tuple[int, ...], bool]

Globals = dict[tuple[str, str], None]  # (module, name), in order


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
    """(module, name) of every global that the pickles of all members name, once each."""
    found: Globals = {}
    found.update(dict.fromkeys(saved.list_globals(_saved(source, found).graph)))
    return list(found)


def verify(source: Source, index: Index) -> None:
    """Check what `index` has left unchecked: nothing, since it reads all but the elements."""


def _members(source: Source) -> dict[str, Member]:
    """The members that matter, by name."""
    return {member.name: member for member in walk(source) if member.kind == "file" and member.name in MEMBERS}


class _Section:
    """Reads pickles and numbers from a member, one after the other."""

    def __init__(self, source: Source, member: Member, name: str, globals: Globals | None) -> None:
        self._source = source
        self._end = member.offset + member.size
        self._name = name
        self._globals = globals
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
        graph = saved.parse_at(self._source, self.at, min(self._end, self._source.size), WINDOW_BYTES)
        if self._globals is not None:
            self._globals.update(dict.fromkeys(saved.list_globals(graph)))
        self.at += graph.end
        return build(graph, VOCABULARY, {})

    def count(self) -> int:
        """The next pickle, which is a count."""
        value = self.unpickle()
        if type(value) is not int or value < 0:
            raise FormatError(f"the member {self._name!r} of the archive begins with no count", offset=self.at)
        return value

    def key(self, value: Any) -> str:
        """The key of a storage or tensor, which is a text or a number, as a text."""
        if isinstance(value, str) or (type(value) is int and value.bit_length() <= MAX_KEY_BITS):
            return str(value)
        raise FormatError(f"the member {self._name!r} of the archive has a key that is none", offset=self.at)

    def row(self, length: int) -> tuple[Any, ...]:
        """The next pickle, which is a tuple of *length*."""
        value = self.unpickle()
        if not isinstance(value, tuple) or len(value) != length:
            raise FormatError(f"the member {self._name!r} of the archive holds no tuple of {length}", offset=self.at)
        return value


class _Storage(NamedTuple):
    """A storage, or a part of one that is a storage by itself."""

    number: int  # of the record that it is, or is a part of
    dtype: int
    offset: int  # in elements, as the next
    length: int


def _saved(source: Source, globals: Globals | None = None) -> saved.Saved:
    """The object and the storages; *globals* is filled with what the other pickles name, where it is given."""
    members = _members(source)
    for name in MEMBERS:
        if name not in members:  # of a file that changes while it is open
            raise FormatError(f"the archive lacks its member {name!r}")
    storages, runs = _read_storages(_Section(source, members["storages"], "storages", globals))
    # A storage may stand in the object by itself: its elements in one dimension.
    described: dict[str, Described] = {
        key: (held.dtype, held.number, held.offset, (held.length,), (1,), True) for key, held in storages.items()
    }
    section = _Section(source, members["tensors"], "tensors", globals)
    tensors = set()
    for _ in range(section.count()):
        own, owner, _class = section.row(3)
        key = section.key(own)
        if key in tensors:
            raise FormatError(f"the archive describes tensor {key!r} twice", offset=section.at)
        tensors.add(key)
        ndim = section.number("i")
        section.skip(4)
        if not 0 <= ndim < MAX_DIMENSIONS:
            raise FormatError(f"tensor {key!r} of the archive has {ndim} dimensions", offset=section.at)
        geometry = struct.unpack(f"<{2 * ndim + 1}q", section.take(8 * (2 * ndim + 1)))
        held = storages.get(section.key(owner))
        if held is None:
            raise FormatError(f"tensor {key!r} of the archive is of storage {owner!r}, which is not there")
        if min(geometry) < 0 or geometry[-1] >= MAX_PLACE:
            raise FormatError(f"tensor {key!r} of the archive has an impossible size, stride or offset")
        sizes, strides, offset = geometry[:ndim], geometry[ndim : 2 * ndim], geometry[-1]
        last = offset + sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True))
        if all(sizes) and last >= held.length:
            raise FormatError(
                f"tensor {key!r} of the archive reaches beyond the {held.length:,} elements of its storage"
            )
        described[key] = (held.dtype, held.number, held.offset + offset, sizes, strides, False)
    pickled = members["pickle"]
    size = max(min(pickled.size, source.size - pickled.offset), 0)
    graph = parse(source.fetch(pickled.offset, size), pickled.offset)
    return saved.Saved(graph, Records.of_runs(runs), tensors=described)


def _read_storages(section: _Section) -> tuple[dict[str, _Storage], list[tuple[str, int, int]]]:
    """The storages by key, and the (key, position, bytes) of those that are no parts of others."""
    storages: dict[str, _Storage] = {}
    runs: list[tuple[str, int, int]] = []
    for number in range(section.count()):
        own, _location, made_by = section.row(3)
        key = section.key(own)
        is_class = isinstance(made_by, Record) and made_by.args is None
        code = TORCH_STORAGES.get(made_by.name) if is_class else None
        if code is None:
            what = f": {made_by}" if is_class else ""
            raise UnsupportedError(f"storage {key!r} of the archive is of an unknown class{what}", offset=section.at)
        count = section.number("q")
        if count < 0:
            raise FormatError(f"storage {key!r} of the archive has a negative size", offset=section.at)
        size = count * DTYPES[code].bits // 8
        runs.append((key, section.at, size))
        storages[key] = _Storage(number, code, 0, count)
        section.skip(size)
    if len(storages) != len(runs):
        raise FormatError("the archive describes a storage twice", offset=section.at)
    listed = section.unpickle()
    if not isinstance(listed, list):
        raise FormatError("the views of storages in the archive are no list", offset=section.at)
    for view in listed:
        if not isinstance(view, tuple) or len(view) != 4 or not all(type(part) is int for part in view[2:]):
            raise FormatError("a view of a storage in the archive is described in an unknown way", offset=section.at)
        key, offset, count = section.key(view[0]), view[2], view[3]
        root = storages.get(section.key(view[1]))
        if root is None or key in storages:
            what = "of a storage that is not there" if root is None else "described twice"
            raise FormatError(f"the view {key!r} of a storage in the archive is {what}", offset=section.at)
        if not 0 <= offset <= root.length or not 0 <= count <= root.length - offset:
            raise FormatError(f"the view {key!r} of a storage in the archive reaches beyond it", offset=section.at)
        storages[key] = _Storage(root.number, root.dtype, root.offset + offset, count)
    return storages, runs
