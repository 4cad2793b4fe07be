"""Whole models: the names, order and bytes of `state_dict()`, without the class; torch is the oracle."""

import collections
import copyreg
import hashlib
import io
import json
import os
import pickle
import subprocess
import sys
import types

import pytest
import torch
import torch.fx
from torch import nn

import fastload

LAYOUTS = {
    "zip": lambda value: saved(value),
    "zip, protocol 4": lambda value: saved(value, pickle_protocol=4),
    "zip, protocol 5": lambda value: saved(value, pickle_protocol=5),
    "legacy": lambda value: saved(value, _use_new_zipfile_serialization=False),
    "legacy, protocol 4": lambda value: saved(value, pickle_protocol=4, _use_new_zipfile_serialization=False),
    **{f"pickle {protocol}": lambda value, protocol=protocol: pickle.dumps(value, protocol) for protocol in range(6)},
}

pytestmark = pytest.mark.filterwarnings("ignore")  # of torch: no source of a class, what is deprecated


def saved(value, **options):
    file = io.BytesIO()
    torch.save(value, file, **options)
    return file.getvalue()


def read(file, **options):
    """Names, in order, with (dtype, shape, bytes)."""
    with fastload.open(file, **options) as ckpt:
        return {name: (ckpt.entry(name).dtype, ckpt.entry(name).shape, ckpt[name].tobytes()) for name in ckpt}


def expected(tensors):
    return {
        name: (str(value.dtype).removeprefix("torch."), tuple(value.shape), data_of(value))
        for name, value in tensors.items()
    }


def data_of(value):
    return value.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


class Block(nn.Module):
    def __init__(self, width, downsample=None):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, bias=False)
        self.bn = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.downsample = downsample


class ResNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.layer1 = nn.Sequential(Block(4), Block(4, nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(4, 2)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(5, 3)
        self.norm = nn.LayerNorm(3)
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.embed.weight


class Collected(nn.Module):
    def __init__(self):
        super().__init__()
        self.many = nn.ParameterList([nn.Parameter(torch.rand(n)) for n in (2, 3)])
        self.named = nn.ParameterDict({"b": nn.Parameter(torch.rand(2)), "a": nn.Parameter(torch.rand(1))})
        self.list = nn.ModuleList([nn.Linear(1, 2), nn.PReLU()])
        self.dict = nn.ModuleDict({"z": nn.Linear(2, 1), "a": nn.Linear(1, 1)})


class Buffers(nn.Module):
    """Every sort of buffer and of parameter that is not there."""

    def __init__(self):
        super().__init__()
        self.register_buffer("kept", torch.arange(3))
        self.register_buffer("passing", torch.rand(2), persistent=False)
        self.register_buffer("missing", None)
        self.register_buffer("last", torch.tensor(True))
        self.register_buffer("also_passing", torch.rand(1), persistent=False)
        self.register_parameter("nothing", None)
        self.register_parameter("weight", nn.Parameter(torch.rand(2, 2)))
        self.child = nn.BatchNorm1d(2, affine=False)
        self.absent = None
        self.register_module("empty", None)
        self.plain = torch.rand(4)


class Cleared(Buffers):
    """A buffer that was there when the module was made."""

    def __init__(self):
        super().__init__()
        self.kept = None
        self.child.running_mean = None


class Shared(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(2, 2)
        self.second = self.first
        self.both = nn.Sequential(self.first, nn.ReLU(), self.first)
        self.view = nn.Parameter(self.first.weight.data[0])


class Stateful(nn.Module):
    """What it is pickled as, is of its own making."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(2, 2)
        self.lock = lambda: None

    def __getstate__(self):
        return {key: value for key, value in self.__dict__.items() if key != "lock"}


class Slotted(nn.Module):
    __slots__ = ("extra",)

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(2, 1)
        self.extra = 3


class Reduced(nn.Module):
    """Made anew by a call with arguments."""

    def __init__(self, width):
        super().__init__()
        self.fc = nn.Linear(width, 1)

    def __reduce__(self):
        return (type(self), (2,), self.__dict__)


class Old(nn.Module):
    """As torch before 1.6 pickled modules: without the set of passing buffers, with ordered dicts."""

    def __init__(self):
        super().__init__()
        self.bn = nn.BatchNorm1d(2)
        self.fc = nn.Linear(2, 2)

    def __getstate__(self):
        def aged(module):
            state = {key: value for key, value in vars(module).items() if key != "_non_persistent_buffers_set"}
            for key in ("_parameters", "_buffers", "_modules"):
                state[key] = collections.OrderedDict(state[key])
            return state

        vars(self.bn).update(aged(self.bn))
        del self.bn._non_persistent_buffers_set
        return aged(self)


class Typed(nn.Module):
    def __init__(self):
        super().__init__()
        self.half = nn.Linear(2, 2).half()
        self.brain = nn.Linear(2, 2).bfloat16()
        self.double = nn.Linear(2, 2).double()
        self.transposed = nn.Parameter(torch.rand(2, 3).t())
        self.empty = nn.Parameter(torch.rand(0, 3))
        self.scalar = nn.Parameter(torch.tensor(2.5))
        self.register_buffer("complex", torch.rand(2, dtype=torch.complex64))
        self.register_buffer("float8", torch.rand(2).to(torch.float8_e4m3fn))


class Odd(nn.Module):
    """Names that are unusual, and submodules of unusual order."""

    def __init__(self):
        super().__init__()
        self.z = nn.Linear(1, 1)
        self.w = nn.Parameter(torch.rand(1))
        self.a = nn.Linear(1, 1)
        self.register_buffer("b", torch.rand(1))
        self._modules["größe"] = nn.Linear(1, 1)
        self._modules["0"] = nn.PReLU()
        self.relu = nn.ReLU()


def frozen():
    model = ResNet()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model.eval()


MODELS = {
    "linear": lambda: nn.Linear(3, 2),
    "resnet": ResNet,
    "lstm": lambda: nn.LSTM(3, 4, num_layers=2, bidirectional=True, proj_size=2),
    "gru": lambda: nn.GRU(3, 4, bias=False),
    "attention": lambda: nn.MultiheadAttention(8, 2, kdim=4, vdim=6, add_bias_kv=True),
    "self attention": lambda: nn.MultiheadAttention(8, 2),
    "encoder": lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), 2),
    "transformer": lambda: nn.Transformer(4, 2, 1, 1, 8),
    "tied": Tied,
    "collected": Collected,
    "data parallel": lambda: nn.DataParallel(ResNet()),
    "buffers": Buffers,
    "cleared": Cleared,
    "shared": Shared,
    "stateful": Stateful,
    "slotted": Slotted,
    "reduced": lambda: Reduced(2),
    "typed": Typed,
    "odd": Odd,
    "frozen": frozen,
    "old weight norm": lambda: nn.utils.weight_norm(nn.Linear(2, 3)),
    "spectral norm": lambda: nn.utils.spectral_norm(nn.Linear(2, 3)),
    "compiled": lambda: torch.compile(ResNet(), backend="eager"),
    "averaged": lambda: torch.optim.swa_utils.AveragedModel(nn.Linear(2, 2)),
    "traced": lambda: torch.fx.symbolic_trace(nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.BatchNorm1d(2)))),
    "nothing": nn.ReLU,
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("model", MODELS)
def test_names_order_dtypes_shapes_and_bytes_are_those_of_the_state_dict(model, layout):
    live = MODELS[model]()
    file = LAYOUTS[layout](live)

    found = read(file)

    assert list(found) == list(live.state_dict())
    assert found == expected(live.state_dict())


@pytest.mark.parametrize("layout", ["zip", "legacy", "pickle 0", "pickle 5"])
@pytest.mark.parametrize("model", MODELS)
def test_a_module_has_one_key_and_says_which_tensors_are_parameters(model, layout):
    live = MODELS[model]()
    parameters = {name for name, _ in live.named_parameters(remove_duplicate=False)}

    with fastload.open(LAYOUTS[layout]({"m": [live]})) as ckpt:
        entries = ckpt.entries()

    assert [entry.name for entry in entries] == [f"m.0.{name}" for name in live.state_dict()]
    for entry in entries:
        assert entry.key_path == ("m", 0, entry.name.removeprefix("m.0."))
        assert entry.kind == ("parameter" if entry.key_path[-1] in parameters else "buffer")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_tensors_that_share_memory_share_a_storage(layout):
    with fastload.open(LAYOUTS[layout](Shared())) as ckpt:
        storages = {name: ckpt.entry(name).storage for name in ckpt}

    assert storages["first.weight"] == storages["second.weight"] == storages["both.0.weight"]
    assert storages["first.weight"] != storages["first.bias"]


READER = """
import hashlib, json, sys
sys.modules["torch"] = None
import fastload
with fastload.open(sys.argv[1]) as ckpt:
    print(json.dumps([(name, hashlib.sha256(ckpt[name].tobytes()).hexdigest()) for name in ckpt]))
    ckpt.objects, ckpt.module_tree()
assert not any("torch" in name and module for name, module in sys.modules.items() if not name.startswith("fastload"))
assert "canary_of_modules" not in sys.modules
"""


@pytest.mark.parametrize("layout", ["zip", "legacy", "pickle 2", "pickle 5"])
def test_neither_torch_nor_the_class_is_needed(layout, tmp_path, monkeypatch):
    module = types.ModuleType("canary_of_modules")
    gone = type("Gone", (ResNet,), {"__module__": module.__name__})
    module.Gone = gone
    monkeypatch.setitem(sys.modules, module.__name__, module)
    live = gone()
    (tmp_path / "m.pt").write_bytes(LAYOUTS[layout](live))
    (tmp_path / "canary_of_modules.py").write_text("raise SystemExit('imported')")

    done = subprocess.run(
        [sys.executable, "-c", READER, tmp_path / "m.pt"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path, str(tmp_path)])},
    )

    assert done.returncode == 0, done.stderr
    digests = [[name, hashlib.sha256(data).hexdigest()] for name, (_, _, data) in expected(live.state_dict()).items()]
    assert json.loads(done.stdout) == digests


class Holder:
    """An object that is no module and has one."""

    def __init__(self, model):
        self.model = model
        self.epoch = 3


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("wrap", "prefix", "keys"),
    [
        (lambda live: {"model": live, "epoch": 2}, "model.", ("model",)),
        (lambda live: [None, live], "1.", (1,)),
        (Holder, "model.", ("model",)),
        (lambda live: {"ema": (Holder(live),)}, "ema.0.model.", ("ema", 0, "model")),
        (lambda live: collections.OrderedDict(a=collections.deque([live])), "a.0.", ("a", 0)),
    ],
    ids=["dict", "list", "object", "tuple", "deque"],
)
def test_a_module_within_something_else_has_its_names_behind_the_way_to_it(layout, wrap, prefix, keys):
    live = Buffers()

    with fastload.open(LAYOUTS[layout](wrap(live))) as ckpt:
        assert list(ckpt) == [prefix + name for name in live.state_dict()]
        assert ckpt.entry(f"{prefix}child.running_mean").key_path == (*keys, "child.running_mean")


# What is beside the state dict.


@pytest.mark.parametrize("layout", LAYOUTS)
def test_attributes_add_what_the_state_dict_leaves_out(layout):
    live = Buffers()
    more = {"passing": live.passing, "also_passing": live.also_passing, "plain": live.plain}

    found = read(LAYOUTS[layout](live), attributes=True)

    assert found == expected(live.state_dict() | more)
    assert set(read(LAYOUTS[layout](live))) == set(live.state_dict())


def test_attributes_show_the_flat_weights_of_an_lstm():
    live = nn.LSTM(2, 3)

    with fastload.open(saved(live), attributes=True) as ckpt:
        assert list(ckpt) == [*live.state_dict(), *(f"_flat_weights.{n}" for n in range(4))]
        assert ckpt.entry("_flat_weights.0").storage == ckpt.entry("weight_ih_l0").storage
        assert ckpt.entry("_flat_weights.0").key_path == ("_flat_weights", 0)


class Nested(nn.Module):
    """Holds modules where no module should."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(1, 1)
        self.hidden = [nn.Linear(2, 2)]
        self.cache = {"k": torch.rand(2), "deep": (torch.rand(1), {"x": torch.rand(1)})}
        self.__dict__["teacher"] = nn.Linear(3, 3)
        self.__dict__["parent"] = self


@pytest.mark.parametrize("layout", LAYOUTS)
def test_modules_and_tensors_in_plain_attributes_are_listed_only_where_asked_for(layout):
    live = Nested()
    file = LAYOUTS[layout](live)

    assert list(read(file)) == list(live.state_dict())
    assert set(read(file, attributes=True)) == {
        *live.state_dict(), "hidden.0.weight", "hidden.0.bias", "cache.k", "cache.deep.0", "cache.deep.1.x",
        "teacher.weight", "teacher.bias",
    }  # fmt: skip


class Argued(nn.Module):
    def __init__(self, mean):
        super().__init__()
        self.fc = nn.Linear(1, 1)
        self.mean = mean

    def __reduce__(self):
        return (type(self), (self.mean,), {key: value for key, value in vars(self).items() if key != "mean"})


class SlottedTensor(Slotted):
    def __init__(self):
        super().__init__()
        self.extra = torch.rand(2)

    def __reduce__(self):
        return (copyreg.__newobj__, (type(self),), (vars(self), {"extra": self.extra}))


@pytest.mark.parametrize("layout", ["zip", "zip, protocol 4", "legacy", "pickle 2", "pickle 4"])
def test_attributes_lose_neither_arguments_nor_slots(layout):
    argued, slotted = Argued(torch.rand(2)), SlottedTensor()
    traced = torch.fx.symbolic_trace(nn.Sequential(nn.Linear(1, 1)))
    traced.note = torch.rand(3)

    assert list(read(LAYOUTS[layout](argued), attributes=True)) == ["fc.weight", "fc.bias", "0"]
    assert set(read(LAYOUTS[layout](slotted), attributes=True)) == {"fc.weight", "fc.bias", "extra"}
    assert list(read(LAYOUTS[layout](traced), attributes=True)) == ["0.weight", "0.bias", "note"]
    for live in (argued, slotted, traced):
        assert list(read(LAYOUTS[layout](live))) == list(live.state_dict())


# Quantised and compiled modules, and what only looks like a module.


@pytest.mark.parametrize("layout", ["zip", "zip, protocol 4", "legacy"])  # torch itself cannot pickle one plainly
def test_the_packed_weights_of_a_quantised_linear_are_called_as_in_its_state_dict(layout):
    live = nn.Sequential(torch.ao.nn.quantized.Linear(2, 3), nn.Linear(1, 1))
    weight, bias = live.state_dict()["0._packed_params._packed_params"]

    with fastload.open(LAYOUTS[layout](live)) as ckpt:
        names = ["0._packed_params._packed_params.0", "0._packed_params._packed_params.1", "1.weight", "1.bias"]
        assert list(ckpt) == names
        assert ckpt.entry(names[0]).quantization.scheme == "per_tensor_affine"
        assert ckpt[names[0]].tobytes() == data_of(weight.int_repr()) and ckpt[names[1]].tobytes() == data_of(bias)


def test_the_tree_of_a_compiled_and_of_a_traced_module():
    traced = torch.fx.symbolic_trace(nn.Sequential(nn.Linear(1, 2), nn.Sequential(nn.Linear(2, 2))))
    for live in (torch.compile(ResNet(), backend="eager"), traced):
        for write in LAYOUTS.values():
            with fastload.open(write({"m": live})) as ckpt:
                names = [node.name for node in ckpt.module_tree().children["m"]]

            assert names == [f"m.{name}".removesuffix(".") for name, _ in live.named_modules()]


def test_a_lazy_module_lists_what_is_initialised():
    assert list(read(saved(nn.Sequential(nn.LazyLinear(2), nn.Linear(1, 1))))) == ["1.weight", "1.bias"]


def test_a_module_on_the_meta_device_is_listed_without_data():
    with fastload.open(saved(nn.Linear(2, 3, device="meta"))) as ckpt:
        assert [(entry.name, entry.shape, entry.kind) for entry in ckpt.entries()] == [
            ("weight", (3, 2), "meta"),
            ("bias", (3,), "meta"),
        ]


def test_a_dict_with_the_keys_of_a_module_is_a_dict():
    value = {"_parameters": {"w": torch.ones(1)}, "_buffers": {}, "_modules": {}}

    assert list(read(saved(value))) == ["_parameters.w"]


def test_thousands_of_modules_are_listed_in_linear_work():
    live = nn.Sequential(*(nn.Linear(1, 1) for _ in range(5000)))

    assert list(read(saved(live))) == list(live.state_dict())
