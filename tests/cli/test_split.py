"""`fastload split`: sizes as people write them, shards, and a dry run."""

import os

import numpy as np
import pytest

import fastload
from fastload.cli import main
from fastload.cli.split import _size


@pytest.fixture
def source(tmp_path):
    fastload.save({name: np.ones(256, np.float32) for name in "abc"}, tmp_path / "m.pt")
    return str(tmp_path / "m.pt")


def test_shards_and_an_index_are_written(source, tmp_path, capsys):
    assert main(["split", source, f"{tmp_path}/s", "--max-shard-size", "2KiB"]) == 0

    assert len(os.listdir(tmp_path / "s")) == 3
    assert capsys.readouterr().out.startswith(f"wrote {tmp_path}/s: 2 shards and an index, 3 tensors, ")
    assert list(fastload.open(tmp_path / "s")) == ["a", "b", "c"]
    assert main(["split", source, f"{tmp_path}/s"]) == 2
    assert main(["split", source, f"{tmp_path}/s", "--overwrite"]) == 0
    assert len(os.listdir(tmp_path / "s")) == 2


def test_a_dry_run_makes_no_folder(source, tmp_path, capsys):
    assert main(["split", source, f"{tmp_path}/s", "--max-shard-size", "2KiB", "--dry-run"]) == 0

    assert capsys.readouterr().out.splitlines() == [
        f"would write {tmp_path}/s/model-00001-of-00002.safetensors: 2 tensors, 2.00 KiB",
        f"would write {tmp_path}/s/model-00002-of-00002.safetensors: 1 tensor, 1.00 KiB",
    ]
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("text", "size"),
    [("5GB", 5 * 10**9), ("2GiB", 2 << 30), ("500MB", 5 * 10**8), ("1.5kb", 1500), ("7", 7), ("10 M", 10**7)],
)
def test_sizes_are_read_as_people_write_them(text, size):
    assert _size(text) == size


@pytest.mark.parametrize("text", ["", "0", "-1", "GB", "5 apples", "nan"])
def test_other_sizes_are_wrong_usage(source, tmp_path, capsys, text):
    assert main(["split", source, f"{tmp_path}/s", f"--max-shard-size={text}"]) == 2
