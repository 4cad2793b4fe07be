"""Other dtypes: `cast`, by one dtype for all floats or by rules on names and types of modules."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from fastload.casting import COMPLEX, FLOATS, INTEGERS, is_cast
from fastload.dtypes import CODES
from fastload.entry import TensorEntry
from fastload.errors import Advice, PlanError, advised
from fastload.plan.making import Cast, Making, Rows
from fastload.plan.match import Pattern, matcher, patterns_of
from fastload.plan.module_types import Modules, ModuleTypes, Types, is_of, undecided
from fastload.plan.table import Table, described

__all__ = ["CastRules", "cast"]

CastRules = str | Mapping[Pattern | Modules, str]


class _Rule(NamedTuple):
    """A rule whose pattern is ready to match."""

    pattern: Pattern | Modules
    dtype: str
    matches: Callable[[str], object]  # a name; or, if the pattern is of modules, the type of one


def cast(
    table: Table,
    rows: Rows,
    rules: CastRules,
    *,
    where: Callable[[TensorEntry], object] | None = None,
    integers: bool = False,
    strict: bool = False,
    types: Types | None = None,
    known: Callable[[], Mapping[str, str]] | None = None,
) -> Table:
    """Give tensors other dtypes: floats one of floats, and complex numbers one of those.

    A tensor of another kind stays as it is, unless a rule names it in full: that is an error.

    Parameters
    ----------
    rules : str or mapping
        A dtype for all, or patterns of names, or of types of modules, to dtypes. The first that matches counts.
    where : function, optional
        Of a tensor's description: whether it is cast at all.
    integers : bool
        Whether integers and bools are cast too, and others to them.
    strict : bool
        Whether a pattern that matches nothing is an error.
    types, known
        As for `ModuleTypes`.

    Raises
    ------
    PlanError
        A dtype is unknown, or one to which a tensor cannot be cast; or a rule is for types of modules, and that of a
        float's module is not known.
    """
    listed = _compiled([("*", rules)] if isinstance(rules, str) else list(rules.items()), set(table.names))
    modules = ModuleTypes(types, known)
    used: set[Pattern | Modules] = set()
    makings: list[Making] = list(table.makings)
    open_cases: list[tuple[str, tuple[int, ...]]] = []
    for place, name in enumerate(table.names):
        type: str | None = None
        for rule in listed:
            if isinstance(rule.pattern, Modules):
                type = modules.of(name, makings[place], rows) if type is None else type
                if type is not None and not rule.matches(type):
                    continue
            elif not rule.matches(name):
                continue
            entry = described(table, place, rows)
            if isinstance(rule.pattern, Modules) and type is None:
                if entry.dtype in FLOATS and (where is None or where(entry)):
                    open_cases.append((name, entry.shape))
                break
            used.add(rule.pattern)
            if entry.dtype != rule.dtype and (where is None or where(entry)) and _is_meant(entry, rule, integers):
                makings[place] = Cast(makings[place], rule.dtype)
            break
    if open_cases:
        raise undecided("cast", open_cases)
    unused = [rule.pattern for rule in listed if rule.pattern not in used]
    if strict and unused:
        raise PlanError(f"cast: the pattern {unused[0]!r} matches none of {len(table.names):,} names")
    return Table(table.names, makings, table.left_out)


def _compiled(rules: Sequence[tuple[Pattern | Modules, str]], names: set[str]) -> list[_Rule]:
    compiled = []
    for pattern, dtype in rules:
        if dtype not in CODES:
            raise PlanError(f"cast: there is no dtype {dtype!r}; there are {', '.join(CODES)}")
        if isinstance(pattern, Modules):
            compiled.append(_Rule(pattern, dtype, partial(is_of, types=pattern.types)))
        else:
            (pattern,) = patterns_of([pattern])
            compiled.append(_Rule(pattern, dtype, matcher(pattern, names)))
    return compiled


def _is_meant(entry: TensorEntry, rule: _Rule, integers: bool) -> bool:
    """Whether a rule casts a tensor of another dtype that it matches.

    Raises
    ------
    PlanError
        It cannot be, and is named in full; or nothing can be cast to that dtype, or not without *integers*.
    """
    if is_cast(entry.dtype, rule.dtype, allow_integers=integers):
        return True
    is_target = rule.dtype in FLOATS or rule.dtype in COMPLEX or (rule.dtype in INTEGERS and integers)
    if rule.pattern == entry.name or not is_target:
        error = PlanError(f"cast: {entry.name!r} is {entry.dtype}, which cannot become {rule.dtype}")
        if not integers and is_cast(entry.dtype, rule.dtype, allow_integers=True):
            say = Advice("; say {}", "integers", True)
            error = advised(PlanError(f"{error}{say}"), say)
        raise error
    return False
