"""The metadata of folders of torch.distributed.checkpoint: what makes no sense is refused when the folder is opened."""

import os
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fastload
from dcp_folders import METADATA, chunk, halves, info, key, made, metadata, one, properties, size, stored, write
from fastload.folders import dcp, dcp_metadata
from pickles import Call, Global

BROKEN_BOXES = {
    "outside": ([((0,), (2,)), ((2,), (3,))], "lies outside"),
    "far outside": ([((0,), (2,)), ((2**62,), (2,))], "lies outside"),
    "overlap": ([((0,), (3,)), ((2,), (2,))], "overlap"),
    "twice": ([((0,), (4,)), ((1,), (3,))], "overlap"),
    "hole": ([((0,), (1,)), ((2,), (2,))], "leave 1 elements out"),
    "other dimensions": ([((0,), (2,)), ((2, 0), (2, 1))], "1 dimensions"),
    "negative size": ([((0,), (2,)), ((2,), (-2,))], "no count: -2"),
    "negative offset": ([((0,), (2,)), ((-2,), (2,))], "no count: -2"),
    "huge": ([((0,), (2,)), ((2,), (2**70,))], "no count"),
    "no number": ([((0,), (2,)), ((2,), ("2",))], "no count: str"),
    "truth value": ([((0,), (2,)), ((2,), (True,))], "no count: True"),
    "one chunk of two": ([((0,), (2,))], "leave 2 elements out"),
    "none": ([], "leave 4 elements out"),
}


@pytest.mark.parametrize(("boxes", "message"), BROKEN_BOXES.values(), ids=BROKEN_BOXES)
def test_chunks_that_do_not_cover_the_tensor_are_refused(tmp_path, boxes, message):
    with pytest.raises(fastload.FormatError, match=f"'w'.*{message}") as caught:
        fastload.open(halves(tmp_path / "saved", boxes=boxes))

    assert caught.value.path == str(tmp_path / "saved" / ".metadata")
    assert caught.value.format == "pytorch-dcp"


def test_an_overlap_and_a_hole_of_one_size_are_seen(tmp_path):
    boxes = [((0, 0), (2, 2)), ((0, 0), (1, 2)), ((3, 0), (1, 2))]

    with pytest.raises(fastload.FormatError, match=r"'w'.*overlap"):
        fastload.open(
            write(
                tmp_path / "saved",
                metadata(
                    {"w": stored((4, 2), boxes)},
                    [(key("w", offsets), info("a", 0, 1)) for offsets, _ in boxes[1:]],
                ),
                {},
            )
        )


@given(data=st.data())
def test_a_partition_is_told_from_what_is_none(data):
    shape = tuple(data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=3)))
    boxes = [((0,) * len(shape), shape)]
    for _ in range(data.draw(st.integers(0, 5))):
        offsets, sizes = boxes.pop(data.draw(st.integers(0, len(boxes) - 1)))
        axis = data.draw(st.integers(0, len(shape) - 1))
        cut = data.draw(st.integers(0, sizes[axis]))
        for begin, length in ((0, cut), (cut, sizes[axis] - cut)):
            moved = (*offsets[:axis], offsets[axis] + begin, *offsets[axis + 1 :])
            boxes.append((moved, (*sizes[:axis], length, *sizes[axis + 1 :])))
    if data.draw(st.booleans()):
        number = data.draw(st.integers(0, len(boxes) - 1))
        sizes = boxes[number][1]
        moved = tuple(data.draw(st.integers(0, whole - length)) for whole, length in zip(shape, sizes, strict=True))
        boxes[number] = (moved, sizes)
    count = np.zeros(shape, int)
    for offsets, sizes in boxes:
        count[tuple(slice(begin, begin + length) for begin, length in zip(offsets, sizes, strict=True))] += 1

    chunks = [dcp_metadata.Chunk(*box, dcp_metadata.Place("a", 0, 0, ())) for box in boxes]

    assert dcp_metadata._is_exact(shape, chunks) == (count == 1).all()


def broken_metadata():
    place, box = info("__0_0.distcp", 0, 100), stored((2,), [((0,), (2,))])
    good = [(key("w", (0,)), place)]
    fields = {"properties": properties(), "size": size((2,)), "chunks": [chunk((0,), (2,))]}
    tensor_of = lambda **change: made("TensorStorageMetadata", fields | change)  # noqa: E731
    return {
        "a list": ([1, 2], "something else"),
        "another class": (made("Module", {}), "something else"),
        "no state": (Call(Global(METADATA, "Metadata"), ()), "checkpoint is not described"),
        "no storage_data": (made("Metadata", {"state_dict_metadata": {}}), "storage_data is no dict"),
        "names that are numbers": (metadata({1: box}, good), "no text: int"),
        "a tensor described by text": (metadata({"w": "x"}, good), "tensor 'w' is not described .* but by str"),
        "no entry": (metadata({"w": box}, []), "'w': its chunk at .* has no entry in storage_data"),
        "entry at another offset": (metadata({"w": box}, [(key("w", (1,)), place)]), "'w': its chunk at"),
        "entry without offset": (metadata({"w": box}, [(key("w"), place)]), "'w': its chunk at"),
        "two entries": (metadata({"w": box}, [*good, (key("w", (0,)), place)]), "'w' has two entries"),
        "a key that is text": (metadata({"w": box}, [("w", place)]), "key of storage_data is not described"),
        "a key without name": (metadata({"w": box}, [(key(None, (0,)), place)]), "names no tensor"),
        "a place that is text": (metadata({"w": box}, [(key("w", (0,)), "x")]), "the place of 'w'"),
        "no file": (metadata({"w": box}, [(key("w", (0,)), info(None, 0, 1))]), "'w' names no file"),
        "negative length": (metadata({"w": box}, [(key("w", (0,)), info("a", 0, -1))]), "length of 'w' is no count"),
        "huge offset": (metadata({"w": box}, [(key("w", (0,)), info("a", 2**64, 1))]), "offset of 'w' is no count"),
        "transforms": (
            metadata({"w": box}, [(key("w", (0,)), info("a", 0, 1, transform_descriptors=3))]),
            "'w' has transform_descriptors",
        ),
        "no chunks": (metadata({"w": tensor_of(chunks=None)}, good), "'w' has no list of chunks"),
        "a chunk of text": (metadata({"w": tensor_of(chunks=["x"])}, good), "chunk of tensor 'w'"),
        "no size": (metadata({"w": tensor_of(size=3)}, good), "'w': its size is no torch.Size"),
        "no properties": (metadata({"w": tensor_of(properties=None)}, good), "'w' has no TensorProperties"),
        "a dtype of text": (
            metadata({"w": tensor_of(properties=made("TensorProperties", ("float32", None)))}, good),
            "'w' has a dtype that is none",
        ),
        "an object without place": (
            metadata({"o": made("BytesStorageMetadata", {})}, []),
            "object 'o' has no entry in storage_data",
        ),
        "a tensor beyond 63 bits": (
            metadata({"w": stored((2**62, 2), [((0, 0), (2**62, 2))])}, [(key("w", (0, 0)), place)]),
            "'w': its size",
        ),
    }


@pytest.mark.parametrize("name", broken_metadata())
def test_metadata_that_make_no_sense_are_refused(tmp_path, name):
    root, message = broken_metadata()[name]

    with pytest.raises(fastload.FormatError, match=message) as caught:
        fastload.open(write(tmp_path / "saved", root, {}))

    assert caught.value.path == str(tmp_path / "saved" / ".metadata")


@pytest.mark.parametrize(
    ("described", "message"),
    [
        (stored((2,), [((0,), (2,))], dtype="int3"), "'w' is of torch.int3"),
        (stored((2,), [((0,), (2,))], layout="torch.sparse_coo"), "'w' is of the layout torch.sparse_coo"),
    ],
)
def test_a_dtype_or_layout_that_is_unknown_is_named(tmp_path, described, message):
    with pytest.raises(fastload.UnsupportedError, match=message):
        fastload.open(one(tmp_path / "saved", described=described))


@pytest.mark.parametrize("name", ["../x.distcp", "/etc/passwd", "a/../../x", "", "a\0b", "C:x"])
def test_a_file_outside_of_the_folder_is_refused(tmp_path, name):
    with pytest.raises(fastload.FormatError, match=r"file|name|path"):
        fastload.open(one(tmp_path / "saved", place=info(name, 0, 1)))["w"]


def test_a_fifo_is_refused_and_not_waited_for(tmp_path):
    one(tmp_path / "saved")
    (tmp_path / "saved" / "__0_0.distcp").unlink()
    os.mkfifo(tmp_path / "saved" / "__0_0.distcp")

    with pytest.raises(fastload.FormatError, match=r"__0_0\.distcp"):
        fastload.open(tmp_path / "saved")["w"]


@pytest.mark.parametrize("cut", [0, 1, 20, 100, 300])
def test_metadata_that_were_cut_are_refused(tmp_path, cut):
    one(tmp_path / "saved")
    path = tmp_path / "saved" / ".metadata"
    path.write_bytes(path.read_bytes()[:cut])

    with pytest.raises(fastload.FormatError):
        fastload.open(tmp_path / "saved")


def test_metadata_beyond_the_limit_are_not_read(tmp_path, monkeypatch):
    one(tmp_path / "saved")
    length = (tmp_path / "saved" / ".metadata").stat().st_size
    monkeypatch.setattr(dcp, "MAX_METADATA_BYTES", length)
    assert len(fastload.open(tmp_path / "saved")) == 1
    monkeypatch.setattr(dcp, "MAX_METADATA_BYTES", length - 1)

    with pytest.raises(fastload.LimitError, match="bytes, and metadata of more"):
        fastload.open(tmp_path / "saved")


def test_numbers_beyond_the_limit_are_not_read(tmp_path, monkeypatch):
    one(tmp_path / "saved")  # one offset in storage_data, a size, a chunk's offset and size: with their counts, 8
    monkeypatch.setattr(dcp_metadata, "MAX_NUMBERS", 8)
    assert len(fastload.open(tmp_path / "saved")) == 1
    monkeypatch.setattr(dcp_metadata, "MAX_NUMBERS", 7)

    with pytest.raises(fastload.LimitError, match="more than 7 numbers"):
        fastload.open(tmp_path / "saved")


def test_nothing_a_pickle_of_the_folder_names_is_run(tmp_path):
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    folder = one(tmp_path / "saved")
    (folder / ".metadata").write_bytes(pickle.dumps({"w": Bomb()}))

    with pytest.raises(fastload.FormatError):
        fastload.open(folder)

    assert not (tmp_path / "ran").exists()
