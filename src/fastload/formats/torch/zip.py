"""PyTorch's zip archive: what `torch.save` has written by default since torch 1.6. `archive` tells what is in it."""

from __future__ import annotations

from typing import Any

from fastload._native import Index
from fastload.errors import FormatError, UnsupportedError
from fastload.formats.torch import archive, saved
from fastload.options import Options
from fastload.source import Source

NAME = "pytorch-zip"

verify = archive.verify


def index(source: Source, options: Options) -> Index:
    """Describe every tensor; of the data nothing is read, and of the archive only its directory and its pickle.

    Names are the keys on the way to a tensor, joined by dots; order is that of traversal.

    Raises
    ------
    TruncatedError
        The archive has no end, or a storage is shorter than its tensors say.
    FormatError
        The directory, the pickle or a tensor's geometry makes no sense.
    UnsupportedError
        An archive of something else.
    """
    return saved.index(_saved(source), source, options)


def metadata(source: Source, index: Index) -> dict[str, Any]:
    """The archive's small texts, and `_metadata` of the state dict, which has the versions of its modules."""
    return {**archive.metadata(source), **saved.state_metadata(_saved(source))}


def objects(source: Source, options: Options) -> Any:
    """The saved object as plain Python values; tensors are their entries, unknown classes are records."""
    return saved.objects(_saved(source), source, options)


def list_globals(source: Source) -> list[tuple[str, str]]:
    """(module, name) of every global that the pickle names, once each."""
    return saved.list_globals(_saved(source).graph)


def _saved(source: Source) -> saved.Saved:
    opened = archive.open_archive(source)
    if opened.find("data.pkl") < 0:
        _refuse(opened)
    graph = archive.parse_record(source, opened, "data.pkl")
    return saved.Saved(graph, opened.records, opened.prefix("data/"), opened.swapped)


def _refuse(opened: archive.Archive) -> None:
    """Say what an archive without a saved object is."""
    names = opened.records.list_names()
    if any(name.endswith("/data.pkl") for name in names):
        raise UnsupportedError("holds several saved objects (data.pkl) in different folders: take them apart first")
    if any(name.startswith(f"{opened.root}data/") for name in names):
        raise FormatError(f"has storages and no record '{opened.root}data.pkl': the archive lost its pickle")
    from fastload.formats.foreign import refuse_archive  # only what cannot be read needs its tables

    refuse_archive(names)
    raise UnsupportedError(f"is a zip archive, but no checkpoint: it has no data.pkl among its {len(names):,} records")
