"""`fastload convert`, and the flags of a plan that it shares with the others; `ls --explain`; the progress bar."""

import io
import json
import os
import sys

import numpy as np
import pytest
import torch

import fastload
from fastload.cli import main, progress

TENSORS = {
    "model.fc.3.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "model.fc.5.bias": np.ones(3, np.float32),
    "head.weight": np.zeros(2, np.float32),
}


@pytest.fixture
def source(tmp_path):
    fastload.save(TENSORS, tmp_path / "m.safetensors")
    return str(tmp_path / "m.safetensors")


def test_it_says_what_it_wrote(source, tmp_path, capsys):
    assert main(["convert", source, f"{tmp_path}/m.pt"]) == 0

    size = os.path.getsize(tmp_path / "m.pt") / 1024
    assert capsys.readouterr() == (f"wrote {tmp_path}/m.pt: pytorch-zip, 3 tensors, {size:.2f} KiB\n", "")
    assert list(torch.load(tmp_path / "m.pt", weights_only=True)) == list(fastload.open(source))


@pytest.mark.parametrize(
    ("flags", "names"),
    [
        (["--subtree", "model"], ["fc.3.weight", "fc.5.bias"]),
        (["--include", "*.weight"], ["model.fc.3.weight", "head.weight"]),
        (["--include", "*.bias", "--include", "head.weight"], ["model.fc.5.bias", "head.weight"]),
        (["--exclude", "model.*"], ["head.weight"]),
        (["--regex", "--include", r"fc\.\d", "--exclude", "bias$"], ["model.fc.3.weight"]),
        (["--remap", "^model.=", "--remap", r"(fc)\.=\1"], ["fc3.weight", "fc5.bias", "head.weight"]),
        (["--contiguous"], ["model.fc.0.weight", "model.fc.1.bias", "head.weight"]),
        (["--remap", "(?=weight)=own_"], ["model.fc.3.own_weight", "model.fc.5.bias", "head.own_weight"]),
        (["--rename", "head.weight=h", "--rename", "model.fc.5.bias=b"], ["model.fc.3.weight", "b", "h"]),
        (["--drop-segments", "model,3", "--drop-segments", "head"], ["fc.weight", "fc.5.bias", "weight"]),
        (
            ["--split", r"(fc)\.3=\1.q,\1.k"],
            ["model.fc.q.weight", "model.fc.k.weight", "model.fc.5.bias", "head.weight"],
        ),
    ],
)
def test_flags_are_the_keywords_of_open(source, tmp_path, flags, names):
    assert main(["convert", source, f"{tmp_path}/m.pt", *flags]) == 0

    assert sorted(fastload.open(tmp_path / "m.pt")) == sorted(names)


def test_fused_tensors_are_taken_apart_and_put_together(source, tmp_path):
    apart = ["--include", "model.*", "--split", r"fc\.3=q,k,v@1:1,0,2", "--split", r"fc\.5=l,m,n@-1"]

    assert main(["convert", source, f"{tmp_path}/apart.pt", *apart]) == 0
    assert (
        main(["convert", f"{tmp_path}/apart.pt", f"{tmp_path}/m.pt", "--concat", r"\.l\.bias,\.[n]\.bias=.x@-1"]) == 0
    )

    shapes = {entry.name: entry.shape for entry in fastload.open(tmp_path / "apart.pt").entries()}
    parts = dict.fromkeys(["model.l.bias", "model.m.bias", "model.n.bias"], (1,))
    assert shapes == {"model.q.weight": (2, 1), "model.k.weight": (2, 0), "model.v.weight": (2, 2)} | parts
    assert fastload.open(tmp_path / "m.pt")["model.x"].tolist() == [1, 1]


def test_casts_are_of_all_or_by_pattern(source, tmp_path):
    flags = ["--cast", "head.*=float64", "--cast", "bfloat16"]

    assert main(["convert", source, f"{tmp_path}/m.pt", *flags]) == 0

    dtypes = {entry.name: entry.dtype for entry in fastload.open(tmp_path / "m.pt").entries()}
    assert dtypes == {"head.weight": "float64", "model.fc.3.weight": "bfloat16", "model.fc.5.bias": "bfloat16"}


def test_adapters_go_by_name(tmp_path):
    torch.save(torch.nn.Sequential(torch.nn.Linear(3, 2)), tmp_path / "m.pt")

    assert main(["convert", f"{tmp_path}/m.pt", f"{tmp_path}/m.safetensors", "--adapt", "pytorch-to-burn"]) == 0

    assert fastload.open(tmp_path / "m.safetensors")["0.weight"].shape == (3, 2)


def test_types_are_told_for_adapters_and_casts(source, tmp_path):
    flags = [
        "--types",
        "*.3=Linear",
        "--types",
        "*=",
        "--adapt",
        "pytorch-to-burn",
        "--cast",
        "@half-precision=float16",
    ]

    assert main(["convert", source, f"{tmp_path}/m.pt", *flags]) == 0

    found = {entry.name: (entry.dtype, entry.shape) for entry in fastload.open(tmp_path / "m.pt").entries()}
    assert found == {
        "model.fc.3.weight": ("float16", (3, 2)),
        "model.fc.5.bias": ("float32", (3,)),
        "head.weight": ("float32", (2,)),
    }


@pytest.mark.parametrize(
    "flags",
    [
        ["--remap", "no sign"],
        ["--remap", "=x"],
        ["--rename", "x"],
        ["--types", "Linear"],
        ["--split", "q"],
        ["--concat", "a,b=c@0:1,2"],
        ["--cast", "w="],
        ["--adapt", "nothing"],
        ["--format", "hdf5"],
    ],
    ids=" ".join,
)
def test_wrong_flags_are_wrong_usage(source, tmp_path, capsys, flags):
    assert main(["convert", source, f"{tmp_path}/m.pt", *flags]) == 2
    assert not (tmp_path / "m.pt").exists()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--cast", "float17"], "float17"),
        (["--regex", "--include", "("], "no regular expression"),
        (["--remap", "^.*$=w"], "would both be 'w'"),
        (["--subtree", "modle"], "near: 'model"),
        (["--rename", "head.weight=a", "--rename", "head.weight=b"], "'head.weight' is given twice"),
        (["--rename", "haed.weight=a"], "no tensor 'haed.weight'"),
        (["--split", "head=a,b,c"], "do not divide by 3"),
        (["--concat", "q,k=v"], "matches 'q'"),
        (["--adapt", "pytorch-to-burn"], "types of the modules of 3 tensors are not known"),
        (["--cast", "@half-precision=float16"], "types of the modules of 3 tensors are not known"),
    ],
    ids=str,
)
def test_a_plan_that_cannot_be_done_is_one_line(source, tmp_path, capsys, flags, said):
    assert main(["convert", source, f"{tmp_path}/m.pt", *flags]) == 2

    out, err = capsys.readouterr()
    assert out == "" and said in err and err.count("\n") == 1
    assert not (tmp_path / "m.pt").exists()


def test_a_dry_run_checks_all_and_writes_nothing(source, tmp_path, capsys):
    assert main(["convert", source, f"{tmp_path}/m.pt", "--dry-run", "--include", "head.*", "--cast", "float16"]) == 0

    out = capsys.readouterr().out.splitlines()
    assert out[1].split() == ["head.weight", "float16", "(2,)", "4", "B"]
    assert out[-1] == f"would write {tmp_path}/m.pt: pytorch-zip, 1 tensor, 4 B"
    assert os.listdir(tmp_path) == ["m.safetensors"]
    assert main(["convert", source, source, "--dry-run"]) == 2


def test_what_is_there_needs_overwrite(source, tmp_path, capsys):
    (tmp_path / "m.pt").write_bytes(b"old")

    assert main(["convert", source, f"{tmp_path}/m.pt"]) == 2
    assert capsys.readouterr().err == f"fastload: {tmp_path}/m.pt: is there already: give --overwrite to replace it\n"
    assert (tmp_path / "m.pt").read_bytes() == b"old"
    assert main(["convert", source, f"{tmp_path}/m.pt", "--overwrite"]) == 0


def test_losses_are_refused_or_told(tmp_path, capsys):
    weight = torch.ones(2)
    torch.save({"a": weight, "b": weight}, tmp_path / "m.pt")
    arguments = ["convert", f"{tmp_path}/m.pt", f"{tmp_path}/m.safetensors"]

    assert main(arguments) == 2
    assert not (tmp_path / "m.safetensors").exists()
    assert capsys.readouterr().err.endswith("Nothing was written; --lossy saves without it\n")
    assert main([*arguments, "--lossy"]) == 0

    assert capsys.readouterr().err == "fastload: lost sharing: 'a', 'b' share memory, and become copies\n"


def test_ls_lists_the_plan_and_explains_it(source, capsys):
    flags = ["--subtree", "model", "--contiguous", "--cast", "float16"]
    assert main(["ls", source, *flags, "--explain"]) == 0

    lines = capsys.readouterr().out.splitlines()
    assert any("model.fc.3.weight" in line and "fc.0.weight" in line and "cast: float16" in line for line in lines)
    assert any("head.weight" in line and "left out by subtree" in line for line in lines)
    assert main(["ls", source, *flags, "--explain", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [tensor["dtype"] for tensor in found["tensors"]] == ["float16"] * 2
    assert [row["dropped_by"] for row in found["explanations"]] == [None, None, "subtree"]


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("has_rich", [True, False])
def test_long_work_has_a_bar_on_a_terminal(monkeypatch, has_rich):
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setattr(progress, "PATIENCE", 0)
    monkeypatch.setattr(progress, "INTERVAL", 0)
    if not has_rich:
        monkeypatch.setitem(sys.modules, "rich.progress", None)

    with progress.progress("converting") as report:
        report(1, 4)
        report(4, 4)

    said = sys.stderr.getvalue()
    assert "converting" in said
    assert has_rich or said == "\rconverting  25 %\rconverting 100 %\r\033[K"


def test_short_work_and_pipes_have_no_bar(monkeypatch, capsys):
    with progress.progress("converting") as report:
        assert report is None
    monkeypatch.setattr(sys, "stderr", Terminal())
    with progress.progress("converting") as report:
        report(4, 4)

    assert sys.stderr.getvalue() == ""
