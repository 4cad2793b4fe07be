"""Threads: sixteen at once open and read the same checkpoint and different ones."""

import contextlib
import threading

import numpy as np
import pytest

import fastload
from builders import SMALLEST, WRAPPED, Storage, smallest_file, tensor, torch_file

THREADS = 16
ROUNDS = 25
SOURCES = ["buffer", "mmap", "read"]


def in_threads(work):
    """Run work(number) in THREADS threads that start together; the first exception of any is raised here."""
    barrier, failures = threading.Barrier(THREADS, timeout=60), []

    def run(number):
        try:
            barrier.wait()
            for _ in range(ROUNDS):
                work(number)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    assert not any(thread.is_alive() for thread in threads)
    if failures:
        raise failures[0]


def source_of(kind, raw, path):
    if kind == "buffer":
        return raw, {}
    path.write_bytes(raw)
    return path, {"io": kind}


@pytest.mark.parametrize("kind", SOURCES)
@pytest.mark.parametrize("format_name", [*SMALLEST, *WRAPPED])
def test_the_same_checkpoint(format_name, kind, tmp_path):
    source, options = source_of(kind, smallest_file(format_name), tmp_path / "model")
    checkpoint = fastload.open(source, **options)

    def read(number):
        assert checkpoint["w"].tolist() == [1, 2]
        assert [entry.name for entry in checkpoint.entries()] == ["w"] and checkpoint.entry("w").shape == (2,)
        checkpoint.objects, checkpoint.metadata, repr(checkpoint)

    in_threads(read)


@pytest.mark.parametrize("kind", SOURCES)
@pytest.mark.parametrize("format_name", [*SMALLEST, *WRAPPED])
def test_the_same_file_opened_by_each(format_name, kind, tmp_path):
    source, options = source_of(kind, smallest_file(format_name), tmp_path / "model")

    def read(number):
        with fastload.open(source, **options) as checkpoint:
            view = checkpoint["w"]
        assert view.tolist() == [1, 2]

    in_threads(read)


@pytest.mark.parametrize("kind", SOURCES)
def test_different_files(kind, tmp_path):
    sources = [
        source_of(kind, torch_file({f"n{n}": tensor("int64", (n,), range(n))}), tmp_path / f"{n}.pt")
        for n in range(THREADS)
    ]

    def read(number):
        source, options = sources[number]
        with fastload.open(source, **options) as checkpoint:
            assert checkpoint[f"n{number}"].tolist() == list(range(number))

    in_threads(read)


@pytest.mark.parametrize("kind", SOURCES)
@pytest.mark.parametrize("deflate", [[], ["data/0", "data/1"]], ids=["stored", "deflated"])
def test_storages_that_come_and_go_while_others_ask_for_them(kind, deflate, tmp_path):
    base = Storage("IntStorage", 4, np.arange(5000, dtype="<i4").tobytes())
    root = {
        "a": tensor("int32", (5000,), base),
        "b": tensor("int32", (10,), base, offset=90),
        "c": tensor("int32", (1,), [7]),
    }
    source, options = source_of(kind, torch_file(root, deflate=deflate), tmp_path / "model.pt")
    checkpoint = fastload.open(source, **options)

    def read(number):
        name = "abc"[number % 3]
        view = checkpoint[name]
        assert view[0] == {"a": 0, "b": 90, "c": 7}[name] and view[-1] == {"a": 4999, "b": 99, "c": 7}[name]
        del view

    in_threads(read)


def test_broken_files_raise_their_own_error_in_each_thread():
    whole = [smallest_file(name) for name in [*SMALLEST, *WRAPPED]]

    def read(number):
        with pytest.raises(fastload.FormatError):
            fastload.open(whole[number % len(whole)][: number + 1])

    in_threads(read)


def test_closing_while_others_read_gives_arrays_or_a_closed_error():
    for _ in range(20):
        checkpoint = fastload.open(torch_file({"w": tensor("float32", (2,), [1, 2])}, deflate=["data/0"]))

        def read(number, checkpoint=checkpoint):
            if number == 0:
                checkpoint.close()
            with contextlib.suppress(ValueError):  # closed
                assert checkpoint["w"].tolist() == [1, 2]

        in_threads(read)
