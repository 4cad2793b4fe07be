"""`fastload scan` and `ckpt.globals()`: what unpickling would do, told without doing it."""

import json

import pytest

import fastload
from builders import smallest_file, tensor, torch_file
from fastload.cli import main
from fastload.scan import DANGEROUS, DANGEROUS_MODULES, HARMLESS, classify
from pickles import Call, Global

WEIGHT = tensor("float32", (2,), [1, 2])


def written(path, **more):
    path.write_bytes(torch_file({"w": WEIGHT, **more}))
    return str(path)


def verdict(module, name):
    return classify([(module, name)])[0].verdict


def test_a_file_of_tensors_is_harmless(tmp_path, capsys):
    path = written(tmp_path / "m.pt")

    assert main(["scan", path]) == 0
    out, err = capsys.readouterr()
    assert err == "" and out.splitlines()[-1] == f"{path}: pytorch-zip, 3 globals: 3 harmless"
    assert "torch._utils._rebuild_tensor_v2" in out


def test_a_format_without_pickles_has_nothing_to_run(tmp_path, capsys):
    (tmp_path / "m").write_bytes(smallest_file("safetensors"))

    assert main(["scan", str(tmp_path / "m")]) == 0
    assert capsys.readouterr().out == f"{tmp_path}/m: safetensors, 0 globals\n"


def test_a_program_in_the_file_is_found_and_not_run(tmp_path, capsys):
    mark = tmp_path / "ran"
    path = written(tmp_path / "m.pt", evil=Call(Global("posix", "system"), (f"touch {mark}",)), other=Global("my", "C"))

    assert main(["scan", path]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert not mark.exists()
    assert lines[1].split(maxsplit=2) == ["posix.system", "dangerous", "runs programs"]  # the worst first
    assert lines[2].split()[:2] == ["my.C", "imports"]
    assert lines[-1].endswith("5 globals: 1 dangerous, 1 imports, 3 harmless")


def test_an_unknown_class_is_not_harmless(tmp_path, capsys):
    assert main(["scan", written(tmp_path / "m.pt", args=Call(Global("my.module", "Config"), ()))]) == 1


def test_json_keeps_the_order_of_the_file(tmp_path, capsys):
    path = written(tmp_path / "m.pt", evil=Call(Global("builtins", "eval"), ("1",)))

    assert main(["scan", "--json", path]) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["schema"], found["path"], found["format"], found["harmless"]) == (
        "fastload.scan/1", path, "pytorch-zip", False,
    )  # fmt: skip
    assert found["totals"] == {"dangerous": 1, "imports": 0, "harmless": 3}
    assert [row["name"] for row in found["globals"]][-1] == "eval"
    assert found["globals"][-1] == {
        "module": "builtins", "name": "eval", "verdict": "dangerous", "reason": "runs code",
    }  # fmt: skip


def test_a_name_cannot_draw_on_the_terminal(tmp_path, capsys):
    main(["scan", written(tmp_path / "m.pt", evil=Global("a\x1b[2J", "b\u202e"))])

    out = capsys.readouterr().out
    assert "\x1b" not in out and "\u202e" not in out and r"a\x1b[2J.b\u202e" in out


def test_a_bad_file_has_its_own_status(tmp_path, capsys):
    (tmp_path / "m").write_bytes(b"PK\3\4 nothing")

    assert main(["scan", str(tmp_path / "m")]) == 3


def test_globals_of_a_checkpoint_have_a_verdict_and_a_reason():
    found = fastload.open(torch_file({"w": WEIGHT, "v": Global("os", "system")})).globals()

    assert all(isinstance(row, fastload.PickledGlobal) and row.reason for row in found)
    assert found[-1][:3] == ("os", "system", "dangerous")


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("os", "system"), ("posix", "system"), ("nt", "system"), ("subprocess", "Popen"), ("builtins", "exec"),
        ("__builtin__", "eval"), ("builtins", "getattr"), ("builtins", "__import__"), ("importlib", "import_module"),
        ("runpy", "run_path"), ("pickle", "loads"), ("_pickle", "loads"), ("torch", "load"), ("torch.hub", "load"),
        ("webbrowser", "open"), ("functools", "partial"), ("operator", "attrgetter"), ("types", "FunctionType"),
        ("os.path", "join"), ("torch", "serialization.os.system"), ("torch.serialization", "os.system"),
        ("builtins", "int.__class__"), ("collections", "OrderedDict.__init__.__globals__"), ("torch", "os.system"),
        ("a", "b.builtins.eval"),
        ("torch.fx.graph_module", "reduce_graph_module"),
        ("torch", ".".join(["x"] * 30 + ["os", "system"])), ("builtins", "hasattr"),
    ],
)  # fmt: skip
def test_what_runs_code_is_dangerous(module, name):
    assert verdict(module, name) == "dangerous"


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("torch", "FloatStorage"), ("torch.cuda", "HalfStorage"), ("torch", "float32"), ("torch", "bfloat16"),
        ("collections", "OrderedDict"), ("argparse", "Namespace"), ("types", "SimpleNamespace"), ("_codecs", "encode"),
        ("numpy", "dtype"), ("numpy", "ndarray"), ("numpy._core.multiarray", "_reconstruct"), ("builtins", "set"),
        ("copyreg", "_reconstructor"), ("datetime", "datetime"), ("pathlib", "PosixPath"), ("builtins", "object"),
        ("torch.nn.parameter", "Parameter"), ("_io", "BytesIO"), ("ml_dtypes", "bfloat16"),
    ],
)  # fmt: skip
def test_what_makes_tensors_and_plain_values_is_harmless(module, name):
    assert verdict(module, name) == "harmless"


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("my.models", "Net"), ("evil", "FloatStorage"), ("torch.nn.modules.linear", "Linear"), ("", ""),
        ("osx", "system"), ("collections", "OrderedDict.fromkeys"), ("omegaconf.dictconfig", "DictConfig"),
    ],
)  # fmt: skip
def test_what_is_unknown_would_be_imported(module, name):
    assert verdict(module, name) == "imports"


def test_the_tables_do_not_contradict_each_other():
    assert not DANGEROUS.keys() & HARMLESS.keys()
    assert {module for module, _ in HARMLESS} & DANGEROUS_MODULES.keys() == {"io", "_io"}  # for BytesIO alone


def test_a_name_of_many_dots_is_judged_quickly():
    assert verdict("a." * 100_000, "b." * 100_000) in ("imports", "dangerous")
