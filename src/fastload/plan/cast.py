"""Other dtypes: `cast`, by one dtype for all floats or by rules on names."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from fastload.casting import INTEGERS, is_cast
from fastload.dtypes import CODES
from fastload.entry import TensorEntry
from fastload.errors import PlanError
from fastload.plan.making import Cast, Making, Rows
from fastload.plan.match import Pattern, matcher
from fastload.plan.table import Table, described

__all__ = ["CastRules", "cast"]

CastRules = str | Mapping[Pattern, str]


def cast(
    table: Table,
    rows: Rows,
    rules: CastRules,
    *,
    where: Callable[[TensorEntry], object] | None = None,
    integers: bool = False,
    strict: bool = False,
) -> Table:
    """Give tensors other dtypes.

    Parameters
    ----------
    rules : str or mapping
        A dtype for all, or patterns of names to dtypes, of which the first that matches counts.
    where : function, optional
        Of a tensor's description: whether it is cast at all.
    integers : bool
        Whether integers and bools are cast too; else floats alone are.
    strict : bool
        Whether a pattern that matches nothing is an error.

    Raises
    ------
    PlanError
        A dtype is unknown, or one to which a tensor cannot be cast.
    """
    listed = [("*", rules)] if isinstance(rules, str) else list(rules.items())
    for _, dtype in listed:
        if dtype not in CODES:
            raise PlanError(f"cast: there is no dtype {dtype!r}; there are {', '.join(CODES)}")
    known = set(table.names)
    matchers = [(matcher(pattern, known), dtype, pattern) for pattern, dtype in listed]
    used: set[Pattern] = set()
    makings: list[Making] = list(table.makings)
    for place, name in enumerate(table.names):
        found = next(((dtype, pattern) for matches, dtype, pattern in matchers if matches(name)), None)
        if found is None:
            continue
        used.add(found[1])
        entry = described(table, place, rows)
        if entry.dtype == found[0] or (where is not None and not where(entry)):
            continue
        if not is_cast(entry.dtype, found[0], allow_integers=integers):
            if entry.dtype in INTEGERS and is_cast(entry.dtype, found[0], allow_integers=True):
                continue  # which is cast only where that is asked for
            hint = "; say integers=True to have it so" if found[0] in INTEGERS and not integers else ""
            raise PlanError(f"cast: {name!r} is {entry.dtype}, which cannot become {found[0]}{hint}")
        makings[place] = Cast(makings[place], found[0])
    unused = [pattern for pattern, _ in listed if pattern not in used]
    if strict and unused:
        raise PlanError(f"cast: the pattern {unused[0]!r} matches none of {len(table.names):,} names")
    return Table(table.names, makings, table.left_out)
