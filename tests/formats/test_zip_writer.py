"""Zip archives that fastload writes: zipfile reads them, records are aligned, and large numbers have their place."""

import io
import os
import struct
import threading
import zipfile
import zlib

import pytest

from fastload import FormatError, LimitError
from fastload.formats.zip_writer import BESIDE_BYTES, ZipWriter

CHUNKS = [b"abc", bytearray(b"de"), memoryview(b""), memoryview(b"fgh").cast("B")]


def archive_of(records, **options):
    file = io.BytesIO()
    writer = ZipWriter(file, **options)
    for name, data in records.items():
        writer.add(name, [data], len(data))
    writer.close()
    return file


@pytest.mark.parametrize("alignment", [1, 8, 64, 4096])
def test_every_record_is_aligned_and_checked(alignment):
    file = io.BytesIO()
    writer = ZipWriter(file, alignment)

    places = [writer.add(f"r/{'x' * i}", CHUNKS, 8) for i in range(70)]
    writer.close()

    assert all(place % alignment == 0 for place in places)
    assert all(file.getvalue()[place : place + 8] == b"abcdefgh" for place in places)
    assert zipfile.ZipFile(file).testzip() is None


@pytest.mark.parametrize("sizes", [[BESIDE_BYTES], [BESIDE_BYTES, 5], [7, BESIDE_BYTES + 1, BESIDE_BYTES - 1, 3]])
def test_checksums_of_large_chunks_are_computed_beside_and_right(sizes):
    chunks = [bytes([number]) * size for number, size in enumerate(sizes)]
    file = io.BytesIO()
    writer = ZipWriter(file)
    threads = threading.active_count()

    place = writer.add("a", chunks, sum(sizes))
    beside = threading.active_count() - threads
    writer.add("b", [b"small"], 5)
    writer.close()

    assert (beside, threading.active_count() - threads) == (1, 0)
    assert file.getvalue()[place : place + sum(sizes)] == b"".join(chunks)
    found = zipfile.ZipFile(file)
    assert found.testzip() is None
    (local,) = struct.unpack_from("<I", file.getvalue(), 14)
    assert local == found.getinfo("a").CRC == zlib.crc32(b"".join(chunks))


def test_names_are_utf8_and_times_fixed():
    file = archive_of({"größe/0": b"x"})

    (found,) = zipfile.ZipFile(file).infolist()

    assert (found.filename, found.date_time[:3], found.flag_bits, found.compress_type) == (
        "größe/0",
        (1980, 1, 1),
        2048,
        0,
    )


def test_a_known_checksum_is_not_computed():
    file = io.BytesIO()
    writer = ZipWriter(file)

    writer.add("a", [b"abc"], 3, crc=0x12345678)
    writer.close()

    assert zipfile.ZipFile(file).getinfo("a").CRC == 0x12345678


def test_an_archive_may_be_empty():
    assert zipfile.ZipFile(archive_of({})).namelist() == []


@pytest.mark.parametrize("count", [65_534, 65_535, 65_536])
def test_more_records_than_16_bits_count(count):
    file = archive_of({str(i): b"" for i in range(count)}, alignment=1)

    assert (b"PK\6\7" in file.getvalue()[-42:]) == (count >= 65_535)
    assert len(zipfile.ZipFile(file).namelist()) == count


@pytest.mark.parametrize("size", [0xFFFFFFFE, 0xFFFFFFFF, 0x100000000])
def test_sizes_and_places_beyond_32_bits(size, tmp_path):
    chunk = memoryview(bytes(1 << 24))
    path = tmp_path / "a.zip"
    try:
        with path.open("wb") as file:
            writer = ZipWriter(Holes(file))
            chunks = [*[chunk] * (size >> 24), chunk[: size % (1 << 24)]]
            writer.add("big", chunks, size, crc=0)
            place = writer.add("small", [b"xyz"], 3)
            writer.close()

        found = zipfile.ZipFile(path)
        assert found.getinfo("big").file_size == size
        assert found.getinfo("small").header_offset > size
        assert found.read("small") == b"xyz"
        assert place % 64 == 0
        with path.open("rb") as file:
            head = file.read(51)
        extra, saturated = struct.unpack("<H", head[33:35])[0], struct.unpack("<I", head[22:26])[0]
        assert (extra == 1) == (saturated == 0xFFFFFFFF) == (size >= 0xFFFFFFFF)
    finally:
        path.unlink()


class Holes:
    """A file that leaves holes where it is given long runs of bytes."""

    def __init__(self, file):
        self.file = file
        self.tell, self.seek = file.tell, file.seek

    def write(self, data):
        if len(data) < 1 << 20:
            return self.file.write(data)
        self.file.seek(len(data), os.SEEK_CUR)
        return len(data)


class Short(io.BytesIO):
    """A file that takes two bytes at a time."""

    def write(self, data):
        return super().write(data[:2])


def test_a_file_may_take_less_than_it_is_given():
    file = Short()
    writer = ZipWriter(file)

    writer.add("a", CHUNKS, 8)
    writer.close()

    assert zipfile.ZipFile(io.BytesIO(file.getvalue())).read("a") == b"abcdefgh"


@pytest.mark.parametrize("size", [7, 9])
def test_bytes_that_are_not_as_many_as_was_said_are_an_error(size):
    with pytest.raises(FormatError, match="'a' has"):
        ZipWriter(io.BytesIO()).add("a", CHUNKS, size)


@pytest.mark.parametrize(("name", "error"), [("", FormatError), ("a\0", FormatError), ("\ud800", FormatError),
                                             ("x" * 65_536, LimitError)])  # fmt: skip
def test_what_cannot_be_a_name(name, error):
    with pytest.raises(error):
        ZipWriter(io.BytesIO()).add(name, [], 0)


def test_a_name_is_given_once():
    writer = ZipWriter(io.BytesIO())
    writer.add("a", [], 0)

    with pytest.raises(FormatError, match="two records"):
        writer.add("a", [], 0)
