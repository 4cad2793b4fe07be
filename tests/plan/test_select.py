"""Matching names, choosing tensors, and what is remembered of those left out."""

import re

import numpy as np
import pytest

import fastload
from checkpoints import checkpoint_of, named, numbers
from fastload import PlanError, TensorNotFoundError

NAMES = ("encoder.w", "encoder.deep.w", "Encoder.w", "head.b", "w[0]", "w0", "*", "a?", "ab", "line\nbreak.w")

MATCHES = {
    "an exact name": ("head.b", ["head.b"]),
    "a name is no prefix": ("head", []),
    "a star crosses dots": ("encoder.*", ["encoder.w", "encoder.deep.w"]),
    "a star before": ("*.b", ["head.b"]),
    "a star on both sides": ("*deep*", ["encoder.deep.w"]),
    "a star within": ("enc*.w", ["encoder.w", "encoder.deep.w"]),
    "a star crosses lines": ("line*w", ["line\nbreak.w"]),
    "letters keep their case": ("E*", ["Encoder.w"]),
    "one letter": ("w?", ["w0"]),
    "one of some": ("w[0-9]*", ["w0"]),
    "none of some": ("a[!b]", ["a?"]),
    "an exact name beats a glob": ("w[0]", ["w[0]"]),
    "an exact star": ("*", ["*"]),
    "an exact question mark": ("a?", ["a?"]),
    "two stars": ("**", list(NAMES)),
    "a pattern is searched": (re.compile("deep"), ["encoder.deep.w"]),
    "a pattern with anchors": (re.compile(r"^encoder\.w$"), ["encoder.w"]),
    "a pattern with flags": (re.compile("^encoder.w", re.IGNORECASE), ["encoder.w", "Encoder.w"]),
    "several": (["head.b", re.compile("^w"), "nothing"], ["head.b", "w[0]", "w0"]),
    "none": ([], []),
    "more than a few": (["head.b", "w0", "ab", "encoder.w", "E*"], ["encoder.w", "Encoder.w", "head.b", "w0", "ab"]),
}


@pytest.mark.parametrize(("include", "expected"), MATCHES.values(), ids=MATCHES)
def test_matching(include, expected):
    checkpoint = named(*NAMES)

    assert list(checkpoint.select(include)) == expected
    assert list(checkpoint.select(exclude=include)) == [name for name in NAMES if name not in expected]


def test_kept_is_what_is_included_not_excluded_and_where():
    checkpoint = checkpoint_of({"a.w": numbers(2), "a.b": numbers(3), "b.w": numbers(2), "a.c": numbers(2)})

    found = checkpoint.select("a.*", exclude=re.compile("c$"), where=lambda entry: entry.shape == (2,))

    assert list(found) == ["a.w"]
    assert np.array_equal(found["a.w"], numbers(2))


def test_where_sees_the_name_and_dtype_that_the_steps_before_made():
    seen = []
    named("a").rename({"a": "b"}).cast("float16").select(where=lambda entry: seen.append((entry.name, entry.dtype)))

    assert seen == [("b", "float16")]


@pytest.mark.parametrize("pattern", [3, [None], re.compile(b"w"), ["a", 1]])
def test_what_is_no_pattern_is_refused(pattern):
    with pytest.raises(PlanError, match="a pattern is"):
        named("a").select(pattern)


@pytest.mark.parametrize("keyword", ["include", "exclude"])
def test_strict_refuses_a_pattern_that_matches_nothing(keyword):
    assert named("a").select(**{keyword: ["a", "b*"]}) is not None
    with pytest.raises(PlanError, match=r"'b\*' matches none of 1 names"):
        named("a").select(**{keyword: ["a", "b*"]}, strict=True)


def test_a_generator_of_patterns_is_kept():
    checkpoint = named("a", "b", "c").select(pattern for pattern in ("a", "b"))

    assert list(checkpoint.select("b")) == ["b"]
    assert [str(line) for line in checkpoint.explain()] == [
        "a  float32 (1,)",
        "b  float32 (1,)",
        "c  float32 (1,) → left out by select",
    ]


def test_subtree_leaves_out_the_path():
    checkpoint = named("model.a", "model.b.c", "modelling.d", "model", "e")

    assert list(checkpoint.subtree("model")) == ["a", "b.c"]
    assert list(checkpoint.subtree("model.b")) == list(checkpoint.subtree("model").subtree("b")) == ["c"]


@pytest.mark.parametrize(
    ("path", "near"),
    [("modle", "'model'"), ("model.encodr", "'model.encoder'"), ("zzz", None), ("head.b", None)],
)
def test_a_subtree_that_is_not_there_names_near_paths(path, near):
    with pytest.raises(TensorNotFoundError) as caught:
        named("model.encoder.w", "head.b").subtree(path)

    assert near is None or f"near: {near}" in str(caught.value)
    assert repr(path) in str(caught.value)


# What load_into reports as skipped is found by the names that the dropped tensors would have had.

REMEMBERED = {
    "select": (lambda c: c.select("a.*"), "b.3.w"),
    "exclude": (lambda c: c.select(exclude="b.*"), "b.3.w"),
    "where": (lambda c: c.select(where=lambda entry: "a" in entry.name), "b.3.w"),
    "remap": (lambda c: c.select("a.*").remap([("^b", "c")]), "c.3.w"),
    "remap by a function": (lambda c: c.select("a.*").remap(str.upper), "B.3.W"),
    "rename": (lambda c: c.select("a.*").rename({"b.3.w": "z"}), "z"),
    "drop_segments": (lambda c: c.select("a.*").drop_segments({"3"}), "b.w"),
    "adapt": (
        lambda c: c.select("a.*").remap([("w$", "weight")]).adapt(fastload.PYTORCH_TO_BURN, types={"*": "LayerNorm"}),
        "b.3.gamma",
    ),
    "cast": (lambda c: c.select("a.*").cast("float32"), "b.3.w"),
    "a second select": (lambda c: c.select("a.*").select(exclude="nothing"), "b.3.w"),
}


@pytest.mark.parametrize(("plan", "name"), REMEMBERED.values(), ids=REMEMBERED)
def test_dropped_names_go_through_the_later_steps(plan, name):
    checkpoint = plan(named("a.w", "b.3.w"))

    report = checkpoint.load_into({name: ((1,), "float32"), "never.there": ((1,), "float32")}, strict=False)

    assert (report.skipped, report.missing) == ([name], ["never.there"])


def test_a_name_that_was_dropped_may_be_taken():
    checkpoint = named("a", "b").select(exclude="b").rename({"a": "b"})
    target = {"b": np.zeros(1, "float32")}

    report = checkpoint.load_into(target)

    assert (report.applied, report.skipped, target["b"].tolist()) == (["b"], [], [0])
