"""Choosing and renaming come to what the obvious lines of Python come to, whatever the names and patterns are."""

import fnmatch
import re
from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from checkpoints import named
from fastload import PlanError
from fastload._native import Globs, renumber
from fastload.plan.substitute import substitution

# Few letters, so that patterns match often: dots, wildcards, what regular expressions mean, lines, and long characters.
LETTERS = "ab.*?[]!-$^0\n\\é€😀"
NAMES = st.lists(st.text(LETTERS, max_size=8), unique=True, max_size=12)
GLOBS = st.lists(st.text(LETTERS, max_size=5), max_size=4)
REGEXES = st.lists(
    st.sampled_from(
        [
            "a",
            "^a",
            "b$",
            r"\.",
            r"a|b",
            r"(a)(b)",
            r"(.)\1",
            r"(?P<x>a)(?P=x)",
            r"(?i:A)",
            r"(?!a)b",
            r"\(?b",
            r"(?:a|\.)b",
            r"\Ab",
            r"b\Z",
            "^a$",
            "\n$",
            "^",
            "$",
            r"\*",
            r"^\.é",
            "",
        ]
    ).flatmap(
        lambda text: st.sampled_from(
            [re.compile(text), re.compile(text, re.I), re.compile(text, re.M | re.X), re.compile(text, re.A)]
        )
    ),
    max_size=4,
)


def obviously_matches(pattern, name, names):
    if isinstance(pattern, re.Pattern):
        return pattern.search(name) is not None
    return name == pattern if pattern in names else re.match(fnmatch.translate(pattern), name) is not None


def assert_substitutes(compiled, replacement, names):
    expected = [compiled.sub(replacement, name) for name in names]
    assert substitution(compiled, replacement)(names) == expected


@given(names=NAMES, globs=GLOBS, regexes=REGEXES, more=GLOBS)
def test_select(names, globs, regexes, more):
    patterns = [*globs, *regexes]
    expected = [name for name in names if any(obviously_matches(pattern, name, names) for pattern in patterns)]
    left = [name for name in expected if not any(obviously_matches(pattern, name, expected) for pattern in more)]
    fresh = named(*names)

    chosen = fresh.select(patterns)
    again = chosen.select(exclude=more)
    of_names = fresh.remap([]).select(patterns).select(exclude=more)

    assert (list(chosen), list(again), list(of_names)) == (expected, left, left)
    assert sorted(again._open_tensors().table.dropped) == sorted(set(names) - set(left))
    assert [line.stages[-1].name for line in again.explain() if line.dropped_by is None] == left


@given(names=NAMES, globs=GLOBS, regexes=REGEXES)
def test_strict_select_names_the_first_pattern_that_matches_nothing(names, globs, regexes):
    patterns = [*globs, *regexes]
    idle = [one for one in patterns if not any(obviously_matches(one, name, names) for name in names)]

    if not idle:
        assert named(*names).select(patterns, strict=True) is not None
        return
    with pytest.raises(PlanError) as caught:
        named(*names).select(patterns, strict=True)

    assert caught.value.message.startswith(f"the pattern {idle[0]!r} matches none of")


@given(
    names=st.lists(st.text(LETTERS + "\ud83d\ude00", max_size=8)), globs=st.lists(st.text("ab.*é€\ud83d", max_size=6))
)
def test_globs_of_stars(names, globs):
    patterns = [re.compile(".*".join(map(re.escape, glob.split("*"))), re.DOTALL) for glob in globs]

    marks = Globs(globs).marks(names)

    assert list(marks) == [any(pattern.fullmatch(name) for pattern in patterns) for name in names]


def test_rows_that_an_index_has_not_are_refused():
    index = named("a", "b", "c")._open_tensors().index
    marks = bytearray(b"\1\0")

    Globs.mark_found(index, [0, 2], re.compile("c").search, marks)

    assert marks == b"\1\1" and index.names_at([2, 0]) == ["c", "a"]
    for rows, found in (([3], marks), ([0, 1, 2], marks)):
        with pytest.raises(IndexError):
            Globs.mark_found(index, rows, re.compile("c").search, found)
    with pytest.raises(IndexError):
        index.names_at([3])


@given(
    names=NAMES, begin=st.sampled_from(["", "^", r"\A"]), text=st.text(LETTERS, max_size=3), end=st.sampled_from("$ ")
)
def test_texts_with_anchors_choose_as_regular_expressions_do(names, begin, text, end):
    for pattern in (re.compile(begin + re.escape(text) + end.strip()), re.compile(begin + re.escape(text) + r"\Z")):
        assert list(named(*names).select(pattern)) == [name for name in names if pattern.search(name)]


TEXTS = st.text(LETTERS, max_size=3)
ANCHORED = st.builds(
    lambda begin, text, end: f"{begin}{re.escape(text)}{end}",
    st.sampled_from(["", "^", r"\A"]),
    TEXTS,
    st.sampled_from(["", "$", r"\Z"]),
)
GROUPED = st.sampled_from(["(a)(b)?", "(?P<one>a|b)(?P<two>.)?", "([ab.])(x*)", "()()"])
REPLACEMENTS = st.text("ab.$é\n", max_size=3)
GROUP_REPLACEMENTS = st.lists(
    st.sampled_from([r"\1", r"\2", r"\g<1>", r"\g<0>", r"\g<2>", r"\\", r"\n", "a", ".", "0"]), max_size=5
).map("".join)


@given(pattern=ANCHORED, flags=st.sampled_from([0, re.I, re.M, re.S]), replacement=REPLACEMENTS, names=st.lists(TEXTS))
def test_substituting_texts(pattern, flags, replacement, names):
    compiled = re.compile(pattern, flags)
    names += [name + "\n" for name in names] + ["aa", "aaa\n", "\n\n"]

    assert_substitutes(compiled, replacement, names)


@given(pattern=GROUPED, replacement=GROUP_REPLACEMENTS, names=st.lists(TEXTS))
def test_substituting_groups(pattern, replacement, names):
    compiled = re.compile(pattern)
    try:
        compiled.sub(replacement, "")
    except (re.error, IndexError):
        return

    assert_substitutes(compiled, replacement, names)


@pytest.mark.parametrize("replacement", [r"<\g<one>\g<two>>", r"\g<one>", r"\g<one>\1\2"])
def test_substituting_named_groups(replacement):
    compiled, names = re.compile("(?P<one>a|b)(?P<two>.)?"), ["a", "ab.b", "", "x"]

    assert_substitutes(compiled, replacement, names)


SEGMENTS = st.sampled_from(
    [
        "a",
        "b",
        "0",
        "1",
        "2",
        "7",
        "007",
        "+1",
        "+",
        "-1",
        "",
        "١",
        "1e",
        "18446744073709551615",
        "18446744073709551616",
    ]
)
INDEXED = st.lists(st.lists(SEGMENTS, min_size=1, max_size=4).map(".".join), max_size=8)
PATHS = st.lists(st.sampled_from([("", 0), ("a.", 1), ("a.0.", 2), ("0.", 1)]), max_size=2)


def obviously_renumbered(names, others, only, never):
    def value(segment):
        digits = segment[1:] if segment[:1] == "+" else segment
        return int(digits) if digits.isascii() and digits.isdigit() and int(digits) < 1 << 64 else None

    def is_within(name, place):
        below = [count for path, count in only if name.startswith(path)] if only is not None else [0]
        outside = [count for path, count in never if name.startswith(path)]
        return any(place >= count for count in below) and not any(place >= count for count in outside)

    values = defaultdict(set)
    known = set()
    for name in names:
        segments = name.split(".")
        for place, segment in enumerate(segments):
            if value(segment) is not None and is_within(name, place):
                values[tuple(segments[:place])].add(value(segment))
                known.add((*segments[:place], segment))
    ranks = {prefix: {number: str(rank) for rank, number in enumerate(sorted(of))} for prefix, of in values.items()}

    def renumbered(name):
        segments = name.split(".")
        return ".".join(
            ranks[tuple(segments[:place])][value(segment)]
            if (*segments[:place], segment) in known and is_within(name, place)
            else segment
            for place, segment in enumerate(segments)
        )

    return [renumbered(name) for name in names], [renumbered(name) for name in others]


@given(names=INDEXED, others=INDEXED, only=st.none() | PATHS, never=PATHS)
def test_renumbering(names, others, only, never):
    assert renumber(names, others, only, never) == obviously_renumbered(names, others, only, never)


def test_renumbering_names_with_lone_surrogates():
    assert renumber(["\ud83d.3", "é.5"], ["\ud83d.3.\ude00"], None, []) == (["\ud83d.0", "é.0"], ["\ud83d.0.\ude00"])


def test_choosing_from_a_fresh_file_makes_no_names():
    chosen = named("a.w", "b.w", "a.b").select("a.*", exclude=["*b", "c"])

    table = chosen._open_tensors().table

    assert (table._names, list(table.makings), len(chosen)) == (None, [0], 1)


def test_names_that_were_left_out_are_renamed_when_they_are_asked_for():
    checkpoint = named("a", "b0").select("a")
    for number in range(3000):  # more than Python would go down
        checkpoint = checkpoint.remap([(f"^b{number}$", f"b{number + 1}")])

    table = checkpoint._open_tensors().table

    assert table.left_out._names is None
    assert table.dropped == ["b3000"]
