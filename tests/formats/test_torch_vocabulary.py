"""Globals of a PyTorch pickle: those of torch mean what they say, all others are inert and never imported."""

import sys

import pytest

import fastload
from builders import Storage, Tensor, storage, tensor, torch_file, torch_file_with, torch_pickle, torch_zip
from pickles import Call, Global, PersistentId, Pickle, dumps

W = tensor("float32", (2,), [1, 2])
STATE = {"lr": 0.1}


@pytest.fixture
def canary(tmp_path, monkeypatch):
    """A module that leaves a mark when imported, where Python would find it."""
    (tmp_path / "canary_of_fastload.py").write_text(
        f"open({str(tmp_path / 'imported')!r}, 'w').close()\nThing = print\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "canary_of_fastload"
    assert not (tmp_path / "imported").exists() and "canary_of_fastload" not in sys.modules


def body(value):
    """The opcodes that leave *value* on the stack."""
    return dumps(value, 2, memo=False)[2:-1]


STREAMS = {
    "reference": lambda g: body(g("Thing")),
    "reduce": lambda g: body(Call(g("Thing"), (1, "x"))),
    "reduce and build": lambda g: body(Call(g("Thing"), (), STATE)),
    "dotted name": lambda g: body(Call(g("Thing.inner.more"), ())),
    "submodule": lambda g: body(Global(g("x").module + ".deeper", "Thing")),
    "newobj": lambda g: body(g("Thing")) + Pickle(None).op("EMPTY_TUPLE").op("NEWOBJ").stream,
    "newobj and build": lambda g: (
        body(g("Thing")) + Pickle(None).op("EMPTY_TUPLE").op("NEWOBJ").value(STATE).op("BUILD").stream
    ),
    "build of a pair": lambda g: body(Call(g("Thing"), (), (STATE, {"slot": 1}))),
    "build of a list": lambda g: body(Call(g("Thing"), (), [1, 2])),
    "newobj_ex": lambda g: body(g("Thing")) + Pickle(None).op("EMPTY_TUPLE").value({"k": 1}).op("NEWOBJ_EX").stream,
    "inst": lambda g: Pickle(None).op("MARK").op("INST", f"{g('x').module}\nThing\n".encode()).stream,
    "obj": lambda g: Pickle(None).op("MARK").raw(body(g("Thing"))).value(1).op("OBJ").stream,
    "stack global": lambda g: Pickle(None).text(g("x").module).text("Thing").op("STACK_GLOBAL").stream,
    "filled like a list": lambda g: body(Call(g("Thing"), ())) + Pickle(None).value(1).op("APPEND").stream,
    "filled like a dict": lambda g: body(Call(g("Thing"), ())) + Pickle(None).value("k").value(1).op("SETITEM").stream,
    "called again": lambda g: body(Call(g("Thing"), ())) + Pickle(None).op("EMPTY_TUPLE").op("REDUCE").stream,
    "os.system": lambda g: body(Call(Global("os", "system"), ("touch nothing",))),
    "builtins.eval": lambda g: body(Call(Global("builtins", "eval"), ("1/0",))),
    "builtins.getattr": lambda g: body(Call(Global("builtins", "getattr"), (g("Thing"), "inner"))),
    "as a dict key": lambda g: (
        Pickle(None).op("EMPTY_DICT").raw(body(Call(g("Thing"), ()))).value(1).op("SETITEM").stream
    ),
    "in a set": lambda g: Pickle(None).op("EMPTY_SET").op("MARK").raw(body(g("Thing"))).op("ADDITEMS").stream,
    "in an OrderedDict's arguments": lambda g: body(Call(Global("collections", "OrderedDict"), ([["k", g("Thing")]],))),
}


@pytest.mark.parametrize("make", STREAMS.values(), ids=STREAMS)
def test_a_global_outside_the_vocabulary_stops_no_tensor_and_is_never_imported(make, canary):
    checkpoint = fastload.open(torch_file_with(bytes(make(lambda name: Global(canary, name)))))

    assert checkpoint["w"].tolist() == [1, 2]
    assert list(checkpoint) == ["w"] and "v" in checkpoint.objects
    repr(checkpoint.objects)


def test_an_unknown_object_is_a_record_that_says_what_it_was():
    checkpoint = fastload.open(torch_file({"w": W, "v": Call(Global("my.package", "Config"), (1, "x"), STATE)}))
    record = checkpoint.objects["v"]

    assert (record.module, record.name) == ("my.package", "Config")
    assert "my.package" in repr(record) and "Config" in repr(record)


def test_tensors_inside_unknown_objects_are_found():
    checkpoint = fastload.open(torch_file({"v": Call(Global("argparse", "Namespace"), (), {"weights": W, "lr": 1})}))

    assert list(checkpoint) == ["v.weights"] and checkpoint.entry("v.weights").key_path == ("v", "weights")


def rebuilt(function, *args):
    return Call(Global("torch._utils", function), args)


HOOKS = Call(Global("collections", "OrderedDict"), ())
DATA = storage("float32", [1, 2, 3, 4])


@pytest.mark.parametrize(
    "value",
    [
        rebuilt("_rebuild_tensor", DATA, 1, (2,), (1,)),
        rebuilt("_rebuild_tensor_v2", DATA, 1, (2,), (1,), False, HOOKS),
        rebuilt("_rebuild_tensor_v2", DATA, 1, (2,), (1,), True, None, {}),
        rebuilt("_rebuild_tensor_v2", DATA, 1, Call(Global("torch", "Size"), ((2,),)), (1,), False, HOOKS),
        rebuilt("_rebuild_tensor_v3", DATA, 1, (2,), (1,), False, HOOKS, Global("torch", "float32")),
        rebuilt("_rebuild_parameter", rebuilt("_rebuild_tensor", DATA, 1, (2,), (1,)), True, HOOKS),
        rebuilt("_rebuild_parameter_with_state", rebuilt("_rebuild_tensor", DATA, 1, (2,), (1,)), True, HOOKS, STATE),
    ],
    ids=["v1", "v2", "v2_metadata", "v2_size", "v3", "parameter", "parameter_with_state"],
)
def test_every_way_to_rebuild_a_tensor(value):
    checkpoint = fastload.open(torch_file({"w": value}))

    assert checkpoint["w"].tolist() == [2, 3]
    assert checkpoint.entry("w").kind == ("parameter" if "parameter" in value.function.name else "tensor")


@pytest.mark.parametrize("module", ["torch", "torch.cuda", "torch.storage", "__torch__.anything"])
def test_the_module_of_a_storage_class_does_not_matter(module):
    held = PersistentId(("storage", Global(module, "FloatStorage"), "0", "cuda:0", 2))
    stream, _ = torch_pickle({"w": rebuilt("_rebuild_tensor_v2", held, 0, (2,), (1,), False, HOOKS)})

    assert fastload.open(torch_zip(stream, {"0": W.storage.data}))["w"].tolist() == [1, 2]


def test_an_untyped_storage_by_itself_is_listed_as_bytes():
    checkpoint = fastload.open(torch_file({"s": Storage("UntypedStorage", 1, b"\1\2\3"), "w": W}))

    assert checkpoint.entry("s").kind == "storage"
    assert checkpoint["s"].tolist() == [1, 2, 3] and checkpoint["w"].tolist() == [1, 2]


FLOATS = Global("torch", "FloatStorage")


@pytest.mark.parametrize(
    "pid",
    [
        None, "0", 7, (), ("storage", FLOATS, "0", "cpu"), ("module", FLOATS, "0", "cpu", 2),
        ("storage", None, "0", "cpu", 2), ("storage", "FloatStorage", "0", "cpu", 2),
        ("storage", Global("torch", "OddStorage"), "0", "cpu", 2),
        ("storage", FLOATS, "9", "cpu", 2), ("storage", FLOATS, 0, "cpu", 2), ("storage", FLOATS, "", "cpu", 2),
        ("storage", FLOATS, "../data.pkl", "cpu", 2), ("storage", FLOATS, "0\0", "cpu", 2),
        ("storage", FLOATS, "0", "cpu", -1), ("storage", FLOATS, "0", "cpu", 3), ("storage", FLOATS, "0", "cpu", 2**62),
        ("storage", FLOATS, "0", "cpu", 2**70), ("storage", FLOATS, "0", "cpu", None),
        ("storage", FLOATS, "0", "cpu", "2"),
    ],
    ids=str,
)  # fmt: skip
def test_a_storage_that_is_not_described_rightly_is_refused(pid):
    stream, _ = torch_pickle({"w": rebuilt("_rebuild_tensor_v2", PersistentId(pid), 0, (2,), (1,), False, HOOKS)})

    with pytest.raises(fastload.FastloadError):
        fastload.open(torch_zip(stream, {"0": W.storage.data}))


@pytest.mark.parametrize(
    "args",
    [
        (), (DATA,), (None, 0, (2,), (1,)), (7, 0, (2,), (1,)), ({}, 0, (2,), (1,)), (DATA, None, (2,), (1,)),
        (DATA, "0", (2,), (1,)), (DATA, 0, 2, (1,)), (DATA, 0, (2,), None), (DATA, 0, (2.0,), (1,)),
        (DATA, 0, ("2",), (1,)),
        (DATA, 0, (2, 2), (1,)), (DATA, 0, {2: 2}, (1,)), (DATA, 0, (2**64,), (1,)),
    ],
    ids=str,
)  # fmt: skip
def test_a_tensor_that_is_not_described_rightly_is_refused(args):
    with pytest.raises(fastload.FormatError):
        fastload.open(torch_file({"w": rebuilt("_rebuild_tensor_v2", *args, False, HOOKS)}))


def test_an_unknown_dtype_is_refused_by_name():
    held = Storage("UntypedStorage", 1, bytes(8))
    value = rebuilt("_rebuild_tensor_v3", held, 0, (2,), (1,), False, HOOKS, Global("torch", "float3_e1m1"))

    with pytest.raises(fastload.FastloadError, match="float3_e1m1"):
        fastload.open(torch_file({"w": value}))


def test_a_tensor_in_a_self_containing_list_is_found_once():
    stream, records = torch_pickle({"w": W})
    looped = Pickle(None).op("EMPTY_LIST").put(100).get(100).op("APPEND")

    checkpoint = fastload.open(torch_zip(Pickle(None).raw(stream[:-1]).entry("v", looped.stream).stop(), records))

    assert list(checkpoint) == ["w"] and checkpoint["w"].tolist() == [1, 2]


def test_repeated_references_cost_nothing():
    bomb = Pickle(None).op("EMPTY_LIST").put(900)
    for level in range(900, 960):
        bomb.op("EMPTY_LIST").op("MARK").get(level).get(level).op("APPENDS").put(level + 1)
        bomb.op("TUPLE2")
    checkpoint = fastload.open(torch_file_with(bytes(bomb.stream)))  # 2**60 paths

    assert checkpoint["w"].tolist() == [1, 2]


def test_a_tensor_under_very_many_paths_is_a_limit_and_not_a_hang():
    value = [W, W]
    for _ in range(60):
        value = [value, value]

    with pytest.raises(fastload.LimitError):
        fastload.open(torch_file({"v": value}))


def test_a_tied_tensor_appears_under_both_names():
    checkpoint = fastload.open(torch_file({"embed": W, "head": {"weight": W}}))

    assert list(checkpoint) == ["embed", "head.weight"]
    assert checkpoint.entry("embed").storage == checkpoint.entry("head.weight").storage


@pytest.mark.parametrize("depth", [100, 5_000, 200_000])
def test_deep_nesting_is_walked_without_recursion(depth):
    stream, records = torch_pickle({"w": W})
    deep = Pickle(None).raw(b"]" * depth + b"a" * (depth - 1))
    file = torch_zip(Pickle(None).raw(stream[:-1]).entry("v", deep.stream).stop(), records)

    checkpoint = fastload.open(file)
    inner, levels = checkpoint.objects["v"], 1
    while inner:
        (inner,), levels = inner, levels + 1

    assert checkpoint["w"].tolist() == [1, 2] and levels == depth


def test_objects_hold_the_plain_values_and_not_the_tensors():
    objects = fastload.open(
        torch_file({"w": W, "epoch": 3, "nested": {"lr": 0.5, "names": ["a", ("b", None)]}})
    ).objects

    assert objects["epoch"] == 3 and objects["nested"] == {"lr": 0.5, "names": ["a", ("b", None)]}


def test_strides_of_a_tensor_are_honoured():
    """Burn's reader ignores them and gives a transposed tensor the wrong values."""
    held = storage("int16", range(6))

    view = fastload.open(torch_file({"w": Tensor(held, (2, 3), (1, 2))}))["w"]

    assert view.tolist() == [[0, 2, 4], [1, 3, 5]] and view.strides == (2, 4)
