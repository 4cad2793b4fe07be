"""The types of modules, by which rules choose: as the caller tells them, or as the file's own module tree has them."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple, Protocol

from fastload.errors import Advice, PlanError, advised, printable
from fastload.plan.making import Cast, Making, Permuted, Rows

__all__ = ["HALF_PRECISION", "ModuleTypes", "Modules", "Types", "is_of", "undecided"]

SHOWN_UNDECIDED = 5  # in an error


class Model(Protocol):
    """A model that knows its modules, as one of torch does."""

    def named_modules(self, *, remove_duplicate: bool = True) -> Iterable[tuple[str, object]]:
        """(dotted path, module) of each."""


Types = Mapping[str, str] | Callable[[str], str | None] | Model


class Modules(NamedTuple):
    """A pattern for the tensors of modules of certain types, among the rules of `cast`.

    Attributes
    ----------
    types : str
        Globs of class names without their modules, divided by ``|``.
    """

    types: str


# burn-store's default, also in PyTorch's spelling. A BatchNorm is left alone: its running variance would underflow.
HALF_PRECISION = Modules(
    "Linear|Embedding|Conv[123]d|ConvTranspose[123]d|DeformConv2d"
    "|LayerNorm|GroupNorm|InstanceNorm|InstanceNorm[123]d|RmsNorm|RMSNorm|PRelu|PReLU"
)


def is_of(type: str, types: str) -> bool:
    """Whether the name of a class is one of *types*, which are globs divided by ``|``."""
    return any(fnmatch.fnmatchcase(type, pattern) for pattern in types.split("|"))


class ModuleTypes:
    """The types of modules, found when they are asked for.

    Parameters
    ----------
    told : mapping, function or model, optional
        Patterns of dotted paths, of which the first that matches counts; or a function of a path; or a model, in which
        the path is looked up. "" is a type that no rule is for.
    known : function, optional
        Gives the types of the file's modules, by the dotted paths that they have there.
    """

    def __init__(self, told: Types | None, known: Callable[[], Mapping[str, str]] | None) -> None:
        self._find = _finder(told)
        self._known = known
        self._tree: Mapping[str, str] | None = None if known is not None else {}

    def of(self, name: str, making: Making, rows: Rows) -> str | None:
        """The type of the module that a tensor is of; None where nothing tells."""
        type = self._find(name.rpartition(".")[0])
        row = _only_row(making)
        if type is None and row is not None:
            type = self._in_tree(rows.entry(row).name)
        return type

    def of_dropped(self, name: str) -> str | None:
        """The type of the module of a tensor that was left out, as long as its name is still that of the file."""
        type = self._find(name.rpartition(".")[0])
        return self._in_tree(name) if type is None else type

    def _in_tree(self, name: str) -> str | None:
        if self._tree is None:
            assert self._known is not None
            self._tree = self._known()
        return self._tree.get(name.rpartition(".")[0])


def _finder(told: Types | None) -> Callable[[str], str | None]:
    if told is None:
        return lambda path: None
    named_modules = getattr(told, "named_modules", None)  # first, since a model of torch is a function, too
    if named_modules is not None:
        return {path: type(module).__name__ for path, module in named_modules(remove_duplicate=False)}.get
    if isinstance(told, Mapping):
        compiled = [(re.compile(fnmatch.translate(pattern)).match, found) for pattern, found in told.items()]
        return lambda path: next((found for matches, found in compiled if matches(path)), None)
    if callable(told):
        return told
    raise PlanError(f"types are a mapping of patterns to class names, a function of a path or a model, not {told!r}")


def _only_row(making: Making) -> int | None:
    """The row of a tensor that is still whole: parts, and what was put together, are of no module of the file."""
    while isinstance(making, (Permuted, Cast)):
        making = making.of
    return making if isinstance(making, int) else None


def undecided(what: str, tensors: list[tuple[str, tuple[int, ...]]]) -> PlanError:
    """The error that the types of the modules of some tensors, told by name and shape, are needed and not known."""
    tensors = sorted(tensors, key=lambda found: len(found[1]) != 2)  # matrices first: a wrong guess there harms most
    shown = ", ".join(f"{printable(name)} {shape}" for name, shape in tensors[:SHOWN_UNDECIDED])
    more = f" and {len(tensors) - SHOWN_UNDECIDED:,} more" if len(tensors) > SHOWN_UNDECIDED else ""
    example = tensors[0][0].rpartition(".")[0]
    types = {example: "Linear", "*.norm*": "LayerNorm", "*": ""}
    say = Advice("; say what they are, as in {}", "types", types)
    message = f"{what}: the types of the modules of {len(tensors):,} tensors are not known: {shown}{more}{say}"
    return advised(PlanError(message), say)
