"""`fastload.convert`, `merge` and `split`: round trips, streaming casts, a name in two sources, shards and index."""

import hashlib
import json
import os
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch

import fastload
from fastload import PlanError, SaveError, SplitReport, UnsupportedError
from fastload.atomic import staging
from fastload.casting import cast
from fastload.converting import draft_conversion

SUFFIXES = {".safetensors", ".pt", ".bpk", ".npz"}
PLAIN = {
    "a.weight": np.arange(12, dtype=np.float32).reshape(3, 4),
    "a.bias": np.array([1.5, -2.5, np.inf], np.float16),
    "b.count": np.array(7, np.int64),
    "b.flags": np.array([True, False]),
    "b.bytes": np.arange(5, dtype=np.uint8),
    "empty": np.zeros((0, 3), np.float64),
}
WITH_BFLOAT = {**PLAIN, "c.weight": np.arange(6).astype(ml_dtypes.bfloat16).reshape(2, 3)}


def hashes(opened):
    return {
        entry.name: (entry.dtype, entry.shape, hashlib.sha256(opened[entry.name].tobytes()).hexdigest())
        for entry in opened.entries()
    }


@pytest.mark.parametrize("there", sorted(SUFFIXES))
@pytest.mark.parametrize("here", sorted(SUFFIXES))
def test_there_and_back_is_the_same_by_hash(tmp_path, here, there):
    tensors = PLAIN if ".npz" in (here, there) else WITH_BFLOAT
    fastload.save(tensors, tmp_path / f"first{here}")

    fastload.convert(tmp_path / f"first{here}", tmp_path / f"second{there}")
    fastload.convert(tmp_path / f"second{there}", tmp_path / f"third{here}", lossy=True)

    first, second, third = (
        hashes(fastload.open(tmp_path / name)) for name in (f"first{here}", f"second{there}", f"third{here}")
    )
    assert first == second == third
    assert len(first) == len(tensors)


def test_torch_safetensors_and_numpy_read_what_is_converted(tmp_path):
    torch.save({name: torch.from_numpy(array) for name, array in PLAIN.items()}, tmp_path / "m.pt")
    for suffix in SUFFIXES:
        fastload.convert(tmp_path / "m.pt", tmp_path / f"out{suffix}")

    by_torch = torch.load(tmp_path / "out.pt", weights_only=True, mmap=True)
    by_safetensors = safetensors.numpy.load_file(tmp_path / "out.safetensors")
    by_numpy = np.load(tmp_path / "out.npz")

    for name, array in PLAIN.items():
        for found in (by_torch[name].numpy(), by_safetensors[name], by_numpy[name]):
            assert found.dtype == array.dtype and found.shape == array.shape
            assert found.tobytes() == array.tobytes()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
def test_casts_on_the_way_are_those_of_torch(tmp_path, dtype):
    source = {"w": torch.randn(300, 70), "t": torch.randn(40, 50).t(), "n": torch.arange(4)}
    torch.save(source, tmp_path / "m.pt")

    fastload.convert(tmp_path / "m.pt", tmp_path / "m.safetensors", cast=dtype)

    found = safetensors.torch.load_file(tmp_path / "m.safetensors")
    for name in ("w", "t"):
        assert torch.equal(found[name], source[name].to(getattr(torch, dtype)))
    assert torch.equal(found["n"], source["n"])


def test_the_steps_of_a_plan_apply(tmp_path):
    fastload.save(PLAIN, tmp_path / "m.safetensors")

    fastload.convert(
        tmp_path / "m.safetensors", tmp_path / "m.pt", include="a.*", remap=[("^a", "z")], cast={"*.bias": "float32"}
    )

    found = torch.load(tmp_path / "m.pt", weights_only=True)
    assert list(found) == ["z.weight", "z.bias"]
    assert found["z.bias"].dtype == torch.float32


def steps_that_cast():
    yield "sliced after", lambda c: c.cast("float16").split(fastload.Split("w", ["x", "y"], 0, [10, 20]))
    yield "twice", lambda c: c.cast("float16").cast("float32")
    yield "twice, complex", lambda c: c.cast({"c": "complex32"}).cast({"c": "complex64"})
    yield "put together", lambda c: c.cast("float16").concat(fastload.Concat(["w", "v"], "wv", 0))
    yield "put together across", lambda c: c.cast("float16").concat(fastload.Concat(["w", "v"], "wv", 1))
    yield "integers", lambda c: c.cast("float32", integers=True)


@pytest.mark.parametrize(("title", "steps"), list(steps_that_cast()), ids=[title for title, _ in steps_that_cast()])
def test_what_is_streamed_is_what_the_array_would_be(tmp_path, monkeypatch, title, steps):
    monkeypatch.setattr("fastload.outgoing.CHUNK_BYTES", 64)
    rng = np.random.default_rng(0)
    arrays = {
        "w": rng.normal(size=(30, 7)).astype(np.float32),
        "v": rng.normal(size=(30, 7)).astype(np.float32),
        "i": np.arange(50),
        "c": (rng.normal(size=40) + 1j).astype(np.complex64),
    }
    fastload.save(arrays, tmp_path / "m.npz")
    planned = steps(fastload.open(tmp_path / "m.npz").select(exclude=["c"] if "complex" not in title else None))

    drafted = draft_conversion(planned, tmp_path / "m.pt")

    for tensor in drafted.tensors:
        assert b"".join(tensor.chunks()) == planned[tensor.name].tobytes(), tensor.name


def test_a_cast_is_never_in_memory_as_a_whole(tmp_path):
    code = """
import sys, fastload, fastload.converting
def dirty():
    return next(int(line.split()[1]) for line in open("/proc/self/smaps_rollup") if line.startswith("Private_Dirty"))
before, peak = dirty(), 0
def watch(done, total):
    global peak
    peak = max(peak, dirty())
fastload.convert(sys.argv[1], sys.argv[2], cast="bfloat16", progress=watch)
print(peak - before)
"""
    if not os.path.exists("/proc/self/smaps_rollup"):
        pytest.skip("this system does not tell how much memory is private")
    fastload.save({"w": np.ones((256, 1 << 18), np.float32)}, tmp_path / "m.pt")  # synced, so that its pages are clean

    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "m.pt", tmp_path / "m.safetensors"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip

    assert int(done.stdout) < 40 << 10  # KiB, of 256 MiB


def test_a_file_may_be_converted_over_itself(tmp_path):
    fastload.save(PLAIN, tmp_path / "m.safetensors")
    with pytest.raises(FileExistsError):
        fastload.convert(tmp_path / "m.safetensors", tmp_path / "m.safetensors")

    fastload.convert(tmp_path / "m.safetensors", tmp_path / "m.safetensors", cast="float64", overwrite=True)

    found = fastload.open(tmp_path / "m.safetensors")["a.weight"]
    assert np.array_equal(found, cast(PLAIN["a.weight"], "float32", "float64"))


def test_sharing_is_kept_or_reported(tmp_path):
    weight = torch.randn(4, 4)
    torch.save({"a": weight, "b": weight}, tmp_path / "m.pt")

    with pytest.raises(SaveError, match="'a', 'b' share memory"):
        fastload.convert(tmp_path / "m.pt", tmp_path / "m.safetensors")
    assert os.listdir(tmp_path) == ["m.pt"]
    fastload.convert(tmp_path / "m.pt", tmp_path / "same.pt")

    found = torch.load(tmp_path / "same.pt", weights_only=True)
    assert found["a"].data_ptr() == found["b"].data_ptr()


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_cast_that_takes_tied_tensors_apart_is_reported(tmp_path, suffix):
    weight = torch.randn(4, 4)
    torch.save({"a": weight, "b": weight, "c": torch.ones(2)}, tmp_path / "m.pt")

    with pytest.raises(SaveError, match="'a'"):
        fastload.convert(tmp_path / "m.pt", tmp_path / f"out{suffix}", cast="bfloat16")
    fastload.convert(tmp_path / "m.pt", tmp_path / f"out{suffix}", cast="bfloat16", lossy=True)

    found = fastload.open(tmp_path / f"out{suffix}")
    assert found["a"].tobytes() == found["b"].tobytes() == weight.bfloat16().view(torch.int16).numpy().tobytes()


def test_a_meta_tensor_is_named(tmp_path):
    torch.save({"here": torch.ones(1), "gone": torch.empty(2, device="meta")}, tmp_path / "m.pt")

    with pytest.raises(UnsupportedError, match="'gone' is a meta tensor"):
        fastload.convert(tmp_path / "m.pt", tmp_path / "m.safetensors")


# merge


def test_merge_puts_one_after_the_other(tmp_path):
    fastload.save({"a": np.ones(2)}, tmp_path / "a.npz")
    torch.save({"b": torch.zeros(3), "c": torch.ones(1)}, tmp_path / "b.pt")

    report = fastload.merge(
        [tmp_path / "a.npz", fastload.open(tmp_path / "b.pt", exclude="c")], tmp_path / "m.pt", remap=[("$", ".w")]
    )

    assert report.tensors == 2
    assert list(torch.load(tmp_path / "m.pt", weights_only=True)) == ["a.w", "b.w"]


def test_a_name_in_two_sources_is_an_error_that_names_both(tmp_path):
    fastload.save({"w": np.zeros(1)}, tmp_path / "a.npz")
    fastload.save({"w": np.ones(1), "v": np.ones(1)}, tmp_path / "b.npz")
    both = [tmp_path / "a.npz", tmp_path / "b.npz"]

    with pytest.raises(PlanError, match=r"'w' is in .*a\.npz and in .*b\.npz"):
        fastload.merge(both, tmp_path / "m.npz")
    fastload.merge(both, tmp_path / "first.npz", prefer="first")
    fastload.merge(both, tmp_path / "last.npz", prefer="last")

    assert fastload.open(tmp_path / "first.npz")["w"] == 0
    assert fastload.open(tmp_path / "last.npz")["w"] == 1
    assert not (tmp_path / "m.npz").exists()


def test_metadata_that_differ_are_a_loss_unless_one_is_preferred(tmp_path):
    paths = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    for number, path in enumerate(paths):
        fastload.save({str(number): np.zeros(1)}, path, metadata={"step": str(number), "format": "pt"})

    with pytest.raises(SaveError, match=r"'step' differs between .*a\.safetensors and .*b\.safetensors"):
        fastload.merge(paths, tmp_path / "m.safetensors")
    fastload.merge(paths, tmp_path / "m.safetensors", prefer="last")

    assert fastload.open(tmp_path / "m.safetensors").metadata == {"step": "1", "format": "pt"}


def test_storages_of_two_files_are_not_taken_for_one(tmp_path):
    for name in "ab":
        weight = torch.full((4,), float(ord(name)))
        torch.save({f"{name}.0": weight, f"{name}.1": weight}, tmp_path / f"{name}.pt")

    fastload.merge([tmp_path / "a.pt", tmp_path / "b.pt"], tmp_path / "m.pt")

    found = torch.load(tmp_path / "m.pt", weights_only=True)
    assert [float(found[name][0]) for name in ("a.0", "a.1", "b.0", "b.1")] == [97, 97, 98, 98]
    assert found["a.0"].data_ptr() == found["a.1"].data_ptr() != found["b.0"].data_ptr()


# split


def test_split_is_as_hugging_face_has_it(tmp_path):
    tensors = {name: np.full(10, number, np.float32) for number, name in enumerate("abc")}
    fastload.save(tensors, tmp_path / "m.safetensors", metadata={"format": "pt"})

    report = fastload.split(tmp_path / "m.safetensors", tmp_path / "shards", max_shard_bytes=80)

    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"]
    assert isinstance(report, SplitReport) and report.files == tuple(names)
    assert sorted(os.listdir(tmp_path / "shards")) == names
    assert report.nbytes == sum((tmp_path / "shards" / name).stat().st_size for name in names)
    assert json.loads((tmp_path / "shards" / names[2]).read_text()) == {
        "metadata": {"format": "pt", "total_size": 120},
        "weight_map": {"a": names[0], "b": names[0], "c": names[1]},
    }
    assert list(safetensors.numpy.load_file(tmp_path / "shards" / names[1])) == ["c"]
    opened = fastload.open(tmp_path / "shards")
    assert {name: opened[name].tolist() for name in opened} == {n: a.tolist() for n, a in tensors.items()}


def test_tensors_that_share_memory_stay_in_one_shard(tmp_path):
    weight = torch.ones(4)
    torch.save({"a": weight, "b": torch.ones(4), "c": weight}, tmp_path / "m.pt")

    with pytest.raises(SaveError, match="share memory"):
        fastload.split(tmp_path / "m.pt", tmp_path / "shards", max_shard_bytes=16)
    assert not (tmp_path / "shards").exists()
    fastload.split(tmp_path / "m.pt", tmp_path / "shards", max_shard_bytes=16, lossy=True)

    files = json.loads((tmp_path / "shards" / "model.safetensors.index.json").read_text())["weight_map"]
    assert files["a"] == files["c"] != files["b"]


def test_shards_that_are_there_need_overwrite_and_are_removed_by_it(tmp_path):
    fastload.save({name: np.ones(4) for name in "abc"}, tmp_path / "m.safetensors")
    fastload.split(tmp_path / "m.safetensors", tmp_path, max_shard_bytes=32)

    with pytest.raises(FileExistsError, match="holds model"):
        fastload.split(tmp_path / "m.safetensors", tmp_path)
    fastload.split(tmp_path / "m.safetensors", tmp_path, overwrite=True)

    assert sorted(os.listdir(tmp_path)) == [
        "m.safetensors",
        "model-00001-of-00001.safetensors",
        "model.safetensors.index.json",
    ]
    with pytest.raises(SaveError, match=r"holds 'model-00001-of-00001\.safetensors', which is to be split"):
        fastload.split(tmp_path, tmp_path, overwrite=True)


def test_a_checkpoint_is_split_anew_where_it_lies(tmp_path):
    arrays = {name: np.full(4, place) for place, name in enumerate("abc")}
    fastload.save(arrays, tmp_path / "m.safetensors")
    fastload.split(tmp_path / "m.safetensors", tmp_path / "s", max_shard_bytes=32)
    checkpoint = fastload.open(tmp_path / "s")
    before = checkpoint["a"]

    fastload.split(checkpoint, tmp_path / "s", max_shard_bytes=64, overwrite=True)

    assert sorted(os.listdir(tmp_path / "s")) == [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
    ]
    assert {name: array.tolist() for name, array in fastload.open(tmp_path / "s").items()} == {
        name: array.tolist() for name, array in arrays.items()
    }
    assert before.tolist() == [0] * 4  # of a file that is gone


def test_splitting_anew_keeps_the_old_shards_until_the_index_is_replaced(tmp_path, monkeypatch):
    fastload.save({name: np.ones(4) for name in "abc"}, tmp_path / "m.safetensors")
    fastload.split(tmp_path / "m.safetensors", tmp_path / "s", max_shard_bytes=32)
    replace = os.replace

    def replace_shards_alone(source, target):
        if target.endswith(".json"):
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", replace_shards_alone)
    with pytest.raises(KeyboardInterrupt):
        fastload.split(tmp_path / "s", tmp_path / "s", max_shard_bytes=64, overwrite=True)
    monkeypatch.undo()

    checkpoint = fastload.open(tmp_path / "s")
    assert all("-of-00003" in checkpoint.entry(name).file for name in checkpoint)
    assert all(array.tolist() == [1] * 4 for array in checkpoint.values())
    fastload.split(tmp_path / "s", tmp_path / "s", max_shard_bytes=96, overwrite=True)
    assert len(os.listdir(tmp_path / "s")) == 2


def fail_later(done, total):
    if done > 32:
        raise SaveError("the disk is full")


def test_a_failed_split_leaves_nothing(tmp_path):
    fastload.save({name: np.ones(4) for name in "ab"}, tmp_path / "m.safetensors")

    with pytest.raises(SaveError, match="the disk is full"):
        fastload.split(tmp_path / "m.safetensors", tmp_path / "s", max_shard_bytes=32, progress=fail_later)

    assert os.listdir(tmp_path / "s") == []


def test_a_failed_split_leaves_the_shards_that_were_there(tmp_path):
    fastload.save({name: np.ones(4) for name in "abc"}, tmp_path / "old.safetensors")
    fastload.save({name: np.zeros(4) for name in "ab"}, tmp_path / "new.safetensors")
    fastload.split(tmp_path / "old.safetensors", tmp_path / "s", max_shard_bytes=32)
    before = {path.name: path.read_bytes() for path in (tmp_path / "s").iterdir()}

    with pytest.raises(SaveError, match="the disk is full"):
        fastload.split(
            tmp_path / "new.safetensors", tmp_path / "s", max_shard_bytes=32, overwrite=True, progress=fail_later
        )

    assert {path.name: path.read_bytes() for path in (tmp_path / "s").iterdir()} == before


def test_what_a_killed_split_left_is_cleared_and_what_another_writes_is_not(tmp_path):
    fastload.save({"a": np.ones(4)}, tmp_path / "m.safetensors")
    staged = tmp_path / "s" / ".model.fastload-tmp"
    staged.mkdir(parents=True)
    (staged / "model-00001-of-00009.safetensors").write_bytes(b"half")

    with staging(str(tmp_path / "s"), "model"), pytest.raises(SaveError, match="another process"):
        fastload.split(tmp_path / "m.safetensors", tmp_path / "s")
    fastload.split(tmp_path / "m.safetensors", tmp_path / "s")

    assert sorted(os.listdir(tmp_path / "s")) == ["model-00001-of-00001.safetensors", "model.safetensors.index.json"]


def test_metadata_of_users_come_through_shards(tmp_path):
    metadata = {"version": "2", "producerName": "me", "k": "v"}
    fastload.save({"a": np.ones(4)}, tmp_path / "m.safetensors", metadata=metadata)
    fastload.split(tmp_path / "m.safetensors", tmp_path / "s")

    report = fastload.convert(tmp_path / "s", tmp_path / "again.safetensors")

    assert fastload.open(tmp_path / "again.safetensors").metadata == metadata
    assert report.lost == ()


def test_progress_ends_at_all(tmp_path):
    fastload.save(PLAIN, tmp_path / "m.safetensors")
    seen = []

    fastload.convert(
        tmp_path / "m.safetensors", tmp_path / "m.pt", progress=lambda done, total: seen.append((done, total))
    )

    total = sum(array.nbytes for array in PLAIN.values())
    assert seen[-1] == (total, total) and seen == sorted(seen)
