"""TensorRef: pickles small, opens the same bytes elsewhere, and refuses another file."""

import multiprocessing
import os
import pickle
import sys
import zipfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
import torch

import fastload
import ref_work
from fastload import FormatError, TensorRef, UnsupportedError

IGNORED = "ignore:(.*ComplexHalf|TypedStorage)"


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "model.safetensors"
    fastload.save({"w": np.arange(12, dtype=np.float32).reshape(3, 4), "big": np.ones(100_000, np.float32)}, path)
    return path


def write_views(path):
    whole = torch.arange(24.0).reshape(4, 6)
    tensors = {
        "whole": whole,
        "transposed": whole.t(),
        "sliced": whole[:, 1:3],
        "broadcast": whole[0, :1].expand(5, 3),
        "empty": whole[:0],
        "scalar": torch.tensor(3.0),
        "bfloat16": torch.arange(5).to(torch.bfloat16),
        "float8": torch.arange(5.0).to(torch.float8_e5m2),
        "complex32": torch.ones(3, dtype=torch.complex32),
        "bool": torch.tensor([True, False]),
        "large": torch.arange(100_000.0).reshape(100, 1000).t(),
    }
    torch.save(tensors, path)
    return tensors


@pytest.mark.filterwarnings(IGNORED)
def test_a_reference_gives_the_array_that_the_checkpoint_gives(tmp_path):
    names = write_views(tmp_path / "model.pt")
    with fastload.open(tmp_path / "model.pt") as checkpoint:
        for name in names:
            ref = pickle.loads(pickle.dumps(checkpoint.ref(name)))
            ours, theirs = ref.array(), checkpoint[name]
            assert (ours.dtype, ours.shape, ours.strides) == (theirs.dtype, theirs.shape, theirs.strides)
            assert ours.tobytes() == theirs.tobytes() and not ours.flags.writeable and not ours.flags.owndata


def test_packed_floats_have_a_reference(tmp_path):
    header = b'{"w":{"dtype":"F4","shape":[2,4],"data_offsets":[0,4]}} '
    (tmp_path / "w").write_bytes(len(header).to_bytes(8, "little") + header + bytes(range(4)))

    assert fastload.open(tmp_path / "w").ref("w").array().tolist() == [[0, 1], [2, 3]]


def test_what_a_plan_makes_of_a_view_is_a_view(path):
    steps = {"rename": {"w": "v"}, "split": [("v", ["a", "b"], 1)]}
    with fastload.open(path, **steps) as checkpoint:
        assert checkpoint.ref("b").array().tolist() == [[2, 3], [6, 7], [10, 11]]


def test_tensors_of_shards_are_referred_to_where_they_lie(tmp_path):
    fastload.save({"a": np.ones(1000), "b": np.zeros(1000)}, tmp_path / "w.safetensors")
    fastload.split(tmp_path / "w.safetensors", tmp_path / "shards", max_shard_bytes=9000)
    with fastload.open(tmp_path / "shards") as checkpoint:
        refs = [checkpoint.ref(name) for name in checkpoint]
    assert len({ref.path for ref in refs}) == 2
    assert [ref.array()[0] for ref in refs] == [1, 0]


def test_it_is_small_equal_to_itself_and_a_key(path):
    ref = fastload.open(path).ref("big")

    again = pickle.loads(pickle.dumps(ref))

    assert again == ref and len({again, ref}) == 1 and len(pickle.dumps(ref)) < 500
    assert "big" in repr(ref) and str(path) in repr(ref)
    with pytest.raises(FrozenInstanceError):
        ref.offset = 3


def test_numpy_takes_it_for_an_array(path):
    ref = fastload.open(path).ref("w")

    assert np.asarray(ref).sum() == 66 and np.asarray(ref, np.float64).dtype == np.float64
    assert np.array(ref).flags.writeable and (np.asarray(ref, np.float32) == np.arange(12).reshape(3, 4)).all()
    with pytest.raises(ValueError, match="only as a copy"):
        np.asarray(ref, np.float64, copy=False)


def test_a_relative_path_is_found_from_elsewhere(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ref = fastload.open(path.name).ref("w")
    monkeypatch.chdir("/")

    assert ref.array()[0, 1] == 1


def append_byte(path):
    with open(path, "ab") as file:
        file.write(b"x")


def touch(path):
    os.utime(path, ns=(0, 0))


def put_folder(path):
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("change", [append_byte, touch, os.unlink, put_folder], ids=lambda change: change.__name__)
def test_a_file_that_changed_or_is_gone_is_refused_by_name(path, change):
    checkpoint = fastload.open(path)
    ref = checkpoint.ref("w")

    change(path)

    with pytest.raises(FormatError, match=r"model\.safetensors") as caught:
        ref.array()
    assert "'w'" in str(caught.value)
    with pytest.raises(FormatError, match="open it again"):
        checkpoint.ref("w")


@pytest.mark.parametrize(
    "changes",
    [
        {"offset": -4}, {"offset": 1 << 70}, {"nbytes": -1}, {"nbytes": 1 << 40}, {"shape": (1 << 62, 1 << 62)},
        {"shape": (-3, 4)}, {"shape": (4, 4)}, {"strides": (16, -4)}, {"strides": (16, 3)}, {"strides": (1 << 40, 4)},
        {"strides": None, "shape": (100,)}, {"dtype": "float128"}, {"strides": (16,)}, {"dtype": "float4_e2m1fn"},
    ],
    ids=str,
)  # fmt: skip
def test_a_reference_that_somebody_made_up_reaches_no_other_memory(path, changes):
    ref = replace(fastload.open(path).ref("w"), **changes)

    with pytest.raises(FormatError):
        ref.array()


def test_tensors_that_are_no_views_say_why_and_what_to_do(tmp_path, path):
    np.savez_compressed(tmp_path / "w.npz", w=np.zeros(1000))
    np.savez(tmp_path / "be.npz", w=np.zeros(1000, ">f4"))
    torch.save({"w": torch.empty(3, device="meta")}, tmp_path / "meta.pt")
    refused = [
        (fastload.open(tmp_path / "w.npz"), "compressed"),
        (fastload.open(tmp_path / "be.npz"), "big-endian"),
        (fastload.open(tmp_path / "meta.pt"), "meta tensor"),
        (fastload.open(path, cast="float16"), "cast"),
        (fastload.open(path.read_bytes()), "buffer"),
    ]
    for checkpoint, why in refused:
        with pytest.raises(UnsupportedError, match=rf"'w'.*{why}.*(save|open a file)"):
            checkpoint.ref("w")


def test_what_is_put_together_of_parts_has_no_reference(tmp_path):
    fastload.save({"a": np.zeros(2), "b": np.ones(2)}, tmp_path / "w.safetensors")

    with pytest.raises(UnsupportedError, match="parts"):
        fastload.open(tmp_path / "w.safetensors", concat=[(["a", "b"], "w", 0)]).ref("w")


def test_tensors_of_a_member_are_referred_to_in_the_outer_file(path, tmp_path):
    with zipfile.ZipFile(tmp_path / "outer.zip", "w") as archive:
        archive.writestr("readme", "x" * 1001)
        archive.write(path, "models/model.safetensors")
        archive.write(path, "packed", zipfile.ZIP_DEFLATED)
    outer = (tmp_path / "outer.zip").read_bytes()
    checkpoint = fastload.open(tmp_path / "outer.zip", member="models/model.safetensors")
    for name in checkpoint:
        ref = pickle.loads(pickle.dumps(checkpoint.ref(name)))

        assert (ref.path, ref.member) == (str(tmp_path / "outer.zip"), "models/model.safetensors")
        assert outer[ref.offset : ref.offset + ref.nbytes] == checkpoint[name].tobytes() == ref.array().tobytes()
    assert checkpoint.rename({"w": "v"}).ref("v").member == "models/model.safetensors"
    with pytest.raises(UnsupportedError, match="no bytes in the file"):
        fastload.open(tmp_path / "outer.zip", member="packed").ref("w")


def test_many_small_references_use_no_mappings(tmp_path):
    fastload.save({f"t{i}": np.full(10, i) for i in range(3000)}, tmp_path / "w.safetensors")
    refs = [fastload.open(tmp_path / "w.safetensors").ref(f"t{i}") for i in range(0, 3000, 10)]
    arrays = [ref.array() for ref in refs for _ in range(3)]

    assert [int(array[0]) for array in arrays[::3]] == list(range(0, 3000, 10))
    if sys.platform == "linux":
        with open("/proc/self/maps", encoding="utf-8") as lines:
            assert not any("w.safetensors" in line for line in lines)


def test_spawned_processes_map_the_pages_of_the_tensor_alone(path):
    with fastload.open(path) as checkpoint:
        refs = [checkpoint.ref("w"), checkpoint.ref("big")]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        values, dtype, writeable, process = pool.map(ref_work.told, refs)[0]
        mapped = pool.apply(ref_work.mapped_bytes, [refs[1]])
        touch(path)
        name, message = pool.apply(ref_work.refusal, [refs[1]])

    assert (values, dtype, writeable) == (np.arange(12).reshape(3, 4).tolist(), "float32", False)
    assert process != os.getpid()
    assert refs[1].nbytes <= mapped <= refs[1].nbytes + 2 * 4096 or sys.platform != "linux"
    assert name == "FormatError" and str(path) in message


def test_an_executor_takes_references(path):
    with fastload.open(path) as checkpoint:
        refs = [checkpoint.ref(name) for name in ("w", "big")]
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        assert [sum(map(float, np.ravel(told[0]))) for told in pool.map(ref_work.told, refs)] == [66, 100_000]


def test_workers_of_dask_take_references(path):
    import distributed  # takes a second, and this test alone needs it

    with fastload.open(path) as checkpoint:
        refs = [checkpoint.ref("w"), checkpoint.ref("big"), checkpoint.ref("w")]
    cluster = distributed.LocalCluster(n_workers=3, threads_per_worker=1, processes=True, dashboard_address=None)
    with cluster, distributed.Client(cluster) as client:
        futures = [
            client.submit(ref_work.told, ref, workers=[worker], pure=False)
            for ref, worker in zip(refs, client.scheduler_info()["workers"], strict=True)
        ]
        told = client.gather(futures)

    assert len({process for *_, process in told} - {os.getpid()}) == 3
    assert told[0][0] == told[2][0] == np.arange(12).reshape(3, 4).tolist() and told[1][0] == [1] * 100_000


def test_the_class_is_public():
    assert fastload.TensorRef is TensorRef and TensorRef.__module__ == "fastload.ref"
