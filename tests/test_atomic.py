"""Publishing a file: whole or not at all, without clobbering, and with nothing left behind."""

import errno
import fcntl
import os
import stat
import threading

import numpy as np
import pytest

import fastload
from fastload import SaveError, atomic
from fastload._native import allocate, begin_sync
from fastload.atomic import publish


def write(path, data, **options):
    with publish(str(path), **options) as file:
        file.write(data)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_new_file_has_the_content_and_what_the_umask_leaves(tmp_path):
    old = os.umask(0o027)
    try:
        write(tmp_path / "f", b"content")
    finally:
        os.umask(old)

    assert (tmp_path / "f").read_bytes() == b"content" and names(tmp_path) == ["f"]
    assert stat.S_IMODE((tmp_path / "f").stat().st_mode) == 0o640


def test_a_file_that_is_there_is_kept_unless_told(tmp_path):
    (tmp_path / "f").write_bytes(b"old")

    with pytest.raises(FileExistsError):
        write(tmp_path / "f", b"new")

    assert (tmp_path / "f").read_bytes() == b"old" and names(tmp_path) == ["f"]


def test_a_replaced_file_keeps_its_mode_and_is_private_while_it_is_written(tmp_path):
    (tmp_path / "f").write_bytes(b"old")
    (tmp_path / "f").chmod(0o604)

    with publish(str(tmp_path / "f"), overwrite=True) as file:
        file.write(b"new")
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}

    assert sorted(modes.values()) == [0o600, 0o604] and modes["f"] == 0o604
    assert stat.S_IMODE((tmp_path / "f").stat().st_mode) == 0o604


@pytest.mark.parametrize("step", ["rename", "link"])
def test_a_file_that_comes_meanwhile_is_not_clobbered(tmp_path, monkeypatch, step):
    if step == "link":
        monkeypatch.setattr(atomic, "rename_exclusively", not_supported)

    with pytest.raises(FileExistsError), publish(str(tmp_path / "f")) as file:  # noqa: PT012
        file.write(b"ours")
        (tmp_path / "f").write_bytes(b"theirs")

    assert (tmp_path / "f").read_bytes() == b"theirs" and names(tmp_path) == ["f"]


def not_supported(*args):
    raise OSError(errno.EINVAL, "Invalid argument")


def test_file_systems_without_exclusive_renames_are_served_by_links(tmp_path, monkeypatch):
    monkeypatch.setattr(atomic, "rename_exclusively", not_supported)

    write(tmp_path / "f", b"content")

    assert (tmp_path / "f").read_bytes() == b"content" and names(tmp_path) == ["f"]


def test_where_nothing_is_exclusive_the_error_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(atomic, "rename_exclusively", not_supported)
    monkeypatch.setattr(os, "link", not_supported)

    with pytest.raises(SaveError, match="overwrite=True"):
        write(tmp_path / "f", b"content")

    assert names(tmp_path) == []


def test_a_link_stays_and_its_target_is_replaced(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "target").write_bytes(b"old")
    (tmp_path / "link").symlink_to("there/target")

    write(tmp_path / "link", b"new", overwrite=True)

    assert (tmp_path / "link").is_symlink() and (tmp_path / "there" / "target").read_bytes() == b"new"
    assert names(tmp_path / "there") == ["target"]


def test_a_link_to_nothing_gets_its_target(tmp_path):
    (tmp_path / "link").symlink_to("target")

    write(tmp_path / "link", b"new")

    assert (tmp_path / "link").is_symlink() and (tmp_path / "target").read_bytes() == b"new"


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path):
    (tmp_path / "f").write_bytes(b"old")

    with pytest.raises(KeyboardInterrupt), publish(str(tmp_path / "f"), overwrite=True) as file:  # noqa: PT012
        file.write(b"new")
        raise KeyboardInterrupt

    assert (tmp_path / "f").read_bytes() == b"old" and names(tmp_path) == ["f"]


def test_a_file_that_grows_too_large_is_a_save_error_with_what_was_written(tmp_path):
    import resource

    (tmp_path / "f").write_bytes(b"old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3 << 20, limits[1]))
    try:
        with pytest.raises(SaveError) as caught:
            write(tmp_path / "f", bytes(8 << 20), overwrite=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    assert caught.value.errno == errno.EFBIG and caught.value.written == 3 << 20
    assert caught.value.path == str(tmp_path / "f") and "untouched" in str(caught.value)
    assert (tmp_path / "f").read_bytes() == b"old" and names(tmp_path) == ["f"]


def test_what_cannot_fit_on_the_disk_is_refused_before_a_byte_is_written(tmp_path):
    with pytest.raises(SaveError, match="free") as caught:
        write(tmp_path / "f", b"", size=1 << 60)

    assert caught.value.errno == errno.ENOSPC and names(tmp_path) == []


def test_an_abandoned_temporary_file_of_the_same_target_is_cleared_and_no_other(tmp_path):
    write_abandoned = [".f.0123456789abcdef.fastload-tmp", ".g.0123456789abcdef.fastload-tmp", ".f.x.fastload-tmp"]
    for name in write_abandoned:
        (tmp_path / name).write_bytes(b"half")
    (tmp_path / ".f.fedcba9876543210.fastload-tmp").mkdir()

    write(tmp_path / "f", b"content")

    assert names(tmp_path) == sorted([".f.fedcba9876543210.fastload-tmp", *write_abandoned[1:], "f"])


def test_a_temporary_file_in_use_is_not_cleared(tmp_path):
    with publish(str(tmp_path / "f"), overwrite=True) as slow:
        slow.write(b"slow")
        write(tmp_path / "f", b"quick", overwrite=True)
        assert (tmp_path / "f").read_bytes() == b"quick"

    assert (tmp_path / "f").read_bytes() == b"slow" and names(tmp_path) == ["f"]


def test_a_temporary_file_that_is_cleared_before_it_is_locked_is_made_anew(tmp_path, monkeypatch):
    flock, cleared = fcntl.flock, []

    def clear_first(descriptor, operation):
        if not cleared:
            cleared.append(names(tmp_path)[0])
            (tmp_path / cleared[0]).unlink()
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", clear_first)

    write(tmp_path / "f", b"content")

    assert cleared and (tmp_path / "f").read_bytes() == b"content" and names(tmp_path) == ["f"]


def test_file_systems_without_locks_can_be_written_to(tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", not_supported)
    (tmp_path / ".f.0123456789abcdef.fastload-tmp").write_bytes(b"in use, perhaps")

    write(tmp_path / "f", b"content")

    assert names(tmp_path) == [".f.0123456789abcdef.fastload-tmp", "f"]


def test_the_longest_names_can_be_written(tmp_path):
    name = "é" * 127

    write(tmp_path / name, b"content")

    assert names(tmp_path) == [name]


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_only_files_are_replaced(tmp_path, make):
    make(tmp_path / "f")

    with pytest.raises(SaveError, match="no file"):
        write(tmp_path / "f", b"", overwrite=True)

    assert names(tmp_path) == ["f"]


def test_a_missing_folder_is_the_error_that_everybody_knows(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        write(tmp_path / "none" / "f", b"")

    assert "tmp" not in os.path.basename(str(caught.value.filename))


@pytest.fixture
def disk(monkeypatch):
    """What the disk was asked to do: ("begin", offset, count) and ("sync",)."""
    asked = []
    monkeypatch.setattr(atomic, "begin_sync", lambda descriptor, *run: asked.append(("begin", *run)))
    monkeypatch.setattr(os, "fsync", lambda descriptor: asked.append(("sync",)))
    return asked


def test_the_disk_begins_while_a_file_is_written_and_is_waited_for_in_the_end(tmp_path, disk):
    step = atomic.SYNCED_BYTES
    with publish(str(tmp_path / "f")) as file:
        for size in (100, step + 1, 5, step // 2, step):
            file.write(bytes(size))

    begun = [run for kind, *run in disk if kind == "begin"]
    assert [offset for offset, _ in begun] == [0, *(offset + count for offset, count in begun)][: len(begun)]
    assert len(begun) == 2 and all(count >= step for _, count in begun)
    assert disk[-2:] == [("sync",), ("sync",)]  # the file and its folder


def test_without_a_sync_nobody_waits_for_the_disk(tmp_path, disk):
    write(tmp_path / "f", bytes(3 * atomic.SYNCED_BYTES), sync=False)

    assert not disk and (tmp_path / "f").stat().st_size == 3 * atomic.SYNCED_BYTES


@pytest.mark.parametrize("sync", [True, False])
def test_whoever_writes_files_is_told_whether_to_wait(tmp_path, disk, sync):
    fastload.save({"w": np.zeros(3)}, tmp_path / "m.pt", sync=sync)
    fastload.convert(tmp_path / "m.pt", tmp_path / "m.safetensors", sync=sync)
    fastload.merge([tmp_path / "m.pt"], tmp_path / "n.safetensors", sync=sync)
    fastload.split(tmp_path / "m.pt", tmp_path / "shards", sync=sync)

    assert disk.count(("sync",)) == (2 * 3 + 2 * 2 + 1 if sync else 0)


def test_a_range_that_no_file_has_is_refused(tmp_path):
    with open(tmp_path / "f", "wb") as file:
        begin_sync(file.fileno(), 0, 100)
        for run in ((2**63, 1), (1, 2**63 - 1)):
            with pytest.raises(OverflowError):
                begin_sync(file.fileno(), *run)


@pytest.fixture
def set_aside(monkeypatch):
    """How many bytes blocks were set aside for, each time that they were, on what is said to be ext4."""
    asked = []
    monkeypatch.setattr(atomic, "filesystem_type", lambda descriptor: 0xEF53)
    monkeypatch.setattr(atomic, "allocate", lambda descriptor, count: asked.append(count))
    return asked


def test_blocks_of_a_large_file_are_set_aside_before_it_is_written(tmp_path, set_aside):
    large = atomic.ALLOCATED_BYTES

    for number, size in enumerate([0, large - 1, large, large + 1]):
        write(tmp_path / f"f{number}", bytes(size), size=size)

    assert set_aside == [large, large + 1]


def test_nothing_is_set_aside_on_file_systems_where_that_was_not_measured(tmp_path, monkeypatch, set_aside):
    monkeypatch.setattr(atomic, "filesystem_type", lambda descriptor: 0x9123683E)

    write(tmp_path / "f", b"content", size=atomic.ALLOCATED_BYTES)

    assert not set_aside


def test_what_is_set_aside_is_no_part_of_the_file(tmp_path):
    with open(tmp_path / "f", "wb") as file:
        file.write(b"content")
        file.flush()
        allocate(file.fileno(), 1 << 20)
        with pytest.raises(OverflowError):
            allocate(file.fileno(), 2**63)

    assert (tmp_path / "f").read_bytes() == b"content"


def test_writers_at_once_leave_one_whole_file(tmp_path):
    contents = [bytes([number]) * (3 << 20) for number in range(8)]
    threads = [
        threading.Thread(target=write, args=(tmp_path / "f", data), kwargs={"overwrite": True}) for data in contents
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert (tmp_path / "f").read_bytes() in contents and names(tmp_path) == ["f"]


def test_of_writers_at_once_that_may_not_clobber_one_wins(tmp_path):
    refused = []

    def attempt(data):
        try:
            write(tmp_path / "f", data)
        except FileExistsError:
            refused.append(data)

    contents = [bytes([number]) * (1 << 20) for number in range(8)]
    threads = [threading.Thread(target=attempt, args=(data,)) for data in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    (winner,) = set(contents) - set(refused)
    assert (tmp_path / "f").read_bytes() == winner and names(tmp_path) == ["f"]
