"""NumPy's archive of arrays (.npz): a zip archive of array files.

    NAME.npy    one array, which is called NAME

Records that are stored, as `numpy.savez` writes them, are views of the file; those of `numpy.savez_compressed` are
inflated when they are asked for, and at opening only as far as their headers go. An array of Python objects is a
pickle, whose tensors are called NAME.key. What is no array file is listed in the metadata, and given by `objects`.

Format: numpy/lib/_npyio_impl.py of NumPy 2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from fastload import _native, dtypes
from fastload._native import Graph, Index, Part, Records, add_storage, build, harvest, parse, promise_storage
from fastload.errors import FastloadError, FormatError, LimitError, UnsupportedError
from fastload.formats.npy import (
    append_array,
    check_end,
    dtype_to_write,
    list_lost,
    refuse_second,
)
from fastload.formats.npy_header import MAGIC, USUAL_BYTES, Header, header_bytes, read_header
from fastload.formats.torch import archive, saved
from fastload.formats.torch.records import about
from fastload.formats.torch.vocabulary import VOCABULARY
from fastload.formats.writing import Outgoing, is_unicode, runs_of
from fastload.options import Options
from fastload.source import Source

if TYPE_CHECKING:
    from typing_extensions import Buffer

NAME = "npz"

ENDING = ".npy"
ALIGNMENT = 64  # of an array's data in a file that we write: of a cache line, and of a vector register
EXTRA_BYTES = 96  # read behind a local header, for the extra field that a writer may have put there
INFLATED_BYTES = 4096  # of a compressed record, fetched at a time to inflate its header
# Headers longer than NumPy's usual ones take up to a millisecond a kilobyte to read, and compress to nothing: so many
# bytes of them are read of one archive.
LONG_HEADER_BYTES = 1024
MAX_LONG_HEADERS = 4 << 20
MAX_OTHER_BYTES = 1 << 26  # of the records that are no arrays, together, that `objects` gives
JOINED_BYTES = 1 << 16  # of an array: a smaller one is written together with its header


class _Member(NamedTuple):
    """One record of the archive."""

    number: int
    key: str  # the array's name
    header: Header | None  # None: it is no array file
    place: int  # where the record begins in the source, if it is stored


def probe(source: Source, head: bytes) -> bool:
    """Whether *source*, a zip archive and not PyTorch's, has an array file in it."""
    return any(name.endswith(ENDING) for name in archive.open_archive(source).records.list_names())


def index(source: Source, options: Options) -> Index:
    """Describe every array; of the data nothing is read but their headers.

    Raises
    ------
    FormatError
        The directory, a header or a pickle makes no sense, or a record is too short for its array.
    UnsupportedError
        A record is encrypted or compressed by another method than deflate, or an array is of a dtype that cannot be
        had here.
    """
    members = list(_members(source))
    parts = [part for _, part in _parts(source, members, {})]
    return harvest(parts, VOCABULARY, source, dtypes.TABLE, Records(), attributes=options.attributes)


def metadata(source: Source, index: Index) -> dict[str, Any]:
    """The names of the records that are no arrays, where there are any."""
    others = [member.key for member in _members(source) if member.header is None]
    return {"other_records": others} if others else {}


def objects(source: Source, options: Options) -> Any:
    """The objects of the arrays that hold any, and the bytes of the records that are no arrays, by name."""
    members = list(_members(source))
    leaves: dict[int, dict[int, int]] = {}
    parts = list(_parts(source, members, leaves))
    rows = harvest([part for _, part in parts], VOCABULARY, source, dtypes.TABLE, Records(), attributes=True)
    found: dict[str, Any] = {}
    records = archive.open_archive(source).records
    others = sum(records.size(member.number) for member in members if member.header is None)
    if others > MAX_OTHER_BYTES:
        raise LimitError(
            f"the records that are no arrays have {others:,} bytes, and {MAX_OTHER_BYTES:,} are shown: unpack them"
        )
    for member in members:
        if member.header is None:
            found[member.key] = bytes(source.read_record(records, member.number))
        elif member.header.is_pickled:
            entries = {node: rows.entry(row) for node, row in leaves[member.number].items()}
            with about(f"array {member.key!r}"):
                found[member.key] = build(_graph(source, member), VOCABULARY, entries)
    return found


def list_globals(source: Source) -> list[tuple[str, str]]:
    """(module, name) of every global that the pickles name, once each."""
    found: dict[tuple[str, str], None] = {}
    for member in _members(source):
        if member.header is not None and member.header.is_pickled:
            with about(f"array {member.key!r}"):
                found.update(dict.fromkeys(saved.list_globals(_graph(source, member))))
    return list(found)


def verify(source: Source, index: Index) -> None:
    """Check every local header, and that in each record there is nothing but its array."""
    records = archive.open_archive(source).records
    for member in _members(source):
        source.locate(records, member.number)
        if member.header is not None:
            with about(f"record {records.name(member.number)!r}"):
                check_end(member.header, records.size(member.number))


def check_writable(tensors: Sequence[Outgoing], metadata: Mapping[str, Any]) -> list[str]:
    """What would be lost, a line each.

    Raises
    ------
    UnsupportedError
        A tensor is of a dtype that NumPy lacks, or its name cannot be one in an archive.
    """
    if not tensors:
        raise UnsupportedError(
            "a .npz of no arrays is an empty zip archive, which might be anything: write .safetensors"
        )
    names = {tensor.name for tensor in tensors}
    for tensor in tensors:
        dtype_to_write(tensor)
        if "\0" in tensor.name or not is_unicode(tensor.name):
            raise UnsupportedError(f"tensor {tensor.name!r} cannot be a record of a zip archive: rename it")
        if tensor.name.endswith(ENDING) and tensor.name.removesuffix(ENDING) in names:
            raise UnsupportedError(
                f"numpy.load cannot tell the tensor {tensor.name!r} from {tensor.name.removesuffix(ENDING)!r}: rename"
                " one of them"
            )
    return list_lost(metadata)


def write(file: BinaryIO, tensors: Sequence[Outgoing], metadata: Mapping[str, Any]) -> None:
    """Write all tensors to *file*, stored, and each aligned to `ALIGNMENT`."""
    from fastload.formats.zip_writer import ZipWriter  # only for those who write

    writer = ZipWriter(file, ALIGNMENT)
    for tensor in tensors:
        header = header_bytes(dtype_to_write(tensor), tensor.shape)
        chunks: Iterable[Buffer] = chain((header,), runs_of(tensor))
        if tensor.nbytes < JOINED_BYTES:
            chunks = (b"".join(chunks),)
        writer.add(tensor.name + ENDING, chunks, len(header) + tensor.nbytes)
    writer.close()


def _members(source: Source) -> Iterator[_Member]:
    """The records, in the order of the directory, with their headers; folders hold nothing and are left out."""
    records = archive.open_archive(source).records
    long = 0
    for number, name in enumerate(records.list_names()):
        if name.endswith("/") and not records.size(number):
            continue
        try:
            member = _open(source, records, number, name)
        except FastloadError as error:
            if repr(name) not in error.message:
                error.message = f"record {name!r}: {error.message}"
            raise
        if member.header is not None and member.header.begin > LONG_HEADER_BYTES:
            long += member.header.begin
            if long > MAX_LONG_HEADERS:
                raise LimitError(f"the headers up to that of {name!r} have more than {MAX_LONG_HEADERS:,} bytes")
        yield member


def _open(source: Source, records: Records, number: int, name: str) -> _Member:
    _native.check(records, number)
    size = records.size(number)
    first = min(size, USUAL_BYTES)
    # One read for the local header, the extra field that a writer may have put behind it, and the array's header.
    origin, length = _native.local_header(records, number)
    block = source.peek(origin, min(length + EXTRA_BYTES + first, source.size - origin))
    place = _native.locate_record(records, number, block)
    fetch: Callable[[int, int], Buffer]
    if records.is_view(number):
        fetch = _Stored(source, place, size).fetch
        head = block[place - origin : place - origin + first]
        if len(head) < first:
            head = bytes(fetch(0, first))
    else:
        fetch = _Inflating(source, records, number, place).fetch
        head = fetch(0, first)
    if not head.startswith(MAGIC):
        if name.endswith(ENDING):
            raise FormatError("it does not begin as an array file does")
        return _Member(number, name, None, place)
    header = read_header(head, fetch)
    if not header.dtype.hasobject and header.begin + header.nbytes != size:
        if header.begin + header.nbytes > size:
            raise FormatError(
                f"it has {size - header.begin:,} bytes of data, and its header promises {header.nbytes:,}"
            )
        refuse_second(fetch, header, size)
    return _Member(number, name.removesuffix(ENDING), header, place)


class _Stored(NamedTuple):
    """A record that lies in the source as it is."""

    source: Source
    place: int
    size: int

    def fetch(self, offset: int, count: int) -> memoryview:
        """The *count* bytes from *offset* on."""
        if offset + count > self.size:
            raise FormatError(f"it ends after {self.size:,} bytes, within its header")
        return self.source.fetch(self.place + offset, count)


class _Inflating:
    """The beginning of a compressed record, inflated no further than it is asked for."""

    def __init__(self, source: Source, records: Records, number: int, place: int) -> None:
        import zlib  # 2 ms, and few archives are compressed

        self._source = source
        self._next = place
        self._end = place + records.stored(number)
        self._error = zlib.error
        self._stream = zlib.decompressobj(-zlib.MAX_WBITS)
        self._rest: Buffer = b""  # fetched, and not inflated yet
        self._found = b""

    def fetch(self, offset: int, count: int) -> bytes:
        """The *count* bytes from *offset* on; inflating goes on only where it stopped, so they are never far."""
        needed = offset + count
        while len(self._found) < needed:
            if not self._rest:
                size = min(INFLATED_BYTES, self._end - self._next)
                if not size or self._stream.eof:
                    raise FormatError(
                        f"it inflates to {len(self._found):,} bytes, too few for what its header promises"
                    )
                self._rest = self._source.fetch(self._next, size)
                self._next += size
            try:
                self._found += self._stream.decompress(self._rest, needed - len(self._found))
            except self._error as error:
                raise FormatError(f"it is damaged: {error}") from None
            self._rest = self._stream.unconsumed_tail
        return self._found[offset:needed]


def _parts(
    source: Source, members: list[_Member], leaves: dict[int, dict[int, int]]
) -> Iterator[tuple[int, Part | Callable[[Index], None]]]:
    """What `harvest` is to list: the pickles of objects, and between them runs of plain arrays.

    For each pickle *leaves* gets a dict, by the number of its record, of the rows of its tensors.
    """
    run: list[_Member] = []
    for member in members:
        if member.header is None:
            continue
        if not member.header.is_pickled:
            run.append(member)
            continue
        if run:
            yield run[0].number, _adder(source, run)
            run = []
        leaves[member.number] = {}
        with about(f"array {member.key!r}"):
            yield member.number, Part(_graph(source, member), leaves=leaves[member.number], at=(member.key,))
    if run:
        yield run[0].number, _adder(source, run)


def _adder(source: Source, members: list[_Member]) -> Callable[[Index], None]:
    """A function that adds plain arrays to an Index."""
    records = archive.open_archive(source).records

    def add(index: Index) -> None:
        for number, key, header, place in members:
            assert header is not None
            if records.is_view(number):
                storage = add_storage(index, place + header.begin, header.nbytes, source.size)
            else:
                storage = promise_storage(index, header.nbytes, False, _inflater(source, number, header))
            try:
                append_array(index, (key,), header, storage)
            except FastloadError as error:
                error.message = f"array {key!r}: {error.message}"
                raise

    return add


def _inflater(source: Source, number: int, header: Header) -> Callable[[], memoryview]:
    """A function that gives the data of a compressed array."""
    records = archive.open_archive(source).records
    return lambda: source.read_record(records, number)[header.begin : header.begin + header.nbytes]


def _graph(source: Source, member: _Member) -> Graph:
    """The pickle of an array of objects."""
    assert member.header is not None
    records = archive.open_archive(source).records
    data = source.read_record(records, member.number)[member.header.begin :]
    if records.is_view(member.number):
        return parse(data, member.place + member.header.begin)
    return parse(data, 0, False)  # places in it are those of the inflated bytes
