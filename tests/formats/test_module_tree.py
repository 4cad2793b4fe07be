"""The tree of whole modules against torch as the oracle: `named_modules()`, `print(model)`, and golden files."""

import copy
import io
import json
import pathlib
import time
import zipfile

import pytest
import torch
from torch import nn
from torch.nn import functional

import fastload
from fastload._native import build, parse
from fastload.formats.torch.module_reprs import shown
from fastload.formats.torch.modules import MAX_ATTRIBUTES, tree
from fastload.formats.torch.vocabulary import VOCABULARY
from pickles import Call, Global, Pickle, dumps

SHARED = pathlib.Path(__file__).parents[3] / "shared" / "cases" / "torch"


def saved(model, **options):
    file = io.BytesIO()
    torch.save(model, file, **options)
    return file.getvalue()


def opened(file):
    """The tree of a file."""
    with fastload.open(file) as ckpt:
        return ckpt.module_tree()


def objects_of(file):
    if not file.startswith(b"PK"):
        return build(parse(file), VOCABULARY, {})
    with zipfile.ZipFile(io.BytesIO(file)) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        return build(parse(archive.read(name)), VOCABULARY, {})


def module(path, name, modules=(), **attributes):
    """What a pickle says of a module, for `grown`."""
    return Call(Global(path, name), (), {"_parameters": {}, "_buffers": {}, "_modules": dict(modules), **attributes})


def grown(spec):
    """The tree of what a pickle of *spec* holds."""
    return tree(build(parse(dumps(spec)), VOCABULARY, {}))


class Block(nn.Module):
    def __init__(self, width, downsample=None):
        super().__init__()
        self.width = width
        self.downsample = downsample
        self.conv = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(width, eps=1e-3)
        self.relu = nn.ReLU(inplace=True)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, (7, 5), stride=2, padding=(3, 2))
        self.blocks = nn.Sequential(Block(4), Block(4, nn.Identity()))
        self.names = ["cat", "dog"]
        self.activation = functional.relu
        self.dtype = torch.float16
        self.norm = nn.LayerNorm
        self.register_buffer("steps", torch.zeros(3), persistent=False)
        self.register_buffer("mean", torch.zeros(2))
        self.plain = torch.ones(4)
        self.limits = {"low": (1, 2.5), "high": None}
        self.odd = {"what": nn.Parameter(torch.zeros(1))}
        self.head = None


MODELS = {
    "net": Net,
    "lstm": lambda: nn.LSTM(3, 4, num_layers=2, bidirectional=True, dropout=0.5, proj_size=2, batch_first=True),
    "gru": lambda: nn.GRU(3, 4, bias=False),
    "transformer": lambda: nn.Transformer(8, 2, 2, 1, 16, batch_first=True),
    "attention": lambda: nn.MultiheadAttention(8, 2, kdim=4, vdim=6, add_bias_kv=True),
    "data_parallel": lambda: nn.DataParallel(nn.Linear(2, 3)),
}


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_names_types_and_scalars_are_those_of_named_modules(model, protocol):
    live = model()

    found = opened(saved(live, pickle_protocol=protocol))

    expected = dict(live.named_modules())
    assert [node.name for node in found] == list(expected)
    for node in found:
        module = expected[node.name]
        assert node.type == f"{type(module).__module__}.{type(module).__qualname__}"
        values = {key: value for key, value in vars(module).items() if not key.startswith("_")}
        scalars = {key: value for key, value in values.items() if is_plain(value)}
        assert {key: node.hyperparameters[key] for key in scalars} == scalars
        assert list(node.children) == [key for key, child in module._modules.items() if child is not None]
        assert list(node.parameters) == [key for key, value in module._parameters.items() if value is not None]
        assert list(node.buffers) == [key for key, value in module._buffers.items() if value is not None]


def is_plain(value):
    if isinstance(value, (list, tuple)):
        return all(map(is_plain, value))
    return value is None or isinstance(value, (bool, int, float, str))


def test_attributes_of_every_sort():
    found = opened(saved(Net()))

    assert found.hyperparameters == {
        "training": True,
        "names": ["cat", "dog"],
        "activation": "torch.nn.functional.relu",
        "dtype": "torch.float16",
        "norm": "torch.nn.modules.normalization.LayerNorm",
        "limits": {"low": (1, 2.5), "high": None},
        "head": None,
    }
    assert found.non_persistent == {"steps"} and not found.has_custom_hooks
    assert found.source is None and found.children["blocks"].children["1"].name == "blocks.1"


def test_shared_modules_are_one_node_with_its_first_name():
    shared = nn.Linear(2, 2)
    model = nn.ModuleDict({"a": shared, "b": nn.Sequential(shared, nn.ReLU())})

    found = opened(saved(model))

    assert [node.name for node in found] == [name for name, _ in model.named_modules()] == ["", "a", "b", "b.1"]
    walked = [name for name, _ in model.named_modules(remove_duplicate=False)]
    assert [name for name, _ in found.walk()] == walked == ["", "a", "b", "b.0", "b.1"]
    assert found.children["b"].children["0"] is found.children["a"]


def test_roots_within_dicts_lists_and_objects():
    model = nn.Linear(1, 1)
    state = {"model": model, "ema": copy.deepcopy(model), "all": [1, (model, nn.ReLU())], "n": {3: nn.Tanh()}}

    found = opened(saved(state))

    assert found.type == "" and [node.name for node in found] == ["", "model", "ema", "all.1.1", "n.3"]
    assert str(found) == (
        "(model): Linear(in_features=1, out_features=1, bias=True)\n"
        "(ema): Linear(in_features=1, out_features=1, bias=True)\n(all.1.1): ReLU()\n(n.3): Tanh()"
    )


def test_modules_that_are_attributes_of_other_objects():
    net = module("m", "Net")
    trainer = Call(Global("a", "Trainer"), (), {"net": net, "epochs": 3})
    partial = Call(Global("functools", "partial"), (net, 1))

    assert [node.name for node in grown(trainer)] == ["", "net"]
    assert [node.name for node in grown([partial])] == ["", "0.0"]


def test_a_state_dict_has_no_modules():
    with pytest.raises(fastload.UnsupportedError, match="holds no modules"):
        fastload.open(saved(nn.Linear(1, 1).state_dict())).module_tree()


def test_custom_hooks_are_told():
    model = nn.Sequential(nn.ReLU())
    model._register_state_dict_hook(functional.relu)  # any function that can be pickled

    assert [node.has_custom_hooks for node in opened(saved(model))] == [True, False]


def test_reconstructed_objects_are_of_the_class_they_name():
    made = (Global("old.net", "Net"), Global("__builtin__", "object"), None)
    old = Call(Global("copy_reg", "_reconstructor"), made, module("", "", n=3).state)

    found = grown(old)

    assert (found.type, found.hyperparameters) == ("old.net.Net", {"n": 3})


def test_modules_may_lie_in_a_dict_of_an_unknown_class():
    mapping = Pickle(None).value(Call(Global("my", "Mapping"), ())).entry("act", as_opcodes(module("m", "Act")))
    stream = Pickle().value(Call(Global("m", "Net"), ())).op("EMPTY_DICT")
    for name in ("_parameters", "_buffers"):
        stream.text(name).op("EMPTY_DICT").op("SETITEM")
    stream.entry("_modules", bytes(mapping.text("gone").op("NONE").op("SETITEM").stream)).op("BUILD")

    found = tree(build(parse(stream.stop()), VOCABULARY, {}))

    assert [node.name for node in found] == ["", "act"]
    assert str(found) == "Net(\n  (act): Act()\n  (gone): None\n)"


def as_opcodes(value):
    return bytes(Pickle(None).value(value).stream)


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_scripted_modules(tmp_path):
    model = nn.Sequential(nn.Linear(2, 3), nn.Sequential(nn.ReLU(), nn.Linear(3, 1)))
    torch.jit.save(torch.jit.script(model), tmp_path / "model.pt")

    found = tree(objects_of((tmp_path / "model.pt").read_bytes()))

    assert [(node.name, node.type) for node in found] == [
        (name, f"{type(module).__module__}.{type(module).__qualname__}") for name, module in model.named_modules()
    ]
    assert any("___torch_mangle_" in node.raw_type for node in found) and found.hyperparameters == {"training": True}


def test_typed_lists_of_scripted_modules_are_lists():
    numbers = Call(Global("torch.jit._pickle", "build_intlist"), ([1, 2],))
    tagged = Call(Global("torch.jit._pickle", "restore_type_tag"), ({"a": numbers}, "Dict[str, List[int]]"))
    scripted = Call(Global("__torch__", "Net"), (), {"lst": numbers, "tagged": tagged, "k": 5, "_hidden": 1})

    assert grown(scripted).hyperparameters == {"lst": [1, 2], "tagged": {"a": [1, 2]}, "k": 5}


GOLDEN = json.loads((SHARED / "golden.json").read_text())["files"] if SHARED.is_dir() else {}
WHOLE = [name for name, case in GOLDEN.items() if case.get("modules") and name.startswith("module/")]


@pytest.mark.parametrize("name", WHOLE)
def test_golden_trees(name):
    found = opened((SHARED / name).read_bytes())

    for expected in GOLDEN[name]["modules"]:
        root = expected["root"]
        top = found.children[root] if root else found
        rows = [[node.name[len(root) :].lstrip("."), node.type, golden_attributes(node)] for node in top]
        assert rows == expected["module_tree"]


def golden_attributes(node):
    """The attributes as the golden files have them: without lists, dicts and the names of functions."""
    plain = {
        key: value
        for key, value in node.hyperparameters.items()
        if not isinstance(value, (list, dict)) and not str(value).startswith("torch.nn.functional.")
    }
    return json.loads(json.dumps(plain))


def layers():
    """A module of each class whose text torch and we make alike, in ways that leave and give its options."""
    yield from (nn.Linear(2, 3), nn.Linear(2, 3, bias=False), nn.Bilinear(1, 2, 3), nn.Identity())
    yield from (nn.Conv1d(1, 2, 3), nn.Conv2d(4, 4, 3, 2, 1, 2, groups=2, bias=False, padding_mode="reflect"))
    yield from (nn.Conv3d(1, 1, (1, 2, 3), padding="same"), nn.ConvTranspose2d(1, 2, 3, 2, 1, output_padding=1))
    yield from (nn.BatchNorm1d(3), nn.BatchNorm2d(3, affine=False), nn.InstanceNorm2d(3), nn.SyncBatchNorm(2))
    yield from (nn.LayerNorm((2, 3)), nn.LayerNorm(4, bias=False), nn.GroupNorm(2, 4), nn.RMSNorm(4))
    yield from (nn.Embedding(5, 2, padding_idx=1, sparse=True), nn.Embedding(3, 2, max_norm=1.5, norm_type=1.0))
    yield from (nn.EmbeddingBag(5, 2), nn.LocalResponseNorm(2), nn.PReLU(3), nn.CrossEntropyLoss())
    yield from (nn.RNN(2, 3), nn.LSTM(2, 3, 2, dropout=0.1, bidirectional=True), nn.GRUCell(2, 3, bias=False))
    yield from (nn.RNNCell(2, 3, nonlinearity="relu"), nn.Dropout(0.2), nn.Dropout2d(0.5, inplace=True))
    yield from (nn.MaxPool2d(2), nn.MaxPool1d(3, stride=2, ceil_mode=True), nn.AvgPool2d(2, padding=1))
    yield from (nn.AdaptiveAvgPool2d((1, None)), nn.AdaptiveMaxPool1d(2), nn.LPPool2d(2, 3), nn.MaxUnpool2d(2))
    yield from (
        nn.ReLU(),
        nn.ReLU6(inplace=True),
        nn.SiLU(),
        nn.Mish(),
        nn.SELU(),
        nn.ELU(0.5),
        nn.LeakyReLU(0.2, True),
    )
    yield from (nn.Threshold(0.1, 20), nn.RReLU(), nn.Hardtanh(-2, 2), nn.GELU("tanh"), nn.GLU(1), nn.Softmax(dim=1))
    yield from (nn.Hardshrink(), nn.Softplus(), nn.Sigmoid(), nn.Tanh(), nn.Hardswish(), nn.Softmax2d(), nn.CELU())
    yield from (nn.LeakyReLU(0.2, True), nn.UpsamplingNearest2d(scale_factor=2))
    yield from (nn.Flatten(), nn.Unflatten(1, (2, 3)), nn.Fold((4, 5), (2, 2)), nn.Unfold(2), nn.PixelShuffle(2))
    yield from (nn.ReflectionPad2d(1), nn.ZeroPad2d((1, 2, 3, 4)), nn.ConstantPad1d(1, 2.5), nn.CircularPad2d(1))
    yield from (
        nn.Upsample(scale_factor=2),
        nn.Upsample((3, 4), mode="bilinear"),
        nn.UpsamplingNearest2d(scale_factor=2),
    )
    yield from (nn.ChannelShuffle(2), nn.PixelUnshuffle(2), nn.ModuleList(), nn.ModuleDict(), nn.Sequential())
    yield from (nn.LazyLinear(3), nn.LazyConv2d(3, 2), nn.LazyBatchNorm1d(), nn.CosineSimilarity())


@pytest.mark.parametrize("layer", list(layers()), ids=lambda layer: repr(layer).replace("\n", " ")[:60])
def test_text_of_a_layer_is_that_of_torch(layer):
    assert str(opened(saved(layer))) == repr(layer)


@pytest.mark.parametrize(
    "model",
    [
        nn.Transformer(8, 2, 3, 2, 16, batch_first=True),
        nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, batch_first=True), 6),
        nn.ModuleList([nn.Linear(1, 1), nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 1)]),
        nn.Sequential(nn.Conv2d(1, 2, 3), nn.ModuleDict({"a": nn.ReLU(), "b": nn.Sequential(nn.Tanh())})),
        nn.MultiheadAttention(8, 2),
    ],
    ids=lambda model: type(model).__name__,
)
def test_text_of_a_model_is_that_of_torch(model):
    assert str(opened(saved(model))) == repr(model)


def test_text_of_other_classes_shows_their_attributes():
    assert str(opened(saved(Block(1)))).splitlines()[:3] == [
        "Block(",
        "  width=1, downsample=None",
        "  (conv): Conv2d(1, 1, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1), bias=False)",
    ]


def test_an_older_file_that_lacks_an_attribute_shows_those_it_has():
    assert str(grown(module("torch.nn.modules.linear", "Linear", in_features=3))) == "Linear(in_features=3)"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ((1,), "(1,)"),
        (set(), "set()"),
        ({"a": [True]}, "{'a': [True]}"),
        ([[[[[[1]]]]]], "[[[[[…]]]]]"),
        (1 << 20_000, "…"),
        ("a\x1b[31m", r"'a\x1b[31m'"),
        (list(range(1000)), None),
        ("x" * 10**6, None),
    ],
    ids=range(8),
)
def test_values_are_shown_short(value, text):
    assert shown(value) == text if text else (len(shown(value)) <= 101 and shown(value)[-1] == "…")


def test_names_are_escaped_for_a_person():
    found = grown(module("m", "N\x1b", {"a\x1b\u202e": module("m", "B")}, **{"k\n": "v\n"}))

    assert str(found) == "N\\x1b(\n  k\\n='v\\n'\n  (a\\x1b\\u202e): B()\n)" and repr(found).isprintable()


# Files that mean harm.


def chain(depth):
    """Modules within modules, put together from the outside, since pickle would recurse."""
    head = Pickle(None).value(Call(Global("m", "N"), ())).op("EMPTY_DICT")
    for name in ("_parameters", "_buffers"):
        head.text(name).op("EMPTY_DICT").op("SETITEM")
    head.text("_modules").op("EMPTY_DICT")
    tail = Pickle(None).op("SETITEM").op("BUILD")
    inner, closed = Pickle(None).text("a"), Pickle(None).op("SETITEM")
    stream = bytes(head.stream + inner.stream) * depth + head.stream + tail.stream
    return build(parse(stream + bytes(closed.stream + tail.stream) * depth + b"."), VOCABULARY, {})


def test_deep_nesting_does_not_recurse():
    found = tree(chain(5_000))

    assert sum(1 for _ in found) == sum(1 for _ in found.walk()) == 5_001
    with pytest.raises(fastload.LimitError, match="characters as text"):
        str(found)


def test_nesting_whose_names_are_too_long_together_is_refused():
    with pytest.raises(fastload.LimitError, match="names of the modules"):
        tree(chain(20_000))


def test_a_module_within_itself_ends():
    items = [1]
    items.append(items)
    spec = module("m", "N", itself=items)
    spec.state["_modules"]["self"] = spec

    found = grown(spec)

    assert [node.name for node in found] == [""] and [name for name, _ in found.walk()] == [""]
    assert found.children["self"] is found and "itself" not in found.hyperparameters
    assert str(found) == "N(\n  (self): N(…)\n)"


def test_modules_that_double_at_each_level_are_one_each():
    spec = module("m", "N")
    for _ in range(60):
        spec = module("m", "N", {"a": spec, "b": spec})

    found = grown(spec)

    assert sum(1 for _ in found) == 61
    with pytest.raises(fastload.LimitError, match="characters as text"):
        str(found)


def test_lists_that_double_at_each_level_are_shown_short():
    value = []
    for _ in range(60):
        value = [value, value]
    start = time.process_time()

    found = grown(module("m", "N", value=value))

    assert len(str(found)) < 200 and time.process_time() - start < 2


def test_modules_that_share_very_many_attributes_are_refused():
    state = module("m", "N", **{f"k{n}": n for n in range(10_000)}).state
    models = [Call(Global("m", "N"), (), state) for _ in range(MAX_ATTRIBUTES // 10_000 + 1)]

    with pytest.raises(fastload.LimitError, match="attributes in all"):
        grown(models)


@pytest.mark.parametrize(
    "spec",
    [
        None,
        7,
        [],
        Global("m", "N"),
        Call(Global("m", "N"), ()),
        Call(Global("m", "N"), (), module("m", "N", _modules=3).state),
        Call(Global("m", "N"), (), module("m", "N", _parameters=Global("m", "f")).state),
    ],
    ids=range(7),
)
def test_what_only_looks_like_a_module_is_none(spec):
    with pytest.raises(fastload.UnsupportedError, match="holds no modules"):
        grown(spec)


def test_odd_insides_of_a_module_are_passed_over():
    spec = module("m", "N", {1: 3, "x": Global("m", "f"), "y": {}}, _state_dict_hooks=7, ok=1, both={(1, 2): 3})
    spec.state.update({5: 6, "_non_persistent_buffers_set": ["b"]})
    spec.state["_parameters"] = {"w": 3, "v": None, 2: Call(Global("a", "Tensor"), ())}

    found = grown(spec)

    assert found.hyperparameters == {"ok": 1} and list(found.parameters) == ["2"] and not found.children


def test_attributes_beside_slots_are_found():
    assert grown(Call(Global("m", "N"), (), (module("m", "N", n=1).state, {"slot": 2}))).hyperparameters == {"n": 1}


# By way of `open`.


def test_tensors_of_a_module_are_their_entries():
    with fastload.open(saved(Net())) as checkpoint:
        found = checkpoint.module_tree()

    stem = found.children["stem"]
    assert {key: (entry.name, entry.shape, entry.dtype) for key, entry in stem.parameters.items()} == {
        "weight": ("stem.weight", (4, 3, 7, 5), "float32"),
        "bias": ("stem.bias", (4,), "float32"),
    }
    assert found.buffers["mean"].shape == (2,) and found.tensors["plain"].shape == (4,)


def test_parameter_lists_print_as_in_torch():
    model = nn.Sequential(nn.ParameterList([torch.zeros(2, 3), torch.zeros(4)]), nn.ReLU())

    with fastload.open(saved(model)) as checkpoint:
        assert str(checkpoint.module_tree()) == repr(model)


def test_the_source_of_a_class_is_kept():
    with fastload.open(saved(Block(1), _use_new_zipfile_serialization=False)) as checkpoint:
        found = checkpoint.module_tree()

    assert found.source.startswith("class Block(nn.Module):") and found.source_file.endswith("test_module_tree.py")
    assert found.children["relu"].source.startswith("class ReLU(")
