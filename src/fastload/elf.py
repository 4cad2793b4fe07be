"""Models as sections of an executable: finding them, and laying out the executable that has one more or less.

    .fastload.NAME    a header of `HEADER_BYTES`, then the file as it is; both begin on a page of the file

The section is not loaded with the program: it is mapped by whoever opens it. What the program loads stays where it is,
byte for byte, and so does its order behind that: sections that are not loaded follow the models, then come the names of
the sections and their table. So PyInstaller's payload stays near the end, where its loader looks for it; it searches
backwards, and a model behind the payload would be read twice at each start.

Format: System V ABI, chapters 4 and 5, for 64-bit little-endian files.
"""

from __future__ import annotations

import re
import struct
from typing import NamedTuple

from fastload.errors import FormatError, TruncatedError, UnsupportedError
from fastload.source import Source

__all__ = ["Embedded", "Layout", "check_name", "find", "find_all", "header", "is_elf", "lay_out", "list_names"]

MARK = b"\x7fELF"
PREFIX = ".fastload."
PAGE = 4096
SEARCHED_BYTES = 1 << 20  # at a time

_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SEGMENT = struct.Struct("<IIQQQQQQ")
_SECTION = struct.Struct("<IIQQQQIIQQ")
INACTIVE = bytes(_SECTION.size)
IDENTITY = MARK + b"\2\1\1"  # 64-bit, little-endian, version 1
PROGRAMS = (2, 3)  # types of file: an executable, or one that can be loaded anywhere
MANY = 0xFF00  # sections; from here on their number stands elsewhere
NO_BYTES = (0, 8)  # types of section that take no room in the file
PROGRAM_BYTES = 1  # the type of section that ours has
LOADED = 2  # a flag of sections
MAX_ALIGNMENT = 1 << 21  # of a section in the file: of a huge page
MAX_NAME_BYTES = 1024  # of a section's name that is looked at

# What stands before the model: mark, version, size of the header, size of the model, its SHA-256, the name.
_OURS = struct.Struct("<8sIIQ32s64s")
OUR_MARK = b"fastload"
OUR_VERSION = 1
HEADER_BYTES = PAGE
MAX_OUR_NAME = 64
_NAME = re.compile(rf"[A-Za-z0-9_][A-Za-z0-9_.-]{{0,{MAX_OUR_NAME - 1}}}")


class Embedded(NamedTuple):
    """A model in an executable."""

    name: str
    part: Source
    sha256: bytes


class _Section(NamedTuple):
    name: str
    kind: int
    flags: int
    offset: int
    size: int
    alignment: int
    raw: bytes  # its entry in the table

    def moved(self, offset: int, size: int) -> bytes:
        """Its entry in the table with another place."""
        return self.raw[:24] + struct.pack("<QQ", offset, size) + self.raw[40:]

    @property
    def is_loose(self) -> bool:
        """Whether it lies in the file and is not loaded."""
        return self.kind not in NO_BYTES and not self.flags & LOADED and self.size > 0


_Piece = bytes | tuple[int, int] | None


class _Head(NamedTuple):
    """The header of the file, behind its identity."""

    type: int
    machine: int
    version: int
    entry: int
    segments: int  # where their table lies
    sections: int
    flags: int
    size: int
    segment_bytes: int
    segment_count: int
    section_bytes: int
    section_count: int
    names: int  # which section has the names of all


class _File(NamedTuple):
    identity: bytes
    head: _Head
    sections: list[_Section]

    @property
    def names(self) -> _Section:
        """The section that has the names of all."""
        return self.sections[self.head.names]


class Layout(NamedTuple):
    """An executable as it is to be written.

    Attributes
    ----------
    pieces : list
        In order: bytes; (from, to) in the old file; None for the new model with its header.
    begin : int
        Where that header begins; 0 where none is added.
    size : int
        Of all, in bytes.
    """

    pieces: list[_Piece]
    begin: int
    size: int


def is_elf(source: Source) -> bool:
    """Whether *source* is an ELF file."""
    return source.head().startswith(MARK)


def check_name(name: str) -> str:
    """*name*, if a model can be embedded under it."""
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"a model is embedded under 1 to {MAX_OUR_NAME} letters, digits and any of _ . -, not {name!r}"
        )
    return name


def list_names(source: Source) -> list[str]:
    """The names of the models in an executable, in the order of its sections."""
    return [section.name.removeprefix(PREFIX) for section in _read(source).sections if _is_ours(section)]


def find(source: Source, name: str) -> Embedded:
    """The model that an executable has under *name*, which is one of `list_names`.

    Raises
    ------
    FormatError
        Its section is damaged, or not one that fastload has written.
    """
    return next(_embedded(source, one) for one in _read(source).sections if one.name == PREFIX + name and _is_ours(one))


def find_all(source: Source) -> list[Embedded]:
    """The models in an executable, in the order of its sections.

    Raises
    ------
    FormatError
        A section is damaged, or not one that fastload has written.
    """
    return [_embedded(source, section) for section in _read(source).sections if _is_ours(section)]


def _embedded(source: Source, section: _Section) -> Embedded:
    """The model that a section holds, once it is seen that its header is sound."""
    name = section.name.removeprefix(PREFIX)
    if section.size < HEADER_BYTES:
        raise _damaged(name, "is shorter than its header", section.offset)
    data = source.fetch(section.offset, HEADER_BYTES)
    mark, version, header_bytes, size, digest, found = _OURS.unpack_from(data)
    if mark != OUR_MARK:
        raise _damaged(name, "lacks the mark of fastload", section.offset)
    if version != OUR_VERSION:
        raise UnsupportedError(f"the embedded model {name!r} was written by a newer fastload (version {version})")
    if header_bytes != HEADER_BYTES or size != section.size - HEADER_BYTES or not size:
        raise _damaged(name, "has not the size that its header says", section.offset)
    if found.rstrip(b"\0") != name.encode("ascii", "replace"):
        raise _damaged(name, "has another name in its header", section.offset)
    return Embedded(name, source.part(section.offset + HEADER_BYTES, size), digest)


def header(name: str, size: int, digest: bytes) -> bytes:
    """What stands before a model of *size* bytes."""
    packed = _OURS.pack(OUR_MARK, OUR_VERSION, HEADER_BYTES, size, digest, name.encode())
    return packed.ljust(HEADER_BYTES, b"\0")


def lay_out(source: Source, name: str, size: int | None) -> Layout:
    """How an executable is to be written that has a model of *size* bytes under *name*, or none where that is None.

    Raises
    ------
    UnsupportedError
        It is no 64-bit program, or another tool has put something behind its sections, which might have to stay where
        it is.
    FormatError
        Its tables make no sense.
    """
    file = _read(source)
    if file.head.type not in PROGRAMS:
        raise UnsupportedError("is an ELF file, and no program or shared library: link it first")
    if file.names.flags & LOADED:
        raise UnsupportedError("loads the names of its sections with the program, so that none can be added")
    floor = _end_of_loaded(source, file)
    entries = [section.raw for section in file.sections]
    texts = bytes(source.fetch(file.names.offset, file.names.size))
    own = next((number for number, section in enumerate(file.sections) if section.name == PREFIX + name), len(entries))
    kept = [number for number in _loose(source, file, floor) if number != own]
    kept.sort(key=lambda number: not _is_ours(file.sections[number]))  # models first, the rest in its order

    text = f"\0{PREFIX}{name}\0".encode()
    if size is None:
        entries[own : own + 1] = [INACTIVE]  # so that the numbers of those behind it stay
        while entries[-1] == INACTIVE:
            entries.pop()
    elif text not in texts:
        texts = texts.rstrip(b"\0") + text
    writing = _Writing(floor)
    if size is not None:
        begin = writing.add(None, HEADER_BYTES + size, PAGE)
        place = (begin, HEADER_BYTES + size)
        entry = _SECTION.pack(texts.index(text) + 1, PROGRAM_BYTES, 0, 0, *place, 0, 0, PAGE, 0)
        entries[own : own + 1] = [entry]
    for number in kept:
        section = file.sections[number]
        piece = (section.offset, section.offset + section.size)
        place = writing.add(piece, section.size, PAGE if _is_ours(section) else section.alignment), section.size
        entries[number] = section.moved(*place)
    entries[file.head.names] = file.names.moved(writing.add(texts, len(texts), 1), len(texts))
    if len(entries) >= MANY:
        raise UnsupportedError(f"has {len(file.sections):,} sections, and room for no more")
    table = writing.add(b"".join(entries), len(entries) * _SECTION.size, 8)
    head = _HEADER.pack(file.identity, *file.head._replace(sections=table, section_count=len(entries)))
    pieces: list[_Piece] = [head, (_HEADER.size, floor), *writing.pieces]
    return Layout(pieces, 0 if size is None else begin, writing.place)


class _Writing:
    """What comes to stand behind the part of a file that stays."""

    def __init__(self, place: int) -> None:
        self.place = place
        self.pieces: list[_Piece] = []

    def add(self, piece: _Piece, size: int, alignment: int) -> int:
        """Put *piece* at the next place that is aligned, and return that."""
        gap = -self.place % max(alignment, 1)
        self.pieces += (bytes(gap), piece)
        begin = self.place + gap
        self.place = begin + size
        return begin


def _is_ours(section: _Section) -> bool:
    return section.name.startswith(PREFIX) and section.is_loose


def _damaged(name: str, why: str, offset: int) -> FormatError:
    return FormatError(f"the embedded model {name!r} {why}: embed it again", offset=offset)


def _read(source: Source) -> _File:
    """The header and the sections of an ELF file."""
    if source.size < _HEADER.size:
        raise TruncatedError(f"is an ELF file of {source.size} bytes, too few for its header: fetch it again")
    identity, *numbers = _HEADER.unpack(source.fetch(0, _HEADER.size))
    if not identity.startswith(IDENTITY):
        raise UnsupportedError("is no 64-bit little-endian ELF file, and fastload knows no other executables yet")
    head = _Head(*numbers)
    if not head.sections or not head.section_count:
        raise UnsupportedError("is an ELF file without a table of sections: it was stripped of it; build it anew")
    if head.section_bytes != _SECTION.size or head.section_count >= MANY or not 0 < head.names < head.section_count:
        raise FormatError("is an ELF file whose header makes no sense of its table of sections")
    table = source.fetch(head.sections, head.section_count * _SECTION.size)
    raw = [bytes(table[at : at + _SECTION.size]) for at in range(0, len(table), _SECTION.size)]
    _, kind, _, _, begin, size, *_ = _SECTION.unpack(raw[head.names])
    if kind in NO_BYTES or not size:
        raise FormatError("is an ELF file whose sections have no names")
    texts = source.fetch(begin, size)
    return _File(identity, head, [_section(entry, texts) for entry in raw])


def _section(raw: bytes, texts: memoryview) -> _Section:
    name, kind, flags, _, offset, size, _, _, alignment, _ = _SECTION.unpack(raw)
    if name >= len(texts):
        raise FormatError("is an ELF file with a section whose name lies outside of the names")
    text = bytes(texts[name : name + MAX_NAME_BYTES]).partition(b"\0")[0].decode("latin-1")
    return _Section(text, kind, flags, offset, size, alignment, raw)


def _end_of_loaded(source: Source, file: _File) -> int:
    """Where in the file the last byte ends that has to stay in its place."""
    head = file.head
    if head.segment_count == 0xFFFF or (head.segment_count and head.segment_bytes != _SEGMENT.size):
        raise FormatError("is an ELF file whose header makes no sense of its table of segments")
    table = source.fetch(head.segments, head.segment_count * _SEGMENT.size) if head.segment_count else b""
    ends = [_HEADER.size, head.segments + len(table) if table else 0]
    ends += (offset + size for _, _, offset, _, _, size, _, _ in _SEGMENT.iter_unpack(table) if size)
    ends += (
        section.offset + section.size
        for section in file.sections
        if section.flags & LOADED and section.kind not in NO_BYTES
    )
    if max(ends) > source.size:
        raise TruncatedError(f"is an ELF file that is cut short: it loads up to byte {max(ends):,} of {source.size:,}")
    return max(ends)


def _loose(source: Source, file: _File, floor: int) -> list[int]:
    """The sections behind what is loaded, but for the names, in order; each has its own place, and all is theirs."""
    loose = {
        number: (section.offset, section.offset + section.size)
        for number, section in enumerate(file.sections)
        if section.is_loose and section.offset + section.size > floor
    }
    for number in loose:
        alignment = file.sections[number].alignment
        if alignment > MAX_ALIGNMENT or alignment & (alignment - 1):
            raise FormatError(f"is an ELF file with section {file.sections[number].name!r} aligned to {alignment:,}")
    table = (file.head.sections, file.head.sections + file.head.section_count * _SECTION.size)
    place = floor
    for begin, end in sorted([*loose.values(), *([table] if table[1] > floor else [])]):
        if begin < place:
            raise FormatError("is an ELF file whose sections overlap", offset=begin)
        if end > source.size:
            raise TruncatedError(f"is an ELF file that is cut short: a section needs {end:,} bytes, and it has fewer")
        _check_padding(source, place, begin)
        place = end
    _check_padding(source, place, source.size)
    loose.pop(file.head.names, None)
    return sorted(loose, key=lambda number: loose[number])


def _check_padding(source: Source, begin: int, end: int) -> None:
    """See that nothing stands between two places that no section tells of."""
    for at in range(begin, end, SEARCHED_BYTES):
        if bytes(source.fetch(at, min(SEARCHED_BYTES, end - at))).strip(b"\0"):
            raise UnsupportedError(
                f"has {end - begin:,} bytes behind byte {begin:,} that belong to no section: another tool has appended"
                " something that may have to stay where it is; embed the model before that tool runs"
            )
