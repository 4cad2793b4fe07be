"""The members of a tar archive: their names and where their bytes lie. Nothing is ever extracted.

Python's tarfile is not used: in versions that people have, a negative size makes it loop for ever (CVE-2025-8194), and
its time grows with the square of a pax header (CVE-2024-6232). Here each header is 512 bytes read in one fetch, its
numbers are digits or nothing, and what a header claims is compared with what is left.

Format: POSIX.1-2001 (pax), and GNU tar's long names and large numbers; archives older than both have no mark and the
same checksum.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal, NamedTuple

from fastload.errors import FormatError, LimitError, TruncatedError
from fastload.source import Source

__all__ = ["Kind", "Member", "is_tar", "walk"]

Kind = Literal["file", "folder", "link", "sparse", "other"]

BLOCK_BYTES = 512
MAX_MEMBERS = 100_000  # a NeMo file has ten, and one that holds a zarr folder some thousand
MAX_EXTENSION_BYTES = 1 << 20  # of a long name or a pax header; paths have 4,096 at most
MAX_SHOWN_NAME = 200  # characters

NUMBER = re.compile(rb"[ \0]*([0-7]*)[ \0]*")
PAX_LENGTH = rb"\d{1,10} "
REGULAR = (b"0", b"\0", b"7")
WITHOUT_DATA = {b"1": "link", b"2": "link", b"3": "other", b"4": "other", b"5": "folder", b"6": "other"}
SPARSE = b"S"
LONG_NAME, LONG_LINK = b"L", b"K"
PAX, PAX_OF_SOLARIS, PAX_GLOBAL = b"x", b"X", b"g"


class Member(NamedTuple):
    """One member.

    Attributes
    ----------
    name : str
        Without a leading "./".
    kind : {"file", "folder", "link", "sparse", "other"}
        Only a file lies in the archive as it is.
    offset, size : int
        Where its bytes lie, in bytes from the start of the archive, and how many.
    """

    name: str
    kind: Kind
    offset: int
    size: int


def is_tar(head: bytes) -> bool:
    """Whether a file that begins with *head* begins with a tar header: one whose checksum is right."""
    return len(head) >= BLOCK_BYTES and _is_sound(head[:BLOCK_BYTES]) and any(head[:BLOCK_BYTES])


def walk(source: Source) -> Iterator[Member]:
    """The members in order.

    Raises
    ------
    TruncatedError
        The archive ends within a member, or without the two blocks of zeros that end it.
    FormatError
        A header is damaged.
    LimitError
        There are too many members, or one has a name that is too long.
    """
    next = headers = 0
    common: dict[str, str] = {}  # pax records of all members to come
    own: dict[str, str] = {}  # of the next one
    while True:
        header = _block(source, next)
        if not any(header):
            return _check_end(source, next)
        headers += 1
        if headers > MAX_MEMBERS:
            raise LimitError(f"is a tar archive of more than {MAX_MEMBERS:,} members: unpack it first", offset=next)
        if not _is_sound(header):
            raise FormatError("is a tar archive, and the checksum of a member's header is wrong", offset=next)
        type, size, start = header[156:157], _number(header[124:136], next), next + BLOCK_BYTES
        if type in (LONG_NAME, LONG_LINK, PAX, PAX_OF_SOLARIS, PAX_GLOBAL):
            data = _extension(source, start, size)
            if type == LONG_NAME:
                own["path"] = _text(data)
            elif type != LONG_LINK:
                (common if type == PAX_GLOBAL else own).update(_pax_records(data, start))
            next = _behind(start, size)
            continue
        records = {**common, **own}
        own = {}
        name = records.get("path") or _name(header)
        if type in WITHOUT_DATA:
            size = 0  # whatever it says
        elif "size" in records:
            size = _pax_number(records["size"], next)
        if type == SPARSE:
            start = _behind_sparse_map(source, header, start)
        if size > source.size - start:
            raise TruncatedError(
                f"is a tar archive cut short: its member {name[:MAX_SHOWN_NAME]!r} needs {size:,} bytes, and"
                f" {max(source.size - start, 0):,} are left of the {source.size:,} that there are; the download or copy"
                " is incomplete, fetch it again",
                offset=next,
            )
        is_sparse = type == SPARSE or any(key.startswith("GNU.sparse.") for key in records)
        yield Member(name.removeprefix("./"), _kind(type, name, is_sparse), start, size)
        next = _behind(start, size)


def _kind(type: bytes, name: str, is_sparse: bool) -> Kind:
    if is_sparse:
        return "sparse"
    if type in REGULAR:
        return "folder" if name.endswith("/") else "file"  # so did tar before it had types
    return WITHOUT_DATA.get(type, "other")  # type: ignore[return-value]


def _block(source: Source, offset: int) -> bytes:
    if source.size - offset < BLOCK_BYTES:
        raise TruncatedError(
            f"is a tar archive cut short: after {source.size:,} bytes its end is missing; the download or copy is"
            " incomplete, fetch it again"
        )
    return bytes(source.fetch(offset, BLOCK_BYTES))


def _check_end(source: Source, offset: int) -> None:
    """See that a second block of zeros follows, as it must: one alone may be the first of a member that was cut."""
    if any(_block(source, offset + BLOCK_BYTES)):
        raise FormatError("is a tar archive, and a block of zeros stands where a member should begin", offset=offset)


def _behind(start: int, size: int) -> int:
    """Where the next header stands."""
    return start + -(-size // BLOCK_BYTES) * BLOCK_BYTES


def _behind_sparse_map(source: Source, header: bytes, start: int) -> int:
    """Where the bytes of a sparse member begin: its map may go on in blocks of its own."""
    goes_on = header[482]
    while goes_on:
        goes_on = _block(source, start)[504]
        start += BLOCK_BYTES
    return start


def _is_sound(header: bytes) -> bool:
    """Whether the checksum is right: the sum of all bytes, its own taken for blanks.

    Some old tars summed signed bytes.
    """
    match = NUMBER.fullmatch(header, 148, 156)
    if match is None or not match[1]:
        return False
    summed = header[:148] + b" " * 8 + header[156:]
    told, found = int(match[1], 8), sum(summed)
    return told in (found, found - 256 * sum(byte > 127 for byte in summed))


def _number(field: bytes, offset: int) -> int:
    """A number of a header: octal digits, or GNU's binary one for 8 GiB and more."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    match = NUMBER.fullmatch(field)
    if match is None:
        raise FormatError("is a tar archive, and the size of a member is no number", offset=offset)
    return int(match[1] or b"0", 8)


def _name(header: bytes) -> str:
    name = header[:100].split(b"\0", 1)[0]
    prefix = header[345:500].split(b"\0", 1)[0]
    if prefix and header[257:263] == b"ustar\0":  # where GNU's archives, marked "ustar  ", keep times
        name = prefix + b"/" + name
    return name.decode("utf-8", "surrogateescape")


def _text(data: bytes) -> str:
    return data.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")


def _extension(source: Source, start: int, size: int) -> bytes:
    """The bytes of a member that says something about the next."""
    if size > MAX_EXTENSION_BYTES:
        raise LimitError(
            f"is a tar archive with a header of {size:,} bytes, more than {MAX_EXTENSION_BYTES:,}: unpack it first",
            offset=start,
        )
    return bytes(source.fetch(start, size))


def _pax_records(data: bytes, offset: int) -> dict[str, str]:
    """The records of a pax header: "length key=value", each with a newline, all of which the length counts."""
    records: dict[str, str] = {}
    next = 0
    while next < len(data) and data[next]:
        match = re.match(PAX_LENGTH, data[next : next + 11])
        start = next + match.end() if match else 0
        end = next + int(match[0]) if match else 0
        if not start < end <= len(data) or data[end - 1 : end] != b"\n":
            raise FormatError("is a tar archive with a damaged pax header", offset=offset + next)
        key, _, value = data[start : end - 1].partition(b"=")
        records[key.decode("utf-8", "surrogateescape")] = value.decode("utf-8", "surrogateescape")
        next = end
    return records


def _pax_number(text: str, offset: int) -> int:
    if not re.fullmatch(r"[0-9]{1,19}", text):
        raise FormatError("is a tar archive, and the size of a member is no number", offset=offset)
    return int(text)
