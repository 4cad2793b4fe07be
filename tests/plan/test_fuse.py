"""Taking fused tensors apart and putting them together: names, views, and what cannot be."""

import re

import numpy as np
import pytest

import fastload
from builders import safetensors_file
from checkpoints import checkpoint_of, named, numbers
from fastload import Concat, PlanError, Split, UnsupportedError

QKV = Split(r"qkv", ["q", "k", "v"])
GATES = ["i", "f", "g", "o"]


def test_query_key_and_value_are_views_in_the_place_of_the_whole():
    whole = numbers(6, 4)
    checkpoint = checkpoint_of({"a": numbers(1), "attn.qkv.w": whole, "z": numbers(1)}, allow_copy=False)

    found = checkpoint.split(QKV)

    assert list(found) == ["a", "attn.q.w", "attn.k.w", "attn.v.w", "z"]
    base = checkpoint.entry("attn.qkv.w").offset
    for number, letter in enumerate("qkv"):
        entry, array = found.entry(f"attn.{letter}.w"), found[f"attn.{letter}.w"]
        assert np.array_equal(array, whole[2 * number : 2 * number + 2])
        assert np.may_share_memory(array, checkpoint["attn.qkv.w"])
        assert not array.flags.writeable
        assert (entry.zero_copy, entry.shape, entry.nbytes) == (True, (2, 4), 32)
        assert (entry.offset, entry.strides) == (base + number * 32, array.strides)


@pytest.mark.parametrize("axis", [1, -1])
def test_parts_along_another_axis_keep_their_strides(axis):
    whole = numbers(2, 6)
    found = checkpoint_of({"qkv": whole}).split(QKV._replace(axis=axis, sizes=[3, 0, 3]))

    assert [found[name].tolist() for name in "qkv"] == [whole[:, :3].tolist(), [[], []], whole[:, 3:].tolist()]
    assert [found.entry(name).shape for name in "qkv"] == [(2, 3), (2, 0), (2, 3)]
    assert found.entry("v").offset == found.entry("q").offset + 12
    assert found["v"].strides == found.entry("v").strides == (24, 4)
    assert found["v"].flags.c_contiguous is False


def test_sizes_need_not_be_equal():
    found = checkpoint_of({"qkv": numbers(8)}).split(("qkv", ["q", "kv"], 0, [5, 3]), ("kv", ["k", "v"], 0, [1, 2]))

    assert [(name, array.tolist()) for name, array in found.items()] == [
        ("q", [1, 2, 3, 4, 5]),
        ("k", [6]),
        ("v", [7, 8]),
    ]


def test_the_gates_of_an_lstm_there_and_back():
    arrays = {"lstm.weight_ih_l0": numbers(8, 3), "lstm.bias_ih_l0": numbers(8), "fc.weight": numbers(2, 2)}

    apart = checkpoint_of(arrays).split((r"(\w+)_ih_l0", [rf"{gate}.\1" for gate in GATES]))
    back = apart.concat(([rf"{gate}\.(weight|bias)$" for gate in GATES], r"\1_ih_l0"))

    assert np.array_equal(apart["lstm.g.weight"], arrays["lstm.weight_ih_l0"][4:6])
    assert list(back) == list(arrays)
    for name, array in arrays.items():
        assert back[name].dtype == array.dtype
        assert np.array_equal(back[name], array)


def test_what_is_put_together_is_a_copy_in_the_place_of_the_first_part():
    parts = {"k": numbers(2, 1), "a": numbers(1), "v": 10 * numbers(2, 2), "q": 100 * numbers(2, 1)}

    found = checkpoint_of(parts).concat(Concat(["^q$", re.compile("^k$"), "^v$"], "qkv", axis=-1))

    assert list(found) == ["qkv", "a"]
    assert found["qkv"].tolist() == [[100, 1, 10, 20], [200, 2, 30, 40]]
    entry = found.entry("qkv")
    assert (entry.shape, entry.dtype, entry.nbytes, entry.strides) == ((2, 4), "float32", 32, (16, 4))
    assert (entry.zero_copy, entry.offset, entry.storage) == (False, None, None)
    assert not found["qkv"].flags.writeable
    with pytest.raises(ValueError, match="WRITEABLE"):
        found["qkv"].flags.writeable = True


def test_without_copies_only_the_whole_is_refused():
    found = checkpoint_of({"q": numbers(1), "k": numbers(1), "z": numbers(1)}, allow_copy=False).concat(
        (["^q", "^k"], "qk")
    )

    assert found["z"].tolist() == [1]
    assert found.entry("qk").shape == (2,)
    with pytest.raises(UnsupportedError, match=r"'qk'.*allow_copy=True"):
        found["qk"]


def test_several_layers_at_once():
    names = [f"h.{layer}.{part}.w" for layer in range(3) for part in "qkv"]

    found = named(*names).concat(([r"\.q\.", r"\.k\.", r"\.v\."], ".qkv."))

    assert {name: array.tolist() for name, array in found.items()} == {
        "h.0.qkv.w": [0, 1, 2],
        "h.1.qkv.w": [3, 4, 5],
        "h.2.qkv.w": [6, 7, 8],
    }


FILE = {"qkv": (6, 4), "q": (2, 4), "k": (2, 4), "v": (3, 4), "n": ()}

REFUSED = {
    "split: a pattern that matches nothing": (lambda c: c.split(("none", ["a"])), "matches none of 5 names"),
    "split: a bad pattern": (lambda c: c.split(("(", ["a"])), "missing"),
    "split: a group in Rust's style": (lambda c: c.split(("(q)kv", ["$1"])), r"\\1"),
    "split: into nothing": (lambda c: c.split(("qkv", [])), "nothing to split"),
    "split: into a text": (lambda c: c.split(("qkv", "abc")), "sequence"),
    "split: uneven": (lambda c: c.split(("qkv", list("abcd"))), "6 elements of 'qkv' along axis 0 do not divide by 4"),
    "split: sizes too few": (lambda c: c.split(("qkv", ["a", "b"], 0, [6])), "do not come to"),
    "split: sizes too small": (lambda c: c.split(("qkv", ["a", "b"], 0, [2, 3])), "do not come to"),
    "split: a negative size": (lambda c: c.split(("qkv", ["a", "b"], 0, [7, -1])), "do not come to"),
    "split: no such axis": (lambda c: c.split(("qkv", ["a", "b"], 2)), r"shape \(6, 4\) has no axis 2"),
    "split: a scalar": (lambda c: c.split(("^n", ["a", "b"])), r"shape \(\) has no axis 0"),
    "split: collisions": (lambda c: c.split(("qkv", ["q", "k", "x"])), "would both be 'q'"),
    "split: parts of one name": (lambda c: c.split(("qkv", ["x", "x"])), "'qkv' and 'qkv' would both be 'x'"),
    "concat: nothing": (lambda c: c.concat((["none"], "a")), "none of 5 names"),
    "concat: no patterns": (lambda c: c.concat(([], "a")), "nothing to put together"),
    "concat: patterns in one text": (lambda c: c.concat(("qk", "a")), "sequence"),
    "concat: a part is missing": (lambda c: c.concat((["^q$", "^none"], "a")), "lacks its part 1"),
    "concat: two for one part": (lambda c: c.concat((["^(q|k)$", "^v"], "a")), "'q' and 'k' would both be part 0"),
    "concat: other shapes": (lambda c: c.concat((["^q$", "^v$"], "a", 1)), "do not fit"),
    "concat: other ranks": (lambda c: c.concat((["^q$", "^n$"], "a")), "do not fit"),
    "concat: scalars": (lambda c: c.concat((["^n$"], "a")), r"shape \(\) has no axis 0"),
    "concat: no such axis": (lambda c: c.concat((["^q$", "^k$"], "a", -3)), "no axis -3"),
    "concat: a name that is taken": (lambda c: c.concat((["^q$", "^k$"], "v")), "would both be 'v'"),
    "concat: other dtypes": (
        lambda c: c.cast({"k": "float16"}).concat((["^q$", "^k$"], "a")),
        "dtypes float32, float16",
    ),
}


@pytest.mark.parametrize(("plan", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_is_refused_when_it_is_stated(plan, message):
    checkpoint = checkpoint_of({name: numbers(*shape) for name, shape in FILE.items()})

    with pytest.raises(PlanError, match=message):
        plan(checkpoint)


@pytest.mark.parametrize(
    "plan",
    [
        lambda c: c.split(("a", ["x", "y"])),
        lambda c: c.concat((["a", "b"], "x")),
        lambda c: c.adapt(fastload.Adapter("mine", (fastload.Rule("*", "a", axes=(1, 0)),))),
    ],
    ids=["split", "concat", "adapt"],
)
def test_numbers_packed_below_the_byte_stay_whole(plan):
    packed = ("F4", (2, 4), bytes(4))

    with pytest.raises(PlanError, match="packed below the byte"):
        plan(fastload.open(safetensors_file({"a": packed, "b": packed})))


def test_the_keywords_take_one_rule_or_several():
    arrays = {"qkv": numbers(3)}

    assert list(checkpoint_of(arrays, split=QKV)) == list(checkpoint_of(arrays, split=[QKV])) == ["q", "k", "v"]
    assert list(checkpoint_of(arrays, split=("qkv", ["a"]))) == ["a"]
    assert list(checkpoint_of(arrays, split=(("qkv", ["a"]), ("a", ["b"])))) == ["b"]
    for concat in ((["q", "k", "v"], "w"), Concat(("q", "k", "v"), "w"), [(["q", "k", "v"], "w")]):
        assert list(checkpoint_of(arrays, split=QKV, concat=concat)) == ["w"]


def test_names_left_out_are_taken_apart_too():
    checkpoint = checkpoint_of({"a.qkv": numbers(3), "b.qkv": numbers(3)}).select("a.*").split(QKV)

    report = checkpoint.load_into({"b.k": ((1,), "float32")})

    assert report.skipped == ["b.k"]


def test_parts_of_transposed_and_cast_tensors():
    whole = numbers(4, 6)
    checkpoint = checkpoint_of({"fc.weight": whole}).adapt(fastload.PYTORCH_TO_BURN, {"fc": "Linear"})

    found = checkpoint.split(("weight", ["a", "b"])).cast({"fc.b": "float16"})

    assert np.array_equal(found["fc.a"], whole.T[:3])
    assert np.array_equal(found["fc.b"], whole.T[3:].astype("float16"))
    assert (found.entry("fc.a").zero_copy, found.entry("fc.b").zero_copy) == (True, False)
    assert found["fc.a"].strides == found.entry("fc.a").strides
