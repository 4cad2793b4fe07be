"""Table: the names and makings of all tensors of a plan, in order; and the rule that no two come to one name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from fastload.entry import TensorEntry
from fastload.errors import PlanError, printable
from fastload.plan.making import Making, Rows, entry_of

__all__ = ["Table", "described", "renamed"]

SHOWN_COLLISIONS = 3  # in an error


@dataclass(frozen=True, slots=True)
class Table:
    """Tensors in order.

    Attributes
    ----------
    names : list of str
    makings : list of Making
        What each is made of; a row where it is a tensor of the file as it is.
    dropped : list of str
        Names of the tensors that were left out, renamed by every later step as if they had not been.
    parents : list of int or None
        The place of each in the table before the step that made this one; None where places stayed.
    """

    names: list[str]
    makings: list[Making]
    dropped: list[str] = field(default_factory=list)
    parents: list[int] | None = None


def described(table: Table, place: int, rows: Rows) -> TensorEntry:
    """The description of the tensor at a place of the table."""
    entry, name = entry_of(table.makings[place], rows), table.names[place]
    return entry if entry.name == name else entry.changed(name=name)


def renamed(table: Table, names: list[str], dropped: list[str], step: str, parents: list[int] | None = None) -> Table:
    """The same tensors under other *names*.

    Raises
    ------
    PlanError
        Two of them come to one name.
    """
    if len(set(names)) != len(names):
        raise PlanError(f"{step}: {_collisions(table.names, names)}")
    return Table(names, table.makings, dropped, parents)


def _collisions(before: Sequence[str], after: Sequence[str]) -> str:
    """Which tensors come to one name."""
    found: dict[str, list[str]] = {}
    for old, new in zip(before, after, strict=True):
        found.setdefault(new, []).append(old)
    twice = [(new, old) for new, old in found.items() if len(old) > 1]
    shown = "; ".join(
        f"{' and '.join(printable(repr(name)) for name in old[:3])} would both be {printable(repr(new))}"
        for new, old in twice[:SHOWN_COLLISIONS]
    )
    return f"{shown}{f'; and {len(twice) - SHOWN_COLLISIONS} more' if len(twice) > SHOWN_COLLISIONS else ''}"
