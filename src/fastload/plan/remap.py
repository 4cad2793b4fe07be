"""Other names: by patterns, by exact names, without certain segments."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from fastload.errors import PlanError
from fastload.plan.substitute import substitution
from fastload.plan.table import Table, renamed

__all__ = ["Rules", "compiled_rule", "drop_segments", "remap", "rename"]

Rules = Iterable[tuple[str | re.Pattern[str], str]] | Mapping[str, str] | Callable[[str], str]

RUST_GROUP = re.compile(r"\$(\d|\{)")


def remap(table: Table, rules: Rules, *, strict: bool = False) -> Table:
    r"""Rename by (pattern, replacement) pairs, in Python's `re` syntax, or by a function of a name.

    Each pair is applied to what the pairs before it have made, to all matches in it.

    Raises
    ------
    PlanError
        A pattern is not one, a replacement names a group that is not there or is written as in Rust, two tensors come
        to one name, or, where *strict*, a pattern matches nothing.
    """
    if callable(rules):
        dropped = [_called(rules, name) for name in table.dropped]  # now: a function may fail
        return renamed(table, [_called(rules, name) for name in table.names], dropped, "remap")
    names, left_out = table.names, table.left_out
    for pattern, replacement in _pairs(rules):
        compiled = compiled_rule(pattern, replacement)
        if strict and not any(map(compiled.search, names)):
            raise PlanError(f"remap: the pattern {compiled.pattern!r} matches none of {len(table):,} names")
        substitute = substitution(compiled, replacement)
        names = substitute(names)
        left_out = left_out.then(substitute)
    return renamed(table, names, left_out, "remap")


def _pairs(rules: Iterable[tuple[str | re.Pattern[str], str]] | Mapping[str, str]) -> list[tuple[Any, Any]]:
    pairs: list[Any] = list(rules.items() if isinstance(rules, Mapping) else rules)
    for pair in pairs:
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise PlanError(f"remap: rules are (pattern, replacement) pairs, and {pair!r} is none")
    return pairs


def _called(rule: Callable[[str], str], name: str) -> str:
    new = rule(name)
    if not isinstance(new, str):
        raise PlanError(f"remap: the function gives {new!r} for {name!r}, and no name")
    return new


def compiled_rule(pattern: str | re.Pattern[str], replacement: str) -> re.Pattern[str]:
    """The compiled pattern, once it is seen that it and its replacement are sound.

    Raises
    ------
    PlanError
        They are not.
    """
    if not isinstance(replacement, str):
        raise PlanError(f"remap: the replacement {replacement!r} is no text")
    if RUST_GROUP.search(replacement):
        python = re.sub(r"\$\{?(\w+)\}?", r"\\g<\1>", replacement)
        raise PlanError(f"remap: groups are written as in Python, \\1 or \\g<name>: {python!r} for {replacement!r}")
    try:
        compiled = re.compile(pattern)
        compiled.sub(replacement, "")  # which reads the replacement first, whatever it matches
    except (re.error, TypeError, IndexError) as error:
        raise PlanError(f"remap: {pattern!r} to {replacement!r}: {error}") from None
    return compiled


def rename(table: Table, mapping: Mapping[str, str], *, strict: bool = True) -> Table:
    """Rename exact names.

    Raises
    ------
    PlanError
        Two tensors come to one name, or, where *strict*, a name is not there.
    """
    if strict:
        known = set(table.names)
        missing = [name for name in mapping if name not in known]
        known.update(table.dropped if missing else ())
        missing = [name for name in missing if name not in known]
        if missing:
            raise PlanError(f"rename: no tensor {missing[0]!r}{f' and {len(missing) - 1} more' * (len(missing) > 1)}")
    names = [mapping.get(name, name) for name in table.names]
    known_names = dict(mapping)  # as it is now, whatever becomes of the caller's
    dropped = table.left_out.then(lambda others: [known_names.get(name, name) for name in others])
    return renamed(table, names, dropped, "rename")


def drop_segments(table: Table, segments: Iterable[str]) -> Table:
    """Leave certain segments, the pieces between dots, out of all names: those of enum variants, say.

    Raises
    ------
    PlanError
        Two tensors come to one name, or one to no name.
    """
    unwanted = {segments} if isinstance(segments, str) else set(segments)

    def without(name: str) -> str:
        if unwanted.isdisjoint(name.split(".")):
            return name
        return ".".join(segment for segment in name.split(".") if segment not in unwanted)

    lost = next((name for name in table.names if name and not without(name)), None)
    if lost is not None:
        raise PlanError(f"drop_segments: nothing would be left of {lost!r}")
    dropped = table.left_out.then(lambda others: [without(name) for name in others])
    return renamed(table, [without(name) for name in table.names], dropped, "drop_segments")
