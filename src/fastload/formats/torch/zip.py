"""PyTorch's zip archive: what `torch.save` has written by default since torch 1.6.

    P/data.pkl        the pickle: the whole object, its storages named by persistent ids
    P/data/0, 1, …    one storage each, raw, most often 64-byte aligned
    P/byteorder       "little" or "big"; absent in older files, which are little-endian
    P/version, P/.format_version, P/.storage_alignment, P/.data/serialization_id

P is the folder of the first record, and is never derived from the file's name. Sizes come from the central directory
alone: the local headers hold zeros. CRCs may be 0 and are not checked.

Format: caffe2/serialize/inline_container.h and torch/serialization.py of torch 2.13.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from fastload import dtypes
from fastload._native import (
    END_SEARCH_BYTES,
    Graph,
    Index,
    Records,
    build,
    build_state,
    find_directory,
    harvest,
    parse,
    read_directory,
)
from fastload.errors import FormatError, UnsupportedError
from fastload.formats.torch.vocabulary import VOCABULARY
from fastload.source import Source

NAME = "pytorch-zip"

# Small records that say something about the archive; `metadata` shows their texts.
TEXT_RECORDS = ("version", ".format_version", ".storage_alignment", "byteorder", ".data/serialization_id")
MAX_TEXT_BYTES = 4096  # of one of them; torch writes 40 at most

# Records that tell other archives from a saved object, wherever they stand, and what is to be done.
OTHER_ARCHIVES = (
    ("constants.pkl", "a TorchScript archive: load it with torch.jit.load and save its state_dict()"),
    ("model.json", "a TorchScript archive of torch 1.0 to 1.2: load it with such a torch and save its state_dict()"),
    ("archive_format", "an exported program (.pt2): load it with torch.export.load and save its state_dict"),
    ("serialized_exported_program.json", "an exported program (.pt2) of an early torch: load it, save its state_dict"),
    (".data/extern_modules", "a torch.package archive: import its model and save its state_dict()"),
)


class Archive(NamedTuple):
    """The records of an archive, and where among them the saved object is."""

    records: Records
    root: str  # "archive/", or "" where the records are in no folder
    swapped: bool


def probe(head: bytes) -> bool:
    """Whether a file that begins with *head* is a zip archive, of whatever sort."""
    return head[:4] in (b"PK\3\4", b"PK\5\6")


def index(source: Source) -> Index:
    """Describe every tensor; of the data nothing is read, and of the archive only its directory and its pickle.

    Names are the keys on the way to a tensor, joined by dots; order is that of traversal.

    Raises
    ------
    TruncatedError
        The archive has no end, or a storage is shorter than its tensors say.
    FormatError
        The directory, the pickle or a tensor's geometry makes no sense.
    UnsupportedError
        Another sort of archive, or one that holds tensors of a sort that cannot be read yet.
    """
    return _harvest(source)[1]


def metadata(source: Source, index: Index) -> dict[str, Any]:
    """The archive's small texts, and `_metadata` of the state dict, which has the versions of its modules."""
    archive = _archive(source)
    found: dict[str, Any] = {}
    for name in TEXT_RECORDS:
        number = archive.records.find(archive.root + name)
        if number >= 0 and archive.records.size(number) <= MAX_TEXT_BYTES:
            found[name.rpartition("/")[2].lstrip(".")] = _text(source, archive.records, number)
    state = build_state(_parse(source, archive), VOCABULARY)
    if isinstance(state, dict) and "_metadata" in state:
        found["_metadata"] = state["_metadata"]
    return found


def objects(source: Source) -> Any:
    """The saved object as plain Python values; tensors are their entries, unknown classes are records."""
    leaves: dict[int, Any] = {}
    graph, index = _harvest(source, leaves)
    return build(graph, VOCABULARY, {node: index.entry(row) for node, row in leaves.items()})


def verify(source: Source, index: Index) -> None:
    """Check the local header of every record, which `index` leaves until the record is asked for."""
    assert index.records is not None
    for number in range(len(index.records)):
        source.locate(index.records, number)


def _harvest(source: Source, leaves: dict[int, Any] | None = None) -> tuple[Graph, Index]:
    archive = _archive(source)
    graph = _parse(source, archive)
    prefix = f"{archive.root}data/".encode("utf-8", "surrogateescape")
    found = harvest(graph, VOCABULARY, source, dtypes.TABLE, archive.records, prefix, archive.swapped, leaves)
    return graph, found


def _parse(source: Source, archive: Archive) -> Graph:
    number = archive.records.find(f"{archive.root}data.pkl")
    data = source.read_record(archive.records, number)
    stored = archive.records.is_view(number)  # else places in it are those of the inflated bytes
    return parse(data, source.locate(archive.records, number) if stored else 0)


def _archive(source: Source) -> Archive:
    """Read the directory and find the saved object."""
    tail = min(END_SEARCH_BYTES, source.size)
    offset, size, count = find_directory(source.fetch(source.size - tail, tail), source.size - tail)
    records = read_directory(source.fetch(offset, size), offset, count, source.size)
    root = _root(records)
    for name, what in OTHER_ARCHIVES:
        if records.find(root + name) >= 0:
            raise UnsupportedError(f"is {what}")
    number = records.find(f"{root}byteorder")
    order = _text(source, records, number) if number >= 0 else "little"
    if order not in ("little", "big"):
        raise FormatError(f"record {records.name(number)!r} says {order!r} instead of little or big")
    return Archive(records, root, order == "big")


def _root(records: Records) -> str:
    """The folder of `data.pkl`: that of the first record, else the only one that has it."""
    if not len(records):
        raise UnsupportedError("is a zip archive without records, and no checkpoint")
    folder, slash, _ = records.name(0).partition("/")
    root = folder + slash if slash else ""
    if records.find(f"{root}data.pkl") >= 0:
        return root
    names = records.list_names()
    roots = [name.removesuffix("data.pkl") for name in names if name == "data.pkl" or name.endswith("/data.pkl")]
    if len(roots) == 1:
        return roots[0]
    _refuse_other(names, root)
    raise AssertionError("unreachable")


def _refuse_other(names: list[str], root: str) -> None:
    """Say what an archive without a saved object is."""
    for name, what in OTHER_ARCHIVES:
        if any(found == name or found.endswith(f"/{name}") for found in names):
            raise UnsupportedError(f"is {what}")
    if all(name.endswith(".npy") for name in names):
        raise UnsupportedError("is a NumPy archive (.npz), which this fastload cannot read yet: use numpy.load")
    if any(name.endswith("/data.pkl") for name in names):
        raise UnsupportedError("holds several saved objects (data.pkl) in different folders: take them apart first")
    if any(name.startswith(f"{root}data/") for name in names):
        raise FormatError(f"has storages and no record '{root}data.pkl': the archive lost its pickle")
    raise UnsupportedError(f"is a zip archive, but no checkpoint: it has no data.pkl among its {len(names):,} records")


def _text(source: Source, records: Records, number: int) -> str:
    return bytes(source.read_record(records, number)[:MAX_TEXT_BYTES]).decode("utf-8", "replace").strip()
