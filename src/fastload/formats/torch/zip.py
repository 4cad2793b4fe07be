"""PyTorch's zip archive: what `torch.save` has written by default since torch 1.6. `archive` tells what is in it."""

from __future__ import annotations

from typing import Any

from fastload import dtypes
from fastload._native import Graph, Index, Part, build, build_state, harvest
from fastload.errors import FormatError, UnsupportedError
from fastload.formats.torch import archive
from fastload.formats.torch.vocabulary import VOCABULARY
from fastload.options import Options
from fastload.source import Source

NAME = "pytorch-zip"

verify = archive.verify


def probe(source: Source, head: bytes) -> bool:
    """Whether *source* is a zip archive; what other formats have in one, they find before."""
    return archive.is_zip(head)


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
    return _harvest(source, options)[1]


def metadata(source: Source, index: Index) -> dict[str, Any]:
    """The archive's small texts, and `_metadata` of the state dict, which has the versions of its modules."""
    found = archive.metadata(source)
    state = build_state(_parse(source), VOCABULARY)
    if isinstance(state, dict) and "_metadata" in state:
        found["_metadata"] = state["_metadata"]
    return found


def objects(source: Source, options: Options) -> Any:
    """The saved object as plain Python values; tensors are their entries, unknown classes are records."""
    leaves: dict[int, int] = {}
    graph, index = _harvest(source, options, leaves)
    return build(graph, VOCABULARY, {node: index.entry(row) for node, row in leaves.items()})


def list_globals(source: Source) -> list[tuple[str, str]]:
    """(module, name) of every global that the pickle names, once each."""
    return _parse(source).list_globals()


def _harvest(source: Source, options: Options, leaves: dict[int, int] | None = None) -> tuple[Graph, Index]:
    opened = archive.open_archive(source)
    graph = _parse(source)
    prefix = f"{opened.root}data/".encode("utf-8", "surrogateescape")
    part = Part(graph, prefix, leaves=leaves)
    found = harvest([part], VOCABULARY, source, dtypes.TABLE, opened.records, opened.swapped, options.attributes)
    return graph, found


def _parse(source: Source) -> Graph:
    opened = archive.open_archive(source)
    if opened.find("data.pkl") < 0:
        _refuse(opened)
    return archive.parse_record(source, opened, "data.pkl")


def _refuse(opened: archive.Archive) -> None:
    """Say what an archive without a saved object is."""
    names = opened.records.list_names()
    if all(name.endswith(".npy") for name in names):
        raise UnsupportedError("is a NumPy archive (.npz), which this fastload cannot read yet: use numpy.load")
    if any(name.endswith("/data.pkl") for name in names):
        raise UnsupportedError("holds several saved objects (data.pkl) in different folders: take them apart first")
    if any(name.startswith(f"{opened.root}data/") for name in names):
        raise FormatError(f"has storages and no record '{opened.root}data.pkl': the archive lost its pickle")
    from fastload.formats.foreign import refuse_archive  # only what cannot be read needs its tables

    refuse_archive(names)
    raise UnsupportedError(f"is a zip archive, but no checkpoint: it has no data.pkl among its {len(names):,} records")
