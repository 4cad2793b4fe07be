"""Substituting in very many names: what `re.sub` would do to each, by something faster where that says the same.

A pattern that is a text, perhaps with an anchor before or after it, needs no regular expression; and a replacement that
names groups is taken apart once, not for every name.
"""

from __future__ import annotations

import re
from collections.abc import Callable

__all__ = ["ANCHORED_TEXT", "ESCAPED", "PLAIN_FLAGS", "substitution"]

# A text, with an anchor at either end or none. Escaped letters and digits mean something; all else stands for itself.
ANCHORED_TEXT = re.compile(r"(\^|\\A)?((?:[^\\.^$*+?{}\[\]|()]|\\[^0-9A-Za-z])*)(\$|\\Z)?", re.DOTALL)
ESCAPED = re.compile(r"\\(.)", re.DOTALL)
GROUP = re.compile(r"\\(?:([1-9])(?!\d)|g<([A-Za-z_]\w*|0|[1-9]\d?)>)", re.ASCII)  # \1 and \g<name>
PLAIN_FLAGS = re.UNICODE | re.ASCII | re.DOTALL  # that change nothing about a text and its anchors

Substitution = Callable[[list[str]], list[str]]


def substitution(pattern: re.Pattern[str], replacement: str) -> Substitution:
    """What makes of each name the one that ``pattern.sub(replacement, name)`` gives; both have been checked."""
    if "\\" in replacement:
        expand = _expansion(replacement)
        return _every(pattern, replacement if expand is None else expand)
    found = ANCHORED_TEXT.fullmatch(pattern.pattern)
    if found is None or pattern.flags & ~PLAIN_FLAGS or not found[0]:
        return _every(pattern, replacement)
    begins, text, ends = found[1], ESCAPED.sub(r"\1", found[2]), found[3]
    if begins and ends:
        return _every(pattern, replacement)
    if begins:
        return _at_start(text, replacement)
    if ends:
        return _at_end(pattern, text, replacement, also_before_newline=ends == "$")
    return lambda names: [name.replace(text, replacement) for name in names]


def _every(pattern: re.Pattern[str], replacement: str | Callable[[re.Match[str]], str]) -> Substitution:
    substitute = pattern.sub
    return lambda names: [substitute(replacement, name) for name in names]


def _at_start(text: str, replacement: str) -> Substitution:
    length = len(text)
    if not replacement:
        return lambda names: [name.removeprefix(text) for name in names]
    return lambda names: [replacement + name[length:] if name.startswith(text) else name for name in names]


def _at_end(pattern: re.Pattern[str], text: str, replacement: str, also_before_newline: bool) -> Substitution:
    length = len(text)

    def one(name: str) -> str:
        if also_before_newline and name.endswith("\n"):  # where `$` matches twice
            return pattern.sub(replacement, name)
        return name[: len(name) - length] + replacement

    ends = (text, "\n") if also_before_newline else text
    return lambda names: [one(name) if name.endswith(ends) else name for name in names]


def _expansion(replacement: str) -> Callable[[re.Match[str]], str] | None:
    """A function of a match that gives the replacement for it; None where it has other escapes than groups."""
    parts = GROUP.split(replacement)
    texts, numbers, names = parts[::3], parts[1::3], parts[2::3]
    if any("\\" in text for text in texts) or not numbers:
        return None
    groups = [
        int(number) if number else int(name) if name.isdigit() else name
        for number, name in zip(numbers, names, strict=True)
    ]
    if len(groups) == 1:
        (group,), (before, after) = groups, texts
        return lambda match: f"{before}{match[group] or ''}{after}"
    first, *rest = texts

    def expand(match: re.Match[str]) -> str:
        return first + "".join([(match[group] or "") + text for group, text in zip(groups, rest, strict=True)])

    return expand
