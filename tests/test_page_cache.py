"""Reading ahead, letting go, and what is in memory: as `mincore` tells of the file, called by the tests themselves."""

import ctypes
import mmap
import os
import pathlib
import sys
import tempfile
import time
import zipfile

import numpy as np
import pytest
import safetensors.numpy
import torch

import fastload
from fastload import _native, page_cache
from fastload.checkpoint import tensors_of
from fastload.errors import TensorNotFoundError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the page cache is told of as Linux does")

MIB = 1 << 20
ARRAYS = {f"t{number:02}": np.full(MIB, number, np.uint8) for number in range(48)}
PATIENCE = 10.0  # seconds that a disk may take to read a megabyte


@pytest.fixture
def disk(tmp_path):
    """A folder on a disk; where files live in memory alone, nothing can be taken out of the cache."""
    for parent in (tmp_path, pathlib.Path(__file__).parent, "/var/tmp"):
        with tempfile.TemporaryDirectory(prefix=".page-cache-", dir=parent) as folder:
            path = pathlib.Path(folder, "probe")
            path.write_bytes(bytes(MIB))
            evict(path)
            if resident(path) == 0:
                yield pathlib.Path(folder)
                return
    pytest.skip("there is no folder on a disk here")


@pytest.fixture
def model(disk):
    """A cold file."""
    path = disk / "model.safetensors"
    safetensors.numpy.save_file(ARRAYS, path)
    evict(path)
    return path


def evict(path):
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def resident(path, begin=0, count=None):
    """The share of the pages in memory, of those that some bytes of a file lie in."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapping:
        address = np.frombuffer(mapping, np.uint8).ctypes.data
        first = begin // mmap.PAGESIZE
        pages = -(-(begin + (len(mapping) - begin if count is None else count)) // mmap.PAGESIZE) - first
        seen = (ctypes.c_ubyte * pages)()
        start = ctypes.c_void_p(address + first * mmap.PAGESIZE)
        assert libc.mincore(start, ctypes.c_size_t(pages * mmap.PAGESIZE), seen) == 0
        return sum(byte & 1 for byte in seen) / pages


def wait_until(condition):
    """Whether something comes true: reading ahead goes on while we do."""
    end = time.monotonic() + PATIENCE
    while not condition() and time.monotonic() < end:
        time.sleep(0.005)
    return condition()


def count_calls(monkeypatch):
    """A list that grows by the (begin, count, advice) of each native call."""
    seen = []
    real = _native.advise

    def advise(data, offset, count, advice):
        seen.append((offset, count, advice))
        return real(data, offset, count, advice)

    monkeypatch.setattr(_native, "advise", advise)
    return seen


def runs(checkpoint, names=None):
    tensors = tensors_of(checkpoint)
    rows = range(len(tensors)) if names is None else map(tensors.find, names)
    return [(run.begin, run.end) for run in page_cache.runs_of(tensors, rows)]


@pytest.mark.parametrize("io", ["mmap", "read"])
def test_prefetch_brings_one_tensor_and_not_a_far_one(model, io):
    checkpoint = fastload.open(model, io=io)
    assert checkpoint.residency()["t40"] == 0

    asked = checkpoint.prefetch("t05")

    assert asked == MIB
    assert wait_until(lambda: checkpoint.residency()["t05"] == 1)
    assert checkpoint.residency()["t40"] < 1
    entry = checkpoint.entry("t05")
    assert resident(model, entry.offset, entry.nbytes) == 1


def test_prefetch_reads_more_than_the_system_takes_of_one_request(model):
    checkpoint = fastload.open(model)

    assert checkpoint.prefetch() == len(ARRAYS) * MIB

    assert wait_until(lambda: set(checkpoint.residency().values()) == {1.0})


@pytest.mark.parametrize("io", ["mmap", "read"])
def test_what_is_not_needed_leaves_the_cache_and_its_arrays_stay_valid(model, io):
    checkpoint = fastload.open(model, io=io)
    array = checkpoint["t07"]
    assert array.sum() == 7 * MIB and list(checkpoint["t30"][:1]) == [30]

    checkpoint.advise("dontneed", ["t07"])

    assert checkpoint.residency()["t07"] == 0
    assert array.sum() == 7 * MIB


@pytest.mark.parametrize("advice", ["sequential", "random", "willneed", "dontneed"])
@pytest.mark.parametrize("io", ["mmap", "read"])
def test_every_advice_leaves_the_tensors_as_they_are(model, io, advice):
    checkpoint = fastload.open(model, io=io)

    checkpoint.advise(advice)

    assert all(np.array_equal(checkpoint[name], array) for name, array in ARRAYS.items())


def test_random_access_reads_one_page_and_not_its_neighbours(model):
    checkpoint = fastload.open(model)
    checkpoint.advise("random")

    checkpoint["t20"][MIB // 2]

    assert 0 < checkpoint.residency()["t20"] <= 2 * mmap.PAGESIZE / MIB


def test_a_word_that_is_no_advice_shows_those_that_are():
    checkpoint = fastload.open(safetensors.numpy.save({"w": np.zeros(2)}))

    with pytest.raises(ValueError, match="'sequential', 'random', 'willneed', 'dontneed', not 'sometimes'"):
        checkpoint.advise("sometimes")


def test_residency_weighs_bytes_and_not_pages(model):
    checkpoint = fastload.open(model)
    checkpoint.advise("random")
    entry = checkpoint.entry("t10")
    page = mmap.PAGESIZE - entry.offset % mmap.PAGESIZE  # the bytes of the tensor on its first page

    checkpoint["t10"][0]

    assert resident(model, entry.offset, 1) == 1
    found = checkpoint.residency()
    assert found["t10"] * MIB in (page, page + mmap.PAGESIZE)  # the second, where the disk's blocks are larger


def test_buffers_are_in_memory_and_cannot_be_read_ahead():
    data = safetensors.numpy.save({"w": np.zeros(1000), "none": np.zeros(0)})
    checkpoint = fastload.open(bytearray(data))

    checkpoint.advise("dontneed")

    assert checkpoint.prefetch() == 0
    assert checkpoint.residency() == {"w": 1.0, "none": 1.0}
    assert not checkpoint["w"].any()


def test_a_buffer_that_is_a_mapping_is_the_callers_and_stays_as_it_is(tmp_path):
    path = tmp_path / "m.safetensors"
    safetensors.numpy.save_file({"w": np.zeros(100_000, np.uint8)}, path)
    with open(path, "r+b") as file:
        private = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    checkpoint = fastload.open(private)
    private[-1] = 7

    checkpoint.advise("dontneed")

    assert checkpoint["w"][-1] == 7


def test_what_is_unpacked_or_cast_is_told_by_the_bytes_it_is_made_from_or_not_at_all(disk):
    np.savez_compressed(disk / "m.npz", w=np.zeros(1000))
    packed = fastload.open(disk / "m.npz")
    safetensors.numpy.save_file({"w": np.zeros(MIB, np.float32), "none": np.zeros(0)}, disk / "m.safetensors")
    cast = fastload.open(disk / "m.safetensors", cast="float16")
    evict(disk / "m.safetensors")  # now, since opening reads ahead of the header

    assert packed.residency() == {"w": None} and packed.prefetch() == 0
    assert cast.residency()["w"] < 0.1 and cast.residency()["none"] == 1
    assert cast.prefetch("w") == 4 * MIB
    assert wait_until(lambda: cast.residency()["w"] == 1)


def test_a_tensor_put_together_needs_all_of_its_parts(disk):
    path = disk / "m.safetensors"
    safetensors.numpy.save_file(ARRAYS, path)
    evict(path)
    whole = fastload.open(path, concat=[(["t30", "t40"], "both", 0)])
    fastload.open(path).prefetch("t30")

    assert wait_until(lambda: whole.residency()["both"] >= 0.5)
    assert whole.residency()["both"] < 1
    assert whole.prefetch("both") == 2 * MIB
    assert wait_until(lambda: whole.residency()["both"] == 1)


def test_a_plan_asks_for_what_it_has_left_alone(model, monkeypatch):
    calls = count_calls(monkeypatch)
    checkpoint = fastload.open(model, include=["t01", "t02", "t40"], rename={"t40": "last"})

    asked = checkpoint.prefetch()

    assert asked == 3 * MIB and wait_until(lambda: len(calls) == 2)
    first, last = (fastload.open(model).entry(name).offset for name in ("t01", "t40"))
    assert calls == [(first, 2 * MIB, "willneed"), (last, MIB, "willneed")]
    assert list(checkpoint.residency()) == ["t01", "t02", "last"]


def test_neighbours_are_one_request_in_the_order_of_the_file_however_they_are_named(tmp_path):
    gap = page_cache.MAX_GAP_BYTES
    arrays = {"a": np.zeros(10, np.uint8), "b": np.zeros(gap, np.uint8), "c": np.zeros(10, np.uint8)}
    arrays |= {"d": np.zeros(gap + 1, np.uint8), "e": np.zeros(10, np.uint8)}
    safetensors.numpy.save_file(arrays, tmp_path / "m.safetensors")
    checkpoint = fastload.open(tmp_path / "m.safetensors")
    begin = checkpoint.entry("a").offset

    found = runs(checkpoint, ["e", "c", "a", "c"])

    assert found == [(begin, begin + gap + 20), (begin + 2 * gap + 21, begin + 2 * gap + 31)]
    assert runs(checkpoint) == [(begin, begin + 2 * gap + 31)]
    assert runs(checkpoint, []) == []


def test_two_hundred_thousand_tensors_are_one_request(tmp_path, monkeypatch):
    calls = count_calls(monkeypatch)
    fastload.save({f"layer.{number}": np.zeros(1, np.uint8) for number in range(200_000)}, tmp_path / "m.safetensors")
    checkpoint = fastload.open(tmp_path / "m.safetensors")

    assert checkpoint.prefetch() == 200_000
    assert wait_until(lambda: len(calls) == 1)
    assert len(checkpoint.residency()) == 200_000


def test_a_load_asks_for_the_headers_of_a_cold_archive_together_and_for_those_of_a_warm_one_not(disk, monkeypatch):
    path = disk / "model.pt"
    torch.save({f"t{number}": torch.full((MIB // 4,), float(number)) for number in range(40)}, path)
    asked = []
    advise = os.posix_fadvise

    def noting(descriptor, offset, count, advice):
        asked.append((offset, advice))
        advise(descriptor, offset, count, advice)

    checkpoint = fastload.open(path)
    headers = {record.header_offset for record in zipfile.ZipFile(path).infolist() if "/data/" in record.filename}
    evict(path)
    monkeypatch.setattr(os, "posix_fadvise", noting)
    loaded = fastload.load(checkpoint)

    assert set(asked) == {(header, os.POSIX_FADV_WILLNEED) for header in headers}
    assert all((loaded[f"t{number}"] == number).all() for number in range(40))

    path.read_bytes()
    asked.clear()
    fastload.load(path)
    assert not asked


def test_shards_are_asked_for_one_by_one(disk):
    checkpoint = fastload.open(split(disk, 4))
    asked = checkpoint.prefetch(["t00", "t47"])

    assert asked == 2 * MIB
    assert wait_until(lambda: checkpoint.residency()["t00"] == checkpoint.residency()["t47"] == 1)
    assert checkpoint.residency()["t10"] < 1


def split(disk, count):
    safetensors.numpy.save_file(ARRAYS, disk / "all.safetensors")
    fastload.split(disk / "all.safetensors", disk / "shards", max_shard_bytes=len(ARRAYS) * MIB // count)
    for path in (disk / "shards").iterdir():
        evict(path)
    return disk / "shards"


def test_files_within_a_file_are_asked_for_where_they_lie(disk):
    import tarfile

    safetensors.numpy.save_file({"w": np.ones(MIB, np.uint8), "x": np.ones(40 * MIB, np.uint8)}, disk / "m")
    fastload.save(fastload.open(disk / "m"), disk / "model_weights.ckpt")
    with tarfile.open(disk / "m.nemo", "w") as archive:
        archive.add(disk / "model_weights.ckpt", "model_weights.ckpt")
    for io in ("mmap", "read"):
        evict(disk / "m.nemo")
        checkpoint = fastload.open(disk / "m.nemo", io=io)

        assert checkpoint.prefetch("w") == MIB

        assert wait_until(lambda found=checkpoint: found.residency()["w"] == 1)
        entry = checkpoint.entry("w")
        assert resident(disk / "m.nemo", entry.offset, entry.nbytes) == 1
        assert checkpoint.residency()["x"] < 1


@pytest.mark.parametrize("act", ["prefetch", "residency", "advise"])
def test_a_closed_checkpoint_says_so(act):
    checkpoint = fastload.open(safetensors.numpy.save({"w": np.zeros(2)}))
    checkpoint.close()

    with pytest.raises(ValueError, match="closed"):
        getattr(checkpoint, act)(*(["random"] if act == "advise" else []))


def test_a_name_that_is_not_there_is_told():
    checkpoint = fastload.open(safetensors.numpy.save({"w": np.zeros(2)}))

    with pytest.raises(TensorNotFoundError, match="'v'"):
        checkpoint.prefetch(["w", "v"])


def test_a_file_that_was_replaced_is_no_error(model):
    checkpoint = fastload.open(model, io="read")
    shards = fastload.open(model)
    os.truncate(model, 10)
    os.unlink(model)

    for found in (checkpoint, shards):
        assert found.prefetch("t00") in (0, MIB)
        found.advise("dontneed")
        found.residency()


@pytest.mark.parametrize("act", [lambda *run: _native.advise(*run, "willneed"), _native.count_resident])
@pytest.mark.parametrize("run", [(0, 5001), (5001, 0), (2**63, 1), (1, 2**64 - 1)])
def test_a_run_beyond_its_mapping_is_refused(tmp_path, act, run):
    (tmp_path / "f").write_bytes(bytes(5000))
    with open(tmp_path / "f", "rb") as file:
        mapping = _native.FileMapping(file.fileno(), 5000)

    with pytest.raises(ValueError, match="beyond the 5,000"):
        act(mapping, *run)
    assert act(mapping, 5000, 0) in (True, 0)
    assert act(mapping, 4999, 1) == 1


def test_what_the_system_cannot_tell_is_an_error_and_no_number(monkeypatch, tmp_path):
    safetensors.numpy.save_file({"w": np.zeros(2)}, tmp_path / "m.safetensors")
    checkpoint = fastload.open(tmp_path / "m.safetensors")

    def refuse(*run):
        raise OSError("no mincore here")

    monkeypatch.setattr(page_cache, "count_resident", refuse)

    assert checkpoint.residency() == {"w": None}
