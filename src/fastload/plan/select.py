"""Choosing tensors: `select` by name and description, `subtree` by the path that their names begin with."""

from __future__ import annotations

from collections.abc import Callable

from fastload.entry import TensorEntry
from fastload.errors import PlanError, TensorNotFoundError, near_hint
from fastload.plan.making import Rows
from fastload.plan.match import Pattern, Patterns, matcher, patterns_of
from fastload.plan.table import Table, described

__all__ = ["select", "subtree"]

FEW_PATTERNS = 4  # that are looked up in a list; for more a set is worth making


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
    names = table.names
    chosen: list[int] | range = range(len(names))
    if include is not None:
        kept = _places(names, patterns_of(include), strict)
        chosen = [place for place in chosen if place in kept]
    if exclude is not None:
        left_out = _places(names, patterns_of(exclude), strict)
        chosen = [place for place in chosen if place not in left_out] if left_out else chosen
    if where is not None:
        chosen = [place for place in chosen if where(described(table, place, rows))]
    if len(chosen) == len(names):
        return Table(names, table.makings, table.dropped)
    inside = set(chosen)
    return Table(
        [names[place] for place in chosen],
        [table.makings[place] for place in chosen],
        table.dropped + [name for place, name in enumerate(names) if place not in inside],
        list(chosen),
    )


def _places(names: list[str], patterns: list[Pattern], strict: bool) -> set[int]:
    """The places of the names that any pattern matches."""
    known = set(names) if len(patterns) > FEW_PATTERNS else names
    found: set[int] = set()
    for pattern in patterns:
        matches = matcher(pattern, known)
        places = [place for place, name in enumerate(names) if matches(name)]
        if strict and not places:
            raise PlanError(f"the pattern {pattern!r} matches none of {len(names):,} names")
        found.update(places)
    return found


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
    dropped = [name for name in table.names if not name.startswith(prefix)]
    return Table(
        [table.names[place][len(prefix) :] for place in inside],
        [table.makings[place] for place in inside],
        [name.removeprefix(prefix) for name in table.dropped] + dropped,
        inside,
    )


def _dots(name: str) -> list[int]:
    return [at for at, letter in enumerate(name) if letter == "."]
