"""The source text of TorchScript's classes: which attributes of a module are its parameters and its buffers.

    class Linear(Module):
      __parameters__ = ["weight", "bias", ]
      __buffers__ = []

The text is searched, never run. Format: torch/csrc/jit/serialization/python_print.cpp.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container

from fastload.formats.torch.archive import Archive
from fastload.source import Source

__all__ = ["Scripts", "scripts_in"]

MAX_SOURCE_BYTES = 1 << 26  # of one file; the largest in the wild have a few million

NATIVE = "__torch__.torch.classes."  # the modules of classes that are no Python, such as those of packed weights

Scripts = Callable[[str, str], "tuple[Container[str], Container[str]] | tuple[()] | None"]

_CLASS = re.compile(r"^class (\w+)\(Module\):\n((?:  (?:__\w+__ = .*|\w+ : .*)\n)*)", re.MULTILINE)
_LIST = re.compile(r"^  __(parameters|buffers)__ = \[(.*)\]$", re.MULTILINE)
_NAME = re.compile(r'"((?:[^"\\]|\\.?)*)(?:"|\Z)')  # to the end where no quote follows, so that it is read only once


class _Every:
    """Contains every name: of a class whose source does not say which of its tensors are buffers."""

    def __contains__(self, name: object) -> bool:
        return True


def scripts_in(source: Source, archive: Archive, folder: str = "code/") -> Scripts:
    """A function of (module, name) of a class to the names of its (parameters, buffers).

    It returns () for a class of native code, and None for one that is no module, or whose source is not in the *folder*
    below P.
    """
    known: dict[str, dict[str, tuple[Container[str], Container[str]]]] = {}

    def find(module: str, name: str) -> tuple[Container[str], Container[str]] | tuple[()] | None:
        if module.startswith(NATIVE):
            return ()
        if module != "__torch__" and not module.startswith("__torch__."):
            return None
        if module not in known:
            number = archive.find(f"{folder}{module.replace('.', '/')}.py")
            known[module] = {}
            if number >= 0 and archive.records.size(number) <= MAX_SOURCE_BYTES:
                text = bytes(source.read_record(archive.records, number)).decode("utf-8", "replace")
                known[module] = _classes(text)
        return known[module].get(name)

    return find


def _classes(text: str) -> dict[str, tuple[Container[str], Container[str]]]:
    found: dict[str, tuple[Container[str], Container[str]]] = {}
    for name, head in _CLASS.findall(text):
        lists = {sort: frozenset(_NAME.findall(names)) for sort, names in _LIST.findall(head)}
        found[name] = (lists.get("parameters", frozenset()), lists.get("buffers", _Every()))
    return found
