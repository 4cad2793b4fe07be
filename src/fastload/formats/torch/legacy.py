"""The stream of torch 0.1.10 to 1.5, which `torch.save(…, _use_new_zipfile_serialization=False)` still writes.

Five pickles, then the storages, at whatever byte they come to lie: `_native.stream` tells the layout. Arrays over them
are views, and seldom aligned.
"""

from __future__ import annotations

from typing import Any

from fastload import dtypes
from fastload._native import Index, read_stream
from fastload.errors import TruncatedError
from fastload.formats.torch import archive, saved
from fastload.formats.torch.vocabulary import VOCABULARY
from fastload.options import Options
from fastload.source import Source

NAME = "pytorch-legacy"

MAGIC = 0x1950A86A20F9469CFC6C  # what the first pickle holds
PICKLES = 5  # before the storages
FIRST_READ_BYTES = 1 << 20  # of a file that is read piece by piece; if its pickles are longer, more

_MAGIC_BYTES = MAGIC.to_bytes(10, "little")  # as protocols 2 to 5 write it
_MAGIC_TEXT = f"L{MAGIC}L\n".encode()  # as protocols 0 and 1 do


def probe(source: Source, head: bytes) -> bool:
    """Whether a file that begins with *head* is such a stream."""
    return head.startswith(_MAGIC_TEXT) or (head[:1] == b"\x80" and _MAGIC_BYTES in head[:32])


def index(source: Source, options: Options) -> Index:
    """Describe every tensor; of the storages nothing is read.

    Raises
    ------
    TruncatedError
        The file ends before its last storage does.
    FormatError
        Its pickles make no sense, or contradict each other.
    """
    return saved.index(_saved(source), source, options)


def metadata(source: Source, index: Index) -> dict[str, Any]:
    """`_metadata` of the state dict, which has the versions of its modules."""
    return saved.state_metadata(_saved(source))


def objects(source: Source, options: Options) -> Any:
    """The saved object as plain Python values; tensors are their entries, unknown classes are records."""
    return saved.objects(_saved(source), source, options)


def list_globals(source: Source) -> list[tuple[str, str]]:
    """(module, name) of every global that the pickles name, once each; whoever unpickles one unpickles all five."""
    found: dict[tuple[str, str], None] = {}
    at = 0
    for _ in range(PICKLES):
        graph = saved.parse_at(source, at, source.size, FIRST_READ_BYTES)
        found.update(dict.fromkeys(saved.list_globals(graph)))
        at += graph.end
    return list(found)


verify = archive.verify


def _saved(source: Source) -> saved.Saved:
    size = source.size if source.region is not None else min(source.size, FIRST_READ_BYTES)
    while True:
        try:
            data = source.fetch(0, size)
            return saved.Saved(*read_stream(data, 0, source.size, True, VOCABULARY, dtypes.TABLE))
        except TruncatedError:
            if size == source.size:
                raise
        size = min(source.size, size * 8)
