"""Loading everything into memory of one's own: the same arrays as the views are, whatever way the bytes come."""

import gc
import os
import threading
import tracemalloc
import weakref

import numpy as np
import pytest
import torch

import fastload
from builders import FOLDERS, SMALLEST, WRAPPED, safetensors_file, smallest_file, tensor, torch_file
from fastload import loading, moving
from fastload._native import FLOATS
from fastload.dtypes import CODES, DTYPES

WAYS = ["auto", "mmap", "read", "direct"]
CHANNELS = torch.full((10,), 0.5), torch.full((10,), 1.0)
SPELLED = {row.name: row.safetensors for row in DTYPES if row.safetensors}


def same(loaded, path, **plan):
    """Whether arrays are those that a checkpoint gives as views, in memory of their own."""
    checkpoint = fastload.open(path, **plan)
    assert list(loaded) == list(checkpoint)
    for name, array in loaded.items():
        view = checkpoint[name]
        assert (array.shape, array.dtype) == (view.shape, view.dtype), name
        assert array.tobytes() == view.tobytes(), name
        assert array.flags.writeable and array.flags.c_contiguous and array.dtype.isnative, name
        assert not np.may_share_memory(array, view) or not array.size, name
    return True


def file_of_floats(source, count=5000):
    """A safetensors file of random bits of a float dtype, at odd places of the file."""
    width = DTYPES[CODES[source]].bits // 8
    random = np.random.default_rng(1).integers(0, 256, (3, count * width), np.uint8)
    tensors = {f"t{number}": (SPELLED[source], (count // 10, 10), row.tobytes()) for number, row in enumerate(random)}
    return safetensors_file({"odd": ("U8", (3,), b"abc"), **tensors}, pad=False)


@pytest.fixture
def path(tmp_path):
    """Three tensors, of which one takes several blocks."""
    made = tmp_path / "model.safetensors"
    arrays = {
        "z": np.arange(3_000_001, dtype=np.float32),
        "a": np.arange(24, dtype=np.int16).reshape(2, 3, 4),
        "n": np.array(7, np.int64),
    }
    fastload.save(arrays, made)
    return made


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("format", [*SMALLEST, *WRAPPED])
def test_every_format_gives_what_its_views_are(tmp_path, format, way):
    made = tmp_path / "file"
    made.write_bytes(smallest_file(format))

    loaded = fastload.load(made, io=way)

    assert same(loaded, made) and loaded["w"].tolist() == [1, 2]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("format", FOLDERS)
def test_folders_are_loaded(tmp_path, format, way):
    for name, data in FOLDERS[format]().items():
        (tmp_path / name).write_bytes(data)

    assert same(fastload.load(tmp_path, io=way), tmp_path)


@pytest.mark.parametrize("format", [*SMALLEST, *WRAPPED])
def test_buffers_are_loaded(format):
    data = smallest_file(format)

    assert same(fastload.load(data), data)


def test_every_tensor_begins_at_a_multiple_of_64_bytes(tmp_path):
    for count in (10, 700_000):
        made = tmp_path / "model.npz"
        np.savez(made, **{f"w{size}": np.ones(size, np.uint8) for size in (1, 63, 65, count)})

        assert all(array.ctypes.data % 64 == 0 for array in fastload.load(made, dtype="float64").values())


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("threads", [None, 1, 2, 7])
def test_any_number_of_threads(path, way, threads):
    assert same(fastload.load(path, io=way, threads=threads), path)


@pytest.mark.filterwarnings("ignore:torch.quantize", "ignore:ComplexHalf")
@pytest.mark.parametrize("way", WAYS)
def test_tensors_of_torch_of_any_layout(tmp_path, way):
    made = tmp_path / "model.pt"
    whole = torch.arange(240, dtype=torch.float32).reshape(4, 6, 10)
    tensors = {
        "whole": whole,
        "transposed": whole.permute(2, 0, 1),
        "part": whole[1:3],
        "every second": whole[:, ::2],
        "broadcast": whole[:1, :1, :1].expand(3, 5, 7),
        "nothing": whole[:0],
        "scalar": torch.tensor(2.5, dtype=torch.bfloat16),
        "complex": torch.complex(whole, -whole).conj(),
        "half complex": torch.complex(whole, -whole).to(torch.complex32),
        "flags": whole > 3,
        "quantised": torch.quantize_per_tensor(whole, 0.5, 10, torch.quint8),
        "two to a byte": torch.quantize_per_channel(whole[0], *CHANNELS, 1, torch.quint4x2),
        "packed": torch.arange(16, dtype=torch.uint8).view(torch.bits8),
        "eighths": whole.to(torch.float8_e5m2),
    }
    torch.save(tensors, made)

    assert same(fastload.load(made, io=way), made)


@pytest.mark.parametrize("way", ["mmap", "read", "direct"])
def test_every_dtype_of_safetensors(tmp_path, way):
    made = tmp_path / "model.safetensors"
    made.write_bytes(safetensors_file({name: (said, (8, 2), bytes(range(DTYPES[CODES[name]].bits * 2)))
                                       for name, said in SPELLED.items()}))  # fmt: skip

    assert same(fastload.load(made, io=way), made)


def test_compressed_and_swapped_arrays(tmp_path):
    made = tmp_path / "model.npz"
    numbers = np.arange(60.0).reshape(3, 4, 5)
    np.savez_compressed(made, a=numbers, b=numbers.astype(">f4"), c=np.asfortranarray(numbers), d=np.array(["x", "yz"]))

    assert same(fastload.load(made), made)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("source", [name for name in FLOATS if name in SPELLED])
def test_casts_are_those_of_the_checkpoint(tmp_path, source, way):
    made = tmp_path / "model.safetensors"
    made.write_bytes(file_of_floats(source))
    for target in FLOATS:
        assert same(fastload.load(made, dtype=target, io=way), made, cast=target)


def test_any_plan_is_loaded(tmp_path):
    made = tmp_path / "model.safetensors"
    numbers = np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32)
    fastload.save({"q": numbers, "k": numbers + 1, "v": numbers + 2, "steps": np.arange(5)}, made)
    plans = [
        {"concat": fastload.Concat(["q", "k", "v"], "qkv", 0)},
        {"concat": fastload.Concat(["q", "k", "v"], "qkv", 1), "cast": "float16"},
        {"concat": fastload.Concat(["q", "k", "v"], "qkv", 0), "cast": "bfloat16"},
        {"split": fastload.Split("q", ["a", "b", "c"], 0), "cast": "float16"},
        {"split": fastload.Split("q", ["a", "b"], 1), "cast": "float64"},
        {"include": ["k", "steps"], "rename": {"k": "key"}},
    ]
    for plan in plans:
        assert same(fastload.load(made, **plan), made, **plan)
    checkpoint = fastload.open(made, cast="float64").cast("float16", where=lambda entry: entry.name != "k")
    checkpoint = checkpoint.cast({"steps": "float32"}, integers=True)
    loaded = fastload.load(checkpoint)
    assert all(np.array_equal(loaded[name], array) for name, array in checkpoint.items())
    assert loaded["k"].dtype == np.float64 and loaded["steps"].dtype == np.float32


def test_an_open_checkpoint_takes_a_plan_and_stays_open(path):
    with fastload.open(path) as checkpoint:
        loaded = fastload.load(checkpoint, include="a")
        assert list(loaded) == ["a"] and len(checkpoint) == 3


def test_concatenated_and_cut_tensors_are_runs_of_bytes(path, monkeypatch):
    monkeypatch.setattr(loading, "_make", None)  # how all others are made
    checkpoint = fastload.open(
        path, io="read", include="a", split=fastload.Split("a", ["x", "y"], 0), cast={"*": "int16"}
    )

    assert list(fastload.load(checkpoint)) == ["x", "y"]


def test_the_arrays_outlive_the_file(path):
    expected = fastload.open(path)["z"].copy()
    loaded = fastload.load(path)
    path.write_bytes(b"gone")

    loaded["z"][0] = 0

    assert np.array_equal(loaded["z"], expected)


def test_memory_goes_with_the_last_array(path):
    loaded = fastload.load(path)
    memory = loaded["a"].base
    assert memory is not None and all(array.base is memory for array in loaded.values())
    watched = weakref.ref(memory)
    kept = loaded.pop("n")
    del loaded, memory
    gc.collect()
    assert watched() is not None and kept == 7

    del kept

    assert watched() is None


@pytest.mark.parametrize("cast", [None, "float16"])
def test_tensors_over_the_same_bytes_share_memory(tmp_path, cast):
    made = tmp_path / "model.pt"
    shared = torch.arange(12, dtype=torch.float32).reshape(3, 4)
    torch.save(
        {"first": shared, "second": shared, "flat": shared.flatten(), "equal": shared.clone(), "row": shared[0]}, made
    )

    loaded = fastload.load(made, dtype=cast)

    assert same(loaded, made, cast=cast)
    assert np.shares_memory(loaded["first"], loaded["second"]) and np.shares_memory(loaded["first"], loaded["flat"])
    assert not np.shares_memory(loaded["first"], loaded["equal"])


def test_the_same_bytes_as_two_dtypes_do_not_share_memory(tmp_path):
    made = tmp_path / "model.pt"
    shared = torch.arange(12, dtype=torch.float32)
    torch.save({"first": shared, "second": shared}, made)

    loaded = fastload.load(made, cast={"first": "float16"})

    assert loaded["first"].tolist() == loaded["second"].tolist() == list(range(12))
    assert loaded["first"].dtype == np.float16 and loaded["second"].dtype == np.float32


def test_more_than_the_free_memory_is_refused_before_it_is_asked_for(path, monkeypatch):
    monkeypatch.setattr(loading, "free_memory", lambda: 12_000_000)
    monkeypatch.setattr(loading, "move", None)

    with pytest.raises(fastload.LimitError, match=r"12,000,[0-9]+ bytes"):
        fastload.load(path)

    monkeypatch.undo()
    fastload.load(path)


def test_a_broadcast_tensor_claims_what_it_would_take():
    data = torch_file({"w": tensor("float32", (1 << 30, 1 << 12), [1], strides=(0, 0))})

    with pytest.raises(fastload.LimitError, match="17,592,186,044,416 bytes"):
        fastload.load(data)


def test_a_tensor_without_data_is_named_before_anything_is_read(tmp_path, monkeypatch):
    made = tmp_path / "model.pt"
    torch.save({"w": torch.ones(5), "m": torch.empty(5, device="meta")}, made)
    monkeypatch.setattr(loading, "move", None)

    with pytest.raises(fastload.UnsupportedError, match="'m'"):
        fastload.load(made)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dtype", [None, "float64"])
def test_a_file_that_was_cut_is_an_error(path, way, dtype, monkeypatch):
    checkpoint = fastload.open(path)
    with open(path, "r+b") as file:
        file.truncate(1 << 20)
    with pytest.raises(fastload.FormatError, match="was written to"):
        fastload.load(checkpoint, io=way, dtype=dtype)
    monkeypatch.setattr("fastload.source.OpenFile.is_unchanged", lambda self: True)  # as if it were cut just after

    with pytest.raises(fastload.TruncatedError, match=r"tensor '.': the file was cut") as caught:
        fastload.load(checkpoint, io=way, dtype=dtype)

    assert caught.value.path == str(path)


def test_a_disk_that_fails_is_an_error(path, monkeypatch):
    class Failing:
        """A Transfer whose reads fail as those of a broken disk."""

        def __init__(self):
            self.real = moving_transfer()
            self.failure = (0, 4096, 5)

        def __getattr__(self, name):
            return getattr(self.real, name)

    moving_transfer = moving.Transfer
    monkeypatch.setattr(moving, "Transfer", Failing)

    with pytest.raises(fastload.LoadError, match=r"'z'.*Input/output error") as caught:
        fastload.load(path, io="read", include="z")

    assert caught.value.path == str(path) and caught.value.__cause__.errno == 5


def test_a_shard_that_was_replaced_is_an_error(tmp_path):
    for name, data in FOLDERS["sharded"]().items():
        (tmp_path / name).write_bytes(data)
    checkpoint = fastload.open(tmp_path)
    checkpoint.entries()
    shard = tmp_path / "model-00002-of-00002.safetensors"
    shard.write_bytes(shard.read_bytes() + b"\0" * 4)

    with pytest.raises(fastload.FormatError, match="replaced or written to"):
        fastload.load(checkpoint, io="read")


def test_many_shards_need_few_descriptors(tmp_path, monkeypatch):
    arrays = {f"w{number}": np.full(10, number) for number in range(100)}
    fastload.save(arrays, tmp_path / "whole.safetensors")
    fastload.split(tmp_path / "whole.safetensors", tmp_path / "parts", max_shard_bytes=1)
    before = len(os.listdir("/proc/self/fd"))
    open_then = []

    class Counted(moving.OpenFile):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            open_then.append(len(os.listdir("/proc/self/fd")) - before)

    monkeypatch.setattr("fastload.source.OpenFile", Counted)

    loaded = fastload.load(tmp_path / "parts", io="direct")

    assert all(np.array_equal(loaded[name], array) for name, array in arrays.items())
    assert len(open_then) >= 200 and max(open_then) <= 2 * moving.MAX_OPEN_FILES + 2


def read_from_disk():
    with open("/proc/self/io") as file:
        return int(dict(line.split(": ") for line in file)["read_bytes"])


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_a_tenth_of_the_tensors_reads_a_tenth_of_the_file(tmp_path, suffix):
    made = tmp_path / f"model.{suffix}"
    fastload.save({f"{number}.w": np.full(100_000, number, np.float32) for number in range(200)}, made)
    evict(made)
    before = read_from_disk()

    loaded = fastload.load(made, include="*3.w", io="direct")

    size = sum(array.nbytes for array in loaded.values())
    assert size == 20 * 400_000
    assert size <= read_from_disk() - before <= 1.1 * size


def evict(path):
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@pytest.mark.parametrize("is_cold", [True, False])
def test_what_is_not_in_the_page_cache_is_read_around_it(path, monkeypatch, is_cold):
    ways = []
    opened_directly = moving.OpenFile.opened_directly
    monkeypatch.setattr(moving.OpenFile, "opened_directly", lambda self: ways.append("direct") or opened_directly(self))
    with fastload.open(path, io="read") as checkpoint:
        if is_cold:
            evict(path)
        else:
            path.read_bytes()

        assert same(fastload.load(checkpoint), path)

    assert ways == ["direct"] * is_cold


def test_what_is_in_the_page_cache_is_read_from_there(path, monkeypatch):
    path.read_bytes()
    files = []
    add_origin = moving._add_origin
    monkeypatch.setattr(moving, "_add_origin", lambda *given: files.append(given[2]) or add_origin(*given))

    assert same(fastload.load(path), path)

    assert [(held.file is None, held.direct) for held in files] == [(False, None)]


def test_network_file_systems_are_read_in_large_blocks(path, monkeypatch):
    monkeypatch.setattr(moving, "filesystem_type", lambda descriptor: 0x6969)
    transfers = []
    monkeypatch.setattr(moving, "Transfer", lambda made=moving.Transfer: transfers.append(made()) or transfers[-1])

    assert same(fastload.load(path), path)

    assert [transfer.blocks for transfer in transfers] == [1]  # of 12 MB


def test_a_file_system_without_direct_reads_is_read_as_any(path, monkeypatch):
    monkeypatch.setattr("fastload.source.os.O_DIRECT", -1, raising=False)  # which no open takes

    assert same(fastload.load(path, io="direct"), path)


@pytest.mark.parametrize("way", ["mmap", "read", "direct"])
@pytest.mark.parametrize("cast", [None, "float32"])
def test_no_second_copy_is_made(tmp_path, way, cast):
    made = tmp_path / "model.safetensors"
    fastload.save({f"w{number}": np.zeros(1_000_000, np.float16) for number in range(30)}, made)
    tracemalloc.start()
    try:
        loaded = fastload.load(made, io=way, dtype=cast)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert peak < sum(array.nbytes for array in loaded.values()) + moving.HUGE_PAGE + 1_000_000


def test_what_must_be_made_is_made_one_tensor_at_a_time(tmp_path):
    made = tmp_path / "model.npz"
    np.savez_compressed(made, **{f"w{number}": np.zeros((1000, 1000), np.float32) for number in range(10)})
    tracemalloc.start()
    try:
        loaded = fastload.load(made)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert peak < sum(array.nbytes for array in loaded.values()) + moving.HUGE_PAGE + 2 * 4_000_000 + 1_000_000


class TestInto:
    """Filling arrays of the caller."""

    def test_arrays_are_filled_in_place(self, path):
        into = {name: np.zeros(array.shape, array.dtype) for name, array in fastload.open(path).items()}

        loaded = fastload.load(path, into=into)

        assert same(loaded, path) and all(loaded[name] is into[name] for name in into)

    def test_arrays_of_any_layout(self, path):
        into = {
            "z": np.zeros((3_000_001, 2), np.float64)[::-1, 1],
            "a": np.zeros((4, 3, 2), ">i2").T,
            "n": np.zeros((), np.int64),
        }

        fastload.load(path, into=into, dtype="float64")

        expected = fastload.open(path, cast="float64")
        assert all(np.array_equal(into[name], expected[name]) for name in expected)

    def test_tensors_of_torch(self, path):
        into = {
            "z": torch.nn.Parameter(torch.zeros(3_000_001, dtype=torch.bfloat16)),
            "a": torch.zeros(4, 3, 2, dtype=torch.int16).permute(2, 1, 0),
            "n": torch.tensor(0),
        }

        loaded = fastload.load(path, into=into, dtype="bfloat16")

        expected = fastload.open(path).torch()
        assert loaded["z"] is into["z"] and loaded["z"].requires_grad
        assert torch.equal(into["z"].detach(), expected["z"].to(torch.bfloat16))
        assert torch.equal(into["a"], expected["a"]) and into["n"] == 7

    def test_tied_tensors_come_to_two_places(self, tmp_path):
        made = tmp_path / "model.pt"
        shared = torch.arange(12, dtype=torch.float32)
        torch.save({"first": shared, "second": shared}, made)
        into = {"first": np.zeros(12, np.float32), "second": np.zeros(12, np.float32)}

        fastload.load(made, into=into)

        assert into["first"].tolist() == into["second"].tolist() == list(range(12))

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (lambda into: into.pop("n"), "unused: n"),
            (lambda into: into.update(more=np.zeros(3)), "missing: more"),
            (lambda into: into.update(a=np.zeros((3, 2, 4), np.int16)), r"a: expected shape \(3, 2, 4\)"),
            (lambda into: into.update(a=np.zeros((2, 3, 4), np.uint16)), "a: expected uint16, found int16"),
            (lambda into: into.update(a=torch.zeros(2, 3, 4)), "a: expected float32, found int16"),
            (lambda into: into.update(a=torch.zeros(2, 3, dtype=torch.int16)), r"a: expected shape \(2, 3\)"),
        ],
    )
    def test_nothing_is_written_unless_all_fit(self, path, change, said):
        into = {name: np.zeros(array.shape, array.dtype) for name, array in fastload.open(path).items()}
        change(into)

        with pytest.raises(fastload.LoadError, match=said):
            fastload.load(path, into=into)

        assert not any(array.any() for array in into.values())

    @pytest.mark.parametrize(
        "value", [(3, "int16"), [1, 2], {"b": np.zeros(3)}, np.broadcast_to(np.int16(0), (2, 3, 4))]
    )
    def test_what_cannot_be_filled_is_refused(self, path, value):
        into = {"z": np.zeros(3_000_001, np.float32), "a": value, "n": np.zeros((), np.int64)}

        with pytest.raises(TypeError, match="'a'"):
            fastload.load(path, into=into)

        assert not into["z"].any()


def test_progress_ends_with_everything(path):
    calls = []
    total = sum(entry.nbytes for entry in fastload.open(path).entries())

    fastload.load(path, progress=lambda *call: calls.append((*call, threading.current_thread())))

    assert calls[-1][:2] == (total, total)
    assert calls == sorted(calls, key=lambda call: call[0])
    assert {call[1:] for call in calls} == {(total, threading.current_thread())}


def test_what_progress_raises_ends_the_loading(tmp_path):
    made = tmp_path / "model.npz"
    np.savez_compressed(made, a=np.zeros(10), b=np.zeros(10))  # made one after the other

    def stop(done, total):
        raise KeyboardInterrupt

    before = threading.enumerate()
    with pytest.raises(KeyboardInterrupt):
        fastload.load(made, progress=stop)
    assert threading.enumerate() == before


@pytest.mark.parametrize("threads", [0, -1, 1.5, "2", True])
def test_threads_are_a_number_from_one_on(path, threads):
    with pytest.raises(ValueError, match="threads"):
        fastload.load(path, threads=threads)


def test_arguments_that_make_no_sense_are_refused(path):
    with pytest.raises(ValueError, match="'direct'"):
        fastload.load(path, io="fast")
    with pytest.raises(TypeError, match="not both"):
        fastload.load(path, dtype="float16", cast="float32")
    with pytest.raises(TypeError, match="includes"):
        fastload.load(path, includes="a")
    with pytest.raises(fastload.PlanError, match="fp16"):
        fastload.load(path, dtype="fp16")
