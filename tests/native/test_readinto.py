"""Transfers: jobs cut into blocks, moved by threads from memory and files, cast on the way."""

import os
import threading

import numpy as np
import pytest

from fastload._native import FLOATS, Transfer, convert, count_cached

WIDTHS = (8, 4, 2, 2, 1, 1, 1, 1, 1)
SPAN = 4096
WAYS = ["memory", "file", "direct"]


@pytest.fixture
def data():
    return np.random.default_rng(0).integers(0, 256, 100_003, np.uint8)


@pytest.fixture(params=WAYS)
def origin(request, data, tmp_path):
    """Adds the data to a Transfer, in one of the ways there are."""
    path = tmp_path / "data"
    path.write_bytes(data.tobytes())
    plain = os.open(path, os.O_RDONLY)
    direct = os.open(path, os.O_RDONLY | os.O_DIRECT) if request.param == "direct" else -1

    def add(transfer, span=SPAN, page=0):
        if request.param == "memory":
            return transfer.add_memory(data, span, page)
        return transfer.add_file(plain, len(data), span, page, direct)

    yield add
    os.close(plain)
    if direct >= 0:
        os.close(direct)


def casted(data, source, target):
    count = len(data) // WIDTHS[source]
    result = np.empty(count * WIDTHS[target], np.uint8)
    convert(data[: count * WIDTHS[source]].copy(), source, result, target)
    return result


@pytest.mark.parametrize("page", [0, 64, 8192])
@pytest.mark.parametrize("span", [4096, 1 << 20])
def test_runs_come_to_their_places(origin, data, span, page):
    runs = [(0, 1), (1, 70_000), (70_100, 5), (70_105, 4096), (80_000, 20_003)]
    target = np.zeros(sum(size for _, size in runs) + 3, np.uint8)
    transfer = Transfer()
    number, place = origin(transfer, span, page), transfer.add_target(target)
    start = 3
    for position, size in runs:
        transfer.add(number, position, size, place, start)
        start += size

    transfer.work()

    assert transfer.failure is None and transfer.done == transfer.total == len(target) - 3
    assert target.tobytes() == bytes(3) + b"".join(data[at : at + size].tobytes() for at, size in runs)


@pytest.mark.parametrize("source", range(len(FLOATS)))
@pytest.mark.parametrize("target", range(len(FLOATS)))
@pytest.mark.parametrize(("offset", "page"), [(0, 0), (1, 64), (0, 4096)])
def test_floats_are_cast_on_the_way(origin, data, source, target, offset, page):
    nbytes = 99_992  # from an odd position on
    expected = casted(data[3 : 3 + nbytes], source, target) if source != target else data[3 : 3 + nbytes]
    memory = np.zeros(offset + len(expected), np.uint8)
    transfer = Transfer()
    number, place = origin(transfer, SPAN, page), transfer.add_target(memory)
    transfer.add(number, 3, nbytes, place, offset, source, target)

    transfer.work()

    assert transfer.done == len(expected)
    np.testing.assert_array_equal(memory[offset:], expected)


def test_neighbours_come_together_and_long_runs_are_taken_apart(origin):
    memory = np.zeros(100_000, np.uint8)
    transfer = Transfer()
    number, place = origin(transfer, 16_384), transfer.add_target(memory)
    for position in range(0, 8000, 8):  # a block
        transfer.add(number, position, 8, place, position)
    transfer.add(number, 8100, 16, place, 8000)  # in the same
    assert transfer.blocks == 1
    transfer.add(number, 30_000, 40_000, place, 10_000)  # three more, since it is far off

    assert transfer.blocks == 4


def test_no_block_crosses_a_page_of_the_target(origin):
    memory = np.zeros(70_000, np.uint8)
    start = -memory.ctypes.data % 8192 + 100
    transfer = Transfer()
    number, place = origin(transfer, 1 << 20, 8192), transfer.add_target(memory)

    transfer.add(number, 0, 3 * 8192, place, start)

    assert transfer.blocks == 4


def test_runs_may_overlap_and_go_back(origin, data):
    runs = [(0, 9000), (100, 9000), (50, 20), (8000, 8000)]
    memory = np.zeros(sum(size for _, size in runs), np.uint8)
    transfer = Transfer()
    number, place = origin(transfer), transfer.add_target(memory)
    start = 0
    for position, size in runs:
        transfer.add(number, position, size, place, start)
        start += size

    transfer.work()

    assert memory.tobytes() == b"".join(data[at : at + size].tobytes() for at, size in runs)


def test_threads_share_the_work(origin, data):
    memory = np.zeros(len(data), np.uint8)
    transfer = Transfer()
    number, place = origin(transfer), transfer.add_target(memory)
    transfer.add(number, 0, len(data), place, 0)
    threads = [threading.Thread(target=transfer.work) for _ in range(4)]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert transfer.done == len(data)
    np.testing.assert_array_equal(memory, data)


def test_several_origins_and_targets(data, tmp_path):
    path = tmp_path / "data"
    path.write_bytes(data.tobytes())
    first, second = np.zeros(10, np.uint8), np.zeros(20, np.uint8)
    transfer = Transfer()
    with open(path, "rb") as file:
        places = [transfer.add_target(first), transfer.add_target(second)]
        origins = [transfer.add_memory(data, SPAN, 0), transfer.add_file(file.fileno(), len(data), SPAN, 0)]
        transfer.add(origins[0], 5, 10, places[0], 0)
        transfer.add(origins[1], 50, 20, places[1], 0)
        transfer.work()

    assert first.tobytes() == data[5:15].tobytes() and second.tobytes() == data[50:70].tobytes()


@pytest.mark.parametrize(
    ("job", "said"),
    [
        ((0, 90, 11, 0, 0), "beyond"),
        ((0, 101, 0, 0, 0), "beyond"),
        ((0, 2**64 - 1, 2, 0, 0), "beyond"),
        ((0, 0, 50, 0, 1), "fit"),
        ((0, 0, 1, 0, 51), "fit"),
        ((0, 0, 2, 0, 2**64 - 1), "fit"),
        ((0, 0, 26, 0, 0, 2, 1), "fit"),
        ((0, 0, 3, 0, 0, 2, 1), "fit"),
        ((0, 0, 2, 0, 0, 2, 9), "floats"),
        ((0, 0, 2, 0, 0, -1, 1), "floats"),
        ((1, 0, 2, 0, 0), "no such"),
        ((0, 0, 2, 1, 0), "no such"),  # which is an origin
        ((0, 0, 2, 2, 0), "no such"),
    ],
)
def test_a_job_that_leaves_its_memory_is_refused(job, said):
    transfer = Transfer()
    transfer.add_target(bytearray(50))
    transfer.add_memory(bytes(100), SPAN, 0)

    with pytest.raises(ValueError, match=said):
        transfer.add(*job)

    assert transfer.total == 0 and transfer.blocks == 0


def test_a_target_must_be_writable_and_blocks_of_a_size():
    transfer = Transfer()
    with pytest.raises(BufferError):
        transfer.add_target(b"fixed")
    for span, page in ((0, 0), (4095, 0), (1 << 31, 0), (4096, 3)):
        with pytest.raises(ValueError, match="blocks"):
            transfer.add_memory(b"abc", span, page)
    with pytest.raises(ValueError, match="cannot be read"):
        transfer.add_file(-1, 10, SPAN, 0)


def test_nothing_is_added_once_the_work_has_begun():
    transfer = Transfer()
    place, origin = transfer.add_target(bytearray(5)), transfer.add_memory(b"abc", SPAN, 0)
    transfer.work()

    for act in (
        lambda: transfer.add(origin, 0, 1, place, 0),
        lambda: transfer.add_memory(b"abc", SPAN, 0),
        lambda: transfer.add_target(bytearray(5)),
    ):
        with pytest.raises(ValueError, match="begun"):
            act()


@pytest.mark.parametrize("floats", [(-1, -1), (2, 1)])
@pytest.mark.parametrize("nbytes", [100, 60_000])
def test_a_file_that_ends_too_early_is_told(tmp_path, floats, nbytes):
    path = tmp_path / "data"
    path.write_bytes(bytes(50))
    transfer = Transfer()
    with open(path, "rb") as file:
        place = transfer.add_target(bytearray(2 * nbytes))
        origin = transfer.add_file(file.fileno(), 2 * nbytes, SPAN, 0)
        transfer.add(origin, 0, 40, place, 0)
        transfer.add(origin, 40, nbytes, place, 0, *floats)
        transfer.work()

    number, position, error = transfer.failure
    assert number in (0, 1) and position in (0, 40) and error is None  # both may have come with one read


def test_what_the_system_says_is_told(tmp_path):
    transfer = Transfer()
    read, write = os.pipe()  # from which nothing is read at a position
    try:
        origin = transfer.add_file(read, 100, SPAN, 0)
        transfer.add(origin, 7, 20, transfer.add_target(bytearray(20)), 0)
        transfer.work()
    finally:
        os.close(read)
        os.close(write)

    assert transfer.failure == (0, 7, 29)  # ESPIPE


def test_stopping_leaves_the_rest(data):
    transfer = Transfer()
    transfer.add(transfer.add_memory(data, SPAN, 0), 0, len(data), transfer.add_target(bytearray(len(data))), 0)

    transfer.stop()
    transfer.work()

    assert transfer.done == 0 and transfer.failure is None


def test_what_a_report_raises_ends_the_work(monkeypatch, tmp_path):
    size = 1 << 28  # takes longer than it takes to the first report
    path = tmp_path / "data"
    with open(path, "wb") as file:
        file.truncate(size)
    calls = []

    def report():
        calls.append(transfer.done)
        raise KeyboardInterrupt

    transfer = Transfer()
    memory = bytearray(1 << 20)
    with open(path, "rb") as file:
        place, origin = transfer.add_target(memory), transfer.add_file(file.fileno(), size, SPAN, 0)
        for position in range(0, size, 1 << 20):
            transfer.add(origin, position, 1 << 20, place, 0)
        with pytest.raises(KeyboardInterrupt):
            transfer.work(report)

    assert len(calls) == 1 and 0 < calls[0] < size


def test_pages_in_memory_are_counted(tmp_path):
    path = tmp_path / "data"
    path.write_bytes(bytes(100_000))
    with open(path, "rb") as file:
        assert count_cached(file.fileno(), [0, 5000, 99_999]) == 3
        assert count_cached(file.fileno(), []) == 0
        os.fdatasync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        assert count_cached(file.fileno(), [0, 5000, 99_999]) == 0


def test_memory_is_held_for_as_long_as_the_transfer_is():
    memory = bytearray(10)
    transfer = Transfer()
    transfer.add_target(memory)
    with pytest.raises(BufferError):
        memory.append(1)
    del transfer
    memory.append(1)


def test_no_block_has_jobs_of_two_origins(data):
    short = np.full(64, 7, np.uint8)
    target = np.zeros(16 + 64 + 200, np.uint8)
    transfer = Transfer()
    place = transfer.add_target(target)
    first, second = transfer.add_memory(data, SPAN, 0), transfer.add_memory(short, SPAN, 0)
    transfer.add(first, 0, 16, place, 0)
    transfer.add(second, 0, 64, place, 16)
    transfer.add(first, 100, 200, place, 80)

    transfer.work()

    assert np.array_equal(target, np.concatenate([data[:16], short, data[100:300]]))
