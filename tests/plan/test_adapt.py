"""Adapters: which parameters they change, how they find the types of modules, and there and back."""

import io
import re

import numpy as np
import pytest
import torch
from torch import nn

import fastload
from checkpoints import checkpoint_of, numbers
from fastload import Adapter, PlanError, Rule

INVERSES = {
    "Burn": (fastload.PYTORCH_TO_BURN, fastload.BURN_TO_PYTORCH),
    "channels": (fastload.CHANNELS_FIRST_TO_LAST, fastload.CHANNELS_LAST_TO_FIRST),
    "Flax": (fastload.PYTORCH_TO_FLAX, fastload.FLAX_TO_PYTORCH),
}

pytestmark = pytest.mark.filterwarnings("ignore")  # of torch: no source of a class, what is deprecated


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 2)
        self.bilinear = nn.Bilinear(2, 2, 2)
        self.conv = nn.Sequential(nn.Conv1d(2, 2, 1), nn.Conv2d(2, 3, (1, 2)), nn.ConvTranspose2d(2, 3, 2))
        self.norms = nn.ModuleList(
            [
                nn.BatchNorm1d(2),
                nn.BatchNorm2d(2),
                nn.BatchNorm3d(2),
                nn.LayerNorm(2),
                nn.GroupNorm(1, 2),
                nn.RMSNorm(2),
            ]
        )
        self.instance = nn.InstanceNorm2d(2, affine=True, track_running_stats=True)
        self.embedding = nn.Embedding(5, 2)
        self.lstm, self.gru = nn.LSTM(2, 2), nn.GRU(2, 2)
        self.attention = nn.MultiheadAttention(2, 1)
        self.prelu = nn.PReLU()


TYPES = {name: type(module).__name__ for name, module in Net().named_modules()}


def saved(value):
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


def everything(checkpoint):
    return [
        (e.name, e.dtype, e.shape, e.strides, e.zero_copy, checkpoint[e.name].tobytes()) for e in checkpoint.entries()
    ]


def burns_name(name):
    if name.startswith("norms."):
        return re.sub("weight$", "gamma", re.sub("bias$", "beta", name))
    return name


@pytest.fixture(scope="module")
def net():
    return Net()


@pytest.fixture(params=["a tree", "types"])
def planned(request, net):
    """The checkpoint, and what else `adapt` must be told."""
    return (
        (fastload.open(saved(net)), None)
        if request.param == "a tree"
        else (fastload.open(saved(net.state_dict())), TYPES)
    )


def test_pytorch_to_burn(planned, net):
    checkpoint, types = planned
    found = checkpoint.adapt(fastload.PYTORCH_TO_BURN, types)

    state = net.state_dict()
    assert list(found) == [burns_name(name) for name in state]
    for name, tensor in state.items():
        array, entry = found[burns_name(name)], found.entry(burns_name(name))
        expected = tensor.numpy().T if name == "fc.weight" else tensor.numpy()
        assert np.array_equal(array, expected)
        assert entry.zero_copy
        assert entry.shape == array.shape == expected.shape
        assert entry.strides == array.strides == expected.strides
        assert np.may_share_memory(array, checkpoint[name])


@pytest.mark.parametrize("name", INVERSES)
def test_there_and_back_is_the_identity(name, planned):
    checkpoint, types = planned
    there, back = INVERSES[name]
    found = checkpoint.adapt([there, back], types)

    assert everything(found) == everything(checkpoint)
    assert everything(checkpoint.adapt(there, types).adapt(back, types)) == everything(checkpoint)


def test_the_inverse_of_the_inverse_is_the_adapter():
    for adapter in (getattr(fastload, name) for name in dir(fastload) if "_TO_" in name):
        assert adapter.inverse("").inverse(adapter.name) == adapter


def test_types_of_the_file_survive_subtree_remap_and_cast(net):
    checkpoint = fastload.open(saved({"model": net, "epoch": 3}))

    found = checkpoint.subtree("model").remap([("^fc", "head")]).cast({"head.weight": "float16"})

    adapted = found.adapt(fastload.PYTORCH_TO_BURN)
    assert np.array_equal(adapted["head.weight"], net.fc.weight.detach().numpy().T.astype("float16"))
    assert "norms.0.gamma" in adapted


def test_what_is_said_goes_before_what_the_file_says(net):
    found = fastload.open(saved(net)).adapt(fastload.PYTORCH_TO_BURN, {"fc": "Embedding"})

    assert found.entry("fc.weight").shape == (2, 3)
    assert "norms.0.gamma" in found


def test_parts_of_a_module_are_of_no_known_type(net):
    checkpoint = fastload.open(saved(net)).split(("fc.weight", ["a.weight", "b.weight"]))

    with pytest.raises(PlanError, match=r"2 tensors are not known: a\.weight"):
        checkpoint.adapt(fastload.PYTORCH_TO_BURN)
    assert checkpoint.adapt(fastload.PYTORCH_TO_BURN, {"[ab]": "Linear"}).entry("a.weight").shape == (3, 1)


def test_without_types_the_matrices_are_named_first():
    arrays = {"bn.bias": numbers(2), **{f"fc{place}.weight": numbers(2, 3) for place in range(6)}}

    with pytest.raises(PlanError) as caught:
        checkpoint_of(arrays).adapt(fastload.PYTORCH_TO_BURN)

    assert "7 tensors are not known: fc0.weight (2, 3), fc1.weight" in str(caught.value)
    assert "and 2 more" in str(caught.value)
    assert "types={'fc0': 'Linear'" in str(caught.value)


def test_what_no_rule_can_mean_needs_no_type():
    checkpoint = checkpoint_of(
        {"a.running_mean": numbers(2), "a.num_batches_tracked": numbers(1), "conv.w": numbers(2, 2)}
    )

    assert everything(checkpoint.adapt(fastload.PYTORCH_TO_BURN)) == everything(checkpoint)


TYPED = {
    "the first pattern counts": ({"fc": "Linear", "*": ""}, True),
    "a star before": ({"*": "", "fc": "Linear"}, False),
    "a function": (lambda path: "Linear" if path == "fc" else "", True),
    "of another case": ({"fc": "linear"}, False),
    "a subclass's name": ({"fc": "LinearX"}, False),
}


@pytest.mark.parametrize(("types", "is_turned"), TYPED.values(), ids=TYPED)
def test_types_that_are_told(types, is_turned):
    found = checkpoint_of({"fc.weight": numbers(2, 3), "fc.bias": numbers(2)}).adapt(fastload.PYTORCH_TO_BURN, types)

    assert found.entry("fc.weight").shape == ((3, 2) if is_turned else (2, 3))
    assert list(found) == ["fc.weight", "fc.bias"]


def test_the_model_to_be_filled_tells_the_types(net):
    burn = fastload.open(saved(net)).adapt(fastload.PYTORCH_TO_BURN)
    checkpoint = checkpoint_of(dict(burn))
    target = Net()

    report = checkpoint.adapt(fastload.BURN_TO_PYTORCH, types=target).load_into(target, strict="both")

    assert report.is_success
    assert all(torch.equal(tensor, net.state_dict()[name]) for name, tensor in target.state_dict().items())


def test_a_linear_of_another_rank_stays():
    found = checkpoint_of({"fc.weight": numbers(2, 3, 4)}).adapt(fastload.PYTORCH_TO_BURN, {"*": "Linear"})

    assert found.entry("fc.weight").shape == (2, 3, 4)


def test_a_module_at_the_root():
    model = nn.Linear(3, 2)

    found = fastload.open(saved(model)).adapt(fastload.PYTORCH_TO_BURN)

    assert {name: array.shape for name, array in found.items()} == {"weight": (3, 2), "bias": (2,)}


def test_names_that_collide_are_named():
    checkpoint = checkpoint_of({"n.weight": numbers(2), "n.gamma": numbers(2)})

    with pytest.raises(PlanError, match=r"'n\.weight' and 'n\.gamma' would both be 'n\.gamma'"):
        checkpoint.adapt(fastload.PYTORCH_TO_BURN, {"n": "LayerNorm"})


def test_the_depthwise_kernels_of_keras_3_are_told_by_their_type():
    array = numbers(5, 4, 3, 2)
    checkpoint = checkpoint_of({"dw.kernel": array, "conv.kernel": array})

    found = checkpoint.adapt(fastload.KERAS_TO_PYTORCH, {"dw": "DepthwiseConv2D", "conv": "Conv2D"})

    assert np.array_equal(found["dw.weight"], array.transpose(2, 3, 0, 1))
    assert np.array_equal(found["conv.weight"], array.transpose(3, 2, 0, 1))


# Layouts: what is at [spatial…, in, out] must come to [out, in, spatial…].

LAYOUTS = {
    "dense": ("kernel", (3, 2), None, (1, 0)),
    "one axis": ("kernel", (5, 3, 2), None, (2, 1, 0)),
    "two axes": ("kernel", (5, 4, 3, 2), None, (3, 2, 0, 1)),
    "three axes": ("kernel", (6, 5, 4, 3, 2), None, (4, 3, 0, 1, 2)),
    "MMdnn": ("weights", (5, 4, 3, 2), None, (3, 2, 0, 1)),
    "depthwise": ("depthwise_kernel", (5, 4, 3, 2), None, (2, 3, 0, 1)),
    "depthwise by its type": ("kernel", (5, 4, 3, 2), "DepthwiseConv2D", (2, 3, 0, 1)),
    "a vector": ("kernel", (3,), None, (0,)),
}


@pytest.mark.parametrize(("parameter", "shape", "type", "order"), LAYOUTS.values(), ids=LAYOUTS)
def test_channels_last_to_first_and_back(parameter, shape, type, order):
    array = numbers(*shape)
    types = {"c": type} if type else None
    checkpoint = checkpoint_of({f"c.{parameter}": array, "c.bias": numbers(2)})

    found = checkpoint.adapt(fastload.CHANNELS_LAST_TO_FIRST, types)

    assert np.array_equal(found[f"c.{parameter}"], array.transpose(order))
    assert found.entry(f"c.{parameter}").zero_copy
    assert everything(found.adapt(fastload.CHANNELS_FIRST_TO_LAST, types)) == everything(checkpoint)


NAMED = {
    "Keras": (
        fastload.KERAS_TO_PYTORCH,
        {
            "c.kernel": ("c.weight", (5, 4, 3, 2), (2, 3, 5, 4)),
            "c.bias": ("c.bias", (2,), (2,)),
            "d.kernel": ("d.weight", (3, 2), (2, 3)),
            "e.depthwise_kernel": ("e.weight", (5, 4, 3, 1), (3, 1, 5, 4)),
            "n.gamma": ("n.weight", (2,), (2,)),
            "n.beta": ("n.bias", (2,), (2,)),
            "n.moving_mean": ("n.running_mean", (2,), (2,)),
            "n.moving_variance": ("n.running_var", (2,), (2,)),
            "m.embeddings": ("m.weight", (7, 2), (7, 2)),
        },
    ),
    "MMdnn": (
        fastload.MMDNN_TO_PYTORCH,
        {
            "c.weights": ("c.weight", (5, 4, 3, 2), (2, 3, 5, 4)),
            "d.weights": ("d.weight", (3, 2), (2, 3)),
            "p.weights": ("p.weight", (3,), (3,)),
            "n.scale": ("n.weight", (2,), (2,)),
            "n.bias": ("n.bias", (2,), (2,)),
            "n.mean": ("n.running_mean", (2,), (2,)),
            "n.var": ("n.running_var", (2,), (2,)),
            "m.gamma": ("m.weight", (2,), (2,)),
            "m.beta": ("m.bias", (2,), (2,)),
        },
    ),
    "Flax": (
        fastload.FLAX_TO_PYTORCH,
        {
            "Conv_0.kernel": ("Conv_0.weight", (5, 4, 3, 2), (2, 3, 5, 4)),
            "Dense_0.kernel": ("Dense_0.weight", (3, 2), (2, 3)),
            "Norm_0.scale": ("Norm_0.weight", (2,), (2,)),
            "Norm_0.mean": ("Norm_0.running_mean", (2,), (2,)),
            "Norm_0.var": ("Norm_0.running_var", (2,), (2,)),
            "Embed_0.embedding": ("Embed_0.weight", (7, 2), (7, 2)),
        },
    ),
}


@pytest.mark.parametrize(("adapter", "table"), NAMED.values(), ids=NAMED)
def test_names_and_layouts_of_other_frameworks(adapter, table):
    found = checkpoint_of({name: numbers(*shape) for name, (_, shape, _) in table.items()}).adapt(adapter)

    assert [(entry.name, entry.shape) for entry in found.entries()] == [
        (new, shape) for new, _, shape in table.values()
    ]
    assert all(entry.zero_copy for entry in found.entries())


def test_flax_there_and_back():
    table = NAMED["Flax"][1]
    types = {"Conv*": "Conv", "Dense*": "Dense", "Norm*": "LayerNorm", "Embed*": "Embed"}
    checkpoint = checkpoint_of({name: numbers(*shape) for name, (_, shape, _) in table.items()})

    assert everything(checkpoint.adapt([fastload.FLAX_TO_PYTORCH, fastload.PYTORCH_TO_FLAX], types)) == everything(
        checkpoint
    )


# One's own.


def test_rules_of_ones_own():
    mine = Adapter(
        "mine",
        (
            Rule("Special|Odd*", "w", rank=3, axes=(2, 0, 1)),
            Rule("*", "w", rename="weight"),
            Rule("*", "g", rename="gain"),
        ),
    )
    checkpoint = checkpoint_of({"a.w": numbers(2, 3, 4), "b.w": numbers(2, 3), "g": numbers(1)})

    found = checkpoint.adapt(mine, {"a": "Oddity"})

    assert {name: array.shape for name, array in found.items()} == {"a.w": (4, 2, 3), "b.weight": (2, 3), "gain": (1,)}
    assert everything(found.adapt(mine.inverse("back"), {"a": "Oddity"})) == everything(checkpoint)


@pytest.mark.parametrize("axes", [(0,), (0, 0), (0, 2), (0, 1, 2)])
def test_an_order_that_is_none_is_refused(axes):
    with pytest.raises(PlanError, match=r"'w' of shape \(2, 3\) cannot have its axes ordered as"):
        checkpoint_of({"w": numbers(2, 3)}).adapt(Adapter("mine", (Rule("*", "w", axes=axes),)))


def test_numbers_quantised_along_an_axis_stay_as_they_are():
    tensor = torch.quantize_per_channel(
        torch.ones(2, 3), torch.tensor([0.1, 0.2]), torch.tensor([0, 0]), 0, torch.qint8
    )
    checkpoint = fastload.open(saved({"fc.weight": tensor}))

    with pytest.raises(PlanError, match="quantised along its axes"):
        checkpoint.adapt(fastload.PYTORCH_TO_BURN, {"fc": "Linear"})


def test_numbers_quantised_alike_may_be_turned():
    tensor = torch.quantize_per_tensor(torch.arange(6.0).reshape(2, 3), 0.5, 3, torch.qint8)
    checkpoint = fastload.open(saved({"fc.weight": tensor}))

    found = checkpoint.adapt(fastload.PYTORCH_TO_BURN, {"fc": "Linear"})

    assert np.array_equal(found["fc.weight"], tensor.int_repr().numpy().T)


def test_the_halves_of_complex32_stay_together():
    tensor = torch.complex(torch.arange(6.0), torch.ones(6)).reshape(2, 3).to(torch.complex32)
    checkpoint = fastload.open(saved({"fc.weight": tensor}))

    found = checkpoint.adapt(fastload.PYTORCH_TO_BURN, {"fc": "Linear"})

    assert (found.entry("fc.weight").shape, found["fc.weight"].shape) == ((3, 2), (3, 2, 2))
    assert np.array_equal(found["fc.weight"], checkpoint["fc.weight"].transpose(1, 0, 2))


def test_a_name_left_out_is_adapted_too():
    checkpoint = checkpoint_of({"a.weight": numbers(2), "b.weight": numbers(2)}).select("a.*")

    report = checkpoint.adapt(fastload.PYTORCH_TO_BURN, {"*": "LayerNorm"}).load_into({"b.gamma": ((2,), "float32")})

    assert report.skipped == ["b.gamma"]


def test_a_name_left_out_is_adapted_by_the_tree_of_the_file(net):
    checkpoint = fastload.open(saved(net)).select("fc.*").adapt(fastload.PYTORCH_TO_BURN)

    assert checkpoint.load_into({"norms.0.gamma": ((2,), "float32")}).skipped == ["norms.0.gamma"]
