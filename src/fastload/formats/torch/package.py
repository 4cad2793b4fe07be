"""torch.package: pickled objects, and the Python modules that they need, in one archive.

    P/RESOURCES/NAME            pickles, under names of their author's choice
    P/.data/0.storage, …        their storages
    P/.data/ts_code/0/data.pkl  a TorchScript module that a pickle refers to as "0"; storages as above, source in code/
    P/.data/extern_modules      the modules that must be there to load it

Nothing in the archive is imported. Names begin at the root of a single pickle; with several, with the name of each.

Format: torch/package/package_exporter.py and package_importer.py of torch 2.13.
"""

from __future__ import annotations

from typing import Any

from fastload import dtypes
from fastload._native import Graph, Index, Part, build, harvest
from fastload.errors import LimitError
from fastload.formats.torch import archive
from fastload.formats.torch.scripts import scripts_in
from fastload.formats.torch.vocabulary import VOCABULARY
from fastload.options import Options
from fastload.source import Source

NAME = "torch-package"

MAX_SCRIPT_BYTES = 1 << 25  # of pickles of TorchScript modules, one for each reference; they are without tensors' data

verify = archive.verify


def probe(source: Source, head: bytes) -> bool:
    """Whether *source* is such an archive."""
    return archive.is_zip(head) and archive.open_archive(source).find(".data/extern_modules") >= 0


def index(source: Source, options: Options) -> Index:
    """Describe every tensor of every pickle in the package.

    Raises
    ------
    FormatError
        The archive, a pickle or a tensor's geometry makes no sense.
    """
    opened = archive.open_archive(source)
    parts = []
    scripted = 0
    pickles = _pickles(source, opened)
    for name, graph in pickles.items():
        at = () if len(pickles) == 1 else (name,)
        references: list[tuple[tuple[str, ...], Any]] = []
        part = Part(graph, opened.prefix(".data/"), b".storage", at=at, references=references)
        _harvest(source, opened, [part], options)
        parts.append(part)
        for keys, arguments in references:
            record = _find_script(opened, arguments)
            if record >= 0:
                # Each reference walks the whole of what it refers to, which may always be the same.
                scripted += opened.records.size(record)
                if scripted > MAX_SCRIPT_BYTES:
                    raise LimitError(
                        f"its pickles refer to TorchScript modules of more than {MAX_SCRIPT_BYTES:,} bytes"
                    )
                script = opened.records.name(record).removeprefix(opened.root)
                parts.append(
                    Part(
                        archive.parse_record(source, opened, script),
                        opened.prefix(".data/"),
                        at=keys,
                        scripts=scripts_in(source, opened, ".data/ts_code/code/"),
                    )
                )
    return _harvest(source, opened, parts, options)


def metadata(source: Source, index: Index) -> dict[str, Any]:
    """The archive's small texts."""
    return archive.metadata(source)


def objects(source: Source, options: Options) -> Any:
    """The pickled object, or all of them by name, as plain Python values and records."""
    opened = archive.open_archive(source)
    found = {name: build(graph, VOCABULARY, {}) for name, graph in _pickles(source, opened).items()}
    return next(iter(found.values())) if len(found) == 1 else found


def list_globals(source: Source) -> list[tuple[str, str]]:
    """(module, name) of every global that the pickles name, once each."""
    graphs = _pickles(source, archive.open_archive(source)).values()
    return list(dict.fromkeys(found for graph in graphs for found in graph.list_globals()))


def _harvest(source: Source, opened: archive.Archive, parts: list[Part], options: Options) -> Index:
    return harvest(parts, VOCABULARY, source, dtypes.TABLE, opened.records, opened.swapped, options.attributes)


def _names(source: Source, opened: archive.Archive) -> list[str]:
    """The records, named from P on, that are pickles: nothing else begins like one of protocols 3 and 4."""
    found = []
    for number, name in enumerate(opened.records.list_names()):
        own = name.removeprefix(opened.root)
        if name.startswith(opened.root) and not own.startswith(".data/") and opened.records.size(number) > 2:
            head = bytes(source.read_record(opened.records, number)[:2])
            if head in (b"\x80\x03", b"\x80\x04"):
                found.append(own)
    return found


def _pickles(source: Source, opened: archive.Archive) -> dict[str, Graph]:
    return {name: archive.parse_record(source, opened, name) for name in _names(source, opened)}


def _find_script(opened: archive.Archive, arguments: Any) -> int:
    """The record of the TorchScript module that a reference's *arguments* name, or -1."""
    if not isinstance(arguments, tuple) or not arguments or not isinstance(arguments[0], str):
        return -1
    try:
        return opened.find(f".data/ts_code/{arguments[0]}/data.pkl")
    except UnicodeEncodeError:  # half a surrogate pair, which no name of a record can be
        return -1
