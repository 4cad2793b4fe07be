"""Tensors that lie in a file as they are to be written: the system copies them, and the files are the same as ever."""

import errno
import os
import tarfile

import ml_dtypes
import numpy as np
import pytest

import fastload
from fastload import SaveError, TruncatedError
from fastload.converting import draft_conversion
from fastload.formats.writing import MIN_COPIED_BYTES, Outgoing, write_tensor
from fastload.outgoing import of_checkpoint

pytestmark = pytest.mark.skipif(not hasattr(os, "copy_file_range"), reason="the system has no copy_file_range")

SUFFIXES = ["safetensors", "pt", "bpk", "npz"]
COPYING = ["safetensors", "bpk"]  # those without checksums
LARGE = MIN_COPIED_BYTES
RANDOM = np.random.default_rng(7)
ARRAYS = {
    "small": np.arange(7, dtype=np.int16),
    "large": RANDOM.standard_normal(LARGE // 4).astype(np.float32).reshape(4, -1),
    "odd": RANDOM.integers(0, 256, LARGE + 1, np.uint8),
    "none": np.zeros((0, 4), np.float32),
    "more": RANDOM.standard_normal(LARGE).astype(np.float16),
}


class Copies:
    """What `os.copy_file_range` was asked for; what it answers can be replaced."""

    def __init__(self, monkeypatch):
        self.seen = []  # (offset, count)
        self.real = os.copy_file_range
        self.answer = self.real
        monkeypatch.setattr(os, "copy_file_range", self)

    def __call__(self, source, target, count, offset):
        self.seen.append((offset, count))
        return self.answer(source, target, count, offset)

    @property
    def nbytes(self):
        return sum(count for _, count in self.seen)


@pytest.fixture
def copies(monkeypatch):
    return Copies(monkeypatch)


def fail(number):
    def answer(*rest):
        raise OSError(number, os.strerror(number))

    return answer


def saved_without(path, target, **plan):
    """The bytes of what `target` would be if nothing were copied by the system: of arrays in memory."""
    opened = fastload.open(path, **plan)
    fastload.save({name: np.array(opened[name]) for name in opened}, target, metadata={})
    return target.read_bytes()


@pytest.mark.parametrize("there", SUFFIXES)
@pytest.mark.parametrize("here", SUFFIXES)
@pytest.mark.parametrize("io", ["mmap", "read"])
def test_copied_files_are_those_that_are_written_byte_for_byte(tmp_path, copies, here, there, io):
    path = tmp_path / f"first.{here}"
    fastload.save(ARRAYS, path)

    fastload.convert(fastload.open(path, io=io), tmp_path / f"copied.{there}", metadata={})

    assert (tmp_path / f"copied.{there}").read_bytes() == saved_without(path, tmp_path / f"written.{there}")
    large = sum(array.nbytes for array in ARRAYS.values() if array.nbytes >= LARGE)
    assert copies.nbytes == (large if there in COPYING else 0)


def test_an_array_file_is_copied_too(tmp_path, copies):
    np.save(tmp_path / "first.npy", ARRAYS["large"])

    fastload.convert(tmp_path / "first.npy", tmp_path / "second.npy")

    assert copies.nbytes == ARRAYS["large"].nbytes
    assert np.array_equal(np.load(tmp_path / "second.npy"), ARRAYS["large"])


def test_no_byte_of_what_is_copied_passes_through_the_process(tmp_path, copies):
    fastload.save(ARRAYS, tmp_path / "m.pt")
    made = draft_conversion(tmp_path / "m.pt", tmp_path / "m.safetensors")
    read = []

    def counting(tensor):
        def chunks():
            for chunk in tensor.chunks():
                read.append((tensor.name, len(chunk)))
                yield chunk

        return tensor.changed(chunks=chunks)

    made._replace(tensors=[counting(tensor) for tensor in made.tensors]).write()

    assert read == [("small", ARRAYS["small"].nbytes)]


@pytest.mark.parametrize("number", [errno.EXDEV, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS, errno.EPERM])
@pytest.mark.parametrize("after", [0, 1000])
def test_what_the_system_cannot_copy_is_written(tmp_path, copies, number, after):
    path = tmp_path / "m.safetensors"
    fastload.save(ARRAYS, path)

    def answer(source, target, count, offset):
        if after and copies.seen.count((offset, count)) == 1 and count >= LARGE:
            return copies.real(source, target, after, offset)
        return fail(number)()

    copies.answer = answer
    for target in COPYING:
        fastload.convert(path, tmp_path / f"copied.{target}")
        assert (tmp_path / f"copied.{target}").read_bytes() == saved_without(path, tmp_path / f"written.{target}")


def test_where_there_is_no_such_call_all_is_written(tmp_path, monkeypatch):
    path = tmp_path / "m.safetensors"
    fastload.save(ARRAYS, path)
    monkeypatch.delattr(os, "copy_file_range")

    fastload.convert(path, tmp_path / "copied.bpk")

    assert (tmp_path / "copied.bpk").read_bytes() == saved_without(path, tmp_path / "written.bpk")


def test_copies_in_many_steps_are_whole(tmp_path, copies):
    path = tmp_path / "m.safetensors"
    fastload.save(ARRAYS, path)
    copies.answer = lambda source, target, count, offset: copies.real(source, target, min(count, 99_991), offset)
    told = []

    fastload.convert(path, tmp_path / "m.bpk", progress=lambda done, total: told.append((done, total)))

    assert (tmp_path / "m.bpk").read_bytes() == saved_without(path, tmp_path / "written.bpk")
    total = sum(array.nbytes for array in ARRAYS.values())
    assert told[-1] == (total, total) and told == sorted(told) and len(told) > 10


@pytest.mark.parametrize("after", [0, 1000])
def test_an_interrupted_copy_leaves_the_old_file_and_says_how_far_it_came(tmp_path, copies, after):
    path = tmp_path / "m.safetensors"
    fastload.save(ARRAYS, path)
    (tmp_path / "out.safetensors").write_bytes(b"old")

    def answer(source, target, count, offset):
        return copies.real(source, target, after, offset) if after and len(copies.seen) == 1 else fail(errno.ENOSPC)()

    copies.answer = answer
    with pytest.raises(SaveError, match="untouched") as caught:
        fastload.convert(path, tmp_path / "out.safetensors", overwrite=True)

    assert caught.value.errno == errno.ENOSPC and caught.value.path == str(tmp_path / "out.safetensors")
    begin = 8 + int.from_bytes(path.read_bytes()[:8], "little")
    assert caught.value.written == begin + after
    assert (tmp_path / "out.safetensors").read_bytes() == b"old"
    assert sorted(found.name for found in tmp_path.iterdir()) == ["m.safetensors", "out.safetensors"]


@pytest.mark.parametrize("io", ["auto", "mmap", "read"])
def test_a_source_that_was_cut_is_an_error_that_names_it(tmp_path, io):
    path = tmp_path / "m.safetensors"
    fastload.save(ARRAYS, path)
    opened = fastload.open(path, io=io)
    os.truncate(path, 1000)

    with pytest.raises(TruncatedError, match="open it again") as caught:
        fastload.convert(opened, tmp_path / "out.bpk")

    assert caught.value.path == str(path)
    assert [found.name for found in tmp_path.iterdir()] == ["m.safetensors"]


def test_a_file_system_that_copies_nothing_and_says_nothing_is_served_by_writing(tmp_path, copies):
    path = tmp_path / "m.safetensors"
    fastload.save(ARRAYS, path)
    copies.answer = lambda *rest: 0

    fastload.convert(path, tmp_path / "m.bpk")

    assert copies.seen
    assert (tmp_path / "m.bpk").read_bytes() == saved_without(path, tmp_path / "written.bpk")


def test_a_mapped_file_that_was_replaced_is_copied_from_what_was_opened(tmp_path):
    path = tmp_path / "m.safetensors"
    fastload.save(ARRAYS, path)
    opened = fastload.open(path)
    fastload.save({"other": np.zeros(LARGE)}, path, overwrite=True)

    fastload.convert(opened, tmp_path / "out.safetensors")

    found = fastload.open(tmp_path / "out.safetensors")
    assert all(np.array_equal(found[name], array) for name, array in ARRAYS.items())


def stored(path, **plan):
    return {tensor.name: tensor.stored is not None for tensor in of_checkpoint(fastload.open(path, **plan))}


def test_a_plan_copies_what_it_leaves_in_order(tmp_path):
    path = tmp_path / "m.safetensors"
    side = 1 << 10
    square = RANDOM.standard_normal((side, side)).astype(np.float32)
    fastload.save({"w": square, "v": square + 1}, path)

    assert stored(path, rename={"w": "x"}) == {"x": True, "v": True}
    assert stored(path, cast={"w": "bfloat16"}) == {"w": False, "v": True}
    assert stored(path, split=[("w", ["a", "b"], 0)], include=["w"]) == {"a": True, "b": True}
    assert stored(path, split=[("w", ["a", "b"], 1)], include=["w"]) == {"a": False, "b": False}
    assert stored(path, concat=[(["w", "v"], "both", 0)]) == {"both": False}
    for plan in ({"split": [("w", ["a", "b"], 0)]}, {"cast": {"w": "bfloat16"}}):
        fastload.convert(path, tmp_path / "out.safetensors", overwrite=True, **plan)
        expected = saved_without(path, tmp_path / "written.safetensors", **plan)
        assert (tmp_path / "out.safetensors").read_bytes() == expected
        os.unlink(tmp_path / "written.safetensors")


def test_what_is_no_plain_run_of_a_file_is_not_copied(tmp_path):
    import torch

    side = 1 << 9
    held = torch.arange(side * side, dtype=torch.float32).reshape(side, side)
    complex_ = torch.view_as_complex(torch.ones(side, side, 2))
    torch.save({"t": held.t(), "conj": complex_.conj(), "plain": held}, tmp_path / "m.pt")
    np.savez_compressed(tmp_path / "m.npz", w=np.ones(LARGE))
    np.save(tmp_path / "m.npy", np.ones(LARGE, ">f4"))

    assert stored(tmp_path / "m.pt") == {"t": False, "conj": False, "plain": True}
    assert stored(tmp_path / "m.npz") == {"w": False}
    assert stored(tmp_path / "m.npy") == {"": False}
    assert [tensor.stored for tensor in of_checkpoint(fastload.open((tmp_path / "m.npy").read_bytes()))] == [None]


def test_a_file_within_a_file_is_copied_from_where_it_lies(tmp_path, copies):
    fastload.save(ARRAYS, tmp_path / "model_weights.ckpt")
    with tarfile.open(tmp_path / "m.nemo", "w") as archive:
        archive.add(tmp_path / "model_weights.ckpt", "model_weights.ckpt")

    fastload.convert(tmp_path / "m.nemo", tmp_path / "out.safetensors")

    assert copies.seen
    found = fastload.open(tmp_path / "out.safetensors")
    assert all(np.array_equal(found[name], array) for name, array in ARRAYS.items())


def test_shards_are_copied_into_one_and_one_into_shards(tmp_path, copies):
    bfloat = {**ARRAYS, "bfloat": RANDOM.standard_normal(LARGE).astype(ml_dtypes.bfloat16)}
    fastload.save(bfloat, tmp_path / "m.safetensors")
    large = sum(array.nbytes for array in bfloat.values() if array.nbytes >= LARGE)

    fastload.split(tmp_path / "m.safetensors", tmp_path / "shards", max_shard_bytes=LARGE * 2)
    fastload.convert(tmp_path / "shards", tmp_path / "again.safetensors", metadata={})

    assert copies.nbytes == 2 * large
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "m.safetensors").read_bytes()


def test_a_plain_file_has_what_is_stored_written_to_it(tmp_path):
    fastload.save({"w": ARRAYS["large"]}, tmp_path / "m.safetensors")
    (tensor,) = of_checkpoint(fastload.open(tmp_path / "m.safetensors"))
    assert isinstance(tensor, Outgoing) and tensor.stored is not None

    with open(tmp_path / "out", "wb") as file:
        assert write_tensor(file, tensor) == tensor.nbytes

    assert (tmp_path / "out").read_bytes() == ARRAYS["large"].tobytes()
