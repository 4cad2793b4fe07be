"""What messages advise: arguments of Python in the library, and the flags of the verb at a terminal."""

import ast
import copy
import gzip
import os
import pathlib
import pickle
import re
import shlex
import zipfile

import numpy as np
import pytest

import fastload
from fastload import atomic
from fastload.cli import main, whole_parser
from fastload.cli.completion import _parsers
from fastload.errors import Advice, PlanError, advised


@pytest.fixture(autouse=True)
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fastload.save({"fc.weight": np.zeros((2, 3), np.float32), "n": np.zeros(2, np.int64)}, "m.safetensors")
    fastload.save({"n": np.ones(2)}, "other.npz")
    fastload.split("m.safetensors", "shards", max_shard_bytes=16)
    (tmp_path / "m.gz").write_bytes(gzip.compress(bytes(1 << 16)))
    with zipfile.ZipFile("m.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write("m.safetensors", "the weights/m.safetensors")
    with zipfile.ZipFile("m.whl", "w") as archive:
        archive.writestr("m-1.dist-info/WHEEL", "")


def told(line, capsys):
    """What a command line that fails says."""
    assert main(line) in (2, 3)
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    return err


ADVICE = {
    "convert m.safetensors other.npz": "is there already: give --overwrite to replace it\n",
    "convert m.safetensors other.npz --dry-run": "is there already: give --overwrite to replace it\n",
    "report m.safetensors -o other.npz": "is there already: give --overwrite to replace it\n",
    "split m.safetensors shards": " already: give --overwrite to replace them all, or another folder\n",
    "split shards shards --max-shard-size 16 --overwrite": "give another folder, or another --max-shard-size\n",
    "convert shards folder": "tells no format: give --format, one of safetensors",
    "merge m.safetensors other.npz -o new.pt": "Rename one, leave one out, or say which counts with --prefer\n",
    "ls m.zip": "that holds a checkpoint: open it with --member 'the weights/m.safetensors'\n",
    "ls m.whl": "is a Python wheel: name the checkpoint in it, as --member\n",
    "ls m.safetensors --adapt pytorch-to-burn": "as in --types fc=Linear --types '*.norm*=LayerNorm' --types '*='\n",
    "ls m.safetensors --cast n=int8": "'n' is int64, which cannot become int8\n",
}


@pytest.mark.parametrize("line", ADVICE)
def test_a_terminal_is_advised_of_flags(line, capsys):
    assert ADVICE[line] in told(line.split(), capsys)


def test_a_member_that_begins_like_a_flag_is_advised_as_it_can_be_given(capsys):
    with zipfile.ZipFile("dash.zip", "w") as archive:
        archive.write("m.safetensors", "-m.safetensors")

    assert told(["ls", "dash.zip"], capsys).endswith("open it with --member=-m.safetensors\n")
    assert main(["ls", "dash.zip", "--member=-m.safetensors"]) == 0


def test_a_module_without_a_name_is_advised_of_and_taken(capsys):
    fastload.save({"weight": np.zeros((2, 3))}, "bare.safetensors")
    line = ["ls", "bare.safetensors", "--adapt", "burn-to-pytorch"]

    advised = told(line, capsys).partition("as in ")[2]
    assert advised.startswith("--types =Linear")
    assert main([*line, *shlex.split(advised)]) == 0


@pytest.mark.parametrize("line", ["ls m.gz", "ls m.zip --member 'the weights/m.safetensors'"])
def test_what_no_flag_does_is_not_advised(line, capsys, monkeypatch):
    for module in ("members", "formats.gzipped"):
        monkeypatch.setattr(f"fastload.{module}.free_memory", lambda: 100)

    assert re.search(r"half of the free memory[:;] unpack it first\n$", told(shlex.split(line), capsys))


def test_losses_are_advised_of_by_the_flag_alone(capsys):
    fastload.save({"w": np.zeros(2)}, "m.pt", metadata={"a": 1})

    assert told(["convert", "m.pt", "m.npz"], capsys).endswith("Nothing was written; --lossy saves without it\n")


def test_where_no_rename_is_exclusive_the_flag_is_advised(capsys, monkeypatch):
    def not_supported(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(atomic, "rename_exclusively", not_supported)
    monkeypatch.setattr(os, "link", not_supported)

    assert "clobbering; use --overwrite; the temporary" in told(["convert", "m.safetensors", "new.pt"], capsys)


def test_python_is_advised_of_arguments():
    with pytest.raises(FileExistsError, match="is there already: give overwrite=True to replace it"):
        fastload.convert("m.safetensors", "other.npz")
    with pytest.raises(fastload.UnsupportedError, match=r"open it with member='the weights/m\.safetensors'"):
        fastload.open("m.zip")
    with pytest.raises(fastload.LimitError, match="pass a larger max_inflated= to open, or unpack it first"):
        fastload.open("m.gz", max_inflated=1)
    with pytest.raises(PlanError, match="which cannot become int8; say integers=True"):
        fastload.open("m.safetensors").cast({"n": "int8"})


@pytest.mark.parametrize("again", [copy.copy, lambda error: pickle.loads(pickle.dumps(error))], ids=["copy", "pickle"])
@pytest.mark.parametrize("error", [PlanError("say w={1}"), FileExistsError(17, "say w={1}", "path")], ids=repr)
def test_advice_survives_copy_and_pickle(error, again):
    advice = Advice("say {}", "w", {1})

    twin = again(advised(error, advice))

    assert str(twin) == str(error) and str(advice) in str(twin) and twin.advice == (advice,)


def test_no_error_names_an_argument_that_is_a_flag_but_as_advice():
    flags = {action.dest for parser in _parsers(whole_parser()) for action in parser._actions if action.option_strings}
    argument = re.compile(rf"\b(?:{'|'.join(flags)})=")

    found = [
        f"{path.name}: {node.value}"
        for path in pathlib.Path(fastload.__file__).parent.rglob("*.py")
        for call in ast.walk(ast.parse(path.read_text()))
        if isinstance(call, ast.Call) and re.search(r"^(?!Type|Value).*Error$", ast.unparse(call.func))
        for node in ast.walk(call)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and argument.search(node.value)
    ]

    assert found == []
