"""Whole models: the names, order and bytes of `state_dict()`, without the class; torch is the oracle."""

import collections
import copyreg
import io
import pickle
import subprocess
import sys

import pytest
import torch
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

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # of torch, that it cannot find the source of a class


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
    "weight norm": lambda: nn.utils.parametrizations.weight_norm(nn.Linear(2, 3)),
    "old weight norm": lambda: nn.utils.weight_norm(nn.Linear(2, 3)),
    "spectral norm": lambda: nn.utils.spectral_norm(nn.Linear(2, 3)),
    "compiled": lambda: torch.compile(ResNet(), backend="eager"),
    "averaged": lambda: torch.optim.swa_utils.AveragedModel(nn.Linear(2, 2)),
    "nothing": nn.ReLU,
}
