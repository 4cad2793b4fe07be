"""Matching names: exact names, globs, regular expressions and predicates, as every step of a plan understands them.

A string is an exact name, else a glob, in which ``*`` crosses dots, ``?`` is one character, ``[a-c]`` one of some, and
letters keep their case. A compiled `re.Pattern` is searched for, not matched in full.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Container, Iterable

from fastload.errors import PlanError

__all__ = ["Pattern", "Patterns", "matcher", "patterns_of"]

WILD = re.compile(r"[*?\[]")  # what makes a text a glob

Pattern = str | re.Pattern[str]
Patterns = Pattern | Iterable[Pattern]


def patterns_of(patterns: Patterns | None) -> list[Pattern]:
    """One pattern or several, as a list.

    Raises
    ------
    PlanError
        One is neither a text nor a compiled pattern of texts.
    """
    if patterns is None:
        return []
    found = list(patterns) if isinstance(patterns, Iterable) and not isinstance(patterns, str) else [patterns]
    for pattern in found:
        if not isinstance(pattern, (str, re.Pattern)) or isinstance(getattr(pattern, "pattern", ""), bytes):
            raise PlanError(f"a pattern is a text or a compiled pattern of texts, not {pattern!r}")
    return found


def matcher(pattern: Pattern, names: Container[str]) -> Callable[[str], object]:
    """A function of a name, true where *pattern* matches it among *names*."""
    if isinstance(pattern, re.Pattern):
        return pattern.search
    if pattern in names:
        return pattern.__eq__
    literal = pattern.strip("*")
    if not WILD.search(literal):  # the usual globs need no regular expression, which takes four times as long
        if pattern == f"*{literal}":
            return lambda name: name.endswith(literal)
        if pattern == f"{literal}*":
            return lambda name: name.startswith(literal)
        if pattern == f"*{literal}*":
            return lambda name: literal in name
    return re.compile(fnmatch.translate(pattern)).match
