"""Sharded checkpoints: by an index or by their names, opened lazily, once, and with few descriptors."""

import json
import os
import subprocess
import sys
import threading

import numpy as np
import pytest
import safetensors.numpy
import torch

import fastload
from builders import safetensors_file, smallest_file, tensor, torch_file
from fastload.folders import sharded

TENSORS = {f"layer.{n}.{part}": np.arange(n, n + 3, dtype="<f4") for n in range(4) for part in ("weight", "bias")}


def write_safetensors(path, arrays):
    safetensors.numpy.save_file(arrays, path, metadata={"format": "np"})


def write_torch(path, arrays):
    torch.save({name: torch.from_numpy(array) for name, array in arrays.items()}, path)


WRITERS = {"safetensors": ("model", "safetensors", write_safetensors), "torch": ("pytorch_model", "bin", write_torch)}


def write_shards(folder, kind, *, index=True, tensors=TENSORS, count=4):
    """Shards of *tensors*, dealt out in turn, so that neighbours lie in different files; the index in reverse."""
    stem, ending, write = WRITERS[kind]
    folder.mkdir(exist_ok=True)
    names = list(tensors)
    files = [f"{stem}-{n + 1:05}-of-{count:05}.{ending}" for n in range(count)]
    for n, file in enumerate(files):
        write(folder / file, {name: tensors[name] for name in names[n::count]})
    weight_map = {name: files[names.index(name) % count] for name in reversed(names)}
    path = folder / f"{stem}.{ending}.index.json"
    if index:
        path.write_text(json.dumps({"metadata": {"total_size": 96}, "weight_map": weight_map}))
    return path


def write_index(folder, weight_map):
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


def opened_files(monkeypatch):
    """A list that grows by the path of each shard that is opened."""
    seen = []
    real = sharded.open_source

    def counting(source, *rest):
        seen.append(os.path.basename(source.path))
        return real(source, *rest)

    monkeypatch.setattr(sharded, "open_source", counting)
    return seen


@pytest.mark.parametrize("io", ["mmap", "read"])
@pytest.mark.parametrize("how", ["index", "folder"])
@pytest.mark.parametrize("kind", WRITERS)
def test_shards_are_one_checkpoint_in_the_order_of_the_index(tmp_path, kind, how, io):
    index = write_shards(tmp_path / "model", kind)
    path = index if how == "index" else index.parent
    checkpoint = fastload.open(path, io=io)

    assert list(checkpoint) == [entry.name for entry in checkpoint.entries()] == list(reversed(TENSORS))
    assert all(np.array_equal(checkpoint[name], array) for name, array in TENSORS.items())
    assert checkpoint.path == str(path) and checkpoint.metadata == {"total_size": 96}
    assert checkpoint.format == {"safetensors": "sharded-safetensors", "torch": "sharded-pytorch-zip"}[kind]
    assert len({entry.storage for entry in checkpoint.entries()}) == len(TENSORS)
    files = json.loads(index.read_text())["weight_map"]
    assert all(entry.file == str(index.parent / files[entry.name]) for entry in checkpoint.entries())
    assert list(checkpoint.objects) == list(dict.fromkeys(files.values()))
    checkpoint.verify()
    assert checkpoint.still_valid()
    with pytest.raises(fastload.TensorNotFoundError, match=r"layer\.0\.weight"):
        checkpoint["layer.0.weigh"]


@pytest.mark.parametrize("kind", WRITERS)
def test_without_an_index_all_files_of_the_set_are_read_in_turn(tmp_path, kind):
    write_shards(tmp_path / "model", kind, index=False)
    checkpoint = fastload.open(tmp_path / "model")

    assert sorted(checkpoint) == sorted(TENSORS)
    assert all(np.array_equal(checkpoint[name], array) for name, array in TENSORS.items())
    files = [checkpoint.entry(name).file for name in checkpoint]
    assert files == sorted(files) and len(set(files)) == 4
    assert checkpoint.metadata["format" if kind == "safetensors" else "byteorder"] in ("np", "little")
    checkpoint.verify()


def test_equal_names_in_a_set_without_an_index_are_numbered(tmp_path):
    for n in (1, 2, 3):
        raw = torch_file({"w": tensor("int64", (1,), [n])})
        (tmp_path / f"part-{n}-of-3.pt").write_bytes(raw)
    checkpoint = fastload.open(tmp_path)

    assert {name: array.tolist() for name, array in checkpoint.items()} == {"w": [1], "w#2": [2], "w#3": [3]}
    assert [entry.name for entry in checkpoint.entries()] == ["w", "w#2", "w#3"]
    checkpoint.verify()


def test_opening_and_listing_reads_the_index_alone(tmp_path, monkeypatch):
    index = write_shards(tmp_path / "model", "safetensors")
    seen = opened_files(monkeypatch)
    checkpoint = fastload.open(index)

    assert len(list(checkpoint)) == len(checkpoint) == 8 and checkpoint.metadata and checkpoint.still_valid()
    assert seen == []
    checkpoint["layer.0.weight"], checkpoint["layer.2.weight"], checkpoint.entry("layer.0.weight")
    assert seen == ["model-00001-of-00004.safetensors"]
    checkpoint.entries(), checkpoint.entries()
    assert sorted(seen) == sorted(set(json.loads(index.read_text())["weight_map"].values()))


def test_threads_that_meet_at_an_unopened_shard_open_it_once(tmp_path, monkeypatch):
    index = write_shards(tmp_path / "model", "torch")
    seen = opened_files(monkeypatch)
    checkpoint = fastload.open(index)
    barrier, failures = threading.Barrier(16, timeout=60), []

    def read():
        try:
            barrier.wait()
            for name, array in TENSORS.items():
                assert np.array_equal(checkpoint[name], array)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=read) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)

    assert failures == []
    assert len(seen) == len(set(seen)) == 4


def test_a_missing_shard_is_named_at_open_with_what_it_would_hold(tmp_path):
    index = write_shards(tmp_path / "model", "safetensors")
    (index.parent / "model-00002-of-00004.safetensors").unlink()

    with pytest.raises(fastload.FormatError, match=r"model-00002-of-00004\.safetensors' is missing.*'layer\.2\.bias'"):
        fastload.open(index)


def test_a_name_that_its_shard_lacks_is_an_error_that_names_both(tmp_path):
    (tmp_path / "a").write_bytes(smallest_file("safetensors"))
    checkpoint = fastload.open(write_index(tmp_path, {"w": "a", "v": "a"}))

    assert checkpoint["w"].tolist() == [1, 2]
    for action in (lambda: checkpoint["v"], lambda: checkpoint.entry("v"), checkpoint.entries, checkpoint.verify):
        with pytest.raises(fastload.FormatError, match="'v'") as caught:
            action()
        assert caught.value.path == str(tmp_path / "a")


def test_verify_reports_tensors_that_the_index_leaves_out(tmp_path):
    both = {"w": ("U8", (1,), b"\1"), "extra": ("U8", (1,), b"\2")}
    (tmp_path / "a").write_bytes(safetensors_file(both))
    checkpoint = fastload.open(write_index(tmp_path, {"w": "a"}))

    assert list(checkpoint) == ["w"]
    with pytest.raises(fastload.FormatError, match=r"'extra' beyond"):
        checkpoint.verify()


@pytest.mark.parametrize("name", ["/etc/passwd", "../a", "..\\a", "C:/a", "a\0", "", "sub", "pipe", "up/a"])
def test_an_index_cannot_name_what_is_outside_or_no_file(tmp_path, name):
    """In a process of its own, since to open a FIFO the wrong way waits for ever."""
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    (tmp_path / "a").write_bytes(smallest_file("safetensors"))
    os.mkfifo(folder / "pipe")
    os.symlink("..", folder / "up")
    write_index(folder, {"some tensor": name})
    code = f"""if True:
        import fastload
        try:
            fastload.open({str(folder)!r})
        except fastload.FormatError as error:
            print(error)
    """

    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)

    assert found.returncode == 0, found.stderr
    assert "some tensor" in found.stdout


def test_shards_in_sub_folders_and_behind_links_of_the_folder_are_read(tmp_path):
    """As in Hugging Face's cache, where snapshots/x/model.safetensors is a link to ../../blobs/123."""
    snapshot = tmp_path / "snapshots" / "x"
    (snapshot / "sub").mkdir(parents=True)
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "123").write_bytes(smallest_file("safetensors"))
    (tmp_path / "blobs" / "456").write_text(json.dumps({"weight_map": {"w": "linked", "v": "sub/inner"}}))
    (snapshot / "sub" / "inner").write_bytes(safetensors_file({"v": ("U8", (1,), b"\7")}))
    (snapshot / "linked").symlink_to("../../blobs/123")
    (snapshot / "model.safetensors.index.json").symlink_to("../../blobs/456")

    for path in (snapshot, snapshot / "model.safetensors.index.json"):
        checkpoint = fastload.open(path)
        assert checkpoint["w"].tolist() == [1, 2] and checkpoint["v"].tolist() == [7]
        assert checkpoint.entry("w").file == str(snapshot / "linked")


def test_a_shard_that_becomes_a_fifo_is_refused_when_it_is_needed(tmp_path):
    (tmp_path / "a").write_bytes(smallest_file("safetensors"))
    checkpoint = fastload.open(write_index(tmp_path, {"w": "a"}))
    (tmp_path / "a").unlink()
    os.mkfifo(tmp_path / "a")

    with pytest.raises(fastload.FormatError, match="pipe"):
        checkpoint["w"]


def test_an_index_that_names_an_index_does_not_go_round_in_circles(tmp_path):
    path = write_index(tmp_path, {"w": "model.safetensors.index.json"})

    with pytest.raises(fastload.UnsupportedError, match="index of a sharded"):
        fastload.open(path)["w"]


def test_an_index_of_nothing_is_an_empty_checkpoint(tmp_path):
    checkpoint = fastload.open(write_index(tmp_path, {}))

    assert (list(checkpoint), checkpoint.entries(), checkpoint.format) == ([], [], "sharded")
    checkpoint.verify()
    assert "0 tensors" in repr(checkpoint)


def test_relative_paths_hold_when_the_process_goes_elsewhere(tmp_path, monkeypatch):
    index = write_shards(tmp_path / "model", "safetensors")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(index.parent)
    checkpoint = fastload.open(index.name)
    monkeypatch.chdir(tmp_path / "elsewhere")

    assert np.array_equal(checkpoint["layer.0.weight"], TENSORS["layer.0.weight"])
    assert checkpoint.path == index.name


@pytest.mark.parametrize("what", ["index", "shard"])
def test_still_valid_minds_the_index_and_the_opened_shards(tmp_path, what):
    index = write_shards(tmp_path / "model", "safetensors")
    checkpoint = fastload.open(index)
    checkpoint["layer.0.weight"]
    path = index if what == "index" else index.parent / "model-00001-of-00004.safetensors"
    path.with_suffix(".new").write_bytes(path.read_bytes())
    before = checkpoint.still_valid()
    path.with_suffix(".new").replace(path)

    assert before and not checkpoint.still_valid()


def test_a_shard_that_is_replaced_while_it_is_read_piece_by_piece_is_refused(tmp_path):
    """Without a descriptor the file is opened again for each read; mixing two files would give wrong tensors."""
    index = write_shards(tmp_path / "model", "safetensors")
    checkpoint = fastload.open(index, io="read")
    checkpoint.entries()
    path = index.parent / "model-00001-of-00004.safetensors"
    path.with_suffix(".new").write_bytes(path.read_bytes())
    path.with_suffix(".new").replace(path)

    with pytest.raises(fastload.FormatError, match="replaced"):
        checkpoint["layer.0.weight"]


@pytest.mark.parametrize("how", ["index", "set"])
@pytest.mark.parametrize("io", ["mmap", "read"])
@pytest.mark.parametrize("kind", WRITERS)
def test_200_shards_need_few_descriptors(tmp_path, kind, io, how):
    tensors = {f"w{n}": np.array([n], "<i8") for n in range(200)}
    write_shards(tmp_path / "model", kind, tensors=tensors, count=200, index=how == "index")
    code = f"""if True:
        import resource
        import fastload, numpy.random
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        with fastload.open({str(tmp_path / "model")!r}, io={io!r}) as checkpoint:
            arrays = dict(checkpoint)
            checkpoint.verify()
            assert checkpoint.still_valid()
        print(sum(int(array[0]) for array in arrays.values()), len(arrays))
    """

    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)

    assert found.stdout.split() == ["19900", "200"], found.stderr


def test_more_shards_than_storages_can_be_numbered_for_are_refused(tmp_path, monkeypatch):
    write_shards(tmp_path / "index", "safetensors")
    write_shards(tmp_path / "set", "safetensors", index=False)
    for folder in ("index", "set"):
        monkeypatch.setattr(sharded, "MAX_SHARDS", 4)
        assert len(fastload.open(tmp_path / folder)) == 8
        monkeypatch.setattr(sharded, "MAX_SHARDS", 3)
        with pytest.raises(fastload.LimitError, match="4"):
            fastload.open(tmp_path / folder)
