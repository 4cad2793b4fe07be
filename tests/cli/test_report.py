"""`fastload report`: what it writes, what it says of that, and what it refuses."""

import json

import numpy as np
import pytest
import torch

import fastload
from fastload.cli import main

W = np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.fixture
def model(tmp_path):
    fastload.save({"m.w": W, "m.v": W + 1}, tmp_path / "model.safetensors")
    return str(tmp_path / "model.safetensors")


@pytest.fixture
def output(tmp_path):
    return tmp_path / "report.html"


def data_of(path):
    text = path.read_text()
    return json.loads(text.partition('id="data">')[2].partition("</script>")[0])


def test_a_report_is_a_page(model, output, capsys):
    assert main(["report", model, "-o", str(output)]) == 0

    out, err = capsys.readouterr()
    assert err == "" and out.startswith(f"wrote {output}: 2 tensors, 2 histograms, ")
    assert output.read_text().startswith("<!doctype html>")
    assert data_of(output)["title"] == "model.safetensors"


def test_json_says_what_was_written(model, output, capsys):
    assert main(["report", model, model, "-o", str(output), "--json"]) == 0

    assert json.loads(capsys.readouterr().out) == {
        "schema": "fastload.report/1", "path": model, "other": model, "output": str(output),
        "nbytes": output.stat().st_size, "tensors": 2, "histograms": 2, "differences": 0,
    }  # fmt: skip


def test_two_that_differ_are_status_1_and_the_page_is_there(model, output, tmp_path, capsys):
    fastload.save({"m.w": W, "m.v": W + 2}, tmp_path / "other.pt")

    assert main(["report", model, f"{tmp_path}/other.pt", "-o", str(output)]) == 1
    assert "1 difference" in capsys.readouterr().out
    assert data_of(output)["differences"]["name"] == ["m.v"]
    assert data_of(output)["title"] == "model.safetensors → other.pt"
    assert main(["report", model, f"{tmp_path}/other.pt", "-o", str(output), "--overwrite", "--no-values"]) == 0
    assert data_of(output)["differences"]["values_compared"] is False


def test_the_plan_is_for_the_first_and_with_both_for_the_other(model, output, tmp_path):
    fastload.save({"w": W.astype(np.float16)}, tmp_path / "b.pt")
    plan = ["--include", "m.w", "--remap", "^m.=", "--cast", "float16"]

    assert main(["report", model, f"{tmp_path}/b.pt", "-o", str(output), *plan]) == 0
    assert data_of(output)["dtypes"] == ["float16"]
    assert main(["report", model, model, "-o", str(output), "--overwrite", *plan]) == 1
    assert main(["report", model, model, "-o", str(output), "--overwrite", *plan, "--both"]) == 0


def test_flags_say_the_title_and_how_many_histograms(model, output):
    main(["report", model, "-o", str(output), "--title", "<b>", "--histograms", "0"])

    assert data_of(output)["title"] == "<b>" and "<h1>&lt;b&gt;</h1>" in output.read_text()
    assert data_of(output)["histograms"]["row"] == []


@pytest.mark.parametrize("count", ["-1", "x", "1e3", "100001", "9" * 5000])
def test_a_count_of_histograms_that_is_none_is_wrong_usage(model, output, count, capsys):
    assert main(["report", model, "-o", str(output), f"--histograms={count}"]) == 2


def test_modules_of_a_whole_model_have_their_classes(output, tmp_path):
    torch.save(torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU()), tmp_path / "whole.pt")

    main(["report", f"{tmp_path}/whole.pt", "-o", str(output)])

    modules = data_of(output)["modules"]
    assert dict(zip(modules["path"], modules["type"], strict=True))["1"].endswith("ReLU")


def test_what_is_there_is_replaced_only_if_asked(model, output, capsys):
    output.write_text("mine")

    assert main(["report", model, "-o", str(output)]) == 2
    assert capsys.readouterr().err.endswith("is there already: give --overwrite to replace it\n")
    assert output.read_text() == "mine"
    assert main(["report", model, "-o", str(output), "--overwrite"]) == 0


def test_the_checkpoint_itself_is_never_replaced(model, tmp_path, capsys):
    (tmp_path / "link").symlink_to(model)

    assert main(["report", model, "-o", f"{tmp_path}/link", "--overwrite"]) == 2
    assert "is of the checkpoint itself" in capsys.readouterr().err
    assert fastload.open(model)["m.w"].tolist() == W.tolist()


def test_a_folder_that_is_not_there_is_told_at_once(model, tmp_path, capsys):
    assert main(["report", model, "-o", f"{tmp_path}/no/report.html"]) == 3
    assert "No such file" in capsys.readouterr().err
