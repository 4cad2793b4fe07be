"""The formats, and which of them a file is: told from its first bytes, never from its name."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

from fastload._native import Index
from fastload.errors import TruncatedError, UnknownFormatError, UnsupportedError
from fastload.options import Options
from fastload.source import Source

if TYPE_CHECKING:
    from fastload.formats.torch.archive import Archive

__all__ = ["CONTAINERS", "FORMATS", "Container", "Format", "Row", "detect", "detect_container", "is_shard_index"]

BLANK = b"\xef\xbb\xbf \t\r\n"  # what may stand before JSON or HTML
MAX_SEARCHED_JSON_BYTES = 1 << 20  # for the word by which an index of shards is told from other JSON


class Format(Protocol):
    """What a module of a format offers; and where its mark is not enough to tell it by, a `probe` as a container's."""

    NAME: str

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
        """Whether *source*, which begins with *head* and has the mark of the table, is of this sort."""

    def parts(self, source: Source, options: Options) -> list[Source]:
        """The files in it that hold tensors."""


class Row:
    """A format or container of the table: its module is imported when a file has its mark, for each takes its time.

    Parameters
    ----------
    module : str
        Below this package.
    has_mark : function
        Of a file and its first bytes. What else there is to ask, the module has in its `probe`.
    """

    __slots__ = ("_has_mark", "_loaded", "_module")

    def __init__(self, module: str, has_mark: Callable[[Source, bytes], bool]) -> None:
        self._module = module
        self._has_mark = has_mark
        self._loaded: Any = None  # to ask the import system again takes as long as to read a small header

    def load(self) -> Any:
        """The module."""
        if self._loaded is None:
            self._loaded = import_module(f"{__name__}.{self._module}")
        return self._loaded

    @property
    def NAME(self) -> str:
        """The name of the format."""
        name: str = self.load().NAME
        return name

    def probe(self, source: Source, head: bytes) -> bool:
        """Whether *source*, which begins with *head*, is of this sort."""
        if not self._has_mark(source, head):
            return False
        probe = getattr(self.load(), "probe", None)
        return probe is None or probe(source, head)


def _begins(*marks: bytes) -> Callable[[Source, bytes], bool]:
    """Whether a file begins with one of *marks*."""
    return lambda source, head: head.startswith(marks)


def _zip(*records: str, without: str | None = None) -> Callable[[Source, bytes], bool]:
    """Whether a file is a zip archive that has one of *records*, if any are said, and not the one *without*.

    Records are looked for below the folder of the archive's own.
    """

    def has_mark(source: Source, head: bytes) -> bool:
        archive = _archive(source, head)
        if archive is None or (without is not None and archive.find(without) >= 0):
            return False
        return not records or any(archive.find(record) >= 0 for record in records)

    return has_mark


def _archive(source: Source, head: bytes) -> Archive | None:
    """The archive that a file is, if it is one."""
    if not head.startswith(b"PK"):
        return None
    from fastload.formats.torch import archive  # only archives need it

    return archive.open_archive(source) if archive.is_zip(head) else None


def _is_tar(source: Source, head: bytes) -> bool:
    return head[148:154].strip(b" \0").isdigit()  # of its checksum


def _is_json_behind_8_bytes(source: Source, head: bytes) -> bool:
    return head[8:9] == b"{"


PICKLE = (b"\x80", b"L")  # the mark of protocols 2 to 5, and how the others begin with a number

# In the order in which they are asked. The records of a zip archive's user may have the names of marks further down.
FORMATS = (
    Row("safetensors", _is_json_behind_8_bytes),
    Row("torch.pt2", _zip("archive_format")),
    Row("torch.package", _zip(".data/extern_modules")),
    Row("torch.torchscript", _zip("constants.pkl")),
    Row("torch.script_json", _zip("model.json", without="data.pkl")),
    Row("npz", _zip(without="data.pkl")),
    Row("torch.zip", _zip()),
    Row("torch.legacy", _begins(*PICKLE)),
    Row("torch.tar", _is_tar),
    Row("burnpack", _begins(b"NRUB")),
    Row("npy", _begins(b"\x93NUMPY")),
    Row("torch.bare_pickle", _begins(b"")),
)
CONTAINERS = (
    Row("gzipped", _begins(b"\x1f\x8b")),
    Row("nemo", _is_tar),
    Row(
        "torch.old_pt2",
        _zip(
            "archive_format",
            "serialized_exported_program.json",
            "serialized_state_dict.pt",
            "serialized_state_dict.json",
        ),
    ),
)


def detect_container(source: Source) -> Container | None:
    """What *source* is wrapped in, if anything."""
    head = source.head()
    for row in CONTAINERS:
        if row.probe(source, head):
            container: Container = row.load()
            return container
    return None


def is_shard_index(source: Source) -> bool:
    """Whether *source* is the index of a sharded checkpoint: JSON with a `weight_map`, and of no format of ours."""
    head = source.head()
    return _names_shards(source, head) and not any(row.probe(source, head) for row in FORMATS)


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
    for row in FORMATS:
        if row.probe(source, head):
            format: Format = row.load()
            return format
    from fastload.formats import foreign  # only what cannot be read needs its tables

    tail = min(foreign.TAIL_BYTES, source.size)
    if _names_shards(source, head):
        raise UnsupportedError("is the index of a sharded checkpoint, whose files lie beside it: open it by its path")
    foreign.refuse(head, bytes(source.fetch(source.size - tail, tail)))
    if head.lstrip(BLANK).startswith(b"{"):
        raise UnknownFormatError("is JSON, a configuration perhaps, and holds no tensors")
    if _is_json_behind_8_bytes(source, head):
        claimed: Format = FORMATS[0].load()  # safetensors, whose header claims too many bytes, as it will say
        return claimed
    if len(head) <= 8:
        raise TruncatedError(f"has only {len(head)} bytes, too few for any checkpoint: fetch it again")
    raise foreign.unknown(head)


def _name_all() -> None:
    """Never called: it shows the tools that freeze programs which modules the tables above name as text."""
    from fastload.formats import burnpack, gzipped, nemo, npy, npz, safetensors  # noqa: F401
    from fastload.formats.torch import (  # noqa: F401
        bare_pickle,
        legacy,
        old_pt2,
        package,
        pt2,
        script_json,
        tar,
        torchscript,
        zip,
    )
