"""Checkpoints within archives: mapped where they lie if they are stored, inflated within limits if they are not."""

import contextlib
import io
import os
import struct
import zipfile

import numpy as np
import pytest

import fastload
from builders import SMALLEST, WRAPPED, smallest_file
from fastload import FormatError, LimitError, MemberNotFoundError, TruncatedError, UnknownFormatError, UnsupportedError
from fastload.formats.zip_writer import ZipWriter
from reading import mappings_of

NAME = "weights/model.safetensors"
STORED, DEFLATED = zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED


def archive_of(path, members, compression=STORED, **options):
    with zipfile.ZipFile(path, "w", compression, **options) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


@pytest.fixture
def archive(tmp_path):
    return archive_of(tmp_path / "a.zip", {"readme": b"x", NAME: smallest_file("safetensors")})


@pytest.mark.parametrize("format_name", [*SMALLEST, *WRAPPED])
def test_a_stored_member_of_any_format_is_opened(tmp_path, format_name):
    path = archive_of(tmp_path / "a.whl", {"deep/er/m": smallest_file(format_name)})

    checkpoint = fastload.open(path, member="deep/er/m")

    (name,) = checkpoint
    assert checkpoint[name].tolist() == [1, 2]
    assert checkpoint.source == ("member", str(path), "deep/er/m")
    assert checkpoint.path == str(path)
    checkpoint.verify()


@pytest.mark.parametrize("format_name", ["safetensors", "pytorch-zip", "npz", "npy", "burnpack"])
def test_a_stored_member_is_mapped_in_place(tmp_path, format_name):
    path = archive_of(tmp_path / "a.pyz", {"pad": b"123", "m": smallest_file(format_name)})

    checkpoint = fastload.open(path, member="m", allow_copy=False)

    (entry,) = checkpoint.entries()
    assert entry.zero_copy
    assert mappings_of(checkpoint[entry.name]) == {str(path)}


@pytest.mark.parametrize("format_name", ["safetensors", "pytorch-zip", "pytorch-legacy", "npz"])
@pytest.mark.parametrize("shift", range(4))
def test_values_are_right_wherever_a_member_begins(tmp_path, format_name, shift):
    path = archive_of(tmp_path / "a.zip", {"pad": bytes(shift), "m": smallest_file(format_name)})

    for io_choice in ("mmap", "read"):
        checkpoint = fastload.open(path, member="m", io=io_choice)
        (array,) = checkpoint.values()
        assert array.tolist() == [1, 2]


def test_an_array_of_an_npz_is_a_member(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.arange(3), y=np.ones(2))

    checkpoint = fastload.open(tmp_path / "a.npz", member="x.npy", allow_copy=False)

    assert [array.tolist() for array in checkpoint.values()] == [[0, 1, 2]]


def test_a_buffer_has_members_too(archive):
    data = archive.read_bytes()

    checkpoint = fastload.open(data, member=NAME, allow_copy=False)

    assert checkpoint.source == ("member", None, NAME)
    assert np.shares_memory(checkpoint["w"], np.frombuffer(data, np.uint8))


def test_a_deflated_member_is_inflated(tmp_path):
    path = archive_of(tmp_path / "a.zip", {NAME: smallest_file("safetensors")}, DEFLATED)

    checkpoint = fastload.open(path, member=NAME)

    assert checkpoint.source == ("inflated", str(path), NAME)
    assert checkpoint["w"].tolist() == [1, 2]
    assert not checkpoint.entry("w").zero_copy


def test_a_deflated_member_is_refused_with_the_recipe_where_copies_are_not_allowed(tmp_path):
    path = archive_of(tmp_path / "a.zip", {NAME: smallest_file("safetensors")}, DEFLATED)

    with pytest.raises(UnsupportedError, match=f"'{NAME}' is compressed.*zip -0.*allow_copy=True") as caught:
        fastload.open(path, member=NAME, allow_copy=False)

    assert caught.value.path == str(path)


def test_a_deflated_member_inflates_to_no_more_than_is_allowed(tmp_path):
    path = archive_of(tmp_path / "a.zip", {"m": bytes(10_000)}, DEFLATED)

    with pytest.raises(LimitError, match=r"inflates to 10,000 bytes.*max_inflated"):
        fastload.open(path, member="m", max_inflated=9_999)


@pytest.mark.parametrize("claimed", [20_000, 1 << 40])
def test_a_member_that_inflates_to_another_size_than_it_says_is_refused(tmp_path, claimed):
    path = archive_of(tmp_path / "a.zip", {"m": bytes(10_000)}, DEFLATED)
    data = path.read_bytes()
    size = struct.pack("<I", 10_000)
    path.write_bytes(data.replace(size, struct.pack("<I", claimed & 0xFFFFFFFF)))

    with pytest.raises(FormatError):
        fastload.open(path, member="m", max_inflated=1 << 50)


def test_a_member_that_is_not_there_is_told_with_near_names(archive):
    for asked, hint in (("model.safetensors", f"it has '{NAME}'"), ("weights/model.safetensor", f"'{NAME}'")):
        with pytest.raises(MemberNotFoundError, match=f"no member '{asked}'; it has .*{hint[-20:]}") as caught:
            fastload.open(archive, member=asked)
        assert isinstance(caught.value, FileNotFoundError)
        assert caught.value.path == str(archive)


@pytest.mark.parametrize("name", ["", "\0", "\ud800", "../a", "/"])
def test_odd_names_are_of_no_member(archive, name):
    with pytest.raises(MemberNotFoundError):
        fastload.open(archive, member=name)


def test_an_archive_with_a_checkpoint_in_it_says_how_to_open_that(archive):
    with pytest.raises(UnsupportedError, match=f"open it with member='{NAME}'"):
        fastload.open(archive)


def test_near_names_among_many_are_few(tmp_path):
    path = archive_of(tmp_path / "a.zip", {f"layer{i}": b"x" for i in range(500)})

    with pytest.raises(MemberNotFoundError, match=r"no member 'layer5000'; near: 'layer\d+', 'layer\d+', 'layer\d+'$"):
        fastload.open(path, member="layer5000")


@pytest.mark.parametrize("format_name", ["safetensors", "pytorch-legacy"])
def test_what_is_no_archive_has_no_members(tmp_path, format_name):
    (tmp_path / "m").write_bytes(smallest_file(format_name))

    with pytest.raises(MemberNotFoundError, match="no member 'x': it is no zip archive"):
        fastload.open(tmp_path / "m", member="x")


def test_an_empty_member_is_refused(tmp_path):
    path = archive_of(tmp_path / "a.zip", {"folder/": b"", "empty": b""})

    with pytest.raises(TruncatedError, match="is empty"):
        fastload.open(path, member="empty")
    with pytest.raises(UnknownFormatError, match="with no checkpoint among its 0 files"):
        fastload.open(path, member="folder/")


def test_an_encrypted_member_is_refused(archive):
    data = bytearray(archive.read_bytes())
    for mark, place in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        data[data.rfind(mark) + place] |= 1
    archive.write_bytes(data)

    with pytest.raises(UnsupportedError, match="is encrypted"):
        fastload.open(archive, member=NAME)


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compressions_are_refused_by_name(tmp_path, compression):
    path = archive_of(tmp_path / "a.zip", {"m": smallest_file("safetensors") * 9}, compression)

    with pytest.raises(UnsupportedError, match=r"bzip2|lzma"):
        fastload.open(path, member="m")


@pytest.mark.parametrize(
    "start",
    [b"#!/usr/bin/env python3\n", b"\x7fELF" + bytes(70), b"\x7fELF", b"MZ" + bytes(7)],
    ids=["script", "ELF", "mark of ELF", "Windows"],
)
def test_an_archive_behind_something_else_has_its_members(tmp_path, archive, start):
    """As `cat` makes it, which leaves the places in the archive as they were; and as zipfile does, which counts all."""
    moved, counted = tmp_path / "moved.pyz", tmp_path / "counted.pyz"
    moved.write_bytes(start + archive.read_bytes())
    file = io.BytesIO(start)
    file.seek(len(start))
    writer = ZipWriter(file)
    writer.add(NAME, [smallest_file("safetensors")], len(smallest_file("safetensors")))
    writer.close()
    counted.write_bytes(file.getvalue())

    for path in (moved, counted):
        checkpoint = fastload.open(path, member=NAME, allow_copy=False)
        assert mappings_of(checkpoint["w"]) == {str(path)}
        assert checkpoint["w"].tolist() == [1, 2]


def test_a_member_of_an_archive_with_zip64_records(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive, archive.open("m", "w", force_zip64=True) as member:
        member.write(smallest_file("safetensors"))

    assert fastload.open(path, member="m", allow_copy=False)["w"].tolist() == [1, 2]


def test_a_member_beyond_four_gigabytes(tmp_path):
    path = tmp_path / "a.zip"
    file = io.BytesIO()
    writer = ZipWriter(file)
    data = smallest_file("safetensors")
    with open(path, "wb") as sparse:
        sparse.seek(5 << 30)
        writer = ZipWriter(sparse)
        writer.add("m", [data], len(data))
        writer.close()

    checkpoint = fastload.open(path, member="m", allow_copy=False)

    assert checkpoint["w"].tolist() == [1, 2]
    assert os.stat(path).st_blocks < 1000


def test_a_local_header_that_says_something_else_is_refused(archive):
    data = bytearray(archive.read_bytes())
    data[data.find(NAME.encode())] ^= 1
    archive.write_bytes(data)

    with pytest.raises(FormatError, match="another name in its local header"):
        fastload.open(archive, member=NAME)


def test_errors_within_a_member_tell_its_name_and_the_place_in_the_archive(tmp_path):
    broken = bytearray(smallest_file("safetensors"))
    broken[8:9] = b"["
    broken[9:10] = b"{"
    path = archive_of(tmp_path / "a.zip", {NAME: bytes(broken)})

    with pytest.raises(FormatError, match=f"member '{NAME}': ") as caught:
        fastload.open(path, member=NAME)

    assert caught.value.path == str(path)


def test_every_prefix_of_an_archive_is_refused(archive):
    whole = archive.read_bytes()
    for end in range(1, len(whole)):
        with pytest.raises((FormatError, MemberNotFoundError)):
            fastload.open(whole[:end], member=NAME)


def test_mutations_of_an_archive_are_read_or_refused(archive):
    whole = archive.read_bytes()
    for place in range(len(whole)):
        for value in (0, 0x7F, 0xFF):
            data = bytearray(whole)
            data[place] = value
            with contextlib.suppress(fastload.FastloadError):
                fastload.open(bytes(data), member=NAME)["w"].tobytes()


def test_an_archive_that_counts_more_records_than_it_has_is_refused(archive):
    data = bytearray(archive.read_bytes())
    struct.pack_into("<HH", data, len(data) - 22 + 8, 0xFFFE, 0xFFFE)

    with pytest.raises(FormatError, match="too short for the records that it counts"):
        fastload.open(bytes(data), member=NAME)


def test_plans_keep_the_source(archive):
    checkpoint = fastload.open(archive, member=NAME, rename={"w": "v"})

    assert checkpoint.source.kind == "member"
    assert list(checkpoint) == ["v"]


def test_sources_of_files_folders_and_buffers(tmp_path):
    data = smallest_file("safetensors")
    (tmp_path / "m.safetensors").write_bytes(data)

    assert fastload.open(tmp_path / "m.safetensors").source == ("file", str(tmp_path / "m.safetensors"), None)
    assert fastload.open(tmp_path).source == ("file", str(tmp_path / "m.safetensors"), None)
    assert fastload.open(data).source == ("buffer", None, None)
    (tmp_path / "n.safetensors").write_bytes(data)
    (tmp_path / "index.json").write_text('{"weight_map": {"w": "n.safetensors"}}')
    assert fastload.open(tmp_path).source.kind == "folder"
