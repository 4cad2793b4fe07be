"""Members: a checkpoint that lies within another file, and is opened by its name there.

A stored member of a zip archive (.zip, .whl, .pyz, .npz) and a model that was embedded into an executable are parts of
that file, and are mapped where they lie. A deflated member has to be unpacked.
"""

from __future__ import annotations

from collections.abc import Sequence

from fastload._native import END_SEARCH_BYTES, Records, check, find_directory, find_prefix, read_directory
from fastload.errors import (
    FormatError,
    LimitError,
    MemberNotFoundError,
    TruncatedError,
    UnsupportedError,
    advised,
    near_hint,
)
from fastload.options import INFLATE_MORE, Options
from fastload.source import Source, free_memory

__all__ = ["Archive", "find_embedded", "is_zip", "read_records"]

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


def find_embedded(source: Source, name: str) -> Source | None:
    """The model that was embedded into the executable *source* under a name; None where there is none."""
    if name not in _list_embedded(source):
        return None
    from fastload import elf

    return elf.find(source, name).part


def _list_embedded(source: Source) -> list[str]:
    from fastload import elf  # archives are opened by many who name no member

    if not elf.is_elf(source):
        return []
    try:
        return elf.list_names(source)
    except (FormatError, UnsupportedError):  # of another sort, and may have an archive behind it all the same
        return []


class Archive:
    """The files within a zip archive, by their names; something else may stand before it.

    Parameters
    ----------
    source : Source
        What holds it.
    member : str
        Which file of it is asked for, for the message where it is none.

    Raises
    ------
    MemberNotFoundError
        It is no archive.
    FormatError
        It is a damaged one.
    """

    def __init__(self, source: Source, member: str) -> None:
        self.path = source.path
        try:
            self._source, self._records = _open_archive(source)
        except FormatError:
            if is_zip(source.head()):
                raise
            why = ": it is no zip archive, and no such model was embedded into it"
            raise _not_found(member, _list_embedded(source), why) from None

    def names(self) -> list[str]:
        """All names in it; those of folders end in a slash."""
        return self._records.list_names()

    def has_file(self, name: str) -> bool:
        """Whether there is a file of that name."""
        return bool(name) and not name.endswith("/") and self._find(name) >= 0

    def has_folder(self, name: str) -> bool:
        """Whether there is a folder of that name: it need not be listed by itself."""
        return bool(name) and any(listed.startswith(f"{name}/") for listed in self.names())

    def is_stored(self, name: str) -> bool:
        """Whether a file lies there as it is."""
        return self._records.is_view(self._find(name))

    def check_copy(self, name: str, options: Options) -> None:
        """Raise UnsupportedError where a file would have to be unpacked, and copies are not allowed."""
        if not (options.allow_copy or self.is_stored(name)):
            raise UnsupportedError(
                f"member {name!r} is compressed, so that no tensor can be a view of it: make the archive anew with"
                " stored members (`fastload pack`, `python -m zipapp` without -c, `zip -0`), or open it with"
                " allow_copy=True"
            )

    def source(self, name: str, options: Options) -> Source:
        """A file: a part of the archive, or unpacked from it.

        Raises
        ------
        UnsupportedError
            It is encrypted, or compressed by another method than deflate.
        LimitError
            It would inflate to more than `options.max_inflated`.
        TruncatedError
            It is empty.
        """
        archive, records, number = self._source, self._records, self._find(name)
        check(records, number)
        size = records.size(number)
        if not size:
            raise TruncatedError(f"member {name!r} is empty: it has 0 bytes, and is a failed copy")
        if records.is_view(number):
            return archive.part(archive.locate(records, number), size)
        if options.max_inflated is None:
            limit, whose = free_memory() // 2, "half of the free memory"
        else:
            limit, whose = options.max_inflated, "max_inflated"
        if size > limit:
            message = f"member {name!r} is compressed and inflates to {size:,} bytes, more than the {limit:,} that are"
            raise advised(LimitError(f"{message} {whose}: {INFLATE_MORE}unpack it first"), INFLATE_MORE)
        return archive.unpacked(archive.read_record(records, number))

    def not_found(self, name: str) -> MemberNotFoundError:
        """The error that offers what there is instead of *name*."""
        return _not_found(name, self.names())

    def _find(self, name: str) -> int:
        try:
            return self._records.find(name)
        except UnicodeEncodeError:  # half a surrogate pair, which no record's name can hold
            return -1


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


def _not_found(member: str, names: Sequence[str], why: str = "") -> MemberNotFoundError:
    """The error that offers what there is: names that end in what was asked for, else those that are like it."""
    ending = [name for name in names if name.endswith(f"/{member}")][:MAX_OFFERED]
    if ending or 0 < len(names) <= MAX_OFFERED:
        hint = f"; it has {', '.join(map(repr, ending or names))}"
    else:
        hint = near_hint(member, names)
    return MemberNotFoundError(f"has no member {member!r}{why}{hint}")
