"""Matching names: exact names, globs, regular expressions and predicates, as every step of a plan understands them.

A string is an exact name, else a glob, in which ``*`` crosses dots, ``?`` is one character, ``[a-c]`` one of some, and
letters keep their case. A compiled `re.Pattern` is searched for, not matched in full.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Container, Iterable

from fastload.errors import PlanError
from fastload.plan.substitute import ANCHORED_TEXT, ESCAPED, PLAIN_FLAGS
from fastload.plan.table import Table

__all__ = ["Pattern", "Patterns", "marks_of", "matcher", "patterns_of"]

WILD = re.compile(r"[*?\[]")  # what makes a text a glob
MORE_THAN_STARS = re.compile(r"[?\[]")  # what makes it one that needs a regular expression
# Numbered groups, named groups and flags mean something else, or are refused, in a pattern that has others before it.
UNJOINABLE = re.compile(r"\\[0-9]|\(\?(?!:|=|!|<=|<!)")

Pattern = str | re.Pattern[str]
Patterns = Pattern | Iterable[Pattern]
Match = Callable[[str], object]


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


def marks_of(table: Table, patterns: list[Pattern]) -> bytearray:
    """A mark for every tensor of *table*, not 0 where any of *patterns* matches its name.

    All exact names are looked up at once, globs of stars alone are matched on bytes, and everything else by as few
    regular expressions as say the same.
    """
    texts = [pattern for pattern in patterns if isinstance(pattern, str)]
    exact = table.places_of(texts)
    globs = [text for text in texts if text not in exact and WILD.search(text)]
    plain = [glob for glob in globs if not MORE_THAN_STARS.search(glob)]
    others = []
    for pattern in patterns:
        if isinstance(pattern, re.Pattern):
            found = _globs_of(pattern)
            plain += found
            others += [] if found else [pattern]
    marks = table.marks_of(plain)
    for place in exact.values():
        marks[place] = 1
    searches = _joined(others)
    translated = [fnmatch.translate(glob) for glob in globs if MORE_THAN_STARS.search(glob)]
    if translated:
        searches.append(re.compile("|".join(translated)).match)
    for search in searches:
        table.mark_found(search, marks)
    return marks


def _globs_of(pattern: re.Pattern[str]) -> list[str]:
    """Globs of stars alone, of which one matches wherever *pattern* finds something; none where that cannot be."""
    found = ANCHORED_TEXT.fullmatch(pattern.pattern)
    if found is None or pattern.flags & ~PLAIN_FLAGS or "*" in found[2]:
        return []
    text = ("" if found[1] else "*") + ESCAPED.sub(r"\1", found[2])
    # A dollar stands before a newline that ends the name, too.
    return [f"{text}*"] if not found[3] else [text, f"{text}\n"] if found[3] == "$" else [text]


def _joined(patterns: list[re.Pattern[str]]) -> list[Match]:
    """Searches of which one finds something wherever one of *patterns* does; fewer, where they can be alternatives."""
    searches: list[Match] = []
    alike: dict[int, list[re.Pattern[str]]] = {}
    for pattern in patterns:
        if pattern.flags & re.VERBOSE or UNJOINABLE.search(pattern.pattern):
            searches.append(pattern.search)
        else:
            alike.setdefault(pattern.flags, []).append(pattern)
    for flags, several in alike.items():
        joined = "|".join(f"(?:{pattern.pattern})" for pattern in several)
        searches.append(several[0].search if len(several) == 1 else re.compile(joined, flags).search)
    return searches


def matcher(pattern: Pattern, names: Container[str]) -> Match:
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
