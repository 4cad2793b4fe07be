"""TorchScript: what `torch.jit.save` writes, scripted or traced.

    P/data.pkl, P/data/0, 1, …             the module, its attributes in one flat dict, and their storages
    P/constants.pkl, P/constants/0, 1, …   constants of its code, among them all weights of a frozen module
    P/code/__torch__/….py                  the classes' source, which alone tells parameters and buffers

Names are those of `state_dict()`; a quantised module has its packed weights besides. Other tensor attributes are listed
where `attributes` are asked for. So are constants, and also where a module has no other tensors, since it is frozen.

Format: torch/csrc/jit/serialization/export_module.cpp and pickler.cpp of torch 2.13.
"""

from __future__ import annotations

from typing import Any

from fastload import dtypes
from fastload._native import Index, Part, build, harvest
from fastload.formats.torch import archive, saved
from fastload.formats.torch.scripts import scripts_in
from fastload.formats.torch.vocabulary import VOCABULARY
from fastload.options import Options
from fastload.source import Source

NAME = "torchscript"

verify = archive.verify


def index(source: Source, options: Options) -> Index:
    """Describe every tensor of the module's state dict, or every constant of a frozen module.

    Raises
    ------
    FormatError
        The archive, a pickle or a tensor's geometry makes no sense.
    """
    return _harvest(source, options, {})


def metadata(source: Source, index: Index) -> dict[str, Any]:
    """The archive's small texts."""
    return archive.metadata(source)


def objects(source: Source, options: Options) -> Any:
    """The module as inert records; tensors are their entries."""
    graph = archive.parse_record(source, archive.open_archive(source), "data.pkl")
    return build(graph, VOCABULARY, saved.entries(lambda *args: _harvest(source, *args), options))


def list_globals(source: Source) -> list[tuple[str, str]]:
    """(module, name) of every global that the pickles name, once each."""
    opened = archive.open_archive(source)
    graphs = [archive.parse_record(source, opened, name) for name in ("data.pkl", "constants.pkl")]
    return list(dict.fromkeys(found for graph in graphs for found in saved.list_globals(graph)))


def _harvest(source: Source, options: Options, leaves: dict[int, int]) -> Index:
    opened = archive.open_archive(source)
    module = Part(
        archive.parse_record(source, opened, "data.pkl"),
        opened.prefix("data/"),
        leaves=leaves,
        scripts=scripts_in(source, opened),
    )
    index = harvest([module], VOCABULARY, source, dtypes.TABLE, opened.records, opened.swapped, options.attributes)
    if len(index) and not options.attributes:
        return index
    constants = Part(
        archive.parse_record(source, opened, "constants.pkl"), opened.prefix("constants/"), at=("constants",)
    )
    return harvest(
        [module, constants], VOCABULARY, source, dtypes.TABLE, opened.records, opened.swapped, options.attributes
    )
