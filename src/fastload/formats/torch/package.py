"""torch.package: pickled objects, and the Python modules that they need, in one archive.

    P/RESOURCES/NAME            pickles, under names of their author's choice
    P/.data/0.storage, …        their storages
    P/.data/ts_code/0/data.pkl  a TorchScript module that a pickle refers to as "0"; storages as above, source in code/
    P/.data/extern_modules      the modules that must be there to load it

Nothing in the archive is imported. With a single pickle, names begin at its root; with several, with the name of its
record.

Format: torch/package/package_exporter.py and package_importer.py of torch 2.13.
"""

from __future__ import annotations

from typing import Any

from fastload import dtypes
from fastload._native import Graph, Index, Part, build, harvest
from fastload.entry import TensorEntry
from fastload.errors import LimitError
from fastload.formats.torch import archive, saved
from fastload.formats.torch.scripts import Scripts, scripts_in
from fastload.formats.torch.vocabulary import VOCABULARY
from fastload.options import Options
from fastload.source import Source

NAME = "torch-package"

PROTOCOLS = (b"\x80\2", b"\x80\3", b"\x80\4", b"\x80\5")  # that a pickle begins with; torch writes 3

# A module may be referred to many times, and its pickle is read for each. Real ones have some kilobytes.
MAX_SCRIPT_BYTES = 1 << 25
SCRIPT_PICKLES = ("data.pkl", "constants.pkl")

verify = archive.verify


def index(source: Source, options: Options) -> Index:
    """Describe every tensor of every pickle in the package.

    Raises
    ------
    FormatError
        The archive, a pickle or a tensor's geometry makes no sense.
    """
    opened = archive.open_archive(source)
    return _harvest(source, opened, _parts(source, opened, _pickles(source, opened), options), options)


def metadata(source: Source, index: Index) -> dict[str, Any]:
    """The archive's small texts."""
    return archive.metadata(source)


def objects(source: Source, options: Options) -> Any:
    """The pickled object, or all of them by name, as plain Python values and records; tensors are their entries."""
    opened = archive.open_archive(source)
    pickles = _pickles(source, opened)
    entries: dict[str, dict[int, TensorEntry]] = {name: {} for name in pickles}
    for wanted in dict.fromkeys((options._replace(attributes=True), options)):  # as `saved.entries` does for one pickle
        leaves: dict[str, dict[int, int]] = {name: {} for name in pickles}
        index = _harvest(source, opened, _parts(source, opened, pickles, wanted, leaves), wanted)
        for name in pickles:
            entries[name].update((node, index.entry(row)) for node, row in leaves[name].items())
    found = {name: build(graph, VOCABULARY, entries[name]) for name, graph in pickles.items()}
    return next(iter(found.values())) if len(found) == 1 else found


def list_globals(source: Source) -> list[tuple[str, str]]:
    """(module, name) of every global that the pickles name, once each."""
    graphs = _pickles(source, archive.open_archive(source)).values()
    return list(dict.fromkeys(found for graph in graphs for found in saved.list_globals(graph)))


def _parts(
    source: Source,
    opened: archive.Archive,
    pickles: dict[str, Graph],
    options: Options,
    leaves: dict[str, dict[int, int]] | None = None,
) -> list[Part]:
    """What the tensors are in: each pickle, and behind it the TorchScript that it refers to."""
    parts = []
    scripts = scripts_in(source, opened, ".data/ts_code/code/")
    left = MAX_SCRIPT_BYTES
    for name, graph in pickles.items():
        references: list[tuple[tuple[str, ...], str]] = []
        part = Part(
            graph,
            opened.prefix(".data/"),
            b".storage",
            leaves=leaves[name] if leaves else None,
            at=(name,) if len(pickles) > 1 else (),
            references=references,
        )
        parts.append(part)
        _harvest(source, opened, [part], options)  # for the references alone
        for keys, number in references:
            folder = f".data/ts_code/{number}/"
            if opened.find(f"{folder}data.pkl") >= 0:
                left -= sum(opened.records.size(max(opened.find(folder + pickle), 0)) for pickle in SCRIPT_PICKLES)
                if left < 0:
                    raise LimitError(
                        f"the pickles of its TorchScript come to more than {MAX_SCRIPT_BYTES:,} bytes, each as often as"
                        " it is referred to"
                    )
                parts += _script_parts(source, opened, folder, keys, options, scripts)
    return parts


def _script_parts(
    source: Source,
    opened: archive.Archive,
    folder: str,
    keys: tuple[str, ...],
    options: Options,
    scripts: Scripts,
) -> list[Part]:
    """The pickles of a module of TorchScript, whose constants count as `torchscript` has them."""
    prefix = opened.prefix(".data/")
    graph = archive.parse_record(source, opened, f"{folder}data.pkl")
    module = Part(graph, prefix, at=keys, scripts=scripts)
    constants = f"{folder}constants.pkl"
    if opened.find(constants) < 0 or (len(_harvest(source, opened, [module], options)) and not options.attributes):
        return [module]
    return [module, Part(archive.parse_record(source, opened, constants), prefix, at=(*keys, "constants"))]


def _harvest(source: Source, opened: archive.Archive, parts: list[Part], options: Options) -> Index:
    return harvest(parts, VOCABULARY, source, dtypes.TABLE, opened.records, opened.swapped, options.attributes)


def _pickles(source: Source, opened: archive.Archive) -> dict[str, Graph]:
    """The pickles by the names of their records from P on: what begins and ends like one, or is called so."""
    found = {}
    for number, name in enumerate(opened.records.list_names()):
        own = name.removeprefix(opened.root)
        if not name.startswith(opened.root) or own.startswith(".data/") or opened.records.size(number) < 3:
            continue
        data = source.read_record(opened.records, number)
        if name.endswith(".pkl") or (bytes(data[:2]) in PROTOCOLS and data[-1] == ord(".")):
            found[own] = archive.parse_record(source, opened, own)
    return found
