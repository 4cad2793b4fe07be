"""A pickled object and the storages beside it, however they are kept: what the torch formats share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from fastload import _native, dtypes
from fastload._native import Graph, Index, Part, Records, build, build_state, harvest, parse
from fastload.entry import TensorEntry
from fastload.errors import TruncatedError
from fastload.formats.torch.vocabulary import VOCABULARY
from fastload.options import Options
from fastload.source import Source

__all__ = ["KEPT_METADATA", "Saved", "entries", "index", "list_globals", "objects", "parse_at", "state_metadata"]

KEPT_METADATA = "fastload_metadata"  # the attribute of a state dict in which our writer keeps any other metadata


class Saved(NamedTuple):
    """A pickled object.

    Attributes
    ----------
    graph : Graph
        Its pickle.
    records : Records
        The storages.
    prefix : bytes
        What stands before a storage's key in the name of its record.
    swapped : bool
        Whether they are big-endian.
    tensors : dict or None
        Of an archive that keeps its tensors outside the pickle; see `_native.Part`.
    """

    graph: Graph
    records: Records
    prefix: bytes = b""
    swapped: bool = False
    tensors: dict[str, tuple[int, int, int, tuple[int, ...], tuple[int, ...], bool]] | None = None


def index(saved: Saved, source: Source, options: Options, leaves: dict[int, int] | None = None) -> Index:
    """The tensors of a pickled object; *leaves* is filled with the row of every node that is one."""
    part = Part(saved.graph, saved.prefix, leaves=leaves, tensors=saved.tensors)
    return harvest([part], VOCABULARY, source, dtypes.TABLE, saved.records, saved.swapped, options.attributes)


def objects(saved: Saved, source: Source, options: Options) -> Any:
    """The object as plain Python values; tensors are their entries, unknown classes are records."""
    return build(saved.graph, VOCABULARY, entries(lambda *args: index(saved, source, *args), options))


def entries(walk: Callable[[Options, dict[int, int]], Index], options: Options) -> dict[int, TensorEntry]:
    """The entries of all tensors by their nodes; also of those that are listed only where `attributes` are asked for.

    Parameters
    ----------
    walk : function
        Of options and a dict, which it fills with the row of every node that is a tensor, to the Index.
    """
    found: dict[int, tuple[Index, int]] = {}
    # What leads to no tensor is marked in the graph, so the walk that finds more comes first.
    for wanted in dict.fromkeys((options._replace(attributes=True), options)):
        leaves: dict[int, int] = {}
        walked = walk(wanted, leaves)
        found.update((node, (walked, row)) for node, row in leaves.items())
    return {node: walked.entry(row) for node, (walked, row) in found.items()}


def state_metadata(saved: Saved) -> dict[str, Any]:
    """`_metadata` of a state dict, which has the versions of its modules, and what `fastload.save` was told to keep."""
    state = build_state(saved.graph, VOCABULARY)
    if not isinstance(state, dict):
        return {}
    kept = state.get(KEPT_METADATA)
    found = {key: value for key, value in kept.items() if isinstance(key, str)} if isinstance(kept, dict) else {}
    return {**found, "_metadata": state["_metadata"]} if "_metadata" in state else found


def parse_at(source: Source, at: int, end: int, first: int) -> Graph:
    """The pickle from byte *at* of *source* on, which ends at byte *end* at the latest.

    *first* bytes are tried before more are read: of a file that is not mapped, and is no pickle but for its beginning,
    most may never be needed.

    Raises
    ------
    TruncatedError
        It has not ended at *end*.
    """
    left = end - at
    size = min(left, first)
    while True:
        try:
            return parse(source.fetch(at, size), at)
        except TruncatedError:
            if size == left:
                raise
        size = min(left, size * 8)


def list_globals(graph: Graph) -> list[tuple[str, str]]:
    """(module, name) of every global that a pickle names, and those of the files within it, once each."""
    return _native.list_globals(graph, VOCABULARY, dtypes.TABLE)
