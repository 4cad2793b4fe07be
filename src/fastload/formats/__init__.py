"""The formats, and which of them a file is: told from its first bytes, never from its name."""

from __future__ import annotations

from typing import Any, Protocol

from fastload._native import Index
from fastload.errors import TruncatedError, UnknownFormatError, UnsupportedError
from fastload.formats import burnpack, gzipped, nemo, npy, npz, safetensors
from fastload.formats.torch import bare_pickle, legacy, old_pt2, package, pt2, script_json, tar, torchscript
from fastload.formats.torch import zip as torch_zip
from fastload.options import Options
from fastload.source import Source

__all__ = ["CONTAINERS", "FORMATS", "Container", "Format", "detect", "detect_container", "is_shard_index"]

BLANK = b"\xef\xbb\xbf \t\r\n"  # what may stand before JSON or HTML
MAX_SEARCHED_JSON_BYTES = 1 << 20  # for the word by which an index of shards is told from other JSON


class Format(Protocol):
    """What a module of a format offers."""

    NAME: str

    def probe(self, source: Source, head: bytes) -> bool:
        """Whether *source*, which begins with *head*, is of this format."""

    def index(self, source: Source, options: Options) -> Index:
        """Describe every tensor without reading its data."""

    def metadata(self, source: Source, index: Index) -> dict[str, Any]:
        """What the format keeps about the tensors as a whole."""

    def objects(self, source: Source, options: Options) -> Any:
        """What else the file holds, as plain Python values."""

    def list_globals(self, source: Source) -> list[tuple[str, str]]:
        """(module, name) of every global that the pickles of the file name, once each."""

    def verify(self, source: Source, index: Index) -> None:
        """Check every structure and extent that `index` leaves until it is needed."""


class Container(Protocol):
    """What a module offers for files that hold other files."""

    NAME: str

    def probe(self, source: Source, head: bytes) -> bool:
        """Whether *source*, which begins with *head*, is of this sort."""

    def parts(self, source: Source, options: Options) -> list[Source]:
        """The files in it that hold tensors."""


FORMATS: tuple[Format, ...] = (
    pt2,
    package,
    torchscript,
    script_json,
    npz,
    torch_zip,
    legacy,
    tar,
    safetensors,
    burnpack,
    npy,
    bare_pickle,
)
CONTAINERS: tuple[Container, ...] = (gzipped, nemo, old_pt2)


def detect_container(source: Source) -> Container | None:
    """What *source* is wrapped in, if anything."""
    head = source.head()
    for container in CONTAINERS:
        if container.probe(source, head):
            return container
    return None


def is_shard_index(source: Source) -> bool:
    """Whether *source* is the index of a sharded checkpoint: JSON with a `weight_map`, and of no format of ours."""
    head = source.head()
    return _names_shards(source, head) and not any(format.probe(source, head) for format in FORMATS)


def _names_shards(source: Source, head: bytes) -> bool:
    searched = min(source.size, MAX_SEARCHED_JSON_BYTES)
    return head.lstrip(BLANK).startswith(b"{") and b'"weight_map"' in bytes(source.fetch(0, searched))


def detect(source: Source) -> Format:
    """The format of *source*.

    Raises
    ------
    UnknownFormatError
        None that fastload knows; pages of HTML, git-lfs pointers and some others are recognised by name.
    UnsupportedError
        One that it knows and cannot read.
    """
    head = source.head()
    for format in FORMATS:
        if format.probe(source, head):
            return format
    from fastload.formats import foreign  # only what cannot be read needs its tables

    tail = min(foreign.TAIL_BYTES, source.size)
    if _names_shards(source, head):
        raise UnsupportedError("is the index of a sharded checkpoint, whose files lie beside it: open it by its path")
    foreign.refuse(head, bytes(source.fetch(source.size - tail, tail)))
    if head.lstrip(BLANK).startswith(b"{"):
        raise UnknownFormatError("is JSON, a configuration perhaps, and holds no tensors")
    if head[8:9] == b"{":
        return safetensors  # whose header claims too many bytes, as it will say
    if len(head) <= 8:
        raise TruncatedError(f"has only {len(head)} bytes, too few for any checkpoint: fetch it again")
    raise foreign.unknown(head)
