"""What Python's json leaves open: a name that stands twice in one object, of which it would keep the last."""

from __future__ import annotations

from typing import Any

from fastload.errors import FormatError

__all__ = ["without_repeats"]


def without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON, as an `object_pairs_hook` makes it.

    Raises
    ------
    FormatError
        A name stands twice in it.
    """
    made = dict(pairs)
    if len(made) < len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise FormatError(f"the name {name!r} stands twice in one object")
            seen.add(name)
    return made
