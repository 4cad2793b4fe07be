"""Sources: paths and buffers, mapped or read; views outlive everything, and nothing is read that nobody asked for."""

import array
import errno
import gc
import mmap
import os
import pathlib
import subprocess
import sys
import weakref

import numpy as np
import pytest

import fastload
from builders import SMALLEST, Storage, safetensors_entry, safetensors_raw, smallest_file, storage, tensor, torch_file
from fastload import source as source_module
from fastload._native import FileMapping
from fastload.checkpoint import tensors_of
from fastload.errors import FormatError
from fastload.source import Source

FORMATS = list(SMALLEST)
BUFFERS = {
    "bytes": bytes,
    "bytearray": bytearray,
    "memoryview": memoryview,
    "array": lambda raw: array.array("B", raw),
    "numpy": lambda raw: np.frombuffer(raw, np.uint8),
    "slice of a memoryview": lambda raw: memoryview(b"before" + raw + b"after")[6:-5],
}


def mapped(raw):
    area = mmap.mmap(-1, len(raw))
    area[:] = raw
    return area


BUFFERS["mmap"] = mapped


@pytest.mark.parametrize("format_name", FORMATS)
@pytest.mark.parametrize("buffer", BUFFERS.values(), ids=BUFFERS)
def test_any_buffer_is_a_source(buffer, format_name):
    with fastload.open(buffer(smallest_file(format_name))) as checkpoint:
        assert checkpoint["w"].tolist() == [1, 2]
        assert checkpoint.entry("w").file is None


@pytest.mark.parametrize("format_name", FORMATS)
@pytest.mark.parametrize("kind", [str, pathlib.Path])
def test_a_path_is_a_source(kind, format_name, tmp_path):
    (tmp_path / "model").write_bytes(smallest_file(format_name))
    checkpoint = fastload.open(kind(tmp_path / "model"))

    assert checkpoint["w"].tolist() == [1, 2]
    assert checkpoint.entry("w").file == str(tmp_path / "model")


@pytest.mark.parametrize("format_name", FORMATS)
def test_a_buffer_is_viewed_and_not_copied(format_name):
    buffer = np.frombuffer(smallest_file(format_name), np.uint8)
    checkpoint = fastload.open(buffer)

    assert np.shares_memory(checkpoint["w"], buffer)
    start = checkpoint["w"].__array_interface__["data"][0] - buffer.__array_interface__["data"][0]
    assert start == checkpoint.entry("w").offset


@pytest.mark.parametrize("format_name", FORMATS)
def test_views_of_a_writable_buffer_are_read_only(format_name):
    view = fastload.open(bytearray(smallest_file(format_name)))["w"]

    assert not view.flags.writeable
    with pytest.raises(ValueError, match=r"read-only|WRITEABLE"):
        view[0] = 3
    with pytest.raises(ValueError, match="WRITEABLE"):
        view.flags.writeable = True


@pytest.mark.parametrize("io", ["mmap", "read"])
@pytest.mark.parametrize("format_name", FORMATS)
def test_views_of_a_file_are_read_only_for_good(format_name, io, tmp_path):
    (tmp_path / "model").write_bytes(smallest_file(format_name))
    view = fastload.open(tmp_path / "model", io=io)["w"]

    assert not view.flags.writeable
    with pytest.raises(ValueError, match="WRITEABLE"):
        view.flags.writeable = True
    assert (tmp_path / "model").read_bytes() == smallest_file(format_name)


@pytest.mark.parametrize("io", ["mmap", "read", "auto"])
@pytest.mark.parametrize("format_name", FORMATS)
def test_views_outlive_the_checkpoint(format_name, io, tmp_path):
    (tmp_path / "model").write_bytes(smallest_file(format_name))
    with fastload.open(tmp_path / "model", io=io) as checkpoint:
        view = checkpoint["w"]
    checkpoint.close()
    del checkpoint
    (tmp_path / "model").unlink()
    gc.collect()

    assert view.tolist() == [1, 2]


@pytest.mark.parametrize("format_name", FORMATS)
def test_a_buffer_is_kept_alive_by_its_views_and_by_nothing_else(format_name):
    class Owner(bytearray):
        pass

    buffer = Owner(smallest_file(format_name))
    alive = weakref.ref(buffer)
    view = fastload.open(buffer)["w"]
    del buffer
    gc.collect()

    assert alive() is not None and view.tolist() == [1, 2]
    with pytest.raises(BufferError):
        alive().append(0)  # cannot be resized under a view
    del view
    gc.collect()
    assert alive() is None


def test_a_closed_checkpoint_gives_no_more_arrays():
    checkpoint = fastload.open(smallest_file("safetensors"))
    checkpoint.close()
    checkpoint.close()

    with pytest.raises(ValueError, match="closed"):
        checkpoint["w"]


@pytest.mark.parametrize("format_name", FORMATS)
def test_closing_lets_go_of_the_buffer(format_name):
    buffer = bytearray(smallest_file(format_name))
    with fastload.open(buffer), pytest.raises(BufferError):
        buffer.append(0)

    buffer.append(0)


@pytest.mark.parametrize("io", ["mmap", "read"])
def test_closing_gives_back_descriptors_and_mappings(io, tmp_path):
    (tmp_path / "model").write_bytes(smallest_file("safetensors"))
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        with fastload.open(tmp_path / "model", io=io) as checkpoint:
            checkpoint["w"]

    assert len(os.listdir("/proc/self/fd")) == before
    assert str(tmp_path / "model") not in pathlib.Path("/proc/self/maps").read_text()


def test_a_mapping_needs_no_descriptor(tmp_path):
    (tmp_path / "model").write_bytes(smallest_file("safetensors"))
    before = len(os.listdir("/proc/self/fd"))
    source = Source.of(tmp_path / "model", "mmap", keep_open=False)

    assert len(os.listdir("/proc/self/fd")) == before
    assert bytes(source.fetch(0, source.size)) == smallest_file("safetensors")
    assert source.still_valid() and source.part(8, 2).still_valid()
    (tmp_path / "model").unlink()
    assert not source.still_valid()


def test_a_small_file_is_mapped_when_its_first_array_is_asked_for(tmp_path, monkeypatch):
    made = []
    mapping = source_module.FileMapping
    monkeypatch.setattr(source_module, "FileMapping", lambda *arguments: made.append(arguments) or mapping(*arguments))
    fastload.save({"w": np.arange(5)}, tmp_path / "m.safetensors")

    checkpoint = fastload.open(tmp_path / "m.safetensors")
    assert checkpoint.entries()[0].shape == (5,) and fastload.load(tmp_path / "m.safetensors")["w"][4] == 4
    assert not made

    assert checkpoint["w"][4] == 4 and checkpoint["w"][3] == 3
    assert len(made) == 1


def test_a_file_mapping_is_read_only_and_may_be_empty(tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    with open(tmp_path / "file", "rb") as file:
        mapping, empty = FileMapping(file.fileno(), 3), FileMapping(file.fileno(), 0)

    assert bytes(mapping) == b"abc" and len(mapping) == 3 and memoryview(mapping).readonly
    assert bytes(empty) == b"" and len(empty) == 0
    with pytest.raises(ValueError, match="WRITEABLE"):
        np.frombuffer(mapping, np.uint8).flags.writeable = True


def test_what_cannot_be_mapped_is_an_error(tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    with open(tmp_path / "file", "rb") as file:
        for size in (1 << 62, (1 << 63) - 1):
            with pytest.raises(OSError, match="memory"):
                FileMapping(file.fileno(), size)
        for size in (1 << 63, (1 << 64) - 1, 1 << 64, -1):
            with pytest.raises(OverflowError):
                FileMapping(file.fileno(), size)
    with pytest.raises(OSError, match="descriptor"):
        FileMapping(-1, 3)


def test_where_nothing_can_be_mapped_auto_reads_and_mmap_says_so(tmp_path, monkeypatch):
    (tmp_path / "model").write_bytes(smallest_file("safetensors"))

    def refuse(descriptor, size, offset):
        raise OSError(errno.ENODEV, "No such device")

    monkeypatch.setattr(source_module, "FileMapping", refuse)

    assert fastload.open(tmp_path / "model")["w"].tolist() == [1, 2]
    with pytest.raises(fastload.UnsupportedError, match='io="read"'):
        fastload.open(tmp_path / "model", io="mmap")


@pytest.mark.parametrize("format_name", FORMATS)
def test_where_there_are_no_native_mappings_pythons_own_are_used(format_name, tmp_path, monkeypatch):
    (tmp_path / "model").write_bytes(smallest_file(format_name))
    monkeypatch.setattr(source_module, "CAN_MAP", False)

    assert fastload.open(tmp_path / "model", io="mmap")["w"].tolist() == [1, 2]


def test_a_buffer_that_is_not_contiguous_or_not_a_buffer_is_refused():
    with pytest.raises((BufferError, ValueError, TypeError)):
        fastload.open(np.zeros(100, np.uint8)[::2])
    for nothing in (None, 3, object(), ["model.safetensors"]):
        with pytest.raises(TypeError):
            fastload.open(nothing)


@pytest.mark.parametrize("io", ["mmap", "read", "auto"])
def test_an_empty_file_gets_our_error_and_not_that_of_mmap(io, tmp_path):
    (tmp_path / "empty.safetensors").touch()

    with pytest.raises(fastload.FormatError, match="empty"):
        fastload.open(tmp_path / "empty.safetensors", io=io)
    with pytest.raises(fastload.FormatError, match="empty"):
        fastload.open(b"", io=io)


def test_a_missing_file_is_file_not_found(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        fastload.open(tmp_path / "nowhere.safetensors")


def test_an_unreadable_file_is_a_permission_error(tmp_path, monkeypatch):
    (tmp_path / "secret").write_bytes(smallest_file("safetensors"))

    def refuse(*arguments, **options):
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "secret"))

    monkeypatch.setattr(os, "open", refuse)  # root may read whatever its mode

    with pytest.raises(PermissionError, match="secret"):
        fastload.open(tmp_path / "secret")


@pytest.mark.parametrize("url", ["https://huggingface.co/a/b.safetensors", "s3://bucket/key", "hf://a/b"])
def test_a_url_is_refused_with_advice(url):
    with pytest.raises(fastload.UnsupportedError, match=r"(?i)download"):
        fastload.open(url)


def test_an_unknown_way_of_reading_is_refused():
    with pytest.raises(ValueError, match="mmap"):
        fastload.open(smallest_file("safetensors"), io="magic")


@pytest.mark.parametrize("io", ["mmap", "read", "auto"])
@pytest.mark.parametrize("what", ["fifo", "folder", "device"])
def test_what_is_no_file_is_refused_at_once(what, io, tmp_path):
    """In a process of its own: opening a FIFO the wrong way waits for ever."""
    path = {"fifo": tmp_path / "pipe", "folder": tmp_path, "device": pathlib.Path("/dev/zero")}[what]
    if what == "fifo":
        os.mkfifo(path)
    code = f"""if True:
        import fastload
        try:
            fastload.open({str(path)!r}, io={io!r})
        except (fastload.FastloadError, OSError) as error:
            print(error)
    """

    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)

    assert found.returncode == 0, found.stderr
    assert str(path) in found.stdout


@pytest.mark.parametrize("format_name", FORMATS)
def test_read_and_mmap_give_the_same(format_name, tmp_path):
    (tmp_path / "model").write_bytes(smallest_file(format_name))
    mapped_checkpoint, read_checkpoint = (fastload.open(tmp_path / "model", io=io) for io in ("mmap", "read"))

    for attribute in ("name", "dtype", "shape", "strides", "offset", "nbytes", "storage", "file", "zero_copy", "kind"):
        assert getattr(mapped_checkpoint.entry("w"), attribute) == getattr(read_checkpoint.entry("w"), attribute)
    assert mapped_checkpoint["w"].tobytes() == read_checkpoint["w"].tobytes()
    assert mapped_checkpoint.format == read_checkpoint.format == format_name


@pytest.mark.parametrize("format_name", FORMATS)
def test_io_read_is_no_copy_to_be_refused(format_name, tmp_path):
    (tmp_path / "model").write_bytes(smallest_file(format_name))

    assert fastload.open(tmp_path / "model", io="read", allow_copy=False)["w"].tolist() == [1, 2]


def bytes_read_by(action):
    """What this process read from files while *action* ran, in bytes, and its result."""

    def read_so_far():
        return int(pathlib.Path("/proc/self/io").read_text().split()[1])

    read_so_far()
    overhead = -read_so_far() + read_so_far()
    before = read_so_far()
    result = action()
    return read_so_far() - before - overhead, result


def sparse_safetensors(path, gib=8):
    """A file of *gib* GiB that takes a few KiB of disk: two tensors, in two storages."""
    half = gib << 29
    header = {
        "a": safetensors_entry("U8", (half,), 0, half),
        "b": safetensors_entry("U8", (half - 3,), half, 2 * half - 3),
    }
    header["tail"] = safetensors_entry("U8", (3,), 2 * half - 3, 2 * half)
    import json

    raw = safetensors_raw(json.dumps(header), pad=True)
    with open(path, "wb") as file:
        file.write(raw)
        file.seek(2 * half - 3, os.SEEK_CUR)
        file.write(b"\7\x08\x09")


def test_io_read_opens_a_big_safetensors_file_by_its_header_alone(tmp_path):
    sparse_safetensors(tmp_path / "big.safetensors")
    (tmp_path / "small").write_bytes(smallest_file("safetensors"))
    fastload.open(tmp_path / "small", io="read")["w"]  # imports what is imported late

    count, checkpoint = bytes_read_by(lambda: fastload.open(tmp_path / "big.safetensors", io="read"))
    listing, _ = bytes_read_by(lambda: [(entry.name, entry.nbytes) for entry in checkpoint.entries()])
    tail, view = bytes_read_by(lambda: checkpoint["tail"])

    assert count < 64 << 10 and listing == 0
    assert tail < 64 << 10 and view.tolist() == [7, 8, 9]


def test_io_read_opens_a_big_torch_zip_by_its_directory_and_pickle_alone(tmp_path):
    size = 16 << 20
    raw = torch_file({"a": tensor("uint8", (size,), bytes(size)), "b": tensor("uint8", (3,), [1, 2, 3])})
    (tmp_path / "big.pt").write_bytes(raw)
    (tmp_path / "small").write_bytes(smallest_file("pytorch-zip"))
    fastload.open(tmp_path / "small", io="read")["w"]

    count, checkpoint = bytes_read_by(lambda: fastload.open(tmp_path / "big.pt", io="read"))
    small, view = bytes_read_by(lambda: checkpoint["b"])

    assert count < 256 << 10
    assert small < 64 << 10 and view.tolist() == [1, 2, 3]


def test_io_read_keeps_sharing_while_an_array_lives(tmp_path):
    base = storage("float32", range(8))
    root = {
        "all": tensor("float32", (8,), base),
        "tail": tensor("float32", (4,), base, offset=4),
        "v": tensor("int8", (1,), [1]),
    }
    (tmp_path / "model.pt").write_bytes(torch_file(root))
    checkpoint = fastload.open(tmp_path / "model.pt", io="read")

    whole = checkpoint["all"]
    again, (tail) = bytes_read_by(lambda: checkpoint["tail"])

    assert np.shares_memory(whole, tail) and np.shares_memory(whole, checkpoint["all"])
    assert again == 0
    assert not np.shares_memory(whole, checkpoint["v"])


def test_io_read_keeps_nothing_that_nobody_holds(tmp_path):
    size = 4 << 20
    held = Storage("ByteStorage", 1, bytes(size))
    (tmp_path / "model.pt").write_bytes(torch_file({"w": tensor("uint8", (size,), held)}))
    checkpoint = fastload.open(tmp_path / "model.pt", io="read")
    checkpoint["w"]
    gc.collect()

    count, _ = bytes_read_by(lambda: checkpoint["w"])

    assert count >= size  # read afresh: the one cache there is holds weak references


def test_a_file_that_is_replaced_after_opening_is_still_the_old_one(tmp_path):
    path = tmp_path / "model"
    path.write_bytes(smallest_file("safetensors"))
    checkpoint = fastload.open(path)
    (tmp_path / "other").write_bytes(smallest_file("pytorch-zip"))
    os.replace(tmp_path / "other", path)

    assert checkpoint["w"].tolist() == [1, 2]


def test_a_file_whose_descriptor_somebody_gave_to_another_is_mapped_all_the_same(tmp_path):
    for name, value in (("ours", 7), ("other", 9)):
        fastload.save({"w": np.full(5, value)}, tmp_path / f"{name}.safetensors")
    checkpoint = fastload.open(tmp_path / "ours.safetensors")
    with open(tmp_path / "other.safetensors", "rb") as other:
        os.dup2(other.fileno(), tensors_of(checkpoint).source._file.descriptor)

    assert checkpoint["w"].tolist() == [7] * 5


def test_a_file_that_was_written_to_before_its_first_array_is_an_error(tmp_path):
    path = tmp_path / "m.safetensors"
    fastload.save({"w": np.full(5, 7)}, path)
    checkpoint = fastload.open(path)
    with open(path, "r+b") as file:
        file.truncate(100)

    with pytest.raises(FormatError, match="written to after it was opened: open it again"):
        checkpoint["w"]


def test_a_file_that_is_open_at_the_end_of_the_interpreter_is_closed_without_a_word(tmp_path):
    (tmp_path / "model").write_bytes(smallest_file("pytorch-zip"))
    code = "import os, sys, fastload; os.held = fastload.open(sys.argv[1], io='read')"  # `os` is emptied among the last

    done = subprocess.run([sys.executable, "-c", code, tmp_path / "model"], capture_output=True, check=True)

    assert done.stderr == b""
