"""Members: a checkpoint that lies within another file, and is opened by its name there.

A stored member of a zip archive (.zip, .whl, .pyz, .npz) and a model that was embedded into an executable are parts of
that file, and are mapped where they lie. A deflated member has to be unpacked.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from fastload._native import END_SEARCH_BYTES, Records, check, find_directory, find_prefix, read_directory
from fastload.errors import (
    FormatError,
    LimitError,
    MemberNotFoundError,
    TruncatedError,
    UnsupportedError,
    near_hint,
)
from fastload.options import Kind, Options
from fastload.source import Source, free_memory

__all__ = ["is_zip", "open_member", "read_records"]

MAX_OFFERED = 3  # names, in an error


def is_zip(head: bytes) -> bool:
    """Whether a file that begins with *head* is a zip archive, of whatever sort."""
    return head[:4] in (b"PK\3\4", b"PK\5\6")


def read_records(source: Source) -> Records:
    """The directory of a zip archive, which counts places from the start of *source*.

    Raises
    ------
    TruncatedError
        The archive has no end.
    FormatError
        The directory makes no sense.
    """
    tail = min(END_SEARCH_BYTES, source.size)
    offset, size, count = find_directory(source.fetch(source.size - tail, tail), source.size - tail)
    try:
        return read_directory(source.fetch(offset, size), offset, count, source.size)
    except TruncatedError as error:
        if error.offset is not None:  # it is the directory, and not the file, that ends too early
            raise FormatError(f"the archive's directory is damaged: {error.message}", offset=error.offset) from None
        raise


def open_member(source: Source, member: str, options: Options) -> tuple[Source, Kind]:
    """The file that *source* holds under the name *member*, and how its bytes were had.

    Raises
    ------
    MemberNotFoundError
        There is none; the message offers near names.
    UnsupportedError
        The member is encrypted, compressed by another method than deflate, or compressed at
        all and copies are not allowed.
    LimitError
        The member would inflate to more than `options.max_inflated`.
    """
    from fastload import elf  # archives are opened by many who name no member

    embedded: list[str] = []
    if elf.is_elf(source):
        with suppress(FormatError, UnsupportedError):  # of another sort, and may have an archive behind it all the same
            embedded = elf.list_names(source)
        if member in embedded:
            return elf.find(source, member).part, "embedded"
    try:
        archive, records = _open_archive(source)
    except FormatError:
        if is_zip(source.head()):
            raise
        raise _not_found(member, embedded, ": it is no zip archive, and no such model was embedded into it") from None
    try:
        number = records.find(member)
    except UnicodeEncodeError:  # half a surrogate pair, which no record's name can hold
        number = -1
    if number < 0:
        raise _not_found(member, records.list_names())
    return _open_record(archive, records, number, member, options)


def _open_archive(source: Source) -> tuple[Source, Records]:
    """An archive and its directory; where something stands before the archive, the part of *source* that is it."""
    try:
        return source, read_records(source)
    except FormatError:
        tail = min(END_SEARCH_BYTES, source.size)
        prefix = find_prefix(source.fetch(source.size - tail, tail), source.size - tail)
        if not prefix:
            raise
    part = source.part(prefix, source.size - prefix)
    return part, read_records(part)


def _open_record(archive: Source, records: Records, number: int, member: str, options: Options) -> tuple[Source, Kind]:
    check(records, number)
    if not records.size(number):
        raise TruncatedError(f"member {member!r} is empty: it has 0 bytes, and is a folder or a failed copy")
    if records.is_view(number):
        return archive.part(archive.locate(records, number), records.size(number)), "member"
    if not options.allow_copy:
        raise UnsupportedError(
            f"member {member!r} is compressed, so that no tensor can be a view of it: make the archive anew with stored"
            " members (`fastload pack`, `python -m zipapp` without -c, `zip -0`), or open it with allow_copy=True"
        )
    if options.max_inflated is None:
        limit, whose = free_memory() // 2, "half of the free memory"
    else:
        limit, whose = options.max_inflated, "max_inflated"
    if records.size(number) > limit:
        raise LimitError(
            f"member {member!r} is compressed and inflates to {records.size(number):,} bytes, more than the"
            f" {limit:,} that are {whose}: pass a larger max_inflated= to open, or unpack it first"
        )
    return archive.unpacked(archive.read_record(records, number)), "inflated"


def _not_found(member: str, names: Sequence[str], why: str = "") -> MemberNotFoundError:
    """The error that offers what there is: names that end in what was asked for, else those that are like it."""
    ending = [name for name in names if name.endswith(f"/{member}")][:MAX_OFFERED]
    if ending or 0 < len(names) <= MAX_OFFERED:
        hint = f"; it has {', '.join(map(repr, ending or names))}"
    else:
        hint = near_hint(member, names)
    return MemberNotFoundError(f"has no member {member!r}{why}{hint}")
