"""Checksums: of elements, whatever the format, and of files; written, read, compared."""

import hashlib
import json
import sys

import blake3
import numpy as np
import pytest
import torch
import xxhash

import fastload
from builders import Tensor, safetensors_file, storage, torch_file
from fastload import sums
from fastload.errors import FormatError, UnsupportedError

VALUES = np.arange(12, dtype="<f4").reshape(3, 4)
HASHES = {
    "sha256": lambda data: hashlib.sha256(data).hexdigest(),
    "blake3": lambda data: blake3.blake3(data).hexdigest(),
    "xxh3": lambda data: xxhash.xxh3_64(data).hexdigest(),
}


@pytest.fixture
def path(tmp_path):
    fastload.save({"w": VALUES, "b": np.ones(2, "<f8")}, tmp_path / "m.safetensors")
    return tmp_path / "m.safetensors"


def sums_of(path, algorithm="sha256", **options):
    with fastload.open(path) as opened:
        return sums.sum_up(opened, algorithm, **options)


@pytest.mark.parametrize("algorithm", sums.ALGORITHMS)
def test_the_sums_are_of_the_elements_and_of_the_whole_file(algorithm, path):
    found = sums_of(path, algorithm)

    assert [tensor.sum for tensor in found.tensors if tensor.name == "w"] == [HASHES[algorithm](VALUES.tobytes())]
    assert found.files == [("m.safetensors", path.stat().st_size, HASHES[algorithm](path.read_bytes()))]


@pytest.mark.parametrize("suffix", ["pt", "npz", "bpk"])
def test_another_format_has_the_same_sums(suffix, path, tmp_path):
    fastload.convert(path, tmp_path / f"m.{suffix}")

    assert sums.compare(sums_of(path), sums_of(tmp_path / f"m.{suffix}")) == []


def test_strides_and_order_of_bytes_do_not_count(path):
    transposed = torch_file({"w": Tensor(storage("float32", VALUES.T.tobytes()), (3, 4), (1, 3))})

    assert {t.name: t.sum for t in sums_of(transposed).tensors}["w"] == HASHES["sha256"](VALUES.tobytes())


def test_one_flipped_bit_is_found_in_the_tensor_and_in_the_file(path):
    known = sums_of(path)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)

    found = sums.compare(known, sums_of(path))

    assert [(one.kind, one.what) for one in found] == [("file", "sum"), ("tensor", "sum")]


def test_what_is_missing_new_or_of_another_shape_is_told(path, tmp_path):
    fastload.save({"w": VALUES.reshape(4, 3), "c": np.ones(2, "<f8")}, tmp_path / "n.safetensors")

    found = sums.compare(sums_of(path), sums_of(tmp_path / "n.safetensors"))

    assert {(one.name, one.what) for one in found} == {("w", "shape"), ("b", "missing"), ("c", "new")}


def test_shards_are_named_within_their_folder(path, tmp_path):
    fastload.split(path, tmp_path / "shards", max_shard_bytes=50)

    found = sums_of(tmp_path / "shards")

    names = sorted(file.name for file in found.files)
    assert names == ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    assert sums.compare(sums_of(path), found) == []


def test_a_tensor_without_data_has_no_sum_and_is_compared_all_the_same(tmp_path):
    torch.save({"m": torch.empty(3, device="meta"), "w": torch.ones(2)}, tmp_path / "m.pt")

    found = sums_of(tmp_path / "m.pt")

    assert [tensor.sum is None for tensor in found.tensors] == [True, False]
    assert sums.compare(found, found) == []


def test_progress_is_told_in_bytes_of_files_and_tensors(path):
    told = []

    sums_of(path, threads=2, report=lambda done, total: told.append((done, total)))

    total = path.stat().st_size + VALUES.nbytes + 16
    assert told[-1] == (total, total) and [done for done, _ in told] == sorted(done for done, _ in told)


@pytest.mark.parametrize(("algorithm", "package"), [("blake3", "blake3"), ("xxh3", "xxhash")])
def test_a_package_that_is_not_there_is_named(algorithm, package, path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)

    with pytest.raises(UnsupportedError, match=f"pip install {package}$"):
        sums_of(path, algorithm)


GOOD = {"schema": sums.SCHEMA, "algorithm": "sha256", "files": [], "tensors": []}


@pytest.mark.parametrize(
    "text",
    [
        b"{",
        b"[]",
        b"\xff",
        b"[" * 100_000,
        json.dumps({}).encode(),
        json.dumps({**GOOD, "schema": "fastload.sums/2"}).encode(),
        json.dumps({**GOOD, "algorithm": "md5"}).encode(),
        json.dumps({**GOOD, "tensors": [{"name": "w"}]}).encode(),
        json.dumps({**GOOD, "files": 3}).encode(),
        json.dumps({**GOOD, "tensors": [{"name": 1, "dtype": "u", "shape": [], "sum": ""}]}).encode(),
    ],
)
def test_a_file_that_is_none_of_sums_is_refused(text, tmp_path):
    (tmp_path / "sums.json").write_bytes(text)

    with pytest.raises(FormatError):
        sums.read(str(tmp_path / "sums.json"))


def test_a_buffer_has_sums_of_tensors_alone():
    found = sums_of(safetensors_file({"w": ("U8", (2,), b"ab")}))

    assert (found.files, found.tensors[0].sum) == ([], HASHES["sha256"](b"ab"))


def test_a_size_that_is_no_number_is_a_bad_file(tmp_path):
    (tmp_path / "s").write_text(
        '{"schema": "fastload.sums/1", "algorithm": "sha256", "tensors": [],'
        ' "files": [{"name": "m", "nbytes": 1e999, "sum": ""}]}'
    )

    with pytest.raises(FormatError, match="no file of checksums"):
        sums.read(tmp_path / "s")
