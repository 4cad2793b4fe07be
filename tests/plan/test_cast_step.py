"""Casting as a step of a plan: which tensors, by which rule; what an entry then says. Numbers: tests/test_casting."""

import io
import re

import numpy as np
import pytest
import torch
from torch import nn

import fastload
from checkpoints import checkpoint_of, numbers
from fastload import PlanError, UnsupportedError, casting
from fastload.plan.module_types import is_of

ARRAYS = {
    "a.w": numbers(2, 3) / 3,
    "a.b": (numbers(3) / 7).astype("float64"),
    "h": numbers(2).astype("float16"),
    "count": numbers(2, dtype="int64"),
    "mask": np.array([True, False]),
}


def saved(value):
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


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
    "modules of certain types": (
        {"rules": {fastload.Modules("Linear|Conv*"): "bfloat16"}, "types": {"a": "Linear", "": "LSTM"}},
        ["bfloat16", "bfloat16", "float16", "int64", "bool"],
    ),
    "names before modules": (
        {
            "rules": {"a.b": "float64", fastload.Modules("Linear"): "bfloat16", "*": "float32"},
            "types": {"a": "Linear", "*": ""},
        },
        ["bfloat16", "float64", "float32", "int64", "bool"],
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
    "an integer by its name": ({"rules": {"count": "float32"}}, "'count' is int64.*say integers=True"),
    "integers to integers unasked": ({"rules": {"count": "int32"}}, "'count' is int64.*say integers=True"),
    "a dtype of integers for all": ({"rules": {"c*": "int32"}}, "'count' is int64.*say integers=True"),
    "a pattern that is none": ({"rules": {3: "float16"}}, "a pattern is a text"),
    "types that are none": ({"rules": "float16", "types": 3}, "types are a mapping"),
    "to complex": ({"rules": {"a.w": "complex64"}}, "cannot become complex64"),
    "to a packed dtype": ({"rules": {"a.w": "quint4x2"}}, "cannot become quint4x2"),
    "strict": ({"rules": {"a.w": "float16", "none*": "float16"}, "strict": True}, r"'none\*' matches none"),
}


@pytest.mark.parametrize(("arguments", "message"), BAD.values(), ids=BAD)
def test_bad_rules_are_refused_when_they_are_stated(arguments, message):
    with pytest.raises(PlanError, match=message):
        checkpoint_of(ARRAYS).cast(**arguments)


@pytest.mark.filterwarnings("ignore")  # of torch: what is deprecated, what is experimental
def test_what_is_of_another_kind_stays_as_it_is():
    tensors = {
        "complex": torch.ones(2, dtype=torch.complex128),
        "halves": torch.ones(2, dtype=torch.complex32),
        "quantised": torch.quantize_per_tensor(torch.ones(2), 0.5, 0, torch.qint8),
        "packed": torch.ones(2, dtype=torch.uint8).view(torch.float4_e2m1fn_x2),
        "float": torch.ones(2),
    }
    checkpoint = fastload.open(saved(tensors))

    floats, complexes = checkpoint.cast("float16", integers=True), checkpoint.cast("complex64")

    assert dtypes(floats) == ["complex128", "complex32", "qint8", "float4_e2m1fn_x2", "float16"]
    assert dtypes(complexes) == ["complex64", "complex64", "qint8", "float4_e2m1fn_x2", "float32"]
    assert all(floats[name].tobytes() == checkpoint[name].tobytes() for name in list(tensors)[:-1])
    for name in list(tensors)[:-1]:
        with pytest.raises(PlanError, match=f"'{name}' is .*, which cannot become float16"):
            checkpoint.cast({name: "float16"})


class Mixed(nn.Module):
    def __init__(self):
        super().__init__()
        self.one = nn.ModuleList([nn.Conv1d(2, 2, 1), nn.ConvTranspose3d(2, 2, 1), nn.Linear(2, 2), nn.Embedding(3, 2)])
        self.norms = nn.ModuleList(
            [nn.LayerNorm(2), nn.GroupNorm(1, 2), nn.InstanceNorm2d(2, affine=True), nn.RMSNorm(2)]
        )
        self.prelu = nn.PReLU()
        self.left = nn.ModuleList([nn.BatchNorm1d(2), nn.LSTM(2, 2), nn.Bilinear(2, 2, 2)])
        self.token = nn.Parameter(torch.zeros(2))


@pytest.mark.parametrize("told", ["by the tree of the file", "by patterns", "by a model"])
def test_half_precision_is_for_the_modules_that_bear_it(told):
    model = Mixed()
    types = {path: type(module).__name__ for path, module in model.named_modules()}
    types = {"by the tree of the file": None, "by patterns": types, "by a model": model}[told]
    checkpoint = fastload.open(saved(model if types is None else model.state_dict()))

    found = checkpoint.cast({fastload.HALF_PRECISION: "float16"}, types=types)

    for entry in found.entries():
        left = entry.name.startswith(("left", "token"))
        assert entry.dtype == (checkpoint.entry(entry.name).dtype if left else "float16"), entry.name


def test_half_precision_is_for_the_fourteen_modules_of_burn():
    names = (
        "Linear Embedding Conv1d Conv2d Conv3d ConvTranspose1d ConvTranspose2d ConvTranspose3d DeformConv2d LayerNorm"
    )
    names += " GroupNorm InstanceNorm RmsNorm PRelu"

    assert all(is_of(name, fastload.HALF_PRECISION.types) for name in names.split())
    assert not any(
        is_of(name, fastload.HALF_PRECISION.types) for name in ["BatchNorm", "BatchNorm2d", "Lstm", "Linears"]
    )


def test_half_precision_of_modules_that_are_not_known_names_the_floats():
    with pytest.raises(PlanError, match=r"cast: .* 3 tensors are not known: a\.w \(2, 3\), a\.b \(3,\), h"):
        checkpoint_of(ARRAYS).cast({fastload.HALF_PRECISION: "float16"})


def test_types_are_a_keyword_for_casts_and_adapters():
    arrays = {"fc.weight": numbers(2, 3), "n.weight": numbers(2)}

    found = checkpoint_of(
        arrays,
        adapt=fastload.PYTORCH_TO_BURN,
        cast={fastload.HALF_PRECISION: "float16"},
        types={"fc": "Linear", "n": "BatchNorm1d"},
    )

    assert [(e.name, e.dtype, e.shape) for e in found.entries()] == [
        ("fc.weight", "float16", (3, 2)),
        ("n.gamma", "float32", (2,)),
    ]


def test_a_number_that_does_not_fit_names_its_tensor():
    checkpoint = checkpoint_of({"w": np.array([1e9], "float32")}).cast("int8", integers=True)

    with pytest.raises(PlanError, match="tensor 'w'"):
        checkpoint["w"]


def test_tied_tensors_stay_equal():
    tensor = torch.arange(4.0) / 3

    found = fastload.open(saved({"a": tensor, "b": tensor})).cast("bfloat16")

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
