"""Fused tensors, such as query, key and value in one: `split` takes them apart, `concat` puts them together.

Names are made as in `remap`: each replacement is applied to all matches of the pattern in a name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from fastload.entry import TensorEntry
from fastload.errors import PlanError
from fastload.plan.making import Concatenated, Making, Rows, Sliced, check_divisible
from fastload.plan.remap import compiled_rule
from fastload.plan.table import Table, described, renamed

__all__ = ["Concat", "Split", "concat", "rules_of", "split"]


class Split(NamedTuple):
    """One tensor into several.

    Attributes
    ----------
    pattern : str or re.Pattern
        Searched for in the names, in Python's `re` syntax.
    into : sequence of str
        The replacement that makes the name of each part, in order.
    axis : int
        The axis along which the parts lie.
    sizes : sequence of int, optional
        Elements of each part along it; equal parts if not given.
    """

    pattern: str | re.Pattern[str]
    into: Sequence[str]
    axis: int = 0
    sizes: Sequence[int] | None = None


class Concat(NamedTuple):
    """Several tensors into one.

    Attributes
    ----------
    patterns : sequence of str or re.Pattern
        One a part, in order, searched for in the names.
    into : str
        The replacement that makes the name of the whole of that of each part: it must come to the same for all.
    axis : int
        The axis along which the parts are to lie.
    """

    patterns: Sequence[str | re.Pattern[str]]
    into: str
    axis: int = 0


def rules_of(given: Any) -> list[Any]:
    """Several rules, or one by itself, as a list: a rule is a tuple, too, but begins with its pattern or patterns."""
    if isinstance(given, tuple) and given:
        patterns = [given[0]] if isinstance(given[0], (str, re.Pattern)) else given[0]
        if all(isinstance(pattern, (str, re.Pattern)) for pattern in patterns):
            return [given]
    return list(given)


def split(table: Table, rows: Rows, rules: Iterable[Split | tuple[Any, ...]]) -> Table:
    """Take tensors apart; the parts are views, in the place of the whole.

    Raises
    ------
    PlanError
        A pattern is not one or matches nothing, the sizes do not come to the tensor's, or two tensors come to one name.
    """
    parents: list[int] | None = None
    for rule in rules:
        table = _split_once(table, rows, Split(*rule))
        parents = _before(parents, table)
    return Table(table.names, table.makings, table.left_out, parents)


def _split_once(table: Table, rows: Rows, rule: Split) -> Table:
    if isinstance(rule.into, str):
        raise PlanError(f"split: the names of the parts are a sequence of texts, not {rule.into!r}")
    compiled = [compiled_rule(rule.pattern, replacement) for replacement in rule.into]
    if not compiled:
        raise PlanError(f"split: nothing to split {rule.pattern!r} into")
    matches = compiled[0].search
    parents: list[int] = []
    names: list[str] = []
    makings: list[Making] = []
    for place, (name, making) in enumerate(zip(table.names, table.makings, strict=True)):
        if not matches(name):
            parents.append(place)
            names.append(name)
            makings.append(making)
            continue
        entry = described(table, place, rows)
        check_divisible(entry, "split")
        shape = entry.shape
        for replacement, (start, stop) in zip(rule.into, _runs(name, shape, rule), strict=True):
            parents.append(place)
            names.append(compiled[0].sub(replacement, name))
            makings.append(Sliced(making, rule.axis % len(shape), start, stop))
    if len(names) == len(table.names) and not any(map(matches, table.names)):
        raise PlanError(f"split: the pattern {compiled[0].pattern!r} matches none of {len(names):,} names")
    dropped = [
        new
        for name in table.dropped
        for new in ([compiled[0].sub(r, name) for r in rule.into] if matches(name) else [name])
    ]
    return renamed(Table([table.names[p] for p in parents], makings), names, dropped, "split", parents)


def _runs(name: str, shape: tuple[int, ...], rule: Split) -> list[tuple[int, int]]:
    """Where each part begins and ends along the axis."""
    axis, count, sizes = rule.axis, len(rule.into), rule.sizes
    if not -len(shape) <= axis < len(shape):
        raise PlanError(f"split: {name!r} of shape {shape} has no axis {axis}")
    length = shape[axis]
    if sizes is None:
        if length % count:
            raise PlanError(f"split: {length} elements of {name!r} along axis {axis} do not divide by {count}")
        sizes = [length // count] * count
    if len(sizes) != count or sum(sizes) != length or min(sizes) < 0:
        raise PlanError(f"split: parts of {list(sizes)} along axis {axis} do not come to {name!r} of shape {shape}")
    ends = [sum(sizes[: number + 1]) for number in range(count)]
    return [(end - size, end) for end, size in zip(ends, sizes, strict=True)]


def concat(table: Table, rows: Rows, rules: Iterable[Concat | tuple[Any, ...]]) -> Table:
    """Put tensors together, in the place of the first part that the file has.

    Raises
    ------
    PlanError
        A pattern is not one or matches nothing, a part is missing, parts do not fit, or two tensors come to one name.
    """
    parents: list[int] | None = None
    for rule in rules:
        table = _concat_once(table, rows, Concat(*rule))
        parents = _before(parents, table)
    return Table(table.names, table.makings, table.left_out, parents)


def _before(parents: list[int] | None, table: Table) -> list[int] | None:
    """The places before the first rule, of a table whose own parents are those before the last."""
    if parents is None or table.parents is None:
        return table.parents
    return [parents[place] for place in table.parents]


def _concat_once(table: Table, rows: Rows, rule: Concat) -> Table:
    if isinstance(rule.patterns, (str, re.Pattern)):
        raise PlanError(f"concat: the patterns of the parts are a sequence, not {rule.patterns!r}")
    compiled = [compiled_rule(pattern, rule.into) for pattern in rule.patterns]
    if not compiled:
        raise PlanError(f"concat: nothing to put together into {rule.into!r}")
    wholes: dict[str, dict[int, int]] = {}  # name of a whole: part number: place
    part_of: dict[int, str] = {}
    for place, name in enumerate(table.names):
        for number, pattern in enumerate(compiled):
            if pattern.search(name):
                whole = pattern.sub(rule.into, name)
                if number in wholes.setdefault(whole, {}):
                    other = table.names[wholes[whole][number]]
                    raise PlanError(f"concat: {other!r} and {name!r} would both be part {number} of {whole!r}")
                wholes[whole][number] = place
                part_of[place] = whole
                break
    if not wholes:
        raise PlanError(f"concat: none of {len(table.names):,} names matches {rule.patterns[0]!r}")
    made: dict[str, Making] = {}
    for whole, parts in wholes.items():
        if len(parts) < len(compiled):
            lacking = next(number for number in range(len(compiled)) if number not in parts)
            raise PlanError(f"concat: {whole!r} lacks its part {lacking}, {compiled[lacking].pattern!r}")
        places = [parts[number] for number in range(len(compiled))]
        axis = _check_fit(whole, [described(table, place, rows) for place in places], rule.axis)
        made[whole] = Concatenated(tuple(table.makings[place] for place in places), axis)
    names: list[str] = []
    makings: list[Making] = []
    parents: list[int] = []
    for place, name in enumerate(table.names):
        if place not in part_of:
            names.append(name)
            makings.append(table.makings[place])
            parents.append(place)
        elif part_of[place] in made:
            names.append(part_of[place])
            makings.append(made.pop(part_of[place]))
            parents.append(place)
    before = [table.names[place] for place in parents]
    return renamed(Table(before, makings), names, table.left_out, "concat", parents)


def _check_fit(whole: str, parts: Sequence[TensorEntry], axis: int) -> int:
    """The axis counted from the first, once it is seen that the parts fit along it."""
    shapes = [part.shape for part in parts]
    for part in parts:
        check_divisible(part, "concat")
        if part.kind == "quantised":
            raise PlanError(f"concat: {part.name!r} is quantised: its numbers mean other floats than another's")
    if not -len(shapes[0]) <= axis < len(shapes[0]):
        raise PlanError(f"concat: {parts[0].name!r} of shape {shapes[0]} has no axis {axis}")
    axis %= len(shapes[0])
    if len({part.dtype for part in parts}) > 1:
        raise PlanError(f"concat: the parts of {whole!r} have the dtypes {', '.join(part.dtype for part in parts)}")
    if len({(*shape[:axis], *shape[axis + 1 :]) for shape in shapes}) > 1 or len({len(s) for s in shapes}) > 1:
        raise PlanError(f"concat: the parts of {whole!r} do not fit: {', '.join(map(str, shapes))} along axis {axis}")
    return axis
