"""`fastload merge`: several checkpoints in, one file out."""

import zipfile

import numpy as np
import pytest

import fastload
from fastload.cli import main


@pytest.fixture
def sources(tmp_path):
    fastload.save({"a": np.zeros(2, np.float32), "w": np.zeros(1)}, tmp_path / "a.pt")
    fastload.save({"b": np.ones(3, np.float32), "w": np.ones(1)}, tmp_path / "b.npz")
    return [str(tmp_path / "a.pt"), str(tmp_path / "b.npz")]


def test_both_are_in_the_file(sources, tmp_path, capsys):
    out = f"{tmp_path}/m.safetensors"

    assert main(["merge", *sources, "-o", out, "--exclude", "w"]) == 0

    assert sorted(fastload.open(out)) == ["a", "b"]
    assert capsys.readouterr().out.startswith(f"wrote {out}: safetensors, 2 tensors, ")


def test_a_name_in_both_is_refused_or_preferred(sources, tmp_path, capsys):
    out = f"{tmp_path}/m.safetensors"

    assert main(["merge", *sources, "-o", out]) == 2
    err = capsys.readouterr().err
    assert (
        err.endswith("say which counts with --prefer\n") and all(source in err for source in sources) and "'w'" in err
    )
    assert main(["merge", *sources, "-o", out, "--prefer", "last"]) == 0

    assert fastload.open(out)["w"] == 1


def test_a_dry_run_writes_nothing(sources, tmp_path, capsys):
    assert main(["merge", *sources, "-o", f"{tmp_path}/m.pt", "--prefer", "first", "--dry-run"]) == 0

    assert "would write" in capsys.readouterr().out
    assert not (tmp_path / "m.pt").exists()


def test_a_destination_must_be_said(sources, capsys):
    assert main(["merge", *sources]) == 2


def test_a_member_is_of_each_source(sources, tmp_path):
    archives = [f"{source}.zip" for source in sources]
    for archive, source in zip(archives, sources, strict=True):
        with zipfile.ZipFile(archive, "w") as file:
            file.write(source, "weights")
    out = f"{tmp_path}/m.safetensors"

    assert main(["merge", *archives, "-o", out, "--member", "weights", "--prefer", "first"]) == 0

    assert sorted(fastload.open(out)) == ["a", "b", "w"] and fastload.open(out)["w"] == 0
