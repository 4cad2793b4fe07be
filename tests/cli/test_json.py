"""What --json prints, of every verb, against docs/json.md: every key is told of there, with its types, and is there."""

import itertools
import json
import pathlib
import re
import shutil

import numpy as np
import pytest
import torch

import fastload
from builders import Tensor, smallest_file, storage, tensor, torch_file
from fastload.cli import VERBS, main
from pickles import Call, Global

DOCUMENT = pathlib.Path(__file__).parents[2] / "docs" / "json.md"
TYPES = {str: "text", bool: "bool", int: "integer", float: "number", list: "list", dict: "object", type(None): "null"}


CONTAINERS = {"list", "object"}


def alternatives(key):
    """A key with {a,b} in it as all the keys that it stands for."""
    parts = [part.split(",") for part in re.split(r"[{}]", key)]
    return ["".join(choice) for choice in itertools.product(*parts)]


def told():
    """Of each schema in the document its keys with the types that they may have."""
    schemas = {}
    for line in DOCUMENT.read_text().splitlines():
        if found := re.fullmatch(r"## `(fastload\.\w+/\d+)`", line):
            keys = schemas[found[1]] = {"schema": {"text"}}
        elif found := re.fullmatch(r"\| `([^`]+)` \| ([a-z, ]+) \|.*\|", line):
            types = set(re.split(r", | or ", found[2]))
            assert types <= {*TYPES.values(), "any"}, line
            keys |= dict.fromkeys(alternatives(found[1]), types)
    return schemas


SCHEMAS = told()


def walk(value, path, keys, found):
    """Hold a JSON value, which lies under a path, against the documented keys; note those that it has in *found*."""
    type_name = TYPES[type(value)]
    types = keys.get(path)
    if types is not None:
        assert types & {"any", type_name} or (type_name == "integer" and "number" in types), (path, type_name)
        found.add(path)
        if "any" in types:
            return
    else:
        assert any(key.startswith((f"{path}.", f"{path}[")) for key in keys) or not path, f"{path} is not told of"
        assert type_name in CONTAINERS, f"{path} may be {type_name}"
    if isinstance(value, dict):
        for key, item in value.items():
            place = f"{path}.{key}" if path else key
            is_own = any(known == f"{path}.*" or known.startswith(f"{path}.*.") for known in keys)
            walk(item, f"{path}.*" if is_own else place, keys, found)
    elif isinstance(value, list):
        for item in value:
            walk(item, f"{path}[]", keys, found)


def keys_of(value, keys):
    """The documented keys that an object has; an AssertionError where one is not documented, or of another type."""
    found = set()
    walk(value, "", keys, found)
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Files that have everything that can be told."""
    folder = tmp_path_factory.mktemp("json")
    held = storage("float32", [1, float("nan"), float("inf"), 0])
    root = {
        "w": Tensor(held, (4,), (1,)),
        "v": Tensor(held, (2,), (1,)),
        "layers": [{"weight": tensor("float32", (2,), [1, 2])}, {"weight": tensor("float32", (2,), [3, 4])}],
        "c": tensor("complex64", (2,), [1 + 2j, 3]),
        "meta": Call(
            Global("torch._utils", "_rebuild_meta_tensor_no_storage"), (Global("torch", "float32"), (2,), (1,), False)
        ),
        "other": Call(Global("mine", "Thing"), (1,)),
    }  # fmt: skip
    (folder / "rich.pt").write_bytes(torch_file(root))
    module = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    module.register_buffer("mask", torch.ones(2), persistent=False)
    torch.save(module, folder / "module.pt")
    fastload.save({"w": np.arange(6, dtype="f4").reshape(2, 3), "x": np.ones(2, "f4")}, folder / "a.safetensors")
    fastload.save({"w": np.zeros((2, 3), "f4"), "y": np.ones(2, "f4")}, folder / "b.safetensors")
    fastload.save({"z": np.ones(2, "f4")}, folder / "z.safetensors")
    (folder / "bad.safetensors").write_bytes(smallest_file("safetensors")[:-1])
    (folder / "app").mkdir()
    shutil.copy(folder / "a.safetensors", folder / "app" / "a.safetensors")
    (folder / "app" / "__main__.py").write_text("")
    (folder / "app" / "compiled.so").write_text("")
    return folder


COMMANDS = {
    "bench": ["a.safetensors --against none --repeat 1", "rich.pt --against safetensors --repeat 1"],
    "convert": [
        "a.safetensors new.pt",
        "a.safetensors other.pt --dry-run",
        "rich.pt new.safetensors --lossy --exclude meta",
    ],
    "diff": ["a.safetensors b.safetensors", "a.safetensors b.safetensors --cast float16", "rich.pt a.safetensors"],
    "doctor": ["a.safetensors"],
    "embed": ["a.safetensors --c -o _made.c"],
    "ls": ["rich.pt", "rich.pt --collapse --explain --exclude c"],
    "merge": ["rich.pt z.safetensors -o merged.safetensors --lossy --exclude meta"],
    "pack": ["app -o app.pyz"],
    "report": ["rich.pt -o rich.html --exclude meta", "a.safetensors b.safetensors -o ab.html"],
    "scan": ["rich.pt"],
    "show": ["rich.pt w", "rich.pt c", "rich.pt meta"],
    "split": ["rich.pt shards --lossy --exclude meta"],
    "stats": ["rich.pt"],
    "tree": ["module.pt", "rich.pt"],
    "verify": [
        "rich.pt --values --write-sums sums.json",
        "a.safetensors --sums sums.json",
        "bad.safetensors",
    ],
}


def test_every_verb_is_tried():
    assert COMMANDS.keys() == VERBS.keys()


@pytest.mark.parametrize("verb", VERBS)
def test_json_is_what_the_document_tells(verb, folder, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    schema = f"fastload.{verb}/1"
    found = set()

    for command in COMMANDS[verb]:
        status = main([verb, *command.split(), "--json"])
        out, err = capsys.readouterr()
        value = json.loads(out)
        assert status in (0, 1, 3) and value["schema"] == schema, err
        found |= keys_of(value, SCHEMAS[schema])

    assert SCHEMAS[schema].keys() - found == set()


def test_a_file_of_sums_is_what_the_document_tells(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    assert main(["verify", "rich.pt", "--write-sums", "told.json"]) == 0

    value = json.loads((folder / "told.json").read_text())

    assert keys_of(value, SCHEMAS["fastload.sums/1"]) == SCHEMAS["fastload.sums/1"].keys()


def test_every_schema_in_the_document_is_of_a_verb_or_the_sums():
    assert {schema.split(".")[1].split("/")[0] for schema in SCHEMAS} == {*VERBS, "sums"}
