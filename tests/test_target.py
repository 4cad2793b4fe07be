"""Filling a target: the five lists, what fails and when, and that nothing is written where anything does not fit."""

import io
import types

import ml_dtypes
import numpy as np
import pytest
import torch
from torch import nn

import fastload
from checkpoints import checkpoint_of, numbers
from fastload import FormatError, LoadError, LoadReport
from fastload.casting import cast
from fastload.plan import making

ARRAYS = {"fc.weight": numbers(2, 3), "fc.bias": numbers(2), "extra": numbers(1), "bn.num_batches_tracked": numbers(1)}


def zeros_like(arrays):
    return {name: np.zeros_like(array) for name, array in arrays.items()}


def saved(value):
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


def nested(arrays):
    tree = {}
    for name, array in arrays.items():
        *path, last = name.split(".")
        level = tree
        for segment in path:
            level = level.setdefault(segment, {})
        level[last] = array
    return tree


def module_of(arrays):
    root = nn.Module()
    for name, array in arrays.items():
        *path, last = name.split(".")
        level = root
        for segment in path:
            if not hasattr(level, segment):
                level.add_module(segment, nn.Module())
            level = getattr(level, segment)
        level.register_parameter(last, nn.Parameter(torch.from_numpy(array.copy())))
    return root


def flat(target):
    """Arrays of a target of any kind, by name."""
    if isinstance(target, nn.Module):
        return {name: tensor.detach().numpy() for name, tensor in target.state_dict().items()}
    found = {}
    for key, value in target.items():
        if isinstance(value, dict):
            found.update({f"{key}.{name}": array for name, array in flat(value).items()})
        else:
            found[key] = np.asarray(value)
    return found


def torches(arrays):
    return {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}


KINDS = {"a dict": dict, "a nested dict": nested, "a torch module": module_of, "a dict of torch": torches}


@pytest.fixture(params=KINDS.values(), ids=KINDS)
def kind(request):
    return request.param


@pytest.mark.parametrize("staged", [False, True])
def test_every_kind_of_target_is_filled_in_place(kind, staged):
    target = kind(zeros_like(ARRAYS))
    before = flat(target)

    report = checkpoint_of(ARRAYS).load_into(target, strict="both", staged=staged)

    assert report == LoadReport(applied=list(flat(target)))
    assert report.is_success
    for name, array in flat(target).items():
        assert np.array_equal(array, ARRAYS[name])
        assert np.may_share_memory(array, before[name])


def test_five_lists():
    checkpoint = checkpoint_of({**ARRAYS, "head.w": numbers(4), "odd": numbers(3)}).select(exclude="head.*")
    names = ["fc.bias", "gone", "head.w", "fc.weight", "odd"]
    shapes = {"fc.bias": (2,), "fc.weight": (2, 3), "odd": (3, 2)}
    target = {name: (shapes.get(name, (4,)), "float32") for name in names}

    with pytest.raises(LoadError) as caught:
        checkpoint.load_into(target, strict=False)

    report = caught.value.report
    assert report.applied == []
    assert report.skipped == ["head.w"]
    assert report.missing == ["gone"]
    assert report.unused == ["extra"]
    assert report.errors == [("odd", "shape (3, 2)", "shape (3,)")]
    assert not report.is_success
    assert str(report).splitlines() == [
        "0 applied, 1 skipped, 1 missing, 1 unused, 1 errors",
        "  error: odd: expected shape (3, 2), found shape (3,)",
        "  missing: gone",
        "  skipped: head.w",
        "  unused: extra",
    ]
    assert str(report) in str(caught.value)


def test_applied_is_in_the_order_of_the_target():
    names = ["extra", "fc.weight", "fc.bias"]

    report = checkpoint_of(ARRAYS).load_into({name: ARRAYS[name].copy() for name in names})

    assert report.applied == names


STRICT = {
    "missing, strict": (True, {"gone"}, set(), True),
    "missing, both": ("both", {"gone"}, set(), True),
    "missing, not strict": (False, {"gone"}, set(), False),
    "unused, strict": (True, set(), {"extra"}, False),
    "unused, both": ("both", set(), {"extra"}, True),
    "unused, not strict": (False, set(), {"extra"}, False),
    "a counter is never unused": ("both", set(), {"bn.num_batches_tracked"}, False),
}


@pytest.mark.parametrize(("strict", "more", "less", "fails"), STRICT.values(), ids=STRICT)
def test_strict(strict, more, less, fails, kind):
    arrays = {**{name: array for name, array in ARRAYS.items() if name not in less}, **dict.fromkeys(more, numbers(1))}
    target = kind(zeros_like(arrays))

    if fails:
        with pytest.raises(LoadError, match="nothing was written"):
            checkpoint_of(ARRAYS).load_into(target, strict=strict)
        assert not any(array.any() for array in flat(target).values())
    else:
        report = checkpoint_of(ARRAYS).load_into(target, strict=strict)
        assert set(report.applied) == arrays.keys() - more


def test_another_strict_is_refused():
    with pytest.raises(ValueError, match="True, False or 'both'"):
        checkpoint_of(ARRAYS).load_into({}, strict="all")


UNFIT = {
    "a shape": np.zeros((3, 2), "float32"),
    "a rank": np.zeros(6, "float32"),
    "a dtype": np.zeros((2, 3), "float64"),
}


@pytest.mark.parametrize("array", UNFIT.values(), ids=UNFIT)
@pytest.mark.parametrize("strict", [True, False])
def test_nothing_is_written_where_one_does_not_fit(array, strict, kind):
    target = kind({"fc.bias": np.zeros(2, "float32"), "fc.weight": array})

    with pytest.raises(LoadError) as caught:
        checkpoint_of(ARRAYS).load_into(target, strict=strict)

    assert [problem.name for problem in caught.value.report.errors] == ["fc.weight"]
    assert caught.value.report.applied == []
    assert not any(array.any() for array in flat(target).values())


def test_a_read_only_array_is_refused_before_the_first_write():
    target = zeros_like({"fc.bias": numbers(2), "fc.weight": numbers(2, 3)})
    target["fc.weight"].flags.writeable = False

    with pytest.raises(TypeError, match=r"'fc\.weight' of the target is a read-only array"):
        checkpoint_of(ARRAYS).load_into(target)
    assert not target["fc.bias"].any()


# Reading that fails.


class Failing:
    """The tensors of a checkpoint, of which one cannot be read."""

    def __init__(self, checkpoint, name):
        self.base = checkpoint._open_tensors()
        self.bad = self.base.find(name)

    def array(self, row):
        if row == self.bad:
            raise FormatError("no such page")
        return self.base.array(row)

    def __len__(self):
        return len(self.base)

    def __getattr__(self, name):
        return getattr(self.base, name)


def test_an_error_of_reading_says_what_was_written(kind):
    target = kind({name: np.zeros_like(ARRAYS[name]) for name in ("fc.weight", "fc.bias")})
    checkpoint = fastload.Checkpoint(Failing(checkpoint_of(ARRAYS), "fc.bias"))

    with pytest.raises(
        LoadError, match=r"reading failed at 'fc\.bias' when 1 tensors were written: no such page"
    ) as caught:
        checkpoint.load_into(target)

    assert caught.value.report.applied == ["fc.weight"]
    assert [problem.name for problem in caught.value.report.errors] == ["fc.bias"]
    assert {name: bool(array.any()) for name, array in flat(target).items()} == {
        "fc.weight": True,
        "fc.bias": False,
    }


def test_staged_loading_writes_nothing_when_reading_fails(kind):
    target = kind({name: np.zeros_like(ARRAYS[name]) for name in ("fc.weight", "fc.bias")})
    checkpoint = fastload.Checkpoint(Failing(checkpoint_of(ARRAYS), "fc.bias"))

    with pytest.raises(LoadError, match="nothing was written") as caught:
        checkpoint.load_into(target, staged=True)

    assert caught.value.report.errors == [("fc.bias", "its data", "no such page")]
    assert not any(array.any() for array in flat(target).values())


@pytest.mark.parametrize("planned", [False, True])
def test_what_cannot_be_inflated_is_found_before_the_first_write(planned):
    file = io.BytesIO()
    arrays = {name: np.arange(500, dtype="f4") for name in ("first", "second")}
    np.savez_compressed(file, **arrays)
    raw = bytearray(file.getvalue())
    middle = raw.index(b"second.npy") + 500
    raw[middle : middle + 20] = b"\xff" * 20
    checkpoint = fastload.open(bytes(raw))
    target = zeros_like(arrays)

    with pytest.raises(LoadError, match="second: expected its data"):
        (checkpoint.remap([]) if planned else checkpoint).load_into(target)

    assert not target["first"].any()


def test_copies_are_made_once_before_the_first_write():
    checkpoint = checkpoint_of(ARRAYS, allow_copy=False).cast({"extra": "float16"})
    target = {"fc.bias": np.zeros(2, "float32"), "extra": np.zeros(1, "float16")}

    with pytest.raises(LoadError, match="allow_copy=True"):
        checkpoint.load_into(target)
    assert not target["fc.bias"].any()


def test_a_cast_is_made_once(monkeypatch):
    casts = []
    monkeypatch.setattr(making, "cast", lambda *args, **kwargs: casts.append(args) or cast(*args, **kwargs))
    target = {"fc.weight": np.zeros(ARRAYS["fc.weight"].shape, "float16")}

    checkpoint_of(ARRAYS).cast("float16").load_into(target, strict=True)

    assert np.array_equal(target["fc.weight"], ARRAYS["fc.weight"].astype("float16"))
    assert len(casts) == 1


def test_numbers_that_do_not_fit_are_found_before_the_first_write():
    checkpoint = checkpoint_of({"a": np.ones(2, "f4"), "b": np.full(2, 300, "f4")}).cast("uint8", integers=True)
    target = {"a": np.zeros(2, "u1"), "b": np.zeros(2, "u1")}

    with pytest.raises(LoadError, match="nothing was written"):
        checkpoint.cast("float32", integers=True).load_into({"b": np.zeros(2, "f4")})
    with pytest.raises(LoadError, match="nothing was written"):
        checkpoint.load_into(target)

    assert not target["a"].any()


# Dtypes, shapes, other targets.

DTYPES = [
    "bfloat16",
    "float8_e4m3fn",
    "float8_e5m2",
    "float8_e4m3fnuz",
    "float16",
    "float64",
    "int8",
    "bool",
    "complex64",
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (0,), (2, 3), (3, 0)])
def test_modules_of_every_dtype(dtype, shape):
    source = (torch.rand(shape) * 3).to(getattr(torch, dtype))
    module = nn.Module()
    module.register_buffer("w", torch.zeros(shape).to(getattr(torch, dtype)))

    report = fastload.open(saved({"w": source})).load_into(module)

    assert report.applied == ["w"]
    assert module.w.reshape(-1).view(torch.uint8).equal(source.reshape(-1).view(torch.uint8))


@pytest.mark.parametrize("dtype", ["bfloat16", "float8_e5m2"])
def test_arrays_of_ml_dtypes(dtype):
    target = {"w": np.zeros(3, getattr(ml_dtypes, dtype))}

    checkpoint_of({"w": numbers(3)}).cast(dtype).load_into(target)

    assert target["w"].astype("float32").tolist() == [1, 2, 3]


def test_parameters_keep_their_strides_and_gradients():
    module = nn.Module()
    module.w = nn.Parameter(torch.zeros(3, 2).T)

    checkpoint_of({"w": numbers(2, 3)}).load_into(module)

    assert module.w.stride() == (1, 2)
    assert module.w.requires_grad
    assert module.w.is_leaf
    assert module.w.tolist() == numbers(2, 3).tolist()


def test_arrays_of_other_strides_and_byte_orders_are_filled():
    target = {"a": np.zeros((3, 2), "float32").T, "b": np.zeros(2, ">f4")}

    checkpoint_of({"a": numbers(2, 3), "b": numbers(2)}).load_into(target)

    assert target["a"].tolist() == numbers(2, 3).tolist()
    assert target["b"].tolist() == [1, 2]


REFUSED_TENSORS = {
    "on meta": (lambda: torch.zeros(2, device="meta"), "meta"),
    "sparse": (lambda: torch.zeros(2).to_sparse(), "sparse"),
    "quantised": (lambda: torch.quantize_per_tensor(torch.zeros(2), 1.0, 0, torch.qint8), "quantised"),
}


@pytest.mark.filterwarnings("ignore:torch.quantize")
@pytest.mark.parametrize(("make", "message"), REFUSED_TENSORS.values(), ids=REFUSED_TENSORS)
def test_tensors_that_cannot_be_filled_are_refused(make, message):
    module = nn.Module()
    module.register_buffer("a", torch.zeros(2))
    module.register_buffer("w", make())

    with pytest.raises(TypeError, match=message):
        checkpoint_of({"a": numbers(2), "w": numbers(2)}).load_into(module)
    assert not module.a.any()


def test_a_description_is_checked_and_nothing_else():
    described = {"fc": {"weight": ((2, 3), "float32"), "bias": types.SimpleNamespace(shape=(2,), dtype=np.float32)}}

    report = checkpoint_of(ARRAYS).load_into(described)

    assert report.applied == ["fc.weight", "fc.bias"]
    assert described["fc"]["weight"] == ((2, 3), "float32")


def test_arrays_that_never_change_are_replaced():
    class Frozen:
        shape, dtype = (2,), np.dtype("float32")

        def __array__(self, dtype=None, copy=None):
            return np.zeros(2, "float32")

    target = {"fc": {"bias": Frozen()}}

    checkpoint_of(ARRAYS).load_into(target)

    assert target["fc"]["bias"].tolist() == [1, 2]
    with pytest.raises(TypeError, match="read-only"):
        checkpoint_of(ARRAYS).load_into(types.MappingProxyType({"extra": Frozen()}))


@pytest.mark.parametrize("target", [3, "a", [np.zeros(1)], {"fc.bias": 3}, {"fc.bias": None}])
def test_what_is_no_target_is_a_type_error(target):
    with pytest.raises(TypeError, match="target"):
        checkpoint_of(ARRAYS).load_into(target)


def test_a_target_within_itself_ends():
    target = {}
    target["a"] = target

    with pytest.raises(TypeError, match="nested too deeply"):
        checkpoint_of(ARRAYS).load_into(target)


def test_an_empty_target_takes_nothing():
    assert checkpoint_of(ARRAYS).load_into({}).unused == ["fc.weight", "fc.bias", "extra"]


# What a missing name may have been meant to be.

SUGGESTIONS = {
    "a variant's segment": ("block.BaseConv.w", ["block.w", "block.BaseConv.v"], "block.w"),
    "of one word": ("a.Conv.w", ["a.w"], "a.w"),
    "not the first": ("Conv.w", ["w"], None),
    "not the last": ("w.Conv", ["w"], None),
    "the more similar one": ("encoder.weight", ["encoder.wieght", "decoder.bias"], "encoder.wieght"),
    "none is near": ("encoder.weight", ["zzz"], None),
    "none at all": ("encoder.weight", [], None),
}


@pytest.mark.parametrize(("missing", "unused", "expected"), SUGGESTIONS.values(), ids=SUGGESTIONS)
def test_suggestions(missing, unused, expected):
    report = LoadReport(missing=[missing], unused=unused)

    assert report.suggestion(missing) == expected
    assert ("did you mean" in str(report)) == (expected is not None)


def test_a_summary_shows_ten_of_each_list():
    names = [f"{place:03}" for place in range(25)]

    text = str(LoadReport(applied=names, skipped=names, missing=["x" * 9 + name for name in names]))

    assert text.splitlines()[0] == "25 applied, 25 skipped, 25 missing, 0 unused, 0 errors"
    assert text.count("  … 15 more") == 2
    assert len(text.splitlines()) == 1 + 2 * 11


def test_a_summary_escapes_names():
    assert "\x1b" not in str(LoadReport(missing=["a\x1b[31m"], unused=["b\x1b"], skipped=["c\x1b"]))


def test_shapes_are_those_that_the_plan_makes():
    linear = nn.Linear(2, 3, bias=False)

    checkpoint_of({"weight": numbers(2, 3)}).adapt(fastload.BURN_TO_PYTORCH, {"": "Linear"}).load_into(linear)

    assert linear.weight.tolist() == numbers(2, 3).T.tolist()
