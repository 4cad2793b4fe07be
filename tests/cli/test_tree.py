"""`fastload tree`: the text of whole modules and its foot, the groups of a state dict, and JSON."""

import json
import time
from importlib import import_module

import pytest
import torch
from torch import nn

from builders import safetensors_file, smallest_file, tensor, torch_file, torch_pickle, torch_zip
from fastload.cli import main
from pickles import Call, Global

HOOKS = Call(Global("collections", "OrderedDict"), ())


@pytest.fixture
def tree(tmp_path, capsys):
    """Run `tree` on the bytes of a file, and return what it printed."""

    def run(file, *arguments):
        path = tmp_path / "m.bin"
        path.write_bytes(file)
        status = main(["tree", *arguments, str(path)])
        out, err = capsys.readouterr()
        assert (status, err) == (0, "")
        return out.replace(str(path), "PATH")

    return run


def parameter(*shape):
    count = torch.Size(shape).numel()
    return Call(Global("torch._utils", "_rebuild_parameter"), (tensor("float32", shape, range(count)), True, HOOKS))


def module(path, name, parameters=(), modules=(), **attributes):
    state = {"_parameters": dict(parameters), "_buffers": {}, "_modules": dict(modules), **attributes}
    return Call(Global(path, name), (), state)


def linear(width):
    parameters = {"weight": parameter(width, width), "bias": None}
    return module("torch.nn.modules.linear", "Linear", parameters, in_features=width, out_features=width)


def model():
    shared = linear(2)
    return module("net", "Net", {}, {"a": shared, "b": shared, "c": linear(3)}, depth=3, training=True)


def test_a_whole_model_and_its_totals(tree):
    assert tree(torch_file(model())) == (
        "Net(\n"
        "  depth=3\n"
        "  (a): Linear(in_features=2, out_features=2, bias=False)\n"
        "  (b): Linear(in_features=2, out_features=2, bias=False)\n"
        "  (c): Linear(in_features=3, out_features=3, bias=False)\n"
        ")\n"
        "\n"
        "PATH: pytorch-zip, 3 modules, 13 parameters\n"  # what is shared counts once
    )


def test_models_within_a_dict(tree):
    out = tree(torch_file({"epoch": 3, "model": linear(2), "ema": linear(1)}))

    assert out.splitlines() == [
        "(model): Linear(in_features=2, out_features=2, bias=False)",
        "(ema): Linear(in_features=1, out_features=1, bias=False)",
        "",
        "PATH: pytorch-zip, 2 modules, 5 parameters",
    ]


def test_json_has_one_module_a_line(tree):
    out = tree(torch_file({"model": model()}), "--json")

    found = json.loads(out)
    assert {key: value for key, value in found.items() if key != "modules"} == {
        "schema": "fastload.tree/1",
        "path": "PATH",
        "format": "pytorch-zip",
        "grouped": False,
        "totals": {"modules": 3, "parameters": 13},
    }
    assert [(row["name"], row["type"]) for row in found["modules"]] == [
        ("model", "net.Net"),
        ("model.a", "torch.nn.modules.linear.Linear"),
        ("model.c", "torch.nn.modules.linear.Linear"),
    ]
    assert found["modules"][0]["children"] == {"a": "model.a", "b": "model.a", "c": "model.c"}
    assert found["modules"][1]["parameters"] == {"weight": {"dtype": "float32", "shape": [2, 2]}}
    assert found["modules"][0]["hyperparameters"] == {"depth": 3, "training": True}
    assert len([line for line in out.splitlines() if line.startswith('  {"name"')]) == 3


def test_a_model_that_changes_its_state_dict_has_a_note(tree):
    file = torch_file(module("m", "Quantised", _state_dict_hooks={0: Global("m", "hook")}))

    assert tree(file).splitlines()[-1].startswith("note: 1 module would change the state dict")


def test_a_file_of_torch(tree, tmp_path):
    live = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ModuleList([nn.Linear(4, 4) for _ in range(3)]))
    torch.save(live, tmp_path / "live.pt")

    out = tree((tmp_path / "live.pt").read_bytes())

    assert out.startswith(f"{live!r}\n\n")
    assert out.endswith(f"7 modules, {sum(p.numel() for p in live.parameters()):,} parameters\n")


def test_a_state_dict_is_grouped_at_the_dots(tree):
    names = ["embed", *(f"layers.{n}.{part}.weight" for n in range(3) for part in ("up", "down")), "layers.3.up.weight"]

    assert tree(safetensors_file({name: ("F32", (1,), bytes(4)) for name in names})) == (
        "embed: float32 (1,)\n"
        "(layers):\n"
        "  (0-2): 3 x\n"
        "    (up):\n"
        "      weight: float32 (1,)\n"
        "    (down):\n"
        "      weight: float32 (1,)\n"
        "  (3):\n"
        "    (up):\n"
        "      weight: float32 (1,)\n"
        "\n"
        "PATH: safetensors, 8 tensors, 8 parameters\n"
        "note: no modules are in the file: these are the names of its tensors, grouped at their dots\n"
    )


def test_groups_as_json(tree):
    found = json.loads(tree(torch_file({"a": {"w": tensor("int8", (2,), [1, 2])}}), "--json"))

    assert found["grouped"] is True and found["totals"] == {"modules": 0, "parameters": 2}
    assert [(row["name"], row["type"], row["tensors"]) for row in found["modules"]] == [
        ("", None, {}),
        ("a", None, {"w": {"dtype": "int8", "shape": [2]}}),
    ]


def test_an_empty_file_has_only_its_foot(tree):
    assert tree(safetensors_file({})).splitlines()[0] == "PATH: safetensors, 0 tensors, 0 parameters"


def test_names_of_a_file_are_escaped(tree):
    out = tree(safetensors_file({"a\x1b.\u202e": ("U8", (1,), b"\0")}))

    assert out.startswith("(a\\x1b):\n  \\u202e: uint8 (1,)\n")


def test_a_name_of_very_many_dots_is_no_trouble(tree):
    out = tree(safetensors_file({"." * 100_000: ("U8", (1,), b"\0")}))

    assert len(out.splitlines()) < 70


def test_very_many_names_in_one_group_are_listed_in_linear_time(tree):
    start = time.process_time()

    out = tree(safetensors_file({f"g{n}.w": ("U8", (0,), b"") for n in range(50_000)}))

    assert len(out.splitlines()) == 100_003 and time.process_time() - start < 10


def test_a_tree_too_long_for_a_person_is_status_3_and_fine_as_json(tmp_path, capsys):
    spec = module("m", "N")
    for _ in range(60):
        spec = module("m", "N", {}, {"a": spec, "b": spec})
    stream, records = torch_pickle(spec)
    path = tmp_path / "m.pt"
    path.write_bytes(torch_zip(stream, records))

    assert main(["tree", str(path)]) == 3
    assert "take it as JSON" in capsys.readouterr().err
    assert main(["tree", "--json", str(path)]) == 0
    assert json.loads(capsys.readouterr().out)["totals"]["modules"] == 61


def test_the_smallest_file(tree):
    assert tree(smallest_file("pytorch-zip")).startswith("w: float32 (2,)\n")


def test_what_is_too_long_for_a_terminal_goes_on_further_to_the_right(tmp_path, monkeypatch, capsys):
    torch.save(nn.Sequential(nn.BatchNorm2d(64)), tmp_path / "m.pt")
    monkeypatch.setattr(import_module("fastload.cli.tree"), "terminal_width", lambda: 40)

    assert main(["tree", f"{tmp_path}/m.pt"]) == 0

    assert capsys.readouterr().out.splitlines()[:6] == [
        "Sequential(",
        "  (0): BatchNorm2d(64, eps=1e-05,",
        "      momentum=0.1, affine=True,",
        "      bias=True,",
        "      track_running_stats=True)",
        ")",
    ]
