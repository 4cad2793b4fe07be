"""The zip archive that most PyTorch files are: its records, and the folder where its own lie.

    P/data.pkl        a pickle, whose storages are named by persistent ids
    P/data/0, 1, …    one storage each, raw, most often 64-byte aligned
    P/byteorder       "little" or "big"; absent in older files, which are little-endian
    P/version, P/.format_version, P/.storage_alignment, P/.data/serialization_id

P is the folder of the first record, and is never derived from the file's name. Sizes come from the central directory
alone: the local headers hold zeros. CRCs may be 0; they are checked of compressed records alone.

Format: caffe2/serialize/inline_container.h and torch/serialization.py of torch 2.13.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from fastload._native import Graph, Index, Records, parse
from fastload.errors import FastloadError, FormatError, UnsupportedError, located
from fastload.members import is_zip, read_records
from fastload.source import Source

__all__ = ["Archive", "is_zip", "metadata", "open_archive", "parse_record", "verify"]

# Small records that say something about the archive; `metadata` shows their texts.
TEXT_RECORDS = ("version", ".format_version", ".storage_alignment", "byteorder", ".data/serialization_id")
MAX_TEXT_BYTES = 4096  # of one of them; torch writes 40 at most

# What makes an archive one of PyTorch's; the first that is there, in the folder of its first record, or else in only
# one folder, says where P is.
ROOTS = (
    "data.pkl",
    "constants.pkl",
    "model.json",
    "archive_format",
    "serialized_exported_program.json",
    "serialized_state_dict.pt",
    "serialized_state_dict.json",
    ".data/extern_modules",
    ".data/version",
)


class Archive(NamedTuple):
    """The records of an archive, and where among them its own are."""

    records: Records
    root: str  # "archive/", or "" where the records are in no folder
    swapped: bool

    def find(self, name: str) -> int:
        """The number of the record *name* below P, or -1."""
        return self.records.find(self.root + name)

    def prefix(self, folder: str) -> bytes:
        """What the names of the records in a *folder* below P begin with."""
        return (self.root + folder).encode("utf-8", "surrogateescape")


def open_archive(source: Source) -> Archive:
    """Read the directory of a zip archive, once for each Source.

    Raises
    ------
    TruncatedError
        The archive has no end.
    FormatError
        The directory makes no sense.
    """
    if source.archive is None:
        try:
            source.archive = _read(source)
        except FastloadError as error:
            raise located(error, source.path, "pytorch-zip") from None
    archive: Archive = source.archive
    return archive


def _read(source: Source) -> Archive:
    records = read_records(source)
    if not len(records):
        raise UnsupportedError("is a zip archive without records, and no checkpoint")
    root = _root(records)
    number = records.find(f"{root}byteorder")
    order = _text(source, records, number) if number >= 0 else "little"
    if order not in ("little", "big"):
        raise FormatError(f"record {records.name(number)!r} says {order!r} instead of little or big")
    return Archive(records, root, order == "big")


def _root(records: Records) -> str:
    """The folder of the records that are the archive's own."""
    folder, slash, _ = records.name(0).partition("/")
    root = folder + slash if slash else ""
    if any(records.find(root + name) >= 0 for name in ROOTS):
        return root
    names = [name for name in records.list_names() if name.endswith(ROOTS)]
    for name in ROOTS:
        roots = [found.removesuffix(name) for found in names if found == name or found.endswith(f"/{name}")]
        if len(roots) == 1:
            return roots[0]
    return root


def parse_record(source: Source, archive: Archive, name: str) -> Graph:
    """Parse the pickle in the record *name* below P.

    Raises
    ------
    FormatError
        There is no such record, or it is no sound pickle.
    """
    number = archive.find(name)
    if number < 0:
        raise FormatError(f"the archive lacks the record {archive.root + name!r}")
    data = source.read_record(archive.records, number)
    if archive.records.is_view(number):
        return parse(data, source.locate(archive.records, number))
    return parse(data, 0, False)  # places in it are those of the inflated bytes


def metadata(source: Source) -> dict[str, Any]:
    """The archive's small texts."""
    archive = open_archive(source)
    found: dict[str, Any] = {}
    for name in TEXT_RECORDS:
        number = archive.find(name)
        if number >= 0 and archive.records.size(number) <= MAX_TEXT_BYTES:
            found[name.rpartition("/")[2].lstrip(".")] = _text(source, archive.records, number)
    return found


def verify(source: Source, index: Index) -> None:
    """Check the local header of every record, which opening leaves until the record is asked for."""
    assert index.records is not None
    for number in range(len(index.records)):
        source.locate(index.records, number)


def _text(source: Source, records: Records, number: int) -> str:
    return bytes(source.read_record(records, number)[:MAX_TEXT_BYTES]).decode("utf-8", "replace").strip()
