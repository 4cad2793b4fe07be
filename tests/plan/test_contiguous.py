"""Closing gaps in indices: the whole of the rule, an example a line."""

import pytest

from checkpoints import named, places
from fastload import PlanError

BOUND = 2**64

EXAMPLES = {
    "a gap is closed": (["fc.3", "fc.5"], ["fc.0", "fc.1"]),
    "one alone is the first": (["w.3"], ["w.0"]),
    "the first segment counts": (["0.w", "2.w"], ["0.w", "1.w"]),
    "sorted as numbers, in the order of the file": (["m.10", "m.2"], ["m.1", "m.0"]),
    "two indices in a name": (["a.0.b.2", "a.2.b.0"], ["a.0.b.0", "a.1.b.0"]),
    "nothing but an index": (["7"], ["0"]),
    "index after index": (["3.5", "3.9", "8.5"], ["0.0", "0.1", "1.0"]),
    "equal ones stay equal": (["l.4.w", "l.4.b", "l.9.w"], ["l.0.w", "l.0.b", "l.1.w"]),
    "every prefix for itself": (["a.3", "b.7", "a.5"], ["a.0", "b.0", "a.1"]),
    "prefixes are the original ones": (["x.1.y.5", "x.0.y.3"], ["x.1.y.0", "x.0.y.0"]),
    "a plus": (["w.+7", "w.3"], ["w.1", "w.0"]),
    "leading zeros": (["w.007", "w.3"], ["w.1", "w.0"]),
    "plus and zeros": (["w.+007"], ["w.0"]),
    "many zeros": (["w." + "0" * 40 + "7", "w.9"], ["w.0", "w.1"]),
    "007 and 7 within names": (["w.007.a", "w.7.b", "w.9.a"], ["w.0.a", "w.0.b", "w.1.a"]),
    "the largest of 64 bits": ([f"w.{BOUND - 1}", "w.3"], ["w.1", "w.0"]),
    "no index: one past 64 bits": ([f"w.{BOUND}", "w.3"], [f"w.{BOUND}", "w.0"]),
    "no index: far past 64 bits": (["w." + "9" * 30], ["w." + "9" * 30]),
    "no index: a minus": (["w.-1", "w.3"], ["w.-1", "w.0"]),
    "no index: an exponent": (["w.1e3"], ["w.1e3"]),
    "no index: an underscore": (["w.1_0"], ["w.1_0"]),
    "no index: letters": (["layer1.w", "layer3.w"], ["layer1.w", "layer3.w"]),
    "no index: two pluses": (["w.++7"], ["w.++7"]),
    "no index: a plus alone": (["w.+"], ["w.+"]),
    "no index: a plus behind": (["w.7+"], ["w.7+"]),
    "no index: a blank": (["w. 7", "w.7 "], ["w. 7", "w.7 "]),
    "empty segments": (["w..3", "w..7", ".5", "9."], ["w..0", "w..1", ".0", "0."]),
    "no index: Arabic digits": (["w.\u0663"], ["w.\u0663"]),
    "no index: full-width digits": (["w.\uff17"], ["w.\uff17"]),
    "no index: superscript": (["w.\u00b2"], ["w.\u00b2"]),
}


@pytest.mark.parametrize(("names", "expected"), EXAMPLES.values(), ids=EXAMPLES)
def test_the_rule(names, expected):
    found = places(named(*names).contiguous_indices())

    assert list(found.items()) == [(name, place) for place, name in enumerate(expected)]


@pytest.mark.parametrize("names", [("w.007", "w.7"), ("w.+7", "w.7"), ("0", "+0"), ("a.01.b", "a.1.b")])
def test_two_spellings_of_a_number_collide(names):
    with pytest.raises(PlanError) as caught:
        named(*names).contiguous_indices()

    assert all(repr(name) in str(caught.value) for name in names)


LIMITED = {
    "under one": ({"under": "a"}, ["a.0", "a.1", "ab.4", "b.6"]),
    "under several": ({"under": ["a", "b"]}, ["a.0", "a.1", "ab.4", "b.0"]),
    "under none": ({"under": []}, ["a.3", "a.5", "ab.4", "b.6"]),
    "under everything": ({"under": ""}, ["a.0", "a.1", "ab.0", "b.0"]),
    "except": ({"except_under": "a"}, ["a.3", "a.5", "ab.0", "b.0"]),
    "except several": ({"except_under": ("a", "b")}, ["a.3", "a.5", "ab.0", "b.6"]),
    "except everything": ({"except_under": ""}, ["a.3", "a.5", "ab.4", "b.6"]),
}


@pytest.mark.parametrize(("limits", "expected"), LIMITED.values(), ids=LIMITED)
def test_it_is_limited_to_paths(limits, expected):
    assert list(named("a.3", "a.5", "ab.4", "b.6").contiguous_indices(**limits)) == expected


def test_indices_above_a_path_stay_with_under_and_go_with_except():
    checkpoint = named("m.2.a.4", "m.5.a.6")

    assert list(checkpoint.contiguous_indices(under="m.2.a")) == ["m.2.a.0", "m.5.a.6"]
    assert list(checkpoint.contiguous_indices(except_under="m.2.a")) == ["m.0.a.4", "m.1.a.0"]
    assert list(checkpoint.contiguous_indices(under="m", except_under="m.5.a")) == ["m.0.a.0", "m.1.a.6"]


def test_it_sees_the_names_that_remap_has_made():
    checkpoint = named("layer3.w", "layer5.w").remap([(r"layer(\d)", r"layer.\1")])

    assert list(checkpoint.contiguous_indices()) == ["layer.0.w", "layer.1.w"]


def test_dropped_tensors_do_not_count():
    assert places(named("l.0", "l.1", "l.2").select(exclude="l.0").contiguous_indices()) == {"l.0": 1, "l.1": 2}


def test_the_keyword_is_off_unless_said():
    assert list(named("w.3")) == list(named("w.3", contiguous=False)) == ["w.3"]
    assert list(named("w.3", contiguous=True)) == ["w.0"]


def test_closing_twice_is_closing_once():
    once = named("a.3.x.9", "a.7.x.2", "a.7.x.5").contiguous_indices()

    assert list(once.contiguous_indices()) == list(once)
