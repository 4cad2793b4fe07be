"""Packages that `torch.package` has written: pickles, TorchScript within them, and what is neither."""

import io
import os
import subprocess
import sys

import pytest
import torch
import torch.fx
from torch import nn
from torch.package import PackageExporter, package_exporter

import fastload
from builders import zip_file
from pickles import Call, Global, PersistentId, dumps

pytestmark = pytest.mark.filterwarnings("ignore")  # of torch: that TorchScript is deprecated

NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(2, 3)
        self.register_buffer("mean", torch.rand(2))
        self.register_buffer("passing", torch.rand(2), persistent=False)
        self.plain = torch.rand(3)

    def forward(self, x):
        return self.fc(x + self.mean + self.passing)

class Around(nn.Module):
    def __init__(self, script):
        super().__init__()
        self.script = script
        self.fc = nn.Linear(1, 1)
"""


@pytest.fixture
def net(tmp_path, monkeypatch):
    """A module that can be imported while the test runs, and goes into the packages."""
    (tmp_path / "net_of_package.py").write_text(NET)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(package_exporter, "_gate_torchscript_serialization", False)
    import net_of_package

    yield net_of_package
    del sys.modules["net_of_package"]


def packed(pickles, **others):
    """A package of {"package/name": object}, and of binary records by name."""
    file = io.BytesIO()
    with PackageExporter(file) as exporter:
        exporter.intern("net_of_package")
        exporter.extern("**")
        for path, value in pickles.items():
            package, _, name = path.partition("/")
            exporter.save_pickle(package, name, value)
        for name, data in others.items():
            exporter.save_binary("more", name, data)
    return file.getvalue()


def read(file, **options):
    with fastload.open(file, **options) as ckpt:
        assert ckpt.format == "torch-package"
        return {name: (ckpt.entry(name).dtype, ckpt.entry(name).shape, ckpt[name].tobytes()) for name in ckpt}


def expected(tensors):
    return {
        name: (str(value.dtype).removeprefix("torch."), tuple(value.shape), value.detach().numpy().tobytes())
        for name, value in tensors.items()
    }


def test_a_module_has_the_names_of_its_state_dict(net):
    live = net.Net()
    file = packed({"model/model.pkl": live})

    found = read(file)

    assert list(found) == list(live.state_dict())
    assert found == expected(live.state_dict())
    with fastload.open(file) as ckpt:
        assert [(entry.key_path, entry.kind) for entry in ckpt.entries()] == [
            (("mean",), "buffer"),
            (("fc.weight",), "parameter"),
            (("fc.bias",), "parameter"),
        ]


def test_attributes_add_what_the_state_dict_leaves_out(net):
    assert set(read(packed({"model/model.pkl": net.Net()}), attributes=True)) == {
        *net.Net().state_dict(), "passing", "plain",
    }  # fmt: skip


def test_tensors_of_several_pickles_are_behind_the_names_of_their_records(net):
    live, more = net.Net(), torch.rand(2)
    file = packed({"model/model.pkl": live, "model/other.pkl": {"a": more, "n": 3}, "opt/o.pkl": [live.fc.weight]})

    found = read(file)

    state = {f"model/model.pkl.{name}": value for name, value in live.state_dict().items()}
    assert found == expected({**state, "model/other.pkl.a": more, "opt/o.pkl.0": live.fc.weight})
    with fastload.open(file) as ckpt:
        assert ckpt.entry("opt/o.pkl.0").key_path == ("opt/o.pkl", 0)
        assert ckpt.entry("opt/o.pkl.0").storage == ckpt.entry("model/model.pkl.fc.weight").storage
        other = ckpt.objects["model/other.pkl"]
        assert other["n"] == 3 and other["a"].name == "model/other.pkl.a"


def test_the_module_tree_of_a_package(net):
    live, traced = net.Net(), torch.fx.symbolic_trace(nn.Sequential(nn.Linear(1, 2), nn.ReLU()))

    assert [node.name for node in fastload.open(packed({"m/m.pkl": live})).module_tree()] == ["", "fc"]
    assert [node.name for node in fastload.open(packed({"m/m.pkl": traced})).module_tree()] == ["", "0", "1"]


def test_a_traced_module_has_the_names_of_its_state_dict(net):
    traced = torch.fx.symbolic_trace(net.Net())

    assert read(packed({"m/m.pkl": traced})) == expected(traced.state_dict())
    assert list(read(packed({"m/m.pkl": {"g": traced}}))) == [f"g.{name}" for name in traced.state_dict()]


def test_torchscript_has_the_names_of_its_state_dict(net):
    script = torch.jit.script(net.Net())

    found = read(packed({"m/m.pkl": script}))

    assert list(found) == list(script.state_dict())
    assert found == expected(script.state_dict())


def test_torchscript_within_other_objects_is_behind_the_way_to_it(net):
    script, other = torch.jit.script(net.Net()), torch.jit.script(nn.Linear(1, 2))
    around = net.Around(script)

    assert read(packed({"m/m.pkl": around})) == expected(around.state_dict())
    assert read(packed({"m/m.pkl": {"a": script, "b": [other], "c": script}})) == expected(
        {
            **{f"a.{name}": value for name, value in script.state_dict().items()},
            **{f"b.0.{name}": value for name, value in other.state_dict().items()},
            **{f"c.{name}": value for name, value in script.state_dict().items()},
        }
    )
    assert set(read(packed({"m/a.pkl": [script], "m/b.pkl": [other]}))) == {
        *(f"m/a.pkl.0.{name}" for name in script.state_dict()),
        *(f"m/b.pkl.0.{name}" for name in other.state_dict()),
    }


def test_attributes_of_torchscript(net):
    script = torch.jit.script(net.Net())

    assert set(read(packed({"m/m.pkl": script}), attributes=True)) == {*script.state_dict(), "plain"}


def test_a_frozen_module_of_torchscript_has_its_constants(net):
    live = nn.Linear(3, 2).eval()

    found = read(packed({"m/m.pkl": [torch.jit.freeze(torch.jit.script(live))]}))

    assert list(found) == ["0.constants.0", "0.constants.1"]
    assert sorted(found.values()) == sorted(expected(live.state_dict()).values())


@pytest.mark.parametrize(
    ("data", "found"),
    [(b"\x80\x03junk", 1), (b"\x80\x04", 1), (b"", 1), (b"\x80", 1), (dumps({"n": 1}, 3), 1), (b"\x89PNG", 1)],
)
def test_records_that_are_no_pickles_are_left_alone(net, data, found):
    assert len(read(packed({"m/m.pkl": {"w": torch.ones(1)}}, other=data))) == found


def test_a_pickle_that_is_called_one_and_is_damaged_is_an_error(net):
    with pytest.raises(fastload.FormatError):
        fastload.open(packed({"m/m.pkl": {"w": torch.ones(1)}}, **{"x.pkl": b"\x80\x03junk"}))


def test_a_package_without_pickles_has_no_tensors(net):
    assert read(packed({}, **{"x.bin": b"text"})) == {}


def test_nothing_in_a_package_is_imported(net, tmp_path):
    (tmp_path / "p.pt").write_bytes(packed({"m/m.pkl": net.Net()}))
    (tmp_path / "net_of_package.py").write_text("raise SystemExit('imported')")
    reader = "import sys; sys.modules['torch'] = None; import fastload; print(*fastload.open(sys.argv[1]))"

    done = subprocess.run(
        [sys.executable, "-c", reader, tmp_path / "p.pt"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path, str(tmp_path)])},
    )

    assert done.stdout.split() == ["mean", "fc.weight", "fc.bias"], done.stderr


# Packages that no exporter writes.

FLOATS = Global("torch", "FloatStorage")


def package_of(value, **records):
    members = {"m/m.pkl": dumps(value, 3), ".data/extern_modules": b"", ".data/0.storage": bytes(8), **records}
    return zip_file([(f"p/{name}", data) for name, data in members.items()])


def tensor_of(key, count=2):
    held = PersistentId(("storage", FLOATS, key, "cpu", count))
    return Call(Global("torch._utils", "_rebuild_tensor_v2"), (held, 0, (2,), (1,), False, None))


@pytest.mark.parametrize("key", [0, "0"])
def test_storages_are_numbered_or_named(key):
    assert list(read(package_of({"w": tensor_of(key)}))) == ["w"]


@pytest.mark.parametrize("key", [1, -1, 2**40, 2**80, None, 0.0, "x", "../0", (0,)])
def test_a_storage_that_is_not_there_is_refused(key):
    with pytest.raises(fastload.FormatError):
        fastload.open(package_of({"w": tensor_of(key)}))


REFERENCE = ("reduce_package", 7, Global("torch.jit._script", "unpackage_script_module"), ("0",))


@pytest.mark.parametrize(
    "reference",
    [
        REFERENCE, REFERENCE[:1], REFERENCE[:2], REFERENCE[:3], (*REFERENCE[:3], ()), (*REFERENCE[:3], None),
        (*REFERENCE[:3], (0,)), (*REFERENCE[:3], ("../../0",)), (*REFERENCE[:3], ("\udc80",)),
        (*REFERENCE[:3], ("0", "0")), (REFERENCE[0], *REFERENCE[2:]), (*REFERENCE, 1), ("reduce_package",) * 4,
    ],
    ids=ascii,
)  # fmt: skip
def test_references_of_every_shape_stop_no_tensor(reference):
    file = package_of({"a": PersistentId(reference), "w": tensor_of(0)})

    with fastload.open(file) as ckpt:
        assert list(ckpt) == ["w"]
        repr(ckpt.objects)


def test_a_reference_of_old_packages_without_a_number():
    state = {"_parameters": {"w": tensor_of(0)}, "_buffers": {}, "_modules": {}}
    old = ("reduce_package", Global("torch.fx.graph_module", "reduce_package_graph_module"), (state, "name"))

    assert list(read(package_of({"g": PersistentId(old)}))) == ["g.w"]


def test_very_many_references_to_one_large_module_are_a_limit(monkeypatch):
    monkeypatch.setattr("fastload.formats.torch.package.MAX_SCRIPT_BYTES", 20_000)
    script = {".data/ts_code/0/data.pkl": dumps(["x" * 9_000], 2)}

    assert read(package_of([PersistentId(REFERENCE)] * 2, **script)) == {}
    with pytest.raises(fastload.LimitError):
        fastload.open(package_of([PersistentId((*REFERENCE[:1], n, *REFERENCE[2:])) for n in range(3)], **script))
