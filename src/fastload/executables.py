"""Executables that may hold models: which sorts there are, and in which of them fastload finds and puts any."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from fastload import elf
from fastload.errors import FormatError, MemberNotFoundError, UnsupportedError
from fastload.options import Io
from fastload.source import Source

__all__ = ["blocks", "check_sum", "digest", "find", "open_program"]

BLOCK_BYTES = 1 << 22  # read at a time


class _Sort(NamedTuple):
    """A sort of executables: how its files begin, and whether models in them were ever tested."""

    name: str
    marks: tuple[bytes, ...]
    is_known: bool


SORTS = (
    _Sort("ELF", (elf.MARK,), True),
    _Sort("PE (Windows)", (b"MZ",), False),
    _Sort("Mach-O (macOS)", tuple(bytes.fromhex(mark) for mark in ("cffaedfe", "cefaedfe", "cafebabe")), False),
)


def open_program(path: str, io: Io = "auto") -> Source:
    """An executable of a sort in which there can be models.

    Raises
    ------
    UnsupportedError
        It is of another sort, or no executable.
    """
    source = Source.of(path, io)
    for sort in SORTS:
        if source.head().startswith(sort.marks):
            if sort.is_known:
                return source
            raise UnsupportedError(
                f"is a {sort.name} executable, and models within executables are only tested with those of Linux (ELF)"
                " so far: put the model beside the program, or into a C extension (`fastload embed --c`)",
                path=path,
            )
    raise UnsupportedError("is no executable: name the program itself, and not a script that starts it", path=path)


def find(source: Source, name: str) -> elf.Embedded:
    """The model of that name.

    Raises
    ------
    MemberNotFoundError
        There is none.
    """
    names = elf.list_names(source)
    if name in names:
        return elf.find(source, name)
    has = f"; it has {', '.join(map(repr, names))}" if names else ": put it there by `fastload embed --into`"
    raise MemberNotFoundError(f"has no embedded model {name!r}{has}")


def check_sum(embedded: elf.Embedded) -> None:
    """See that a model is the one that was embedded.

    Raises
    ------
    FormatError
        Its bytes have changed.
    """
    if digest(embedded.part) != embedded.sha256:
        raise FormatError(f"the embedded model {embedded.name!r} has another SHA-256 than when it was embedded")


def digest(source: Source) -> bytes:
    """The SHA-256 of a source."""
    from hashlib import sha256  # programs that only open a model need none

    made = sha256()
    for block in blocks(source, 0, source.size):
        made.update(block)
    return made.digest()


def blocks(source: Source, begin: int, end: int) -> Iterator[memoryview]:
    """The bytes of a source from *begin* to *end*, piece by piece."""
    for at in range(begin, end, BLOCK_BYTES):
        yield source.fetch(at, min(BLOCK_BYTES, end - at))
