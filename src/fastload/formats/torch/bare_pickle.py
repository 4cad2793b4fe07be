"""A pickle by itself, as `pickle.dump` writes it: NumPy arrays, or tensors whose storages are whole files within it.

`torch.load` does not read it; `pickle.load` does, running whatever it says. Arrays are views of the file where the
pickle has their bytes as they are, which it has from protocol 3 on.
"""

from __future__ import annotations

from typing import Any

from fastload._native import Graph, Index, Records, parse
from fastload.errors import FastloadError, TruncatedError, UnsupportedError
from fastload.formats.torch import saved
from fastload.options import Options
from fastload.source import Source

NAME = "pickle"

FIRST_READ_BYTES = 1 << 24  # of a file that is read piece by piece; if it is longer, all of it
# Of a file without any mark, which may be a pickle of protocol 0 or 1. What is none is found out within them, but for
# very few, and only those and the pickles are read to the end.
PROBED_BYTES = 1 << 16
PROTO = 0x80  # the first byte from protocol 2 on; the protocol follows
HIGHEST_PROTOCOL = 5
MAX_BLANK_BYTES = 4096  # that an editor, or a transfer in blocks, left behind a pickle without any mark


def probe(source: Source, head: bytes) -> bool:
    """Whether *source* is a pickle. Protocols 0 and 1 have no mark: only a parse to the very end can tell."""
    if head[:1] == bytes([PROTO]):
        return len(head) > 1 and head[1] <= HIGHEST_PROTOCOL
    try:
        graph = _parse_from(source, PROBED_BYTES)
    except FastloadError:
        return False
    more = source.size - graph.end
    return graph.end > 1 and more <= MAX_BLANK_BYTES and not bytes(source.fetch(graph.end, more)).strip()


def index(source: Source, options: Options) -> Index:
    """Describe every array and tensor.

    Raises
    ------
    FormatError
        The pickle or an array's geometry makes no sense.
    UnsupportedError
        It is one of a number, a text or the like, and no checkpoint.
    """
    found = _saved(source)
    if found.graph.is_plain:
        raise UnsupportedError("is a pickle of a single plain value, and no checkpoint")
    return saved.index(found, source, options)


def metadata(source: Source, index: Index) -> dict[str, Any]:
    """`_metadata` of the state dict, which has the versions of its modules."""
    return saved.state_metadata(_saved(source))


def objects(source: Source, options: Options) -> Any:
    """The pickled object as plain Python values; tensors are their entries, unknown classes are records."""
    return saved.objects(_saved(source), source, options)


def list_globals(source: Source) -> list[tuple[str, str]]:
    """(module, name) of every global that the pickle names, once each."""
    return saved.list_globals(_parse(source))


def verify(source: Source, index: Index) -> None:
    """Check what `index` has left unchecked: nothing, since it reads the whole pickle."""


def _saved(source: Source) -> saved.Saved:
    return saved.Saved(_parse(source), Records())


def _parse(source: Source) -> Graph:
    return _parse_from(source, source.size if source.region is not None else FIRST_READ_BYTES)


def _parse_from(source: Source, first: int) -> Graph:
    """Parse the first bytes; if they are too few, all."""
    size = min(source.size, first)
    try:
        return parse(source.fetch(0, size))
    except TruncatedError:
        if size == source.size:
            raise
    return parse(source.fetch(0, source.size))
