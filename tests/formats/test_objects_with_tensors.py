"""Tensors inside objects of every sort, which no class is needed to find; torch and pickle are the oracle."""

import argparse
import collections
import dataclasses
import functools
import io
import pickle
import types
import typing

import pytest
import torch
from torch import nn

import fastload
from builders import tensor, torch_file
from pickles import Call, Global

LAYOUTS = {
    "zip": lambda value: saved(value),
    "zip, protocol 4": lambda value: saved(value, pickle_protocol=4),
    "legacy": lambda value: saved(value, _use_new_zipfile_serialization=False),
    **{f"pickle {protocol}": lambda value, protocol=protocol: pickle.dumps(value, protocol) for protocol in range(6)},
}
layouts = pytest.mark.parametrize("layout", LAYOUTS)

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # of torch, that it cannot find the source of a class


def saved(value, **options):
    file = io.BytesIO()
    torch.save(value, file, **options)
    return file.getvalue()


def read(file):
    """(key path, values) of every tensor, in order."""
    with fastload.open(file) as ckpt:
        assert [entry.name for entry in ckpt.entries()] == list(ckpt)
        repr(ckpt.objects)
        return [(ckpt.entry(name).key_path, ckpt[name].tolist()) for name in ckpt]


class Counter:
    """Makes tensors that can be told apart: [0], [1], …"""

    def __init__(self):
        self.made = 0

    def __call__(self):
        self.made += 1
        return torch.tensor([float(self.made - 1)])


class Named(typing.NamedTuple):
    left: torch.Tensor
    right: torch.Tensor


@dataclasses.dataclass
class Data:
    weight: torch.Tensor
    more: typing.Any = None


class Slots:
    __slots__ = ("first", "second")


class SlotsAndDict(Slots):
    pass


class Reduced:
    """Made anew by a call of its class with arguments."""

    def __init__(self, *args):
        self.args = args

    def __reduce__(self):
        return (type(self), self.args)


class ReducedWithState(Reduced):
    def __reduce__(self):
        return (type(self), self.args[:1], {"more": self.args[1]})


class ReducedWithItems(Reduced):
    """Filled like a list and like a dict, and with a state."""

    def __reduce__(self):
        first, second, third, fourth = self.args
        return (type(self), (), {"state": first}, iter([second, third]), iter([("key", fourth)]))


class NewArguments:
    def __new__(cls, value=None):
        return super().__new__(cls)

    def __getnewargs__(self):
        return (self.value,)


class NewKeywords:
    def __new__(cls, value=None, key=None):
        return super().__new__(cls)

    def __getnewargs_ex__(self):
        return (self.value,), {"key": self.other}

    def __getstate__(self):
        return {"n": 1}


class Stated:
    """Its state is whatever it likes."""

    def __init__(self, state):
        self.state = state

    def __getstate__(self):
        return self.state

    def __setstate__(self, state):
        self.state = state


class OwnDict(dict):
    pass


class OwnList(list):
    pass


class OwnTuple(tuple):
    pass


class OwnOrdered(collections.OrderedDict):
    pass


def with_attributes(held, /, **attributes):
    for name, attribute in attributes.items():
        setattr(held, name, attribute)
    return held


# What holds the tensors, and the keys under "v" where they are found. Protocols 0 and 1 cannot write some.
OBJECTS = {
    "named tuple": (lambda t: Named(t(), t()), [(0,), (1,)]),
    "dataclass": (lambda t: Data(t(), [t()]), [("weight",), ("more", 0)]),
    "namespace": (lambda t: argparse.Namespace(a=t(), n=1), [("a",)]),
    "simple namespace": (lambda t: types.SimpleNamespace(a=t(), n=1), [("a",)]),
    "arguments": (lambda t: Reduced(t(), 1, t()), [(0,), (2,)]),
    "arguments and state": (lambda t: ReducedWithState(t(), t()), [(0,), ("more",)]),
    "arguments that are containers": (lambda t: Reduced({"k": t()}, [t()]), [(0, "k"), (1, 0)]),
    "dict": (lambda t: OwnDict(a=t(), b={"c": t()}), [("a",), ("b", "c")]),
    "dict with attributes": (lambda t: with_attributes(OwnDict(a=t()), extra=t()), [("a",), ("extra",)]),
    "list": (lambda t: OwnList([t(), [t()]]), [(0,), (1, 0)]),
    "list with attributes": (lambda t: with_attributes(OwnList([t()]), extra=t()), [(0,), ("extra",)]),
    "ordered dict": (lambda t: collections.OrderedDict(b=t(), a=t()), [("b",), ("a",)]),
    "own ordered dict": (lambda t: with_attributes(OwnOrdered(b=t(), a=t()), extra=t()), [("b",), ("a",), ("extra",)]),
    "default dict": (lambda t: collections.defaultdict(list, {"a": [t()], 3: [t()]}), [("a", 0), (3, 0)]),
    "counter": (lambda t: collections.Counter({"a": t()}), [("a",)]),
    "deque": (lambda t: collections.deque([t(), t()], maxlen=5), [(0,), (1,)]),
    "chain": (lambda t: collections.ChainMap({"a": t()}, {"b": t()}), [("maps", 0, "a"), ("maps", 1, "b")]),
    "user dict": (lambda t: collections.UserDict(a=t()), [("data", "a")]),
    "user list": (lambda t: collections.UserList([t()]), [("data", 0)]),
    "set": (lambda t: {t()}, [(0,)]),
    "frozen set": (lambda t: frozenset([t()]), [(0,)]),
    "partial": (lambda t: functools.partial(print, t(), key=t()), [(1, 0), (2, "key")]),
    "bound method": (lambda t: Data(t()).__eq__, [(0, "weight")]),
    "state of a dict": (lambda t: Stated({"a": t(), 3: t()}), [("a",), (3,)]),
    "state of a list": (lambda t: Stated([t(), {"k": t()}]), [(0,), (1, "k")]),
    "state of a tuple": (lambda t: Stated((t(), 1, t())), [(0,), (2,)]),
    "state of a pair": (lambda t: Stated((t(), {"k": t()})), [(0,), ("k",)]),
    "state within an object": (lambda t: Stated({"inner": Stated({"a": t()})}), [("inner", "a")]),
    "objects in objects": (lambda t: Data(Named(t(), Reduced(t()))), [("weight", 0), ("weight", 1, 0)]),
}


@layouts
@pytest.mark.parametrize("name", OBJECTS)
def test_tensors_within_an_object_are_found_in_order(name, layout):
    make, keys = OBJECTS[name]

    found = read(LAYOUTS[layout]({"n": 1, "v": make(Counter()), "w": torch.ones(1)}))

    assert found == [*((("v", *key), [float(n)]) for n, key in enumerate(keys)), (("w",), [1.0])]


NEWER = {
    "slots": (lambda t: with_attributes(Slots(), first=t(), second=1), [("first",)]),
    "slots and dict": (lambda t: with_attributes(SlotsAndDict(), other=t(), first=t()), [("other",), ("first",)]),
    "tuple": (lambda t: with_attributes(OwnTuple([t()]), extra=t()), [(0, 0), ("extra",)]),
    "new arguments": (lambda t: with_attributes(NewArguments(), value=t()), [(0,), ("value",)]),
    "a tensor as the state": (lambda t: Stated(t()), [("state",)]),
    "items, pairs and state": (
        lambda t: ReducedWithItems(*(t() for _ in range(4))),
        [("key",), (0,), (1,), ("state",)],
    ),
}


@pytest.mark.parametrize("layout", ["zip", "zip, protocol 4", "legacy", "pickle 2", "pickle 4", "pickle 5"])
@pytest.mark.parametrize("name", NEWER)
def test_tensors_of_what_only_newer_protocols_write_are_found(name, layout):
    make, keys = NEWER[name]

    found = read(LAYOUTS[layout]({"v": make(Counter())}))

    assert [path for path, _ in found] == [("v", *key) for key in keys]
    assert len(found) >= len({tuple(value) for _, value in found})


@pytest.mark.parametrize(
    ("layout", "keys"),
    [("pickle 2", [("callable", 1, 1), ("callable", 2, "key")]), ("pickle 4", [(0,), ("key",)])],
)
def test_keyword_arguments_of_new_objects_are_found(layout, keys):
    made = with_attributes(NewKeywords(), value=torch.zeros(1), other=torch.ones(1))

    assert read(LAYOUTS[layout]([made])) == [((0, *key), [float(n)]) for n, key in enumerate(keys)]


# Keys.


@layouts
def test_tensors_as_keys_are_numbered(layout):
    value = {torch.zeros(1): torch.ones(1), "x": torch.ones(2), torch.zeros(2): {"m": torch.ones(3)}}

    with fastload.open(LAYOUTS[layout](value)) as ckpt:
        assert list(ckpt) == ["<tensor-key 0>", "x", "<tensor-key 1>.m"]


@layouts
def test_keys_of_every_type_are_given_as_they_are_or_as_texts(layout):
    keys = [True, 1.5, None, (1, 2), b"x", 10**30, -3, "", "a.b", "ü"]

    found = read(LAYOUTS[layout](dict.fromkeys(keys, torch.ones(1))))

    as_given = {True, 10**30, -3, "", "a.b", "ü"}
    assert [path for path, _ in found] == [(key if key in as_given else str(key),) for key in keys]


@layouts
def test_names_that_come_out_alike_are_numbered(layout):
    value = {
        "a.b": torch.zeros(1),
        "a": {"b": torch.ones(1)},
        1: torch.ones(2),
        "1": torch.ones(3),
        "a.b#2": torch.ones(4),
    }

    with fastload.open(LAYOUTS[layout](value)) as ckpt:
        assert list(ckpt) == ["a.b", "a.b#2", "1", "1#2", "a.b#2#2"]
        assert ckpt.entry("a.b#2").key_path == ("a", "b") and ckpt.entry("1").key_path == (1,)


# Cycles and sharing.


def ring():
    value = {"a": torch.ones(1)}
    value["self"] = value
    return value, [("a",)]


def ring_of_lists():
    inner, outer = [], [torch.ones(1)]
    inner.append(outer)
    outer.append(inner)
    return outer, [(0,)]


def ring_of_objects():
    value = Data(torch.ones(1))
    value.more = {"parent": value, "w": torch.ones(1)}
    return value, [("weight",), ("more", "w")]


def ring_through_a_tuple():
    value = ([], torch.ones(1))
    value[0].append(value)
    return value, [(1,)]


def parent_and_child():
    parent, child = Data(torch.ones(1)), Data(torch.ones(1))
    parent.more, child.more = child, parent
    return {"p": parent, "c": child}, [
        ("p", "weight"),
        ("p", "more", "weight"),
        ("c", "weight"),
        ("c", "more", "weight"),
    ]


@layouts
@pytest.mark.parametrize("make", [ring, ring_of_lists, ring_of_objects, ring_through_a_tuple, parent_and_child])
def test_objects_that_hold_themselves_are_entered_once_on_each_way(make, layout):
    value, keys = make()

    assert [path for path, _ in read(LAYOUTS[layout](value))] == keys


@layouts
def test_shared_containers_are_listed_in_each_place(layout):
    shared = [torch.ones(1)]

    with fastload.open(LAYOUTS[layout]({"a": shared, "b": shared, "c": {"d": shared}})) as ckpt:
        assert list(ckpt) == ["a.0", "b.0", "c.d.0"]
        assert len({ckpt.entry(name).storage for name in ckpt}) == 1


# What people save.


@layouts
@pytest.mark.parametrize(
    "make", [torch.optim.Adam, torch.optim.SGD, torch.optim.Adagrad], ids=lambda make: make.__name__
)
def test_the_state_of_an_optimizer(make, layout):
    parameters = [nn.Parameter(torch.rand(2)), nn.Parameter(torch.rand(3))]
    optimizer = make(parameters, lr=0.1, **({"momentum": 0.9} if make is torch.optim.SGD else {}))
    for parameter in parameters:
        parameter.grad = torch.rand_like(parameter)
    optimizer.step()
    state = optimizer.state_dict()

    found = dict(read(LAYOUTS[layout]({"optimizer": state})))

    assert found == {
        ("optimizer", "state", number, name): value.tolist()
        for number, held in state["state"].items()
        for name, value in held.items()
        if isinstance(value, torch.Tensor)
    }


@pytest.mark.parametrize("layout", ["zip", "legacy", "pickle 2", "pickle 5"])
def test_an_optimizer_saved_whole(layout):
    parameter = nn.Parameter(torch.rand(2))
    optimizer = torch.optim.Adam([parameter])
    parameter.grad = torch.rand(2)
    optimizer.step()

    names = [".".join(map(str, path)) for path, _ in read(LAYOUTS[layout](optimizer))]

    assert names == [
        *(f"state.<tensor-key 0>.{name}" for name in ("step", "exp_avg", "exp_avg_sq")),
        "param_groups.0.params.0",
    ]


@layouts
def test_a_checkpoint_as_lightning_writes_it(layout):
    module = nn.Linear(2, 2)
    value = {
        "epoch": 3,
        "pytorch-lightning_version": "2.5.0",
        "state_dict": module.state_dict(),
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"total": {"ready": 1}}}},
        "callbacks": {"ModelCheckpoint{'monitor': 'x'}": {"best_model_score": torch.tensor(0.5), "dirpath": "x"}},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 0.1, "params": [0]}]}],
        "lr_schedulers": [{"base_lrs": [0.1]}],
        "hyper_parameters": argparse.Namespace(lr=0.1, weights=torch.ones(1)),
    }

    with fastload.open(LAYOUTS[layout](value)) as ckpt:
        assert list(ckpt) == [
            "state_dict.weight",
            "state_dict.bias",
            "callbacks.ModelCheckpoint{'monitor': 'x'}.best_model_score",
            "optimizer_states.0.state.0.exp_avg",
            "hyper_parameters.weights",
        ]
        assert ckpt.objects["epoch"] == 3 and ckpt.objects["lr_schedulers"] == [{"base_lrs": [0.1]}]


@pytest.mark.parametrize("layout", ["zip", "legacy", "pickle 2", "pickle 4"])
def test_a_checkpoint_as_yolo_writes_it(layout):
    live = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)).half()
    live.names, live.stride = {0: "cat"}, torch.tensor([8.0])
    live[0].i, live[0].f = 0, -1
    value = {"epoch": -1, "model": live, "ema": None, "optimizer": None, "train_args": {"lr0": 0.01}, "date": "2024"}

    with fastload.open(LAYOUTS[layout](value)) as ckpt:
        assert list(ckpt) == [f"model.{name}" for name in live.state_dict()]
        assert [ckpt[f"model.{name}"].tolist() for name in live.state_dict()] == [
            value.tolist() for value in live.state_dict().values()
        ]
    with fastload.open(LAYOUTS[layout](value), attributes=True) as ckpt:
        assert ckpt["model.stride"].tolist() == [8.0]


# What no pickler writes.

W = tensor("float32", (2,), [1, 2])
WRAPPED = {
    "rebuilt without a base": Call(Global("copyreg", "_reconstructor"), (Global("a", "B"), None, {"k": W})),
    "rebuilt with too much": Call(Global("copyreg", "_reconstructor"), (Global("a", "B"), None, [W], W)),
    "mapping of odd pairs": Call(Global("collections", "OrderedDict"), ([["k", W], [W], W, ("a", W, W)],)),
    "sequence of a tensor": Call(Global("collections", "deque"), (W,)),
    "native without a name": Call(Global("torch", "ScriptObject"), (), (W, W)),
    "native with odd state": Call(Global("torch", "ScriptObject"), (), W),
    "optimised without a module": Call(Global("torch._dynamo.eval_frame", "OptimizedModule"), ()),
    "optimised tensor": Call(Global("torch._dynamo.eval_frame", "OptimizedModule"), (W,)),
    "ragged without parts": Call(Global("torch.nested._internal.nested_tensor", "_rebuild_njt"), ()),
    "ragged tensor": Call(Global("torch.nested._internal.nested_tensor", "_rebuild_njt"), (W,)),
    "nested with more": Call(Global("torch._utils", "_rebuild_nested_tensor"), (W, W, W, W, W, [W])),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_no_tensor_of_an_odd_call_is_lost(name):
    count = str(WRAPPED[name]).count("Tensor(")

    assert len(read(torch_file({"v": WRAPPED[name], "w": W}))) == count + 1


def test_thousands_of_objects_may_be_made_of_one_large_dict():
    settings = {f"key{n}": n for n in range(5_000)}
    objects = [Call(Global("a", "B"), (settings, n)) for n in range(5_000)]

    assert [path for path, _ in read(torch_file({"v": objects, "w": W}))] == [("w",)]
