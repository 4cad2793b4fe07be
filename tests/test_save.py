"""`fastload.save`: the choice of the format, what may be saved, memory, and files that are saved over themselves."""

import os
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
import torch

import fastload
from builders import SMALLEST, safetensors_file, smallest_file, tensor, torch_file, torch_pickle, torch_zip
from fastload import SaveError, SaveReport, UnsupportedError
from fastload.dtypes import DTYPES
from fastload.formats import safetensors, writing
from fastload.formats.torch import write as torch_write

WEIGHTS = {"w": np.arange(6, dtype=np.float32).reshape(2, 3)}


@pytest.mark.parametrize(
    ("name", "format"),
    [
        ("m.safetensors", "safetensors"),
        ("M.SafeTensors", "safetensors"),
        ("m.pt", "pytorch-zip"),
        ("m.pth", "pytorch-zip"),
        ("m.bin", "pytorch-zip"),
        ("m.ckpt", "pytorch-zip"),
    ],
)
def test_the_suffix_tells_the_format_and_what_is_written_is_of_it(tmp_path, name, format):
    report = fastload.save(WEIGHTS, tmp_path / name)

    opened = fastload.open(tmp_path / name)
    assert opened.format == report.format == format
    assert report == SaveReport(str(tmp_path / name), format, 1, (tmp_path / name).stat().st_size, ())
    assert np.array_equal(opened["w"], WEIGHTS["w"])


@pytest.mark.parametrize("format", ["safetensors", ".safetensors"])
def test_the_format_may_be_named(tmp_path, format):
    fastload.save(WEIGHTS, tmp_path / "m.pt", format=format)

    assert fastload.open(tmp_path / "m.pt").format == "safetensors"


def test_a_suffix_or_name_of_no_format_shows_what_there_is(tmp_path):
    with pytest.raises(UnsupportedError, match=r"'\.h5' tells no format.*safetensors"):
        fastload.save(WEIGHTS, tmp_path / "m.h5")
    with pytest.raises(ValueError, match=r"no format 'hdf5'.*pytorch-zip"):
        fastload.save(WEIGHTS, tmp_path / "m.pt", format="hdf5")

    assert not list(tmp_path.iterdir())


def test_a_file_that_is_there_needs_overwrite(tmp_path):
    fastload.save(WEIGHTS, tmp_path / "m.pt")

    with pytest.raises(FileExistsError):
        fastload.save({}, tmp_path / "m.pt")
    fastload.save({}, tmp_path / "m.pt", overwrite=True)

    assert len(fastload.open(tmp_path / "m.pt")) == 0


@pytest.mark.parametrize("io", ["mmap", "read"])
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_a_checkpoint_may_be_saved_over_its_own_file(tmp_path, suffix, io):
    path = tmp_path / f"m{suffix}"
    old = {"a": np.arange(3 << 20, dtype=np.float32), "b": np.arange(5)}
    fastload.save(old, path)
    source = fastload.open(path, io=io)
    view = source["a"]

    fastload.save(source, path, overwrite=True)
    fastload.save({"b": source["b"]}, path, overwrite=True)

    assert np.array_equal(view, old["a"]) and list(fastload.open(path)) == ["b"]


def test_checkpoints_compose(tmp_path):
    fastload.save({"a": np.zeros(2), "b": np.zeros(3)}, tmp_path / "one.safetensors")
    fastload.save({"b": np.ones(3)}, tmp_path / "two.pt")

    one, two = fastload.open(tmp_path / "one.safetensors"), fastload.open(tmp_path / "two.pt")
    fastload.save({**one, **two}, tmp_path / "both.safetensors")

    both = fastload.open(tmp_path / "both.safetensors")
    assert {name: value.tolist() for name, value in both.items()} == {"a": [0, 0], "b": [1, 1, 1]}


@pytest.mark.parametrize("target", ["w.safetensors", "w.pt"])
@pytest.mark.parametrize("name", sorted(SMALLEST))
def test_the_smallest_file_of_every_format_can_be_saved(tmp_path, name, target):
    source = fastload.open(smallest_file(name))

    fastload.save(source, tmp_path / target, lossy=True)

    saved = fastload.open(tmp_path / target)
    assert set(saved) == set(source)
    for entry in source.entries():
        assert (saved.entry(entry.name).dtype, saved[entry.name].tobytes()) == (
            entry.dtype,
            source[entry.name].tobytes(),
        )


def test_facts_about_a_file_are_no_metadata_of_its_tensors(tmp_path):
    source = fastload.open(torch_file({"w": tensor("float32", (1,), [1])}))
    assert "version" in source.metadata

    fastload.save(source, tmp_path / "m.safetensors")

    assert fastload.open(tmp_path / "m.safetensors").metadata == {}


def test_metadata_given_take_the_place_of_a_checkpoints_own(tmp_path):
    source = fastload.open(safetensors_file({"w": ("U8", (1,), b"x")}, metadata={"format": "pt", "version": "7"}))

    fastload.save(source, tmp_path / "own.safetensors")
    fastload.save(source, tmp_path / "none.safetensors", metadata={})
    fastload.save(source, tmp_path / "given.safetensors", metadata={"by": "me"})

    found = [fastload.open(tmp_path / f"{name}.safetensors").metadata for name in ("own", "none", "given")]
    assert found == [{"format": "pt", "version": "7"}, {}, {"by": "me"}]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float8_e5m2", "uint16", "bool", "complex64"])
def test_torch_tensors_may_be_given_as_they_are(tmp_path, dtype):
    held = torch.tensor([[0, 1, 1], [1, 0, 1]]).to(getattr(torch, dtype))
    parameter = torch.nn.Parameter(held.t()) if held.is_floating_point() else held.t()

    fastload.save({"w": parameter, "tied": parameter}, tmp_path / "m.pt")

    loaded = torch.load(tmp_path / "m.pt", weights_only=True)
    assert loaded["w"].dtype == held.dtype and loaded["w"].data_ptr() == loaded["tied"].data_ptr()
    assert loaded["w"].to(torch.complex64).tolist() == held.t().to(torch.complex64).tolist()


@pytest.mark.parametrize("odd", [torch.zeros(2).to_sparse(), torch.zeros(2, device="meta")], ids=["sparse", "meta"])
def test_torch_tensors_without_plain_numbers_are_named(tmp_path, odd):
    with pytest.raises(UnsupportedError, match="'odd'"):
        fastload.save({"odd": odd}, tmp_path / "m.pt")


class ArrayLike:
    def __array__(self, dtype=None, copy=None):
        return np.arange(3)


class DLPackLike:
    def __init__(self):
        self.held = np.arange(3)
        self.__dlpack__ = self.held.__dlpack__

    def __dlpack__(self, **options):
        return self.held.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.held.__dlpack_device__()


@pytest.mark.parametrize("make", [ArrayLike, DLPackLike, lambda: np.arange(3)], ids=["array", "dlpack", "numpy"])
def test_whatever_can_be_an_array_may_be_given(tmp_path, make):
    fastload.save({"w": make()}, tmp_path / "m.safetensors")

    assert fastload.open(tmp_path / "m.safetensors")["w"].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    "odd",
    ["text", [1, 2], np.array(["text"]), np.array([object()]), np.zeros(1, "f4,f8"), np.zeros(1, ml_dtypes.int4),
     np.zeros(1, np.longdouble), np.zeros(1, "M8[s]"), np.zeros(1, ml_dtypes.float4_e2m1fn)],
    ids=str,
)  # fmt: skip
def test_what_is_no_array_of_a_dtype_of_ours_is_named_and_nothing_is_written(tmp_path, odd):
    with pytest.raises(UnsupportedError, match="'odd'"):
        fastload.save({"ok": np.zeros(3), "odd": odd}, tmp_path / "m.pt")

    assert not list(tmp_path.iterdir())


def test_names_are_text(tmp_path):
    with pytest.raises(TypeError, match="names of tensors are text"):
        fastload.save({1: np.zeros(1)}, tmp_path / "m.pt")
    with pytest.raises(TypeError, match="keys of metadata are text"):
        fastload.save(WEIGHTS, tmp_path / "m.pt", metadata={1: "x"})


def test_a_meta_tensor_is_refused_before_a_byte_is_written(tmp_path):
    torch.save({"m": torch.zeros(3, device="meta")}, tmp_path / "source.pt")

    with pytest.raises(UnsupportedError, match="'m' is a meta tensor"):
        fastload.save(fastload.open(tmp_path / "source.pt"), tmp_path / "m.pt")

    assert not (tmp_path / "m.pt").exists()


def test_a_source_that_turns_out_to_be_damaged_leaves_the_old_file(tmp_path):
    damaged = bytearray(torch_zip(*torch_pickle({"w": tensor("uint8", (999,), bytes(999))}), deflate=["data/0"]))
    place = bytes(damaged).index(b"data/0") + 100
    for position in range(place - 40, place - 20):
        damaged[position] ^= 0xFF
    (tmp_path / "source.pt").write_bytes(damaged)
    (tmp_path / "m.pt").write_bytes(b"old")
    source = fastload.open(tmp_path / "source.pt")

    with pytest.raises(fastload.FormatError, match=r"source\.pt"):
        fastload.save(source, tmp_path / "m.pt", overwrite=True)

    assert (tmp_path / "m.pt").read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 2


def test_a_tensor_larger_than_the_disk_is_refused_at_once(tmp_path):
    source = fastload.open(torch_file({"w": tensor("float32", (1 << 50, 2), [1, 2], strides=(0, 1))}))

    with pytest.raises(SaveError, match="the disk has"):
        fastload.save(source, tmp_path / "m.safetensors")

    assert not list(tmp_path.iterdir())


def test_a_file_name_that_is_no_text_can_be_written(tmp_path):
    path = os.fsencode(tmp_path) + b"/\xff.pt"

    report = fastload.save(WEIGHTS, os.fsdecode(path))

    assert os.path.exists(path) and os.fsencode(report.path) == path


def test_a_checkpoint_that_is_closed_says_so(tmp_path):
    source = fastload.open(smallest_file("safetensors"))
    source.close()

    with pytest.raises(ValueError, match="closed"):
        fastload.save(source, tmp_path / "m.pt")


# Chunks.


@pytest.mark.parametrize(
    "make",
    [
        lambda: np.arange(24, dtype=np.int32).reshape(2, 3, 4),
        lambda: np.arange(24, dtype=np.int32).reshape(2, 3, 4).transpose(2, 0, 1),
        lambda: np.arange(24, dtype=">i4").reshape(1, 1, 24),
        lambda: np.arange(48, dtype=np.int32)[::-2].reshape(1, 24),
        lambda: np.broadcast_to(np.int32(3), (5, 1, 7)),
        lambda: np.zeros((0, 3), np.int32),
        lambda: np.int32(7)[...],
        lambda: np.array(7, ">i4"),
    ],
)
@pytest.mark.parametrize("size", [4, 12, 40, 1 << 20])
def test_chunks_are_the_elements_in_order_and_bounded(monkeypatch, make, size):
    monkeypatch.setattr(writing, "CHUNK_BYTES", size)
    array = make()

    chunks = [bytes(chunk) for chunk in writing.chunks_of(array)]

    assert b"".join(chunks) == array.astype("<i4").tobytes() and all(len(chunk) <= size for chunk in chunks)


def test_chunks_of_contiguous_arrays_are_views():
    array = np.zeros(5 << 20, ml_dtypes.bfloat16)

    chunks = list(writing.chunks_of(array))

    assert [np.frombuffer(chunk, np.uint8).ctypes.data for chunk in chunks] == [
        array.ctypes.data,
        array.ctypes.data + writing.CHUNK_BYTES,
    ]


def test_the_matrix_of_dtypes_and_formats():
    matrix = writing.dtype_matrix({"safetensors": safetensors, "pytorch": torch_write})

    head, *rows = matrix
    found = {dtype: cells for dtype, *cells in rows}
    assert head == ("dtype", "safetensors", "pytorch") and len(rows) == len(DTYPES)
    assert found["bfloat16"] == ["yes", "yes"] and found["complex128"] == ["no", "yes"]
    assert found["float4_e2m1fn"] == ["yes", "no"] and found["quint4x2"] == ["no", "no"]
    assert found["quint8"] == ["loses quantisation", "loses quantisation"]


# Memory, and torch.

PEAK = """
import sys, threading, time
import fastload

def private():
    with open("/proc/self/smaps_rollup") as file:
        # What is the process's own. The pages of a mapping that nobody else has mapped are "Private_Clean", and are no
        # memory that it holds.
        return sum(int(line.split()[1]) for line in file if line.startswith("Private_Dirty")) >> 10

source = fastload.open(sys.argv[1], io=sys.argv[3])
fastload.save({"w": source["small"]}, sys.argv[2], overwrite=True)  # whatever is imported, is
before, peak, done = private(), 0, threading.Event()

def watch():
    global peak
    while not done.is_set():
        peak = max(peak, private())
        time.sleep(0.002)

watcher = threading.Thread(target=watch)
watcher.start()
fastload.save(source, sys.argv[2], overwrite=True)
done.set()
watcher.join()
print(peak - before, "torch" in sys.modules)
"""


@pytest.mark.slow
@pytest.mark.parametrize("target", ["m.safetensors", "m.pt"])
@pytest.mark.parametrize("io", ["mmap", "read"])
def test_half_a_gibibyte_is_saved_with_little_memory_and_without_torch(tmp_path, target, io):
    tensors = {f"w{i}": np.full((8 << 20,), i, np.float32) for i in range(16)} | {"small": np.zeros(3)}
    fastload.save(tensors, tmp_path / "source.pt")

    ran = subprocess.run(
        [sys.executable, "-c", PEAK, tmp_path / "source.pt", tmp_path / target, io],
        capture_output=True, text=True, check=True,
    )  # fmt: skip

    mebibytes, torch_is_there = ran.stdout.split()
    assert int(mebibytes) < (16 if io == "mmap" else 48) and torch_is_there == "False"


@pytest.mark.slow
def test_a_transposed_array_is_not_copied_whole(tmp_path):
    import tracemalloc

    array = np.zeros((4096, 8192), np.float32).T
    tracemalloc.start()
    try:
        fastload.save({"w": array}, tmp_path / "m.safetensors")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert peak < 32 << 20


def test_a_masked_array_is_refused(tmp_path):
    with pytest.raises(UnsupportedError, match="masked array"):
        fastload.save({"w": np.ma.array([1.0, 2.0], mask=[False, True])}, tmp_path / "m.npz")
