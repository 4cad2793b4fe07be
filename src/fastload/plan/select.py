"""Choosing tensors: `select` by name and description, `subtree` by the path that their names begin with."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable

from fastload.entry import TensorEntry
from fastload.errors import PlanError, TensorNotFoundError, near_hint
from fastload.plan.making import Rows
from fastload.plan.match import Pattern, Patterns, marks_of, patterns_of
from fastload.plan.table import Table, described

__all__ = ["select", "subtree"]

UNMARKED = b"\1" + bytes(255)  # for `translate`: a mark for every name that had none


def select(
    table: Table,
    rows: Rows,
    *,
    include: Patterns | None = None,
    exclude: Patterns | None = None,
    where: Callable[[TensorEntry], object] | None = None,
    strict: bool = False,
) -> Table:
    """Keep what any of *include* matches (all, if none is given), none of *exclude* does, and *where* is true of.

    Parameters
    ----------
    rows : Rows
        The tensors that the plan begins with, for the descriptions.
    strict : bool
        Whether a pattern that matches nothing is an error.

    Raises
    ------
    PlanError
        A pattern is none, or, where *strict*, matches nothing.
    """
    chosen: Iterable[int] = range(len(table))
    included = None if include is None else _marks(table, patterns_of(include), strict)
    if included is not None:
        chosen = itertools.compress(chosen, included)
    if exclude is not None:
        left: Iterable[int] = _marks(table, patterns_of(exclude), strict).translate(UNMARKED)
        chosen = itertools.compress(chosen, left if included is None else itertools.compress(left, included))
    if where is not None:
        chosen = (place for place in chosen if where(described(table, place, rows)))
    return table.only(list(chosen))


def _marks(table: Table, patterns: list[Pattern], strict: bool) -> bytearray:
    """A mark for every name, not 0 where any pattern matches it."""
    for pattern in patterns if strict else ():
        if not any(marks_of(table, [pattern])):
            raise PlanError(f"the pattern {pattern!r} matches none of {len(table):,} names")
    return marks_of(table, patterns)


def subtree(table: Table, path: str) -> Table:
    """Keep the tensors whose names begin with *path* and a dot, and drop those from the names.

    Raises
    ------
    TensorNotFoundError
        No name does; the message offers near ones.
    """
    prefix = f"{path}."
    inside = [place for place, name in enumerate(table.names) if name.startswith(prefix)]
    if not inside:
        paths = {name[:at] for name in table.names for at in _dots(name)}
        raise TensorNotFoundError(f"no tensors below {path!r}{near_hint(path, paths)}")

    def dropped(names: list[str]) -> list[str]:
        others = [name for name in table.names if not name.startswith(prefix)]
        return [name.removeprefix(prefix) for name in names] + others

    return Table(
        [table.names[place][len(prefix) :] for place in inside],
        [table.makings[place] for place in inside],
        table.left_out.then(dropped),
        inside,
    )


def _dots(name: str) -> list[int]:
    return [at for at, letter in enumerate(name) if letter == "."]
