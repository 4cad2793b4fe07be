"""Renumbering: indices in names that have gaps, closed.

A segment is a piece of the name between dots. It is an index if it is ASCII digits with at most one leading ``+`` and
its value fits 64 bits. Under each prefix, which is all original segments before an index, the values are sorted and
numbered from 0. So ``fc.3, fc.5`` become ``fc.0, fc.1``, and ``a.0.b.2, a.2.b.0`` become ``a.0.b.0, a.1.b.0``.

Rule: burn-store's `map_indices_contiguous`, but that two names which come to one (``w.007`` and ``w.7``) are an error.
"""

from __future__ import annotations

from collections.abc import Iterable

from fastload._native import renumber
from fastload.plan.table import Table, renamed

__all__ = ["contiguous_indices"]


def contiguous_indices(
    table: Table, *, under: str | Iterable[str] | None = None, except_under: str | Iterable[str] | None = None
) -> Table:
    """Close the gaps in the indices of all names.

    Parameters
    ----------
    under, except_under : str or iterable of str, optional
        Dotted paths: only indices below one of *under* are renumbered, and none below one of *except_under*.

    Raises
    ------
    PlanError
        Two tensors come to one name.
    """
    only = _paths(under) if under is not None else None
    never = _paths(except_under if except_under is not None else ())
    names, _ = renumber(table.names, [], only, never)
    dropped = table.left_out.then(lambda others: renumber(table.names, others, only, never)[1])
    return renamed(table, names, dropped, "contiguous_indices")


def _paths(paths: str | Iterable[str]) -> list[tuple[str, int]]:
    """Paths with the dot that follows them, and the number of their segments; "" is everything."""
    found = [paths] if isinstance(paths, str) else list(paths)
    return [(f"{path}.", path.count(".") + 1) if path else ("", 0) for path in found]
