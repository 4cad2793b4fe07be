"""Other names: remap, rename, drop_segments; their order and their errors."""

import re

import numpy as np
import pytest

import fastload
from checkpoints import named, places
from fastload import PlanError

REMAPS = {
    "all matches": ([("a", "b")], ["a.a.w"], ["b.b.w"]),
    "in sequence, on what the last one made": ([("a", "b"), ("b", "c")], ["a.w", "b.v"], ["c.w", "c.v"]),
    "groups": ([(r"^layer(\d+)\.", r"layers.\1.")], ["layer12.w"], ["layers.12.w"]),
    "named groups": ([(r"(?P<n>\d)", r"[\g<n>]")], ["w1"], ["w[1]"]),
    "compiled": ([(re.compile("A", re.IGNORECASE), "x")], ["aA"], ["xx"]),
    "a prefix dropped": ([(r"^module\.", "")], ["module.w", "submodule.w"], ["w", "submodule.w"]),
    "an empty match": ([("^", "model.")], ["w"], ["model.w"]),
    "a mapping": ({"a": "b"}, ["a"], ["b"]),
    "none": ([], ["a"], ["a"]),
    "a function": (lambda name: name.replace("/", "."), ["a/b"], ["a.b"]),
    "a price is no group": ([("a", r"$x")], ["a"], ["$x"]),
}


@pytest.mark.parametrize(("rules", "names", "expected"), REMAPS.values(), ids=REMAPS)
def test_remap(rules, names, expected):
    found = places(named(*names).remap(rules))

    assert list(found.items()) == [(name, place) for place, name in enumerate(expected)]


@pytest.mark.parametrize(
    ("replacement", "shown"),
    [("$1.w", r"\\g<1>.w"), ("${name}", r"\\g<name>"), ("${1}x", r"\\g<1>x")],
)
def test_a_group_in_rusts_style_is_refused_and_pythons_is_shown(replacement, shown):
    with pytest.raises(PlanError) as caught:
        named("a").remap([("(a)", replacement)])

    assert shown in str(caught.value)
    assert r"\1" in str(caught.value)


BAD = {
    "a pattern": [("(", "x")],
    "a group that is not there": [("never", r"\1")],
    "a named group that is not there": [("never", r"\g<n>")],
    "a bad escape": [("never", r"\q")],
    "bytes": [(b"a", "x")],
    "a replacement that is no text": [("a", None)],
    "one pair by itself": ("ab", "cd"),
    "three": [("a", "b", "c")],
    "a text": ["ab"],
    "a function that gives no text": lambda name: None,
}


@pytest.mark.parametrize("rules", BAD.values(), ids=BAD)
def test_bad_rules_are_refused(rules):
    with pytest.raises(PlanError, match="remap"):
        named("a").remap(rules)


def test_strict_refuses_a_pattern_that_matches_nothing():
    assert list(named("a").remap([("b", "c")])) == ["a"]
    with pytest.raises(PlanError, match="'b' matches none of 1 names"):
        named("a").remap([("a", "x"), ("b", "c")], strict=True)


COLLISIONS = {
    "remap": lambda checkpoint: checkpoint.remap([(r"^(enc|dec)\.", "")]),
    "remap by a function": lambda checkpoint: checkpoint.remap(lambda name: name[4:]),
    "rename": lambda checkpoint: checkpoint.rename({"enc.w": "dec.w"}),
    "drop_segments": lambda checkpoint: checkpoint.drop_segments({"enc", "dec"}),
}


@pytest.mark.parametrize("plan", COLLISIONS.values(), ids=COLLISIONS)
def test_two_tensors_that_come_to_one_name_are_both_named(plan):
    with pytest.raises(PlanError) as caught:
        plan(named("enc.w", "dec.w", "other.name"))

    assert "'enc.w' and 'dec.w' would both be" in str(caught.value)


def test_names_may_collide_on_the_way_as_long_as_they_part_again():
    assert list(named("a1", "b2").remap([("[ab]", "c")])) == ["c1", "c2"]


def test_the_error_names_the_file(tmp_path):

    np.savez(tmp_path / "a.npz", w=np.zeros(1))
    with pytest.raises(PlanError, match=r"a\.npz"):
        fastload.open(tmp_path / "a.npz", remap=[("(", "")])


def test_rename_is_exact_and_all_at_once():
    checkpoint = named("a", "b", "a.b")

    assert places(checkpoint.rename({"a": "b", "b": "a"})) == {"b": 0, "a": 1, "a.b": 2}


def test_rename_refuses_a_name_that_is_not_there():
    with pytest.raises(PlanError, match="no tensor 'c' and 1 more"):
        named("a").rename({"c": "d", "a": "b", "e": "f"})
    assert list(named("a").rename({"c": "d", "a": "b"}, strict=False)) == ["b"]


DROPPED = {
    "in the middle": ({"BaseConv"}, "block.BaseConv.w", "block.w"),
    "a text is one": ("BaseConv", "block.BaseConv.w", "block.w"),
    "several, several times": (["A", "B"], "A.x.B.A.y", "x.y"),
    "whole segments alone": ({"Base"}, "Base1.aBase.w", "Base1.aBase.w"),
}


@pytest.mark.parametrize(("segments", "name", "expected"), DROPPED.values(), ids=DROPPED)
def test_drop_segments(segments, name, expected):
    assert list(named(name).drop_segments(segments)) == [expected]


def test_a_tensor_that_would_lose_its_whole_name_is_refused():
    with pytest.raises(PlanError, match=r"nothing would be left of 'A\.B'"):
        named("A.B").drop_segments({"A", "B"})


def test_keywords_apply_in_their_own_order():
    names = ("top.X.a.3", "top.X.a.5", "top.X.skip.1", "rest.b")

    found = named(
        *names,
        contiguous=True,
        remap=[("^n", "m")],
        rename={"a.5": "n.9", "a.3": "n.4"},
        drop_segments={"X"},
        where=lambda entry: entry.name != "X.skip.1",
        exclude="nothing",
        include="X.*",
        subtree="top",
        cast={"m.1": "float16"},
        split=[("m.0", ["m.0"])],
    )

    assert places(found) == {"m.0": 0, "m.1": 1}
    assert [entry.dtype for entry in found.entries()] == ["float32", "float16"]


def test_methods_apply_in_the_order_of_the_calls():
    checkpoint = named("l.1", "l.4")

    assert list(checkpoint.select("l.4").contiguous_indices()) == ["l.0"]
    assert list(checkpoint.contiguous_indices().select("l.4")) == []
    assert list(checkpoint.remap([("l", "m")]).rename({"m.1": "x"})) == ["x", "m.4"]


def test_a_keyword_that_is_none_is_refused():
    with pytest.raises(TypeError, match="'inclde'"):
        named("a", inclde="a")


def test_every_step_leaves_the_checkpoint_before_it_as_it_was():
    checkpoint = named("a.1", "b.2")
    checkpoint.select("a.1").remap([("a", "c")]).contiguous_indices().cast("float16")

    assert places(checkpoint) == {"a.1": 0, "b.2": 1}
