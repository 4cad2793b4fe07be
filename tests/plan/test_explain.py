"""Explaining a plan, a line a tensor; and that no step reads any data."""

import pytest

import fastload
from checkpoints import checkpoint_of, named, numbers
from fastload.planned import PlannedTensors


def lines(checkpoint):
    return [str(found) for found in checkpoint.explain()]


PLANS = {
    "no plan": (lambda c: c, ["m.fc.weight  float32 (2, 3)", "m.h.3  float32 (6,)", "x  float32 (1,)"]),
    "names": (
        lambda c: c.subtree("m").rename({"h.3": "g.3"}).contiguous_indices(),
        [
            "m.fc.weight  float32 (2, 3) → subtree: fc.weight",
            "m.h.3  float32 (6,) → subtree: h.3 → rename: g.3 → contiguous_indices: g.0",
            "x  float32 (1,) → left out by subtree",
        ],
    ),
    "a name after which it is left out": (
        lambda c: c.remap([("x", "y")]).select(exclude="y"),
        ["m.fc.weight  float32 (2, 3)", "m.h.3  float32 (6,)", "x  float32 (1,) → remap: y → left out by select"],
    ),
    "shapes and dtypes": (
        lambda c: c.adapt(fastload.PYTORCH_TO_BURN, {"*": "Linear"}).cast({"m.fc.*": "float16"}),
        ["m.fc.weight  float32 (2, 3) → adapt: (3, 2) → cast: float16 copy", "m.h.3  float32 (6,)", "x  float32 (1,)"],
    ),
    "parts, by several rules": (
        lambda c: c.select("m.h*").split(("h.3", ["a", "b"]), ("m.b", ["c", "d"], 0, [1, 2])),
        [
            "m.h.3  float32 (6,) → split: m.a (3,)",
            "m.h.3  float32 (6,) → split: c (1,)",
            "m.h.3  float32 (6,) → split: d (2,)",
            "m.fc.weight  float32 (2, 3) → left out by select",
            "x  float32 (1,) → left out by select",
        ],
    ),
}


@pytest.mark.parametrize("plan", PLANS)
def test_lines(plan):
    make, expected = PLANS[plan]

    assert lines(make(checkpoint_of({"m.fc.weight": numbers(2, 3), "m.h.3": numbers(6), "x": numbers(1)}))) == expected


def test_what_was_put_together_is_not_left_out():
    found = lines(named("a", "q", "k", "v", "w").concat((["^q", "^k"], "qk"), (["^v", "^w"], "vw")))

    assert found == [
        "a  float32 (1,)",
        "q  float32 (1,) → concat: qk (2,) copy",
        "v  float32 (1,) → concat: vw (2,) copy",
    ]


def test_control_characters_are_escaped():
    assert lines(named("a\nb").rename({"a\nb": "c\x1b[31m"})) == ["a\\nb  float32 (1,) → rename: c\\x1b[31m"]


def test_no_step_reads_data():
    checkpoint = checkpoint_of({"a.qkv.weight": numbers(6, 2), "b.weight": numbers(2, 2), "c": numbers(2)})
    base = PlannedTensors(checkpoint._open_tensors())
    reads = []

    class Counted:
        """The tensors of the file, whose arrays are counted."""

        path, format = None, "counted"
        list_names, entry, metadata = base.list_names, base.entry, base.metadata

        def __len__(self):
            return len(base)

        def array(self, row):
            reads.append(row)
            return base.array(row)

    found = (
        fastload.Checkpoint(Counted())
        .select(exclude="c", where=lambda entry: entry.nbytes > 8)
        .remap([("^a", "z")])
        .contiguous_indices()
        .split((r"qkv", ["q", "k", "v"]))
        .adapt(fastload.PYTORCH_TO_BURN, {"*": "Linear"})
        .concat(([r"\.q\.", r"\.k\."], ".qk."))
        .cast("float16")
    )
    found.explain(), found.entries(), list(found), repr(found)

    assert reads == []
    assert found["z.qk.weight"].shape == (4, 2)
    assert reads == [0, 0]
    assert found["b.weight"].dtype == "float16"
    assert reads == [0, 0, 1]
