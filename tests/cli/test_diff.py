"""`fastload diff`: names, shapes, dtypes and values, and the status that says whether they differ."""

import json

import ml_dtypes
import numpy as np
import pytest
import torch

import fastload
from fastload import differences
from fastload.cli import main

W = np.arange(6, dtype=np.float32).reshape(2, 3)


def saved(path, **tensors):
    fastload.save(tensors, path)
    return str(path)


def test_equal_checkpoints_of_two_formats_are_equal(tmp_path, capsys):
    a = saved(tmp_path / "a.pt", w=W, n=np.array([np.nan, -0.0, np.inf]))
    b = saved(tmp_path / "b.safetensors", n=np.array([np.nan, 0.0, np.inf]), w=W)

    assert main(["diff", a, b]) == 0
    assert capsys.readouterr() == ("equal: 2 tensors\n", "")


def test_each_difference_is_a_line(tmp_path, capsys):
    changed = W.copy()
    changed[1, 2] = 4
    a = saved(tmp_path / "a.pt", gone=W, shape=W, dtype=W, values=W, same=W)
    b = saved(
        tmp_path / "b.pt", shape=W.T.copy(), dtype=W.astype(np.float16), values=changed, same=W, new=np.zeros(1)
    )  # fmt: skip

    assert main(["diff", a, b]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "-  gone    float32 (2, 3)",
        "~  shape   float32 (2, 3) → float32 (3, 2)",
        "~  dtype   float32 (2, 3) → float16 (2, 3), equal values",
        "~  values  1 of 6 differ, by at most 1, 0.2 of the larger",
        "+  new     float64 (1,)",
        "",
        "4 tensors in both, 5 differences",
    ]


def test_json_has_the_numbers(tmp_path, capsys):
    a, b = saved(tmp_path / "a.pt", w=W), saved(tmp_path / "b.pt", w=W + np.float32(0.5))

    assert main(["diff", "--json", a, b]) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["schema"], found["equal"], found["common"]) == ("fastload.diff/1", False, 1)
    assert found["differences"] == [
        {
            "name": "w", "what": "values", "why": None,
            "a": {"dtype": "float32", "shape": [2, 3]}, "b": {"dtype": "float32", "shape": [2, 3]},
            "values": {"elements": 6, "differing": 6, "max_abs": 0.5, "max_rel": 1.0},
        }
    ]  # fmt: skip


@pytest.mark.parametrize("run", [1, 7, 1 << 18])
@pytest.mark.parametrize(
    ("one", "other"),
    [
        (np.int64, np.int64),
        (np.uint64, np.uint64),
        (np.float64, np.float16),
        (ml_dtypes.bfloat16, np.float32),
        (ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2),
        (np.complex64, np.complex128),
        (np.bool_, np.uint8),
    ],
    ids=lambda dtype: getattr(dtype, "__name__", None),
)
def test_differences_are_those_of_numpy_however_long_the_runs(tmp_path, monkeypatch, run, one, other, capsys):
    monkeypatch.setattr(differences, "RUN", run)
    rng = np.random.default_rng(1)
    x = rng.integers(0, 9, (5, 11)).astype(one)
    y = rng.integers(0, 9, (5, 11)).astype(other)
    a, b = saved(tmp_path / "a.pt", w=x), saved(tmp_path / "b.pt", w=y)

    main(["diff", "--json", a, b])

    wide = np.complex128 if x.dtype.kind == "c" else np.float64
    away = np.abs(x.astype(wide) - y.astype(wide))
    found = json.loads(capsys.readouterr().out)["differences"][0]["values"]
    assert found["differing"] == np.count_nonzero(away)
    assert found["max_abs"] == pytest.approx(away.max())


def test_the_plan_is_for_a_and_with_both_for_b(tmp_path):
    a = saved(tmp_path / "a.pt", **{"m.w": W, "m.v": W})
    b = saved(tmp_path / "b.pt", w=W.astype(np.float16))

    assert main(["diff", a, b, "--subtree", "m", "--cast", "float16"]) == 1
    assert main(["diff", a, b, "--include", "m.w", "--remap", "^m.=", "--cast", "float16"]) == 0
    assert main(["diff", a, b, "--exclude", "*v", "--remap", "^m.=", "--cast", "float64", "--both"]) == 0


def test_what_has_no_values_is_said(tmp_path, capsys):
    torch.save({"w": torch.ones(2, device="meta")}, tmp_path / "a.pt")
    b = saved(tmp_path / "b.pt", w=np.ones(2, np.float32))

    assert main(["diff", f"{tmp_path}/a.pt", b]) == 1
    assert "values not compared: one has no data" in capsys.readouterr().out
    assert main(["diff", f"{tmp_path}/a.pt", f"{tmp_path}/a.pt"]) == 0
    assert main(["diff", f"{tmp_path}/a.pt", b, "--no-values"]) == 0


def test_a_bad_file_is_no_difference(tmp_path, capsys):
    (tmp_path / "bad").write_bytes(b"nothing")
    a = saved(tmp_path / "a.pt", w=W)

    assert main(["diff", a, f"{tmp_path}/bad"]) == 3
    assert capsys.readouterr().err.startswith(f"fastload: {tmp_path}/bad: ")


def test_integers_are_compared_with_floats_as_they_are(tmp_path, capsys):
    fastload.save({"w": np.array([2**53 + 1, 5])}, tmp_path / "a.npz")
    fastload.save({"w": np.array([2.0**53, 5.0])}, tmp_path / "b.npz")

    assert main(["diff", str(tmp_path / "a.npz"), str(tmp_path / "b.npz")]) == 1
    assert "equal values" not in capsys.readouterr().out
