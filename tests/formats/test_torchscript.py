"""TorchScript: the names, order and bytes of the `state_dict()` of what `torch.jit.load` makes of the same file."""

import io
import time
import zipfile

import pytest
import torch
from torch import nn

import fastload
from builders import tensor, torch_pickle, zip_file
from fastload.formats.torch.scripts import _classes
from pickles import Call, Global, dumps

pytestmark = pytest.mark.filterwarnings("ignore")  # of torch: that TorchScript and quantisation are deprecated


def scripted(module):
    file = io.BytesIO()
    torch.jit.save(module if isinstance(module, torch.jit.ScriptModule) else torch.jit.script(module), file)
    return file.getvalue()


def read(file, **options):
    """Names, in order, with (dtype, shape, bytes)."""
    with fastload.open(file, **options) as ckpt:
        assert ckpt.format == "torchscript"
        return {name: (ckpt.entry(name).dtype, ckpt.entry(name).shape, ckpt[name].tobytes()) for name in ckpt}


def expected(tensors):
    return {name: described(value) for name, value in tensors.items()}


def described(value):
    raw = value.detach().int_repr() if value.is_quantized else value.detach()
    data = raw.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return str(value.dtype).removeprefix("torch."), tuple(value.shape), data


def loaded(file):
    return torch.jit.load(io.BytesIO(file))


class Everything(nn.Module):
    """Tensors in every place where TorchScript allows some."""

    tensors: list[torch.Tensor]
    named: dict[str, torch.Tensor]
    maybe: torch.Tensor | None

    def __init__(self):
        super().__init__()
        self.tensors = [torch.rand(1), torch.rand(1)]
        self.named = {"k": torch.rand(1)}
        self.pair = (torch.rand(1), 2)
        self.maybe = torch.rand(1)
        self.plain = torch.rand(1)
        self.sub = nn.ModuleList([nn.Linear(1, 1), nn.BatchNorm1d(1)])
        self.chosen = nn.ModuleDict({"z": nn.Linear(1, 1), "a": nn.Linear(1, 2)})
        self.weight = nn.Parameter(torch.rand(1))
        self.register_buffer("mean", torch.rand(1))
        self.register_buffer("passing", torch.rand(1), persistent=False)
        self.register_buffer("missing", None)
        self.register_parameter("nothing", None)
        self.more = nn.ParameterList([nn.Parameter(torch.rand(2))])
        self.late = nn.Parameter(torch.rand(1))
        self.tied = self.sub[0].weight

    def forward(self, x):
        x = x + self.weight + self.plain + self.tensors[0] + self.named["k"] + self.mean + self.passing + self.pair[0]
        return self.sub[0](x) + self.late


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)
        self.bn = nn.BatchNorm2d(2)
        self.lstm = nn.LSTM(2, 3)
        self.embed = nn.Embedding(3, 2)
        self.again = self.embed
        self.sub = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
        self.sub[2].weight = self.sub[0].weight

    def forward(self, x):
        return self.bn(self.conv(x)), self.sub(self.again(torch.tensor([1])))


class Odd(nn.Module):
    """Tensors of other layouts and dtypes."""

    def __init__(self):
        super().__init__()
        self.register_buffer("q", torch.quantize_per_tensor(torch.rand(3), 0.1, 2, torch.qint8))
        scales, zeros = torch.tensor([0.1, 0.2]), torch.tensor([1, 2])
        self.register_buffer("channels", torch.quantize_per_channel(torch.rand(2, 3), scales, zeros, 0, torch.qint8))
        self.register_buffer("transposed", torch.rand(2, 3).t())
        self.register_buffer("complex", torch.rand(2, dtype=torch.complex64))
        self.register_buffer("empty", torch.rand(0, 2))
        self.register_buffer("brain", torch.rand(2).bfloat16())

    def forward(self, x):
        return x


MODULES = {
    "everything": Everything,
    "net": Net,
    "traced": lambda: torch.jit.trace(Net(), torch.rand(1, 1, 4, 4)),
    "half": lambda: torch.jit.script(Net()).half(),
    "kept when frozen": lambda: torch.jit.freeze(torch.jit.script(Everything().eval()), ["weight"]),
    "odd": Odd,
    "transformer": lambda: nn.TransformerEncoderLayer(4, 2, 8),
}


@pytest.mark.parametrize("module", MODULES)
def test_names_order_and_bytes_are_those_of_the_loaded_state_dict(module):
    file = scripted(MODULES[module]())
    state = loaded(file).state_dict()

    found = read(file)

    assert list(found) == list(state)
    assert found == expected(state)


@pytest.mark.parametrize("module", MODULES)
def test_what_another_tool_has_deflated_reads_the_same(module):
    file = scripted(MODULES[module]())

    assert read(deflated(file)) == read(file)


def deflated(file):
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(file)) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    return out.getvalue()


def rewritten(file, change):
    """*file* with *change* of each (name, data); None drops a record."""
    with zipfile.ZipFile(io.BytesIO(file)) as old:
        members = [(name, change(name, old.read(name))) for name in old.namelist()]
    return zip_file([(name, data) for name, data in members if data is not None])


def test_kinds_and_key_paths_are_those_of_modules():
    live = torch.jit.script(Net())
    parameters = {name for name, _ in live.named_parameters(remove_duplicate=False)}

    with fastload.open(scripted(live)) as ckpt:
        for entry in ckpt.entries():
            assert entry.key_path == (entry.name,)
            assert entry.kind == ("parameter" if entry.name in parameters else "buffer")
        assert ckpt.entry("embed.weight").storage == ckpt.entry("again.weight").storage


def test_attributes_add_tensors_that_are_neither_parameters_nor_buffers():
    file = scripted(Everything())
    more = {"plain", "maybe", "tensors.0", "tensors.1", "named.k", "pair.0"}

    found = read(file, attributes=True)

    assert set(found) == {*loaded(file).state_dict(), *more}
    with fastload.open(file, attributes=True) as ckpt:
        assert ckpt.entry("tensors.1").key_path == ("tensors", 1)
        assert ckpt["tensors.1"].tobytes() == described(loaded(file).tensors[1])[2]


def test_a_frozen_module_has_its_constants():
    live = nn.Sequential(nn.Linear(3, 2), nn.PReLU()).eval()
    file = scripted(torch.jit.freeze(torch.jit.script(live)))

    found = read(file)

    assert list(found) == [f"constants.{n}" for n in range(3)]
    assert sorted(found.values()) == sorted(expected(live.state_dict()).values())


def test_constants_beside_a_state_dict_are_listed_only_where_asked_for():
    file = scripted(torch.jit.freeze(torch.jit.script(Everything().eval()), ["weight"]))

    assert not any(name.startswith("constants.") for name in read(file))
    assert any(name.startswith("constants.") for name in read(file, attributes=True))


class Sparse(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("coo", torch.eye(3).to_sparse())
        self.register_buffer("csr", torch.eye(3).to_sparse_csr())
        self.weight = nn.Parameter(torch.rand(2))
        self.sub = nn.Linear(1, 1)

    def forward(self, x):
        return x


def test_sparse_tensors_are_their_components():
    live = Sparse()

    found = read(scripted(live))

    assert found == expected(
        {
            "weight": live.weight,
            "coo.indices": live.coo.indices(),
            "coo.values": live.coo.values(),
            "csr.crow_indices": live.csr.crow_indices(),
            "csr.col_indices": live.csr.col_indices(),
            "csr.values": live.csr.values(),
            "sub.weight": live.sub.weight,
            "sub.bias": live.sub.bias,
        }
    )
    with fastload.open(scripted(live)) as ckpt:
        assert {entry.kind for entry in ckpt.entries()} == {"parameter", "component"}


ENGINES = [engine for engine in ("fbgemm", "x86", "qnnpack") if engine in torch.backends.quantized.supported_engines]


@pytest.mark.parametrize("engine", ENGINES)
def test_packed_weights_of_a_quantised_module_are_listed(engine):
    """The state dict of torch leaves them out, and the file would seem to be empty."""
    before, torch.backends.quantized.engine = torch.backends.quantized.engine, engine
    try:
        live = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 3)))
        file = scripted(live)
    finally:
        torch.backends.quantized.engine = before
    weight, bias = live[2].weight(), live[2].bias()

    found = read(file)

    assert list(found) == [f"{n}._packed_params._packed_params.{i}" for n in (0, 2) for i in (0, 1)]
    assert found["2._packed_params._packed_params.0"] == described(weight)
    assert found["2._packed_params._packed_params.1"] == described(bias)
    assert read(file, attributes=True) == found


def test_a_module_whose_source_is_missing_still_has_all_its_tensors():
    live = Net()
    file = rewritten(scripted(live), lambda name, data: None if "/code/" in name else data)

    found = read(file)

    assert {name: found[name] for name in live.state_dict()} == expected(live.state_dict())


@pytest.mark.parametrize("broken", ["data.pkl", "constants.pkl"])
def test_a_damaged_pickle_is_an_error(broken):
    file = rewritten(scripted(nn.Linear(1, 1)), lambda name, data: data[:-2] if name.endswith(broken) else data)

    with pytest.raises(fastload.FormatError):
        read(file) and read(file, attributes=True)


def test_objects_and_metadata_and_tree():
    live = Everything()

    with fastload.open(scripted(live)) as ckpt:
        assert ckpt.metadata["byteorder"] == "little"
        assert ckpt.objects.state["chosen"].state["z"].state["bias"].name == "chosen.z.bias"
        assert {node.name for node in ckpt.module_tree()} == {name for name, _ in live.named_modules()}


# The source text, which may be anything.


def script_file(source, attributes, **more):
    """A module of class `__torch__.M` with *source* as its program."""
    held = Call(Global("__torch__", "M"), (), attributes)
    stream, records = torch_pickle(held)
    members = {
        "data.pkl": stream,
        **{f"data/{key}": data for key, data in records.items()},
        "constants.pkl": dumps(()),
        "code/__torch__.py": source if isinstance(source, bytes) else source.encode(),
        "version": b"3\n",
        **more,
    }
    return zip_file([(f"m/{name}", data) for name, data in members.items()], deflate=["m/code/__torch__.py"])


W = tensor("float32", (2,), [1, 2])


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ('class M(Module):\n  __parameters__ = ["a", ]\n  __buffers__ = ["b", ]\n', ["a", "b"]),
        ('class M(Module):\n  __parameters__ = []\n  __buffers__ = []\n', []),
        ('class M(Module):\n  __parameters__ = ["a", ]\n', ["a", "b", "c"]),  # the rest may be buffers
        ('class N(Module):\n  __parameters__ = []\n  __buffers__ = []\n', ["a", "b", "c"]),
        ('class M(Module):\n  __buffers__ = ["b"]\n  a : Tensor\n  b : Tensor\n  __parameters__ = ["c"]\n', ["b", "c"]),
        ('class M(NamedTuple):\n  __parameters__ = ["a", ]\n', ["a", "b", "c"]),
        ("", ["a", "b", "c"]),
        (b"\xff\xfe\0" * 50, ["a", "b", "c"]),
    ],
)  # fmt: skip
def test_only_the_source_tells_parameters_and_buffers(source, names):
    file = script_file(source, {"a": W, "b": W, "c": W, "training": True})

    assert list(read(file)) == names
    assert set(read(file, attributes=True)) == {"a", "b", "c"}


HOSTILE = {
    "open quotes": "class M(Module):\n  __parameters__ = [" + '\\"' * 2_000_000 + "]\n",
    "quotes after one": 'class M(Module):\n  __parameters__ = ["' + '\\"' * 2_000_000 + "]\n",
    "backslashes": 'class M(Module):\n  __parameters__ = ["' + "\\" * 2_000_001 + "]\n",
    "brackets": "class M(Module):\n  __parameters__ = [" + "]" * 4_000_000 + "x\n",
    "underscores": "class M(Module):\n  " + "_" * 4_000_000 + "\n",
    "words": "class M(Module):\n  " + "a" * 4_000_000 + "\n",
    "classes": "class M(Module):\n" * 400_000,
    "half classes": "class " * 800_000,
    "one name": "class " + "M" * 4_000_000 + "(Module)\n",
    "attributes": "class M(Module):\n" + "  a : b\n" * 800_000,
    "lists": "class M(Module):\n" + "  __parameters__ = []\n" * 300_000,
    "spaces": "class M(Module):\n" + " " * 4_000_000,
    "lines": "\n" * 4_000_000,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_source_takes_linear_time(name):
    start = time.process_time()

    _classes(HOSTILE[name])

    assert time.process_time() - start < 5


def test_very_long_source_is_not_read():
    file = script_file(b" " * ((1 << 26) + 1), {"a": W})

    assert list(read(file)) == ["a"]


def test_class_names_that_leave_the_folder_find_no_source():
    held = Call(Global("__torch__./../../x", "M"), (), {"a": W})
    stream, records = torch_pickle(held)
    members = {"data.pkl": stream, "data/0": records["0"], "constants.pkl": dumps(())}

    assert list(read(zip_file([(f"m/{name}", data) for name, data in members.items()]))) == ["a"]


def test_a_list_typed_by_torchscript_is_its_items():
    lists = Call(Global("torch.jit._pickle", "build_tensorlist"), ([W, W],))
    tagged = Call(Global("torch.jit._pickle", "restore_type_tag"), ({"k": W}, "Dict[str, Tensor]"))
    file = script_file("class M(Module):\n  __parameters__ = []\n  __buffers__ = []\n", {"l": lists, "d": tagged})

    assert list(read(file, attributes=True)) == ["l.0", "l.1", "d.k"]
