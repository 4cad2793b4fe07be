"""Casting as a step of a plan: which tensors, by which rule; what an entry then says. Numbers: tests/test_casting."""

import io
import re

import numpy as np
import pytest
import torch

import fastload
from checkpoints import checkpoint_of, numbers
from fastload import PlanError, UnsupportedError, casting

ARRAYS = {
    "a.w": numbers(2, 3) / 3,
    "a.b": (numbers(3) / 7).astype("float64"),
    "h": numbers(2).astype("float16"),
    "count": numbers(2, dtype="int64"),
    "mask": np.array([True, False]),
}


def dtypes(checkpoint):
    return [entry.dtype for entry in checkpoint.entries()]


RULES = {
    "floats alone": ({"rules": "float16"}, ["float16", "float16", "float16", "int64", "bool"]),
    "integers where they are asked for": ({"rules": "float32", "integers": True}, ["float32"] * 5),
    "the first rule counts": (
        {"rules": {"a.w": "float64", "a.*": "float16"}},
        ["float64", "float16", "float16", "int64", "bool"],
    ),
    "an exact name after a glob": (
        {"rules": {"a.*": "float16", "a.w": "float64"}},
        ["float16", "float16", "float16", "int64", "bool"],
    ),
    "patterns": ({"rules": {re.compile("^h"): "bfloat16"}}, ["float32", "float64", "bfloat16", "int64", "bool"]),
    "where": (
        {"rules": "bfloat16", "where": lambda entry: len(entry.shape) == 2},
        ["bfloat16", "float64", "float16", "int64", "bool"],
    ),
    "no rules": ({"rules": {}}, ["float32", "float64", "float16", "int64", "bool"]),
}


@pytest.mark.parametrize(("arguments", "expected"), RULES.values(), ids=RULES)
def test_which_tensors(arguments, expected):
    checkpoint = checkpoint_of(ARRAYS)

    found = checkpoint.cast(**arguments)

    assert dtypes(found) == expected
    for before, entry in zip(checkpoint.entries(), found.entries(), strict=True):
        array = casting.cast(ARRAYS[entry.name], before.dtype, entry.dtype, allow_integers=True)
        assert found[entry.name].dtype == array.dtype
        assert found[entry.name].tobytes() == array.tobytes()
        assert not found[entry.name].flags.writeable
        assert entry.nbytes == found[entry.name].nbytes
        assert entry.strides == found[entry.name].strides
        assert entry.zero_copy == (entry.dtype == before.dtype)


BAD = {
    "no such dtype": ({"rules": "flaot16"}, "no dtype 'flaot16'; there are"),
    "no such dtype, for nothing": ({"rules": {"nothing": "half"}}, "no dtype 'half'"),
    "floats to integers unasked": (
        {"rules": {"a.w": "int8"}},
        r"'a\.w' is float32, which cannot become int8; say integers=True",
    ),
    "to complex": ({"rules": {"a.w": "complex64"}}, "cannot become complex64"),
    "to a packed dtype": ({"rules": {"a.w": "quint4x2"}}, "cannot become quint4x2"),
    "strict": ({"rules": {"a.w": "float16", "none*": "float16"}, "strict": True}, r"'none\*' matches none"),
}


@pytest.mark.parametrize(("arguments", "message"), BAD.values(), ids=BAD)
def test_bad_rules_are_refused_when_they_are_stated(arguments, message):
    with pytest.raises(PlanError, match=message):
        checkpoint_of(ARRAYS).cast(**arguments)


def test_a_number_that_does_not_fit_names_its_tensor():
    checkpoint = checkpoint_of({"w": np.array([1e9], "float32")}).cast("int8", integers=True)

    with pytest.raises(PlanError, match="tensor 'w'"):
        checkpoint["w"]


def test_tied_tensors_stay_equal():
    tensor = torch.arange(4.0) / 3
    file = io.BytesIO()
    torch.save({"a": tensor, "b": tensor}, file)

    found = fastload.open(file.getvalue()).cast("bfloat16")

    assert found["a"].tobytes() == found["b"].tobytes() == tensor.to(torch.bfloat16).view(torch.uint8).numpy().tobytes()


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2)])
def test_scalars_and_empty_tensors(shape):
    found = checkpoint_of({"w": np.ones(shape, "float32")}).cast("float16")["w"]

    assert (found.shape, found.dtype) == (shape, np.float16)
    assert (found == 1).all()


def test_without_copies_a_cast_tensor_is_listed_and_refused():
    found = checkpoint_of(ARRAYS, allow_copy=False).cast({"a.w": "float16", "h": "float16"})

    assert found.entry("a.w").dtype == "float16"
    assert np.array_equal(found["h"], ARRAYS["h"])
    with pytest.raises(UnsupportedError, match=r"'a\.w'.*allow_copy=True"):
        found["a.w"]


def test_casts_follow_one_another():
    found = checkpoint_of({"w": numbers(2) / 3}).cast("float16").cast("float64")

    assert np.array_equal(found["w"], (numbers(2) / 3).astype("float16").astype("float64"))
    assert found.entry("w").nbytes == 16
