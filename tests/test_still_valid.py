"""still_valid: whether the file at the path is still the one that was opened; and what a file cut meanwhile says."""

import gzip
import io as streams
import os
import tarfile

import pytest

import fastload
from builders import SMALLEST, smallest_file, tensor, torch_file
from fastload import TruncatedError

WAYS = [(name, io) for name in SMALLEST for io in ("mmap", "read")]


@pytest.fixture(params=WAYS, ids=lambda way: "-".join(way))
def opened(request, tmp_path):
    """A checkpoint and its path."""
    format_name, io = request.param
    (tmp_path / "model").write_bytes(smallest_file(format_name))
    return fastload.open(tmp_path / "model", io=io), tmp_path / "model"


def test_an_untouched_file_stays_valid(opened):
    checkpoint, path = opened
    path.read_bytes()

    assert checkpoint.still_valid() and checkpoint["w"].tolist() == [1, 2] and checkpoint.still_valid()


def test_a_buffer_stays_valid():
    assert fastload.open(smallest_file("safetensors")).still_valid()
    assert fastload.open(gzip.compress(smallest_file("safetensors"))).still_valid()


def test_a_file_that_was_cut_is_no_longer_valid(opened):
    checkpoint, path = opened
    os.truncate(path, 10)

    assert not checkpoint.still_valid()


def test_a_file_that_was_replaced_is_no_longer_valid_and_can_still_be_read(opened):
    checkpoint, path = opened
    (path.parent / "new").write_bytes(path.read_bytes())
    os.replace(path.parent / "new", path)

    assert not checkpoint.still_valid() and checkpoint["w"].tolist() == [1, 2]


def test_a_file_that_was_written_in_place_is_no_longer_valid(opened):
    checkpoint, path = opened
    with open(path, "r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\0")
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1_000_000))  # where the clock ticks too slowly to show it

    assert not checkpoint.still_valid()


def test_a_file_that_grew_is_no_longer_valid(opened):
    checkpoint, path = opened
    with open(path, "ab") as file:
        file.write(b"more")

    assert not checkpoint.still_valid()


def test_a_file_that_was_deleted_is_no_longer_valid_and_can_still_be_read(opened):
    checkpoint, path = opened
    path.unlink()

    assert not checkpoint.still_valid() and checkpoint["w"].tolist() == [1, 2]


@pytest.mark.parametrize("io", ["mmap", "read"])
def test_files_within_a_file_are_as_valid_as_it_is(io, tmp_path):
    archive = streams.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        member = tarfile.TarInfo("model_weights.ckpt")
        member.size = len(smallest_file("pytorch-zip"))
        tar.addfile(member, streams.BytesIO(smallest_file("pytorch-zip")))
    for name, data in {"model.nemo": archive.getvalue(), "model.gz": gzip.compress(archive.getvalue())}.items():
        (tmp_path / name).write_bytes(data)
        checkpoint = fastload.open(tmp_path / name, io=io)

        assert checkpoint.still_valid()
        os.utime(tmp_path / name, ns=(0, 0))
        assert not checkpoint.still_valid()


@pytest.mark.parametrize(
    ("file", "cut"),
    [
        (smallest_file("safetensors"), 3),
        (torch_file({"w": tensor("float32", (2,), [1, 2])}, zip64=""), 10**9),
        (torch_file({"w": tensor("float32", (500,), range(500))}), 700),
        (torch_file({"w": tensor("float32", (500,), range(500))}, deflate=["data/0"]), 900),
    ],
    ids=["within the data", "nothing left", "within a record", "within a deflated record"],
)
def test_a_file_that_was_cut_names_the_tensor_that_is_gone(file, cut, tmp_path):
    (tmp_path / "model").write_bytes(file)
    checkpoint = fastload.open(tmp_path / "model", io="read")
    os.truncate(tmp_path / "model", max(len(file) - cut, 0))

    with pytest.raises(TruncatedError, match="tensor 'w'") as caught:
        checkpoint["w"]

    assert caught.value.path == str(tmp_path / "model") and caught.value.format == checkpoint.format
