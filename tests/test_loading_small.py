"""Loading small files: what only pays for large ones is not done, and thousands of tensors make no objects."""

import threading

import numpy as np
import pytest

import fastload
from fastload import loading, moving

MIB = 1 << 20


@pytest.fixture
def started(monkeypatch):
    """The threads that loading starts."""
    threads = []

    class Thread(threading.Thread):
        def start(self):
            threads.append(self)
            super().start()

    monkeypatch.setattr(moving.threading, "Thread", Thread)
    monkeypatch.setattr(moving, "processors", lambda: 3)
    return threads


def file_of(path, mebibytes, count=1, dtype=np.uint8):
    size = mebibytes * MIB // count // np.dtype(dtype).itemsize
    fastload.save({f"w{number}": np.full(size, number, dtype) for number in range(count)}, path)
    path.read_bytes()  # into the page cache
    return path


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_a_small_file_is_read_at_once_and_nothing_is_asked(tmp_path, monkeypatch, started, suffix):
    path = file_of(tmp_path / f"model.{suffix}", 2, count=3)
    for module, name in [(moving, "count_cached"), (moving, "filesystem_type"), (loading, "free_memory")]:
        monkeypatch.setattr(module, name, None)

    loaded = fastload.load(path)

    assert [int(array[-1]) for array in loaded.values()] == [0, 1, 2] and started == []


@pytest.mark.parametrize(("mebibytes", "threads"), [(4, 0), (5, 1), (9, 2), (64, 2)])
def test_a_thread_is_started_where_there_is_enough_for_it_to_do(tmp_path, started, mebibytes, threads):
    path = file_of(tmp_path / "model.safetensors", mebibytes)

    fastload.load(path, io="read")

    assert len(started) == threads


def test_as_many_threads_as_were_asked_for_share_even_a_few_blocks(tmp_path, started):
    fastload.load(file_of(tmp_path / "model.safetensors", 4), threads=2)

    assert len(started) == 1


@pytest.mark.parametrize(("mebibytes", "pages"), [(4, 16), (16, 64), (128, 256)])
def test_the_cache_is_asked_for_few_pages(tmp_path, monkeypatch, mebibytes, pages):
    path = file_of(tmp_path / "model.safetensors", mebibytes, count=4)
    asked = []
    count_cached = moving.count_cached
    monkeypatch.setattr(moving, "count_cached", lambda *given: asked.append(len(given[1])) or count_cached(*given))

    fastload.load(path)

    assert asked == [pages]


@pytest.mark.parametrize(
    "plan",
    [
        {},
        {"include": "w[13]"},
        {"rename": {"w0": "z"}},
        {"exclude": "w2", "remap": [("w", "v")]},
        {"cast": "float16"},
        {"cast": {"w1": "float64", "w2": "bfloat16"}, "include": "w[123]"},
    ],
)
@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_tensors_as_they_are_make_no_objects_one_by_one(tmp_path, monkeypatch, suffix, plan):
    path = file_of(tmp_path / f"model.{suffix}", 1, count=4, dtype=np.float32)
    expected = {name: array.copy() for name, array in fastload.open(path, **plan).items()}
    monkeypatch.setattr(loading, "_pieces", None)  # the way of all others

    loaded = fastload.load(path, **plan)

    assert list(loaded) == list(expected)
    assert all(loaded[name].dtype == array.dtype for name, array in expected.items())
    assert all(loaded[name].tobytes() == array.tobytes() for name, array in expected.items())


def test_a_buffer_as_it_is_makes_no_objects_one_by_one(tmp_path, monkeypatch):
    data = file_of(tmp_path / "model.safetensors", 1, count=4).read_bytes()
    monkeypatch.setattr(loading, "_pieces", None)

    assert [int(array[0]) for array in fastload.load(data).values()] == [0, 1, 2, 3]
