"""`fastload embed` and `verify --member`: models into programs and C sources, and flags that do not go together."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

import fastload
from fastload.cli import main
from programs import program


@pytest.fixture
def model(tmp_path):
    fastload.save({"w": np.float32([1, 2])}, tmp_path / "m.safetensors")
    return str(tmp_path / "m.safetensors")


@pytest.fixture
def app(tmp_path):
    (tmp_path / "app").write_bytes(program())
    return str(tmp_path / "app")


def test_a_model_is_put_into_a_program_and_taken_out(model, app, capsys):
    assert main(["embed", model, "--into", app]) == 0
    assert capsys.readouterr().out == f'wrote {app}: 72 B, opened by fastload.open_embedded("weights")\n'
    assert fastload.open_embedded(path=app)["w"].tolist() == [1, 2]

    assert main(["embed", "--into", app, "--remove"]) == 0
    assert capsys.readouterr().out == f"removed weights from {app}\n"
    assert fastload.list_embedded(app) == []

    assert main(["embed", "--into", app, "--remove", "--name", "x"]) == 3
    assert "no embedded model 'x'" in capsys.readouterr().err


def test_verify_compares_the_checksum_of_an_embedded_model(model, app, capsys):
    main(["embed", model, "--into", app, "--name", "v1"])
    assert main(["verify", app, "--member", "v1"]) == 0
    data = bytearray(Path(app).read_bytes())
    data[data.index(np.float32([1, 2]).tobytes())] ^= 1
    Path(app).write_bytes(data)
    capsys.readouterr()

    assert main(["verify", app, "--member", "v1", "--json"]) == 3

    assert "another SHA-256" in json.loads(capsys.readouterr().out)["error"]["message"]


@pytest.mark.parametrize("file", ["_weights.c", "größe \"'\\n.d/w.c"])
def test_a_c_extension_is_built_and_viewed(tmp_path, capsys, file):
    target = tmp_path / file
    target.parent.mkdir(exist_ok=True)
    model = target.parent / 'a "model\\ ü\n.safetensors'
    fastload.save({"w": np.float32([1, 2])}, model)

    assert main(["embed", str(model), "--c", "-o", str(target), "--build"]) == 0

    name = target.stem
    built = target.parent / f"{name}.abi3.so"
    assert capsys.readouterr().out.endswith(f": 72 B, opened by fastload.open({name}.data)\n")
    spec = importlib.util.spec_from_file_location(name, built)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    view = memoryview(module.data)
    assert (view.readonly, view.nbytes) == (True, 72)
    assert np.frombuffer(view, np.uint8).ctypes.data % 4096 == 0
    checkpoint = fastload.open(module.data, allow_copy=False)
    assert np.shares_memory(checkpoint["w"], np.frombuffer(view, np.uint8))
    assert checkpoint["w"].tolist() == [1, 2]
    with pytest.raises(TypeError):
        type(module.data)()


def test_a_source_that_is_there_is_replaced_on_demand_alone(model, tmp_path, capsys):
    command = ["embed", model, "--c", "-o", str(tmp_path / "w.c")]
    assert main(command) == 0
    assert main(command) == 2
    assert main([*command, "--overwrite"]) == 0


def test_without_a_compiler_nothing_is_written(model, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("CC", "no-such-compiler -m64")

    assert main(["embed", model, "--c", "-o", str(tmp_path / "w.c"), "--build"]) == 2

    assert "needs a C compiler, and there is none here" in capsys.readouterr().err
    assert not (tmp_path / "w.c").exists()


def test_what_a_compiler_says_is_quoted(model, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("CC", "cc --no-such-flag")

    assert main(["embed", model, "--c", "-o", str(tmp_path / "w.c"), "--build"]) == 3

    assert "no-such-flag" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.safetensors", "w.c"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["M"],
        ["M", "--c", "--into", "A"],
        ["--into", "A"],
        ["M", "--into", "A", "--remove"],
        ["M", "--c", "--name", "x"],
        ["M", "--c", "--remove"],
        ["M", "--into", "A", "--build"],
        ["M", "--into", "A", "-o", "x"],
        ["M", "--into", "A", "--name", "a/b"],
        ["M", "--c", "-o", "w.cpp"],
        ["M", "--c", "-o", "class.c"],
        ["M", "--c", "-o", "a-b.c"],
    ],
)
def test_flags_that_do_not_go_together_are_wrong_usage(arguments, capsys):
    assert main(["embed", *arguments]) == 2

    assert capsys.readouterr().err.endswith("; see fastload embed --help\n")
