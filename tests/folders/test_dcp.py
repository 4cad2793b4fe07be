"""Folders of torch.distributed.checkpoint: what torch writes and loads, and what is refused on reading."""

import os
import pathlib
import pickle
import shutil
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as torch_dcp

import fastload
from builders import tensor, torch_file
from dcp_folders import blob, halves, info, key, made, metadata, one, stored, write
from fastload.folders import dcp
from fastload.source import Source

# What torch writes.


def save(state, path, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there is no process group
        torch_dcp.save(state, no_dist=True, **(kwargs or {"checkpoint_id": path}))
    return path


def raw_bytes(value):
    return value.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def assert_same(checkpoint, expected):
    assert list(checkpoint) == list(expected)
    for name, value in expected.items():
        assert checkpoint.entry(name).dtype == str(value.dtype).removeprefix("torch.")
        assert checkpoint.entry(name).shape == checkpoint[name].shape == tuple(value.shape)
        assert checkpoint[name].tobytes() == raw_bytes(value)


@pytest.fixture
def state():
    return {
        "model": {
            "w": torch.arange(6.0).reshape(2, 3),
            "bf": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
            "turned": torch.arange(6).reshape(2, 3).t(),
            "bool": torch.tensor([True, False]),
            "f8": torch.ones(3).to(torch.float8_e4m3fn),
            "c": torch.tensor([1 + 2j]),
        },
        "step": torch.tensor(7.0),
        "empty": torch.zeros(0, 3),
        "epoch": 3,
        "betas": (0.9, 0.999),
        "nested": [{"lr": 0.1}],
    }


def flat(state):
    return {f"model.{name}": value for name, value in state["model"].items()} | {
        name: state[name] for name in ("step", "empty")
    }


@pytest.mark.parametrize("io", ["mmap", "read"])
def test_tensors_are_those_that_torch_saved(state, tmp_path, io):
    save(state, tmp_path / "saved")

    with fastload.open(tmp_path / "saved", io=io) as checkpoint:
        assert checkpoint.format == "pytorch-dcp"
        assert checkpoint.path == str(tmp_path / "saved")
        assert_same(checkpoint, flat(state))
        checkpoint.verify()
        assert checkpoint.still_valid()


def test_tensors_of_one_chunk_are_views_of_the_file(state, tmp_path):
    save(state, tmp_path / "saved")

    with fastload.open(tmp_path / "saved", allow_copy=False) as checkpoint:
        for entry in checkpoint.entries():
            data = pathlib.Path(entry.file).read_bytes()
            array = checkpoint[entry.name]
            assert entry.zero_copy and entry.strides == array.strides
            if array.flags.c_contiguous:
                assert data[entry.offset : entry.offset + entry.nbytes] == array.tobytes()
        assert len({entry.storage for entry in checkpoint.entries()}) == len(checkpoint)


def test_objects_and_planner_data_are_plain_values(state, tmp_path):
    save(state, tmp_path / "saved")

    with fastload.open(tmp_path / "saved") as checkpoint:
        assert checkpoint.objects == {"epoch": 3, "betas": (0.9, 0.999), "nested": [{"lr": 0.1}]} or (
            checkpoint.objects == {"epoch": 3, "betas": (0.9, 0.999), "nested.0.lr": 0.1}
        )
        assert checkpoint.metadata["planner_data"]["model.w"] == ("model", "w")
        assert checkpoint.metadata["version"] == "1.0.0"


def test_tensors_within_an_object_are_its_entries_and_listed_when_asked_for(tmp_path):
    save({"w": torch.zeros(2), "pair": (torch.ones(2), "text"), "w.0": 1}, tmp_path / "saved")

    plain = fastload.open(tmp_path / "saved")
    full = fastload.open(tmp_path / "saved", attributes=True)

    assert list(plain) == ["w"]
    assert plain.objects["pair"][0].shape == (2,)
    assert list(full) == ["w", "pair.0"] == [entry.name for entry in full.entries()]
    assert full["pair.0"].tolist() == [1, 1] and full.entry("pair.0").name == "pair.0"
    assert len({entry.storage for entry in full.entries()}) == 2


def test_a_folder_of_several_threads_and_files_reads_the_same(tmp_path):
    from torch.distributed.checkpoint import FileSystemWriter

    state = {f"w{number}": torch.full((number + 1,), float(number)) for number in range(9)}
    many = FileSystemWriter(tmp_path / "many", thread_count=3)
    each = FileSystemWriter(tmp_path / "each", single_file_per_rank=False)
    for writer in (many, each):
        save(state, None, storage_writer=writer)

    for folder in ("many", "each"):
        with fastload.open(tmp_path / folder) as checkpoint:
            assert_same(checkpoint, state)
            assert len({entry.file for entry in checkpoint.entries()}) > 1
            assert len({entry.storage for entry in checkpoint.entries()}) == 9


def test_safetensors_behind_the_objects_are_read(tmp_path):
    from torch.distributed.checkpoint import FileSystemWriter
    from torch.distributed.checkpoint.filesystem import SerializationFormat

    state = {"w": torch.arange(6.0).reshape(2, 3), "s": torch.tensor(3), "none": torch.zeros(0)}
    writer = FileSystemWriter(tmp_path / "saved", serialization_format=SerializationFormat.SAFETENSORS)
    save({**state, "epoch": 3}, None, storage_writer=writer)

    with fastload.open(tmp_path / "saved", allow_copy=False) as checkpoint:
        assert_same(checkpoint, state)
        assert checkpoint.objects == {"epoch": 3}
        checkpoint.verify()
        entry = checkpoint.entry("w")
        assert pathlib.Path(entry.file).read_bytes()[entry.offset :][:24] == raw_bytes(state["w"])


def test_chunks_are_put_together_as_torch_loads_them(tmp_path):
    from torch.distributed.checkpoint import filesystem
    from torch.distributed.checkpoint import metadata as theirs

    whole = torch.arange(35.0).reshape(5, 7).to(torch.bfloat16)
    boxes = [((0, 0), (2, 7)), ((2, 0), (3, 4)), ((2, 4), (3, 3)), ((5, 0), (0, 7))]
    (tmp_path / "saved").mkdir()
    storage = {}
    for number, (offsets, sizes) in enumerate(boxes):
        part = whole[tuple(slice(begin, begin + count) for begin, count in zip(offsets, sizes, strict=True))].clone()
        name = f"__{number % 2}_0.distcp"
        with open(tmp_path / "saved" / name, "ab") as file:
            begin = file.tell()
            torch.save(part, file)
            place = filesystem._StorageInfo(name, begin, file.tell() - begin)
        storage[theirs.MetadataIndex("w", offsets, number)] = place
    chunks = [theirs.ChunkStorageMetadata(torch.Size(offsets), torch.Size(sizes)) for offsets, sizes in boxes]
    described = theirs.TensorStorageMetadata(theirs.TensorProperties(whole.dtype), whole.size(), chunks)
    found = theirs.Metadata({"w": described}, {"w": ("w",)}, storage)
    (tmp_path / "saved" / ".metadata").write_bytes(pickle.dumps(found))
    loaded = {"w": torch.zeros_like(whole)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch_dcp.load(loaded, checkpoint_id=tmp_path / "saved", no_dist=True)

    with fastload.open(tmp_path / "saved") as checkpoint:
        assert_same(checkpoint, loaded)
        checkpoint.verify()
        entry = checkpoint.entry("w")
        assert not entry.zero_copy and entry.offset is None and entry.file is None
        assert entry.strides == checkpoint["w"].strides


def test_two_thousand_tensors_are_listed_without_opening_a_file(tmp_path):
    state = {f"layer.{number}.weight": torch.zeros(2) for number in range(2000)}
    save(state, tmp_path / "saved")
    (tmp_path / "saved" / "__0_0.distcp").unlink()

    with fastload.open(tmp_path / "saved") as checkpoint:
        assert len(checkpoint) == 2000
        for entry in checkpoint.entries():
            assert (entry.name, entry.shape, entry.zero_copy) == (entry.key_path[0], (2,), True)


# What is put together.


def test_a_tensor_in_two_files_cannot_be_made_writable(tmp_path):
    array = fastload.open(halves(tmp_path / "saved"))["w"]

    assert array.tolist() == [0, 1, 2, 3]
    while isinstance(array, np.ndarray):
        assert not array.flags.writeable
        with pytest.raises(ValueError, match="WRITEABLE"):
            array.setflags(write=True)
        array = array.base


def test_a_tensor_in_two_files_is_put_together_once_while_it_lives(tmp_path):
    checkpoint = fastload.open(halves(tmp_path / "saved"))

    first, second = checkpoint["w"], checkpoint["w"]

    assert np.shares_memory(first, second)


POURINGS = {
    "saving": lambda checkpoint, path: fastload.save(checkpoint, path / "m.safetensors"),
    "saving what is planned": lambda checkpoint, path: fastload.save(checkpoint.rename({"w": "v"}), path / "m.pt"),
    "loading": lambda checkpoint, path: checkpoint.load_into({"w": np.zeros(4, "f4")}),
    "loading what is planned": lambda checkpoint, path: checkpoint.remap([]).load_into({"w": np.zeros(4, "f4")}),
}


@pytest.mark.parametrize("pour", POURINGS.values(), ids=POURINGS)
def test_chunks_are_put_together_once_by(pour, tmp_path, monkeypatch):
    checkpoint = fastload.open(halves(tmp_path / "saved"))
    assemble, made = dcp._Folder._assemble, []
    monkeypatch.setattr(dcp._Folder, "_assemble", lambda *given: made.append(given) or assemble(*given))

    pour(checkpoint, tmp_path)

    assert len(made) == 1


@pytest.mark.parametrize("pour", POURINGS.values(), ids=POURINGS)
def test_a_damaged_chunk_is_found_before_anything_is_written_by(pour, tmp_path):
    checkpoint = fastload.open(halves(tmp_path / "saved", blobs=[blob([0.0, 1.0]), b"no tensor"]))

    with pytest.raises(fastload.FastloadError, match=r"tensor 'w'|w: expected its data"):
        pour(checkpoint, tmp_path)

    assert list(tmp_path.iterdir()) == [tmp_path / "saved"]


def test_a_tensor_in_two_files_is_refused_where_copies_are(tmp_path):
    checkpoint = fastload.open(halves(tmp_path / "saved"), allow_copy=False)

    with pytest.raises(fastload.UnsupportedError, match="'w': cannot be a view: it lies in 2 chunks"):
        checkpoint["w"]


def test_empty_tensors_and_scalars_are_read_however_they_lie(tmp_path):
    nothing = stored((0, 3), [])
    scalar = stored((), [((), ())])
    data = blob(5.0)
    storage = [(key("s", ()), info("a.distcp", 0, len(data)))]
    write(tmp_path / "saved", metadata({"none": nothing, "s": scalar}, storage), {"a.distcp": data})

    with fastload.open(tmp_path / "saved") as checkpoint:
        assert checkpoint["none"].shape == (0, 3)
        assert checkpoint["s"].shape == () and checkpoint["s"] == 5
        checkpoint.verify()


def test_a_tensor_whose_other_chunks_are_empty_is_a_view(tmp_path):
    boxes = [((0,), (2,)), ((2,), (0,))]
    folder = halves(tmp_path / "saved", shape=(2,), boxes=boxes, blobs=[blob([1.0, 2.0]), blob([])])

    with fastload.open(folder, allow_copy=False) as checkpoint:
        assert checkpoint.entry("w").zero_copy and checkpoint["w"].tolist() == [1, 2]
        checkpoint.verify()


def test_files_are_opened_once_and_only_when_needed_by_any_number_of_threads(tmp_path, monkeypatch):
    halves(tmp_path / "saved")
    opened = []
    real = Source._of_file
    monkeypatch.setattr(
        Source, "_of_file", classmethod(lambda cls, path, *rest: opened.append(path) or real(path, *rest))
    )
    checkpoint = fastload.open(tmp_path / "saved")
    repr(checkpoint), checkpoint.entries(), checkpoint.metadata
    assert [os.path.basename(path) for path in opened] == ["saved", ".metadata"]  # the folder, which is seen to be one
    barrier = threading.Barrier(8)

    def read(_):
        barrier.wait()
        return checkpoint["w"].tolist()

    with ThreadPoolExecutor(8) as threads:
        results = list(threads.map(read, range(8)))

    assert results == [[0, 1, 2, 3]] * 8
    assert sorted(os.path.basename(path) for path in opened[1:]) == [".metadata", "__0_0.distcp", "__1_0.distcp"]


def test_a_name_that_another_tensor_of_the_same_blob_has_gets_no_unchecked_view(tmp_path):
    data = blob([1.0, 2.0])
    described = {"w": stored((2,), [((0,), (2,))]), "v": stored((1, 2), [((0, 0), (1, 2))])}
    storage = [(key(name, [0] * n), info("a.distcp", 0, len(data))) for name, n in (("w", 1), ("v", 2))]
    checkpoint = fastload.open(write(tmp_path / "saved", metadata(described, storage), {"a.distcp": data}))

    assert checkpoint["w"].tolist() == [1, 2]
    with pytest.raises(fastload.FormatError, match=r"'v': .* float32 \(1, 2\) in the metadata"):
        checkpoint["v"]


# What is refused when a tensor is asked for.


def refused(folder, error=fastload.FormatError):
    """The message with which reading and verifying "w" is refused, and the path it names."""
    with fastload.open(folder) as checkpoint:
        with pytest.raises(error) as caught:
            checkpoint["w"]
        with pytest.raises(error):
            checkpoint.verify()
    return caught.value


def test_a_missing_file_is_named_and_the_rest_is_read(tmp_path):
    data = blob([1.0, 2.0])
    described = {name: stored((2,), [((0,), (2,))]) for name in ("v", "w")}
    storage = [(key(name, (0,)), info(f"{name}.distcp", 0, len(data))) for name in ("v", "w")]
    folder = write(tmp_path / "saved", metadata(described, storage), {"v.distcp": data})

    assert "'w': the file 'w.distcp' is missing" in str(refused(folder))
    assert fastload.open(folder)["v"].tolist() == [1, 2]


def test_a_file_that_was_cut_is_named(tmp_path):
    folder = one(tmp_path / "saved")
    path = folder / "__0_0.distcp"
    path.write_bytes(path.read_bytes()[:-1])

    error = refused(folder, fastload.TruncatedError)

    assert "'w'" in str(error) and error.path == str(path)


@pytest.mark.parametrize(("offset", "length"), [(1, None), (2**62, 1), (0, 2**63 - 1), (2**63 - 1, 2**63 - 1)])
def test_a_place_beyond_the_file_is_refused(tmp_path, offset, length):
    data = blob([1.0, 2.0])

    error = refused(
        one(tmp_path / "saved", place=info("__0_0.distcp", offset, length or len(data))), fastload.TruncatedError
    )

    assert "'w'" in str(error)


def test_a_blob_that_is_no_archive_is_refused(tmp_path):
    assert "'w'" in str(refused(one(tmp_path / "saved", data=b"x" * 200)))


def test_a_blob_of_another_dtype_or_shape_is_refused(tmp_path):
    for number, data in enumerate([blob([1, 2], "int32"), blob([1.0, 2.0, 3.0]), blob([[1.0, 2.0]])]):
        assert "'w': its chunk at (0,) is float32 (2,) in the metadata" in str(
            refused(one(tmp_path / str(number), data=data))
        )


def test_a_chunk_of_another_dtype_or_shape_is_refused(tmp_path):
    for number, data in enumerate([blob([1, 2], "int32"), blob([1.0]), blob([1.0, 2.0, 3.0])]):
        error = refused(halves(tmp_path / str(number), blobs=[blob([0.0, 1.0]), data]))
        assert "'w': its chunk at (2,) is float32 (2,) in the metadata" in str(error)
        assert error.path.endswith("__1_0.distcp")


def test_a_blob_of_several_tensors_is_refused(tmp_path):
    data = torch_file({"w": tensor("float32", (2,), [1, 2])}, align=1)

    assert "'w'" in str(refused(one(tmp_path / "saved", data=data), fastload.UnsupportedError))


def test_bytes_that_were_transformed_are_refused_and_listed(tmp_path):
    place = info("__0_0.distcp", 0, 10, transform_descriptors=["stream.zstd"])
    folder = one(tmp_path / "saved", place=place)

    assert "'w': was written through stream.zstd" in str(refused(folder, fastload.UnsupportedError))
    assert not fastload.open(folder).entry("w").zero_copy


def test_a_tiny_folder_cannot_ask_for_terabytes(tmp_path):
    half = 1 << 39
    data = torch_file(tensor("float32", (half,), [1], strides=(0,)), align=1)
    boxes = [((0,), (half,)), ((half,), (half,))]

    error = refused(halves(tmp_path / "saved", shape=(2 * half,), boxes=boxes, blobs=[data, data]), fastload.LimitError)

    assert "'w': claims" in str(error)


def test_a_quantised_tensor_of_several_chunks_is_refused(tmp_path):
    folder = halves(tmp_path / "saved", dtype="qint8")

    assert "quantised for each apart" in str(refused(folder, fastload.UnsupportedError))


def test_a_blob_that_no_tensor_claims_is_found_by_verify(tmp_path):
    data = blob([1.0, 2.0])
    place = info("__0_0.distcp", 0, len(data))
    folder = one(tmp_path / "saved", storage=[(key("w", (0,)), place), (key("lost", (0,)), place)])

    with fastload.open(folder) as checkpoint:
        assert checkpoint["w"].tolist() == [1, 2]
        with pytest.raises(fastload.FormatError, match="no tensor claims: 'lost'"):
            checkpoint.verify()


def test_a_damaged_object_is_named_and_stops_no_tensor(tmp_path):
    data = blob([1.0, 2.0])
    described = {"w": stored((2,), [((0,), (2,))]), "o": made("BytesStorageMetadata", {})}
    storage = [(key("w", (0,)), info("a.distcp", 0, len(data))), (key("o"), info("a.distcp", 5, 100))]
    folder = write(tmp_path / "saved", metadata(described, storage), {"a.distcp": data})

    with fastload.open(folder) as checkpoint:
        assert checkpoint["w"].tolist() == [1, 2]
        with pytest.raises(fastload.FormatError, match="object 'o'"):
            checkpoint.objects  # noqa: B018


def test_a_changed_file_is_noticed(tmp_path):
    folder = one(tmp_path / "saved")
    checkpoint = fastload.open(folder)
    checkpoint["w"]
    assert checkpoint.still_valid()

    shutil.copy(folder / "__0_0.distcp", folder / "copy")
    os.replace(folder / "copy", folder / "__0_0.distcp")

    assert not checkpoint.still_valid()
