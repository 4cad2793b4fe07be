"""A disk that fills up midway leaves the old file whole, whatever the format, and whoever moves the bytes.

What fails is the limit on the size of a file, which anybody may set for a process, and which stops a write midway as a
full disk does; and a small file system where one may be mounted.
"""

import contextlib
import errno
import os
import subprocess

import numpy as np
import pytest

import fastload
from fastload import SaveError, atomic

resource = pytest.importorskip("resource", reason="the system limits no files")

MIB = 1 << 20
SUFFIXES = ["safetensors", "pt", "bpk", "npz", "npy"]
OLD = {"w": np.arange(10, dtype=np.float32)}


@contextlib.contextmanager
def limited(size):
    """No file of this process may be longer than *size* within the block: not that of its output behind it."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.fixture(params=["arrays", "mmap", "read"])
def content(request, tmp_path):
    """A function that gives what is to be saved as a file of a suffix: 4 MiB in memory, or in a file."""

    def of(suffix):
        count = 1 if suffix == "npy" else 8
        arrays = {f"w{number}": np.full(4 * MIB // count, number, np.uint8) for number in range(count)}
        if request.param == "arrays":
            return arrays
        (tmp_path / "from").mkdir()
        fastload.save(arrays, tmp_path / "from" / "m.safetensors")
        return fastload.open(tmp_path / "from" / "m.safetensors", io=request.param)

    return of


def target(tmp_path, suffix):
    path = tmp_path / "to" / f"m.{suffix}"
    path.parent.mkdir()
    fastload.save(OLD, path)
    return path


@pytest.mark.parametrize("sync", [True, False])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_disk_that_fills_up_midway_leaves_the_old_file_whole(tmp_path, content, suffix, sync):
    path, tensors = target(tmp_path, suffix), content(suffix)
    old = path.read_bytes()

    with limited(3 * MIB), pytest.raises(SaveError, match="untouched") as caught:
        fastload.save(tensors, path, overwrite=True, sync=sync)

    assert (caught.value.errno, caught.value.path) == (errno.EFBIG, str(path))
    assert 2 * MIB < caught.value.written <= 3 * MIB
    assert path.read_bytes() == old and list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_it_may_fill_up_anywhere(tmp_path, suffix):
    path = target(tmp_path, suffix)
    old = path.read_bytes()
    tensors = {"w": np.full(3000, 7, np.uint8)}
    fastload.save(tensors, tmp_path / f"whole.{suffix}")

    for size in range(0, (tmp_path / f"whole.{suffix}").stat().st_size, 61):
        with limited(size), pytest.raises(SaveError, match="untouched") as caught:
            fastload.save(tensors, path, overwrite=True, sync=False)
        assert caught.value.written <= size
        assert path.read_bytes() == old and list(path.parent.iterdir()) == [path]


def test_shards_that_do_not_fit_leave_the_old_ones(tmp_path, content):
    tensors = content("safetensors")
    if isinstance(tensors, dict):
        fastload.save(tensors, tmp_path / "m.safetensors")
        tensors = fastload.open(tmp_path / "m.safetensors")
    fastload.split(tensors, tmp_path / "shards", max_shard_bytes=2 * MIB)
    old = {path.name: path.read_bytes() for path in (tmp_path / "shards").iterdir()}

    with limited(3 * MIB), pytest.raises(SaveError, match="untouched"):
        fastload.split(tensors, tmp_path / "shards", max_shard_bytes=4 * MIB, overwrite=True)

    assert {path.name: path.read_bytes() for path in (tmp_path / "shards").iterdir()} == old


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_system_that_is_full_leaves_the_old_file_whole(tmp_path, monkeypatch, content, suffix):
    monkeypatch.setattr(atomic, "_check_room", lambda *rest: None)  # somebody else may take the room that was there
    (tmp_path / "to").mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(tmp_path / "to")]
    if os.name == "nt" or os.geteuid() or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        path = tmp_path / "to" / f"m.{suffix}"
        fastload.save(OLD, path)
        old = path.read_bytes()
        with pytest.raises(SaveError, match="untouched") as caught:
            fastload.save(content(suffix), path, overwrite=True)
        assert caught.value.errno == errno.ENOSPC and caught.value.written > MIB
        assert path.read_bytes() == old and list(path.parent.iterdir()) == [path]
    finally:
        subprocess.run(["umount", str(tmp_path / "to")], check=True)
