"""Where the bytes of tensors lie: the extent of each, as read back from the file by hand."""

import numpy as np
import pytest
import torch

import fastload
from fastload.checkpoint import tensors_of
from fastload.extents import extent_of


def extent(checkpoint, name):
    tensors = tensors_of(checkpoint)
    return extent_of(tensors, tensors.find(name))


def test_the_bytes_at_an_extent_are_those_of_the_tensor(tmp_path):
    path = tmp_path / "model.safetensors"
    arrays = {"a": np.arange(12, dtype=np.float32).reshape(3, 4), "b": np.arange(5, dtype=np.int16)}
    fastload.save(arrays, path)
    with fastload.open(path) as checkpoint:
        for name, array in arrays.items():
            found = extent(checkpoint, name)
            assert found.is_plain
            assert path.read_bytes()[found.offset : found.offset + found.nbytes] == array.tobytes()


@pytest.mark.parametrize(
    ("view", "count", "is_plain"),
    [
        (lambda whole: whole, 24, True),
        (lambda whole: whole.t(), 24, False),
        (lambda whole: whole[:, 1:3], 20, False),
        (lambda whole: whole[1:2], 6, True),
        (lambda whole: whole[::2, :1], 13, False),
        (lambda whole: whole[0, :1].expand(5, 3), 1, False),
        (lambda whole: whole[:0], 0, True),
    ],
)
def test_an_extent_reaches_from_the_first_byte_to_the_last(tmp_path, view, count, is_plain):
    path = tmp_path / "model.pt"
    whole = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    part = view(whole)
    torch.save({"whole": whole, "part": part}, path)
    with fastload.open(path) as checkpoint:
        found, start = extent(checkpoint, "part"), extent(checkpoint, "whole").offset
    assert (found.nbytes, found.is_plain) == (count * 4, is_plain)
    assert found.offset - start == part.storage_offset() * 4


def test_what_is_unpacked_or_cast_has_no_extent(tmp_path):
    path = tmp_path / "model.npz"
    np.savez_compressed(path, a=np.zeros(1000))
    fastload.save({"a": np.zeros(4, np.float32)}, tmp_path / "model.safetensors")
    assert extent(fastload.open(path), "a") is None
    assert extent(fastload.open(tmp_path / "model.safetensors", cast="float16"), "a") is None
