"""Renumbering: indices in names that have gaps, closed.

A segment is a piece of the name between dots. It is an index if it is ASCII digits with at most one leading ``+`` and
its value fits 64 bits. Under each prefix, which is all original segments before an index, the values are sorted and
numbered from 0. So ``fc.3, fc.5`` become ``fc.0, fc.1``, and ``a.0.b.2, a.2.b.0`` become ``a.0.b.0, a.1.b.0``.

Rule: burn-store's `map_indices_contiguous`, but that two names which come to one (``w.007`` and ``w.7``) are an error.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from fastload.plan.table import Table, renamed

__all__ = ["contiguous_indices"]

INDEX = re.compile(r"\+?[0-9]+", re.ASCII)
MAX_INDEX = 0xFFFFFFFFFFFFFFFF


def contiguous_indices(
    table: Table, *, under: str | Iterable[str] | None = None, except_under: str | Iterable[str] | None = None
) -> Table:
    """Close the gaps in the indices of all names.

    Parameters
    ----------
    under, except_under : str or iterable of str, optional
        Dotted paths: only indices right below or deeper than one of *under* are renumbered, and none below one of
        *except_under*.

    Raises
    ------
    PlanError
        Two tensors come to one name.
    """
    only, never = _paths(under), _paths(except_under)
    values: dict[str, set[int]] = {}
    for name in table.names:
        if _has_digit(name):
            for prefix, value in _indices(name, only, never):
                values.setdefault(prefix, set()).add(value)
    numbers = {
        prefix: {value: number for number, value in enumerate(sorted(found))} for prefix, found in values.items()
    }
    names = [_renumbered(name, numbers) if _has_digit(name) else name for name in table.names]
    dropped = [_renumbered(name, numbers) for name in table.dropped]
    return renamed(table, names, dropped, "contiguous_indices")


_has_digit = re.compile(r"(?:^|\.)\+?[0-9]", re.ASCII).search


def _paths(paths: str | Iterable[str] | None) -> tuple[str, ...] | None:
    if paths is None:
        return None
    found = [paths] if isinstance(paths, str) else list(paths)
    return tuple("" if path == "" else f"{path}." for path in found)


def _value(segment: str) -> int | None:
    if not INDEX.fullmatch(segment) or len(segment) > 4000:
        return None
    value = int(segment)
    return value if value <= MAX_INDEX else None


def _indices(name: str, only: tuple[str, ...] | None, never: tuple[str, ...] | None) -> list[tuple[str, int]]:
    """The indices in a name, each with the part of the name before it."""
    found = []
    at = 0
    for segment in name.split("."):
        value = _value(segment)
        prefix = name[:at]
        if value is not None and (only is None or prefix.startswith(only)) and not (never and prefix.startswith(never)):
            found.append((prefix, value))
        at += len(segment) + 1
    return found


def _renumbered(name: str, numbers: dict[str, dict[int, int]]) -> str:
    segments = name.split(".")
    at = 0
    for place, segment in enumerate(segments):
        known = numbers.get(name[:at])
        at += len(segment) + 1
        if known:
            value = _value(segment)
            if value is not None and value in known:
                segments[place] = str(known[value])
    return ".".join(segments)
