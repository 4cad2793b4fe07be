"""PyTorch zip, hand-made: the protocols, byte orders, prefixes and archives that torch itself does not write today."""

import io
import os
import struct
import zipfile

import numpy as np
import pytest

import fastload
from builders import Storage, Tensor, tensor, torch_file, torch_pickle, torch_zip, zip_file
from fastload import FormatError, TruncatedError, UnsupportedError

ABC = {"a": {"b": tensor("float32", (2, 3), range(6), strides=(1, 2))}, "c": [tensor("int64", (), [7])]}
ABC_VALUES = {"a.b": [[0, 2, 4], [1, 3, 5]], "c.0": 7}


def read(file, **options):
    with fastload.open(file, **options) as checkpoint:
        return {name: checkpoint[name].tolist() for name in checkpoint}


def rezipped(file, compression=zipfile.ZIP_STORED, reverse=False, folders=False):
    """*file* as an ordinary zip tool would write it again: no padding, no descriptors."""
    source, out = zipfile.ZipFile(io.BytesIO(file)), io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as target:
        if folders:
            target.mkdir("archive")
            target.mkdir("archive/data")
        for info in sorted(source.infolist(), key=lambda info: info.filename, reverse=reverse):
            target.writestr(info.filename, source.read(info), compression)
    return out.getvalue()


@pytest.mark.parametrize("protocol", range(6))
def test_every_pickle_protocol(protocol):
    assert read(torch_file(ABC, protocol)) == ABC_VALUES


@pytest.mark.parametrize(
    "options",
    [
        {"byteorder": None}, {"version": False}, {"align": 1}, {"align": 4096}, {"descriptors": False}, {"crc": False},
        {"zip64": ""}, {"zip64": "everywhere"}, {"comment": b"made by hand"}, {"comment": b"x" * 0xFFFF},
        {"prefix": "имя"}, {"prefix": "a b"}, {"prefix": "v1.0.final"}, {"prefix": "x" * 1000},
        {"more": {".format_version": b"1", ".storage_alignment": b"64", ".data/serialization_id": b"0" * 40}},
        {"more": {"note.txt": b"unrelated", "data/99": b"nobody refers to it"}},
    ],
    ids=lambda options: ",".join(f"{key}={str(value)[:12]}" for key, value in options.items()),
)  # fmt: skip
def test_archives_that_are_laid_out_otherwise(options):
    assert read(torch_file(ABC, **options)) == ABC_VALUES


def test_a_tensor_at_the_root_has_the_empty_name():
    checkpoint = fastload.open(torch_file(tensor("int8", (2,), [3, 4])))

    assert list(checkpoint) == [""] and checkpoint.entry("").key_path == ()
    assert checkpoint[""].tolist() == [3, 4] and checkpoint.entry("").name == ""


def test_big_endian_data_comes_as_native_copies():
    root = {
        "f": tensor("float32", (3,), np.array([1, 2, 3], ">f4").tobytes()),
        "i": tensor("int64", (2, 2), np.array([[1, 2], [3, -4]], ">i8").tobytes(), strides=(1, 2)),
        "c": tensor("complex64", (1,), np.array([1 + 2j], ">c8").tobytes()),
        "h": tensor("uint16", (2,), np.array([1, 515], ">u2").tobytes()),
        "b": tensor("uint8", (3,), b"\1\2\3"),
    }
    checkpoint = fastload.open(torch_file(root, byteorder="big"))

    assert {name: checkpoint[name].tolist() for name in checkpoint} == {
        "f": [1, 2, 3], "i": [[1, 3], [2, -4]], "c": [1 + 2j], "h": [1, 515], "b": [1, 2, 3],
    }  # fmt: skip
    assert all(checkpoint[name].dtype.isnative for name in checkpoint)
    assert not checkpoint.entry("f").zero_copy and not checkpoint.entry("i").zero_copy


def test_big_endian_data_is_refused_where_copies_are():
    file = torch_file({"f": tensor("float32", (1,), np.array([1], ">f4").tobytes())}, byteorder="big")

    with pytest.raises(UnsupportedError):
        fastload.open(file, allow_copy=False)["f"]


@pytest.mark.parametrize("byteorder", ["LITTLE", "middle", "bigger", ""])
def test_an_unknown_byte_order_is_not_guessed(byteorder):
    with pytest.raises(fastload.FastloadError, match=r"byte ?order"):
        read(torch_file(ABC, byteorder=byteorder))


@pytest.mark.parametrize("reverse", [False, True], ids=["by name", "backwards"])
@pytest.mark.parametrize("folders", [False, True], ids=["files", "with folders"])
def test_a_rezipped_archive_is_read_in_place(reverse, folders):
    file = rezipped(torch_file(ABC), reverse=reverse, folders=folders)

    assert read(file, allow_copy=False) == ABC_VALUES


def test_unaligned_records_are_still_views():
    file = rezipped(torch_file({str(size): tensor("float64", (2,), [size, 0.5]) for size in range(9)}))
    checkpoint = fastload.open(file)

    assert [checkpoint[name].tolist() for name in checkpoint] == [[size, 0.5] for size in range(9)]
    assert any(entry.offset % 8 for entry in checkpoint.entries())
    assert all(entry.zero_copy for entry in checkpoint.entries())


def test_deflated_records_are_inflated():
    file = rezipped(torch_file(ABC), zipfile.ZIP_DEFLATED)
    checkpoint = fastload.open(file)

    assert read(file) == ABC_VALUES
    assert [entry.zero_copy for entry in checkpoint.entries()] == [False, False]
    assert [entry.offset for entry in checkpoint.entries()] == [None, None]


def test_deflated_records_are_refused_where_copies_are():
    base = Storage("FloatStorage", 4, np.arange(4, dtype="<f4").tobytes())
    file = torch_file({"d": tensor("float32", (4,), base), "v": tensor("int8", (1,), [7])}, deflate=["data/0"])
    checkpoint = fastload.open(file, allow_copy=False)

    assert checkpoint["v"].tolist() == [7]
    assert not checkpoint.entry("d").zero_copy and checkpoint.entry("v").zero_copy
    with pytest.raises(UnsupportedError, match="allow_copy"):
        checkpoint["d"]


def test_a_deflated_pickle_over_stored_data_is_still_zero_copy():
    assert read(torch_file(ABC, deflate=["data.pkl"]), allow_copy=False) == ABC_VALUES


def test_views_of_one_deflated_storage_share_memory_while_one_is_held():
    base = Storage("FloatStorage", 4, np.arange(6, dtype="<f4").tobytes())
    root = {"all": tensor("float32", (6,), base), "tail": tensor("float32", (2,), base, offset=4)}
    checkpoint = fastload.open(torch_file(root, deflate=["data/0"]))

    whole, tail = checkpoint["all"], checkpoint["tail"]

    assert np.shares_memory(whole, tail) and tail.tolist() == [4, 5]
    assert checkpoint.entry("all").storage == checkpoint.entry("tail").storage
    assert not whole.flags.writeable


def test_compression_other_than_deflate_is_unsupported_by_name():
    file = rezipped(torch_file(ABC), zipfile.ZIP_BZIP2)

    with pytest.raises(UnsupportedError, match=r"(?i)method|bzip2|compress"):
        read(file)


def test_a_record_longer_than_its_storage_is_accepted():
    stream, records = torch_pickle({"w": tensor("float32", (2,), [1, 2])})

    assert read(torch_zip(stream, {"0": records["0"] + bytes(100)})) == {"w": [1, 2]}


@pytest.mark.parametrize("deflate", [[], ["data/0"]], ids=["stored", "deflated"])
@pytest.mark.parametrize("size", [0, 1, 7])
def test_a_record_shorter_than_its_storage_is_refused(size, deflate):
    stream, records = torch_pickle({"w": tensor("float32", (2,), [1, 2])})

    with pytest.raises(FormatError, match=r"data/0|w"):
        fastload.open(torch_zip(stream, {"0": records["0"][:size]}, deflate=deflate))


def test_a_missing_storage_record_is_refused():
    stream, _ = torch_pickle({"w": tensor("float32", (2,), [1, 2])})

    with pytest.raises(FormatError, match="data/0"):
        fastload.open(torch_zip(stream))


@pytest.mark.parametrize(
    ("shape", "strides", "offset"),
    [
        ((3,), (1,), 0), ((2,), (1,), 1), ((2,), (2,), 0), ((1,), (1,), 2), ((), (), 2), ((2, 2), (1, 1), 0),
        ((2,), (-1,), 1), ((-2,), (1,), 0), ((2,), (1,), -1), ((2,), (2**63 - 1,), 0), ((2**62, 4), (4, 1), 0),
        ((2**63,), (1,), 0), ((2,), (2**70,), 0), ((2,), (), 0), ((), (1,), 0), ((1,), (1,), 2**62),
        ((2**63 - 1, 3), (0, 0), 0),
    ],
)  # fmt: skip
def test_geometry_that_leaves_its_storage_is_refused(shape, strides, offset):
    held = Storage("FloatStorage", 4, bytes(8))

    with pytest.raises(fastload.FastloadError, match=r"w|tensor"):
        fastload.open(torch_file({"w": Tensor(held, shape, strides, offset)}))["w"]


@pytest.mark.parametrize(
    ("shape", "strides", "offset"),
    [
        ((2,), (1,), 0), ((1,), (1,), 1), ((), (), 1), ((1, 2), (10**12, 1), 0), ((5, 2), (0, 1), 0),
        ((0,), (1,), 10**9), ((0, 4), (10**9, 10**9), 0), ((2, 1), (1, 2**62), 0), ((1000, 1000), (0, 0), 1),
    ],
)  # fmt: skip
def test_geometry_that_stays_inside_is_accepted(shape, strides, offset):
    held = Storage("FloatStorage", 4, np.array([1, 2], "<f4").tobytes())

    view = fastload.open(torch_file({"w": Tensor(held, shape, strides, offset)}))["w"]

    assert view.shape == shape
    assert view.size == 0 or view.reshape(-1)[0] == (2 if offset else 1)


def test_one_storage_read_as_two_dtypes():
    data = np.array([1, 2], "<f4").tobytes()
    stream, records = torch_pickle({"f": tensor("float32", (2,), data), "i": tensor("int32", (2,), data)})
    at = stream.rindex(b"X\1\0\0\0" + b"1")
    checkpoint = fastload.open(torch_zip(stream[: at + 5] + b"0" + stream[at + 6 :], {"0": records["0"]}))

    assert checkpoint["f"].tolist() == [1, 2] and checkpoint["i"].tolist() == [0x3F800000, 0x40000000]
    assert checkpoint.entry("f").storage == checkpoint.entry("i").storage
    assert np.shares_memory(checkpoint["f"], checkpoint["i"])


def test_twenty_thousand_records_are_listed_without_reading_their_local_headers():
    count = 20_000
    file = torch_file({f"layer.{number}": tensor("int32", (1,), [number]) for number in range(count)}, align=1)
    spoilt = bytearray(file)
    position = spoilt.find(b"archive/data/19999")  # its local header; the directory comes later
    spoilt[position - 30 : position - 26] = b"????"

    checkpoint = fastload.open(bytes(spoilt))

    assert len(checkpoint) == count and sum(entry.nbytes for entry in checkpoint.entries()) == 4 * count
    assert checkpoint["layer.19998"].tolist() == [19998]
    with pytest.raises(FormatError):
        checkpoint["layer.19999"]


@pytest.mark.parametrize(
    ("at", "raw"),
    [(0, b"PK\1\2"), (26, b"\xff\xff"), (28, b"\xff\xff"), (30, b"X"), (8, b"\x08\0"), (28, b"\x99\x09")],
    ids=["signature", "name length", "extra length", "name", "method", "extra length in the file"],
)
def test_a_local_header_that_contradicts_the_directory_is_refused(at, raw):
    file = bytearray(torch_file({"w": tensor("float32", (2,), [1, 2])}, align=1))
    start = file.find(b"archive/data/0") - 30
    file[start + at : start + at + len(raw)] = raw

    with pytest.raises(FormatError, match="data/0"):
        read(bytes(file))


def test_two_records_of_one_name_are_refused():
    stream, records = torch_pickle({"w": tensor("float32", (2,), [1, 2])})
    members = [("a/data.pkl", stream), ("a/data/0", bytes(8)), ("a/data/0", records["0"]), ("a/version", b"3\n")]

    with pytest.raises(FormatError, match="data/0"):  # torch and zipfile would take the last
        fastload.open(zip_file(members))


@pytest.mark.parametrize("flag", [0x0001, 0x0041], ids=["encrypted", "strongly encrypted"])
def test_an_encrypted_archive_is_unsupported(flag):
    file = bytearray(torch_file(ABC, zip64=""))
    at = 0
    while (at := file.find(b"PK\1\2", at)) >= 0:
        struct.pack_into("<H", file, at + 8, 0x0800 | flag)
        at += 4

    with pytest.raises(UnsupportedError, match="encrypt"):
        read(bytes(file))


@pytest.mark.parametrize(
    "field", [8, 10, 12, 16], ids=["entries on disk", "entries", "directory size", "directory offset"]
)
@pytest.mark.parametrize("change", [-1, 1, 0xFFFF])
def test_an_end_record_that_lies_is_refused(field, change):
    file = bytearray(torch_file(ABC, zip64=""))
    kind = "<H" if field < 12 else "<I"
    (value,) = struct.unpack_from(kind, file, len(file) - 22 + field)
    struct.pack_into(kind, file, len(file) - 22 + field, (value + change) & (0xFFFF if field < 12 else 0xFFFFFFFF))

    with pytest.raises(fastload.FastloadError):
        fastload.open(bytes(file))


@pytest.mark.parametrize("offset", [2**63, 2**64 - 1, 2**40, 0])
@pytest.mark.parametrize(
    "field", [24, 32, 40, 48], ids=["entries on disk", "entries", "directory size", "directory offset"]
)
def test_a_zip64_end_record_that_lies_is_refused(field, offset):
    file = bytearray(torch_file(ABC, zip64="everywhere"))
    struct.pack_into("<Q", file, len(file) - 22 - 20 - 56 + field, offset)

    with pytest.raises(fastload.FastloadError):
        fastload.open(bytes(file))


def test_inflating_stops_at_the_declared_size():
    stream, _ = torch_pickle({"w": tensor("uint8", (1000,), bytes(1000))})
    file = bytearray(torch_zip(stream, {"0": bytes(50_000_000)}, deflate=["data/0"], descriptors=False, zip64=""))
    at = file.rfind(b"archive/data/0") - 46
    struct.pack_into("<I", file, at + 24, 1000)

    with pytest.raises(FormatError):
        read(bytes(file))


def test_a_ratio_that_no_deflate_stream_has_is_refused_without_allocating():
    stream, _ = torch_pickle({"w": tensor("uint8", (2,), bytes(2))})
    file = bytearray(torch_zip(stream, {"0": bytes(2)}, deflate=["data/0"], descriptors=False, zip64=""))
    at = file.rfind(b"archive/data/0") - 46
    struct.pack_into("<I", file, at + 24, 0xFFFF0000)

    with pytest.raises(FormatError):
        read(bytes(file))


def test_a_garbled_deflate_stream_is_refused():
    file = bytearray(torch_file({"w": tensor("uint8", (1000,), os.urandom(10) * 100)}, deflate=["data/0"], align=1))
    start = file.find(b"archive/data/0") + len(b"archive/data/0")
    file[start : start + 8] = b"\xff" * 8

    with pytest.raises(FormatError):
        read(bytes(file))


def test_a_self_extracting_prefix_does_not_pass_for_an_archive():
    file = b"#!/bin/sh\n" + torch_file(ABC)

    with pytest.raises(fastload.FastloadError):
        fastload.open(file)


def test_a_cut_archive_is_truncated():
    file = torch_file(ABC)

    with pytest.raises(TruncatedError, match=r"(?i)download|cut|incomplete|end record|directory"):
        fastload.open(file[: len(file) // 2])
