"""`fastload stats`: its table, order, filter and JSON; and `fastload doctor` as text."""

import json

import numpy as np
import pytest

import fastload
from builders import safetensors_file
from fastload import doctor
from fastload.cli import main


@pytest.fixture
def path(tmp_path):
    values = {
        "a": np.array([1, -2, 4, 0], "f4"),
        "b": np.array([np.nan, np.inf, -np.inf], "f2"),
        "n": np.array([7, 9], "i8"),
    }
    fastload.save(values, tmp_path / "m.npz")
    return str(tmp_path / "m.npz")


def test_the_table(path, capsys):
    assert main(["stats", path]) == 0

    assert capsys.readouterr() == (
        "name  dtype    shape  min  max  mean    std  zeros  NaN  Inf\n"
        "a     float32  (4,)    -2    4  0.75  2.165      1\n"
        "b     float16  (3,)                              0    1    2\n"
        "n     int64    (2,)     7    9     8      1      0\n"
        f"\n{path}: npz, 3 tensors, 1 NaN, 2 infinite\n",
        "",
    )


def names(capsys):
    return [line.split()[0] for line in capsys.readouterr().out.split("\n\n")[0].splitlines()[1:]]


@pytest.mark.parametrize(
    ("order", "expected"),
    [("max", "nab"), ("std", "anb"), ("zeros", "abn"), ("infinities", "ban"), ("size", "anb"), ("dtype", "ban")],
)
def test_the_largest_come_first_and_those_without_last(order, expected, path, capsys):
    assert main(["stats", path, "--sort", order]) == 0

    assert names(capsys) == list(expected)


def test_nan_lists_only_what_is_not_finite(path, capsys):
    assert main(["stats", path, "--nan"]) == 0

    assert names(capsys) == ["b"]


def test_the_flags_of_a_plan_apply(path, capsys):
    assert main(["stats", path, "--include", "a", "--cast", "float8_e4m3fn", "--rename", "a=c", "--json"]) == 0

    (found,) = json.loads(capsys.readouterr().out)["tensors"]
    assert (found["name"], found["dtype"], found["statistics"]["max"]) == ("c", "float8_e4m3fn", 4)


def test_what_has_no_statistics_says_why(tmp_path, capsys):
    (tmp_path / "m").write_bytes(safetensors_file({"p": ("F4", (4,), bytes(2)), "w": ("U8", (1,), b"\1")}))

    assert main(["stats", str(tmp_path / "m")]) == 0

    out = capsys.readouterr().out
    assert "elements of float4_e2m1fn are packed into bytes" in out and "2 tensors, 0 NaN, 0 infinite, 1 without" in out


def test_the_doctor_says_ok_and_shows_sizes_for_people(path, capsys):
    assert main(["doctor", path]) == 0

    out = capsys.readouterr().out
    assert out.endswith("\nok\n") and "page size" in out and "KiB" in out and "format" in out


def test_the_doctor_needs_no_file(capsys):
    assert main(["doctor"]) == 0
    assert "file system" not in capsys.readouterr().out


def test_what_is_wrong_is_status_1(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "_fault", lambda: "a file is read wrongly")

    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "a file is read wrongly (wrong: the native core" in out and out.endswith("1 thing wrong\n")
