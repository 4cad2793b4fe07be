"""Files within files: gzip around any format, and NeMo's tar archives, whose checkpoints are read where they lie."""

import gzip
import io
import os
import re
import struct
import subprocess
import sys
import tarfile
import zlib

import numpy as np
import pytest
import torch

import fastload
from builders import SMALLEST, safetensors_raw, smallest_file, tensor, torch_file
from fastload import FormatError, LimitError, TruncatedError, UnsupportedError
from fastload.source import free_memory
from reading import read_all

FORMATS = list(SMALLEST)
CONFIG = b"target: nemo.collections.asr.models.EncDecCTCModel\n"
TAR_FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


def tar_file(members, format=tarfile.USTAR_FORMAT):
    """A tar archive of bytes by name; a `TarInfo` in their place is a member without data."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=format) as archive:
        for name, data in members.items():
            if isinstance(data, tarfile.TarInfo):
                archive.addfile(data)
            else:
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    return file.getvalue()


def special(name, type, **fields):
    member = tarfile.TarInfo(name)
    member.type = type
    for field, value in fields.items():
        setattr(member, field, value)
    return member


def nemo(format=tarfile.USTAR_FORMAT, prefix="./", **more):
    checkpoint = torch_file({"w": tensor("float32", (2,), [1, 2])})
    return tar_file({f"{prefix}model_config.yaml": CONFIG, f"{prefix}model_weights.ckpt": checkpoint, **more}, format)


def header(archive, at=0, **fields):
    """*archive* with fields of the header at byte *at* overwritten, and its checksum set right."""
    places = {"name": (0, 100), "size": (124, 12), "type": (156, 1), "mark": (257, 8), "prefix": (345, 155)}
    file = bytearray(archive)
    for field, value in fields.items():
        start, length = places[field]
        file[at + start : at + start + length] = value.ljust(length, b"\0")
    file[at + 148 : at + 156] = b" " * 8
    file[at + 148 : at + 156] = b"%06o\0 " % sum(file[at : at + 512])
    return bytes(file)


# gzip.


@pytest.mark.parametrize("format_name", FORMATS)
@pytest.mark.parametrize("io", ["mmap", "read"])
def test_a_gzip_file_of_any_format_is_opened(io, format_name, tmp_path):
    (tmp_path / "model.gz").write_bytes(gzip.compress(smallest_file(format_name)))

    with fastload.open(tmp_path / "model.gz", io=io) as checkpoint:
        entry = checkpoint.entry("w")
        assert checkpoint["w"].tolist() == [1, 2] and not checkpoint["w"].flags.writeable
        assert checkpoint.format == format_name
        assert (entry.zero_copy, entry.offset, entry.file) == (False, None, str(tmp_path / "model.gz"))
        checkpoint.verify()


@pytest.mark.parametrize("format_name", FORMATS)
def test_a_gzip_buffer_is_opened_too(format_name):
    checkpoint = fastload.open(gzip.compress(smallest_file(format_name)))

    assert checkpoint["w"].tolist() == [1, 2] and np.shares_memory(checkpoint["w"], checkpoint["w"])


def test_gzip_with_a_name_a_comment_an_extra_field_and_a_header_checksum():
    whole = gzip.compress(smallest_file("safetensors"), mtime=0)
    head = b"\x1f\x8b\x08\x1e" + whole[4:10] + struct.pack("<H", 3) + b"abc" + b"model\0" + b"comment\0"
    head += struct.pack("<H", zlib.crc32(head) & 0xFFFF)

    assert fastload.open(head + whole[10:])["w"].tolist() == [1, 2]


def test_several_gzip_members_are_one_file():
    file = smallest_file("safetensors")
    members = b"".join(gzip.compress(file[at : at + 7]) for at in range(0, len(file), 7)) + gzip.compress(b"")

    assert fastload.open(members)["w"].tolist() == [1, 2]
    assert fastload.open(members + bytes(700))["w"].tolist() == [1, 2]


def test_a_large_gzip_file_is_inflated_whole():
    values = np.random.default_rng(0).integers(0, 4, 3_000_000, np.uint8)
    file = torch_file({"w": tensor("uint8", values.shape, values.tobytes())})

    assert np.array_equal(fastload.open(gzip.compress(file, 1))["w"], values)


def test_gzip_around_a_deflated_record_and_around_zeros():
    file = torch_file({"w": tensor("uint8", (5_000_000,), bytes(5_000_000))}, deflate=["data/0"])

    assert not fastload.open(gzip.compress(file))["w"].any()
    assert not fastload.open(gzip.compress(torch_file({"w": tensor("uint8", (5 << 20,), bytes(5 << 20))})))["w"].any()


def test_gzip_without_copies_is_refused_when_it_is_opened():
    with pytest.raises(UnsupportedError, match=r"gzip.*allow_copy"):
        fastload.open(gzip.compress(smallest_file("safetensors")), allow_copy=False)


def test_a_safetensors_header_whose_length_spells_gzip_is_no_gzip():
    for length in (0x8B1F, 0x088B1F):
        text = '{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'.ljust(length)

        file = safetensors_raw(text, np.array([1, 2], "<f4").tobytes())

        assert file[:2] == b"\x1f\x8b" and fastload.open(file)["w"].tolist() == [1, 2]


@pytest.mark.parametrize("format_name", FORMATS)
def test_every_proper_prefix_of_a_gzip_file_is_refused(format_name):
    whole = gzip.compress(smallest_file(format_name))
    for cut in range(len(whole)):
        with pytest.raises(FormatError):
            fastload.open(whole[:cut])
    for cut in range(18, len(whole)):
        with pytest.raises(TruncatedError, match=f"cut short: its {cut:,} bytes"):
            fastload.open(whole[:cut])


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda whole: whole[:-8] + bytes(4) + whole[-4:], "incorrect data check"),
        (lambda whole: whole[:-4] + bytes(4), "incorrect length check"),
        (lambda whole: whole[:3] + b"\xe0" + whole[4:], "header flags"),
        (lambda whole: whole[:10] + b"\xff" * 9 + whole[19:], "invalid"),
        (lambda whole: whole + b"garbage", "7 bytes follow"),
        (lambda whole: whole + bytes(9) + b"garbage", "16 bytes follow"),
        (lambda whole: whole + b"\x1f", "cut short"),
        (lambda whole: whole + whole[:9], "cut short"),
        (lambda whole: whole + b"\x1f\x8b\x07" + whole[3:], "unknown compression method"),
    ],
    ids=["crc", "length", "flags", "stream", "garbage", "zeros, garbage", "half a mark", "half a header", "method"],
)
def test_a_damaged_gzip_file_is_refused(damage, words):
    with pytest.raises(FormatError, match=words):
        fastload.open(damage(gzip.compress(smallest_file("safetensors"))))


def test_max_inflated_is_the_last_size_that_is_taken():
    file = smallest_file("safetensors")
    packed = gzip.compress(file)

    assert fastload.open(packed, max_inflated=len(file))["w"].tolist() == [1, 2]
    for limit in (len(file) - 1, 0, -1):
        with pytest.raises(LimitError, match="max_inflated"):
            fastload.open(packed, max_inflated=limit)


def test_without_max_inflated_the_free_memory_counts(monkeypatch):
    monkeypatch.setattr("fastload.formats.gzipped.free_memory", lambda: 200)

    with pytest.raises(LimitError, match="more than 100 bytes, which is half of the free memory"):
        fastload.open(gzip.compress(smallest_file("pytorch-zip")))


def test_free_memory_is_that_of_the_machine_or_less_where_the_group_may_use_less(monkeypatch, tmp_path):
    files = {"machine": "MemFree: 1 kB\nMemAvailable:    2000 kB\n", "most": "900000\n", "used": "400000\n"}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr("fastload.source.MEMORY_FILE", tmp_path / "machine")

    assert free_memory() <= 2000 * 1024
    monkeypatch.setattr("fastload.source.GROUP_FILES", (tmp_path / "most", tmp_path / "used"))
    assert free_memory() == 500_000
    (tmp_path / "most").write_text("max\n")
    assert free_memory() == 2000 * 1024
    (tmp_path / "machine").unlink()
    assert free_memory() == 4 << 30


def test_gzip_within_gzip_is_opened_and_counts_against_one_limit():
    file = smallest_file("safetensors")
    inner = gzip.compress(file)
    twice = gzip.compress(inner)

    assert fastload.open(twice)["w"].tolist() == [1, 2]
    assert fastload.open(twice, max_inflated=len(inner) + len(file))["w"].tolist() == [1, 2]
    with pytest.raises(LimitError):
        fastload.open(twice, max_inflated=len(inner) + len(file) - 1)


def test_wrappings_are_four_at_most():
    file = smallest_file("safetensors")
    for _ in range(4):
        file = gzip.compress(file)

    assert fastload.open(file)["w"].tolist() == [1, 2]
    with pytest.raises(LimitError, match="more than 4 times"):
        fastload.open(gzip.compress(file))


BOMB_IN_A_CHILD = """if True:
    import os, resource, sys
    import fastload
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        fastload.open(sys.argv[1], max_inflated=int(sys.argv[2]))
    except fastload.LimitError as error:
        print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10)
"""


@pytest.mark.parametrize("levels", [1, 2])
def test_a_gzip_bomb_takes_no_more_memory_than_it_may(levels, tmp_path):
    data = b"".join([gzip.compress(bytes(64 << 20))] * 32)  # 2 GiB in 2 MiB
    for _ in range(levels - 1):
        data = gzip.compress(data)
    (tmp_path / "bomb.gz").write_bytes(data)
    command = [sys.executable, "-c", BOMB_IN_A_CHILD, str(tmp_path / "bomb.gz"), str(64 << 20)]

    child = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)

    assert int(child.stdout) < 64 + 32, "MiB more than before"


def test_very_many_tiny_gzip_members_take_linear_time():
    file = gzip.compress(b"") * 20_000 + gzip.compress(smallest_file("safetensors"))

    assert fastload.open(file)["w"].tolist() == [1, 2]


# NeMo, and tar.


@pytest.mark.parametrize("io", ["mmap", "read"])
@pytest.mark.parametrize("prefix", ["", "./"])
@pytest.mark.parametrize("format", TAR_FORMATS.values(), ids=TAR_FORMATS)
def test_a_nemo_file_is_read_where_it_lies(format, prefix, io, tmp_path):
    whole = nemo(format, prefix)
    (tmp_path / "model.nemo").write_bytes(whole)

    with fastload.open(tmp_path / "model.nemo", io=io, allow_copy=False) as checkpoint:
        entry = checkpoint.entry("w")
        checkpoint.verify()
        assert checkpoint["w"].tolist() == [1, 2] and checkpoint.format == "pytorch-zip"
        assert entry.zero_copy and entry.offset % 64 == 0
        assert np.frombuffer(whole, "<f4", 2, entry.offset).tolist() == [1, 2]


def test_tensors_of_a_nemo_buffer_are_views_of_it():
    whole = np.frombuffer(nemo(), np.uint8)
    checkpoint = fastload.open(whole)

    assert np.shares_memory(checkpoint["w"], whole)
    start = checkpoint["w"].__array_interface__["data"][0] - whole.__array_interface__["data"][0]
    assert start == checkpoint.entry("w").offset


def test_a_nemo_tar_gz_is_opened():
    checkpoint = fastload.open(gzip.compress(nemo()))

    assert checkpoint["w"].tolist() == [1, 2] and not checkpoint.entry("w").zero_copy
    with pytest.raises(UnsupportedError, match="gzip"):
        fastload.open(gzip.compress(nemo()), allow_copy=False)


def test_a_long_name_of_each_sort_is_read():
    for format in TAR_FORMATS.values():
        folder = "f" * (90 if format == tarfile.USTAR_FORMAT else 300)
        archive = tar_file({f"{folder}/{'g' * 60}/model_weights.ckpt": smallest_file("pytorch-zip")}, format)
        assert fastload.open(archive)["w"].tolist() == [1, 2]


def test_a_tar_without_a_mark_is_told_by_its_checksum():
    archive = tar_file({"model_weights.ckpt": smallest_file("pytorch-zip")})

    assert fastload.open(header(archive, mark=b""))["w"].tolist() == [1, 2]


def test_a_size_in_binary_is_read():
    archive = tar_file({"model_weights.ckpt": smallest_file("pytorch-zip")})
    size = b"\x80" + len(smallest_file("pytorch-zip")).to_bytes(11, "big")

    assert fastload.open(header(archive, size=size))["w"].tolist() == [1, 2]


def test_several_checkpoints_of_a_nemo_file_are_listed_together():
    adapter = torch_file({"w": tensor("float32", (1,), [3]), "v": tensor("float32", (1,), [4])})
    checkpoint = fastload.open(tar_file({"adapter.ckpt": adapter, "model_weights.ckpt": smallest_file("pytorch-zip")}))

    assert list(checkpoint) == ["w", "w#2", "v"] and checkpoint.format == "nemo"
    assert [checkpoint[name].tolist() for name in checkpoint] == [[1, 2], [3], [4]]
    assert all(entry.zero_copy for entry in checkpoint.entries())
    assert len({entry.storage for entry in checkpoint.entries()}) == 3


def test_storages_of_files_within_files_are_told_apart():
    one, two, three = (torch_file({name: tensor("float32", (1,), [value])}) for value, name in enumerate("abc"))
    inner = gzip.compress(tar_file({"model_weights.ckpt": one, "x.ckpt": two}))
    other = gzip.compress(tar_file({"pad.txt": bytes(len(one)), "z.pt": three}))

    checkpoint = fastload.open(tar_file({"model_weights.ckpt": inner, "y.ckpt": other}))

    assert [checkpoint[name].tolist() for name in "abc"] == [[0], [1], [2]]
    assert len({entry.storage for entry in checkpoint.entries()}) == 3


def test_very_many_files_with_tensors_of_one_name_take_linear_time():
    count = 20_000
    members = {"model_weights.ckpt": smallest_file("safetensors")}
    members |= {f"{number}.ckpt": members["model_weights.ckpt"] for number in range(count - 1)}

    names = list(fastload.open(tar_file(members)))

    assert len(names) == count and names[:2] == ["w", "w#2"] and names[-1] == f"w#{count}"


def test_of_two_members_of_one_name_the_later_counts():
    old = torch_file({"old": tensor("float32", (1,), [3])})
    blocks = tar_file({"model_weights.ckpt": old})
    end = len(blocks.rstrip(b"\0")) // 512 * 512 + 512

    checkpoint = fastload.open(blocks[:end] + tar_file({"./model_weights.ckpt": smallest_file("pytorch-zip")}))

    assert list(checkpoint) == ["w"]


@pytest.mark.parametrize("name", ["sub/model.safetensors", "./model.pt", "pytorch_model.bin"])
def test_the_one_checkpoint_of_any_tar_is_opened(name):
    inner = smallest_file("safetensors" if name.endswith("safetensors") else "pytorch-zip")
    folder, slash, base = name.rpartition("/")
    archive = tar_file({"README.md": b"hello", f"{folder}{slash}._{base}": b"\0", name: inner})

    assert fastload.open(archive)["w"].tolist() == [1, 2]


SMALL = smallest_file("pytorch-zip")


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({"a.pt": SMALL, "b.pt": SMALL}, r"2 checkpoints \('a.pt', 'b.pt'\)"),
        ({"README.md": b"x"}, "none of its 1 members.*'README.md'"),
        ({"model_config.yaml": CONFIG, "model_weights/__0_0.distcp": b"x"}, "distributed checkpoint"),
        ({"mp_rank_00/model_weights.ckpt": SMALL, "mp_rank_01/model_weights.ckpt": SMALL}, "2 parallel ranks"),
        ({"model_weights.ckpt": special("model_weights.ckpt", tarfile.SYMTYPE, linkname="/etc/passwd")}, "'link'"),
        ({"model_weights.ckpt": special("model_weights.ckpt", tarfile.LNKTYPE, linkname="x")}, "'link'"),
        ({"model_weights.ckpt": special("model_weights.ckpt", tarfile.FIFOTYPE)}, "'other'"),
        ({"model_weights.ckpt": special("model_weights.ckpt", tarfile.GNUTYPE_SPARSE)}, "'sparse'"),
    ],
    ids=["two", "none", "distributed", "ranks", "symbolic link", "hard link", "fifo", "sparse"],
)
def test_a_tar_that_cannot_be_opened_says_why(members, words):
    with pytest.raises(UnsupportedError, match=words):
        fastload.open(tar_file(members))


def test_names_that_lead_elsewhere_are_only_names(tmp_path):
    (tmp_path / "model.nemo").write_bytes(tar_file({"../../model_weights.ckpt": SMALL, "/etc/x": b"x"}))

    assert fastload.open(tmp_path / "model.nemo")["w"].tolist() == [1, 2]
    assert os.listdir(tmp_path) == ["model.nemo"]


def test_torch_before_0_1_10_is_left_to_its_own_format():
    members = {"sys_info": b"x", "pickle": b"x", "tensors": b"x", "storages": b"x"}
    whole = tar_file(members, tarfile.PAX_FORMAT)

    for file in (whole, whole[:1024], header(whole, mark=b"")):
        with pytest.raises((UnsupportedError, FormatError)) as caught:
            fastload.open(file)
        assert "none of its" not in str(caught.value)


@pytest.mark.parametrize("format", TAR_FORMATS.values(), ids=TAR_FORMATS)
def test_every_prefix_of_a_tar_that_lacks_its_end_is_refused(format):
    whole = nemo(format)
    end = -(-len(whole.rstrip(b"\0")) // 512) * 512 + 1024
    for cut in sorted({*range(0, end, 512), *range(0, end, 97), end - 1}):
        with pytest.raises(FormatError):
            fastload.open(whole[:cut])
    for cut in range(1024, end, 512):
        with pytest.raises(TruncatedError, match="cut short"):
            fastload.open(whole[:cut])
    assert fastload.open(whole[:end])["w"].tolist() == [1, 2]


def test_a_cut_tar_says_which_member_lacks_how_much():
    with pytest.raises(TruncatedError, match=r"member './model_weights.ckpt' needs [\d,]+ bytes, and 76 are left of"):
        fastload.open(nemo()[: 1536 + 76])


ARCHIVE = tar_file({"a": b"x", "model_weights.ckpt": SMALL})
DAMAGES = {
    "checksum": ARCHIVE[:1024] + b"X" + ARCHIVE[1025:],
    "negative size": header(ARCHIVE, 1024, size=b"\xff" * 12),
    "minus sign": header(ARCHIVE, 1024, size=b"-0000000001"),
    "underscores": header(ARCHIVE, 1024, size=b"0_0_1"),
    "huge size": header(ARCHIVE, 1024, size=b"\x80" + b"\xff" * 11),
    "one zero block": tar_file({"a": b"x"})[:1024] + bytes(512) + ARCHIVE,
    "huge long name": header(ARCHIVE, size=b"77777777777", type=b"L"),
    "huge pax header": header(ARCHIVE, size=b"77777777777", type=b"x"),
    "cut pax header": header(ARCHIVE, size=b"00000100000", type=b"x"),
    "empty pax record": header(tar_file({"a": b"0 \n", "b": b""}), type=b"x"),
    "pax record without end": header(tar_file({"a": b"99 path=x\n", "b": b""}), type=b"x"),
    "pax record without length": header(tar_file({"a": b" path=x\n", "b": b""}), type=b"x"),
    "pax size": header(tar_file({"a": b"11 size=-1\n", "b": b""}), type=b"x"),
    "pax size of letters": header(tar_file({"a": b"12 size=1e9\n", "b": b""}), type=b"x"),
    "sparse map without end": header(ARCHIVE[:1024] + b"\xff" * 2048, type=b"S", prefix=b"\1" * 155),
}


@pytest.mark.parametrize("file", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_or_hostile_tar_is_refused(file):
    with pytest.raises(FormatError):
        fastload.open(file)


def test_members_of_a_tar_are_counted(monkeypatch):
    monkeypatch.setattr("fastload.formats.tarred.MAX_MEMBERS", 3)

    assert fastload.open(tar_file({"a": b"", "b": b"", "model_weights.ckpt": SMALL}))["w"].tolist() == [1, 2]
    with pytest.raises(LimitError, match="more than 3 members"):
        fastload.open(tar_file({"a": b"", "b": b"", "c": b"", "model_weights.ckpt": SMALL}))


def test_a_long_name_may_have_one_mebibyte():
    name = "n" * ((1 << 20) - 1)

    assert fastload.open(tar_file({name: b"", "m.pt": SMALL}, tarfile.GNU_FORMAT))["w"].tolist() == [1, 2]
    with pytest.raises(LimitError, match=r"1,048,577"):
        fastload.open(tar_file({name + "n": b"", "m.pt": SMALL}, tarfile.GNU_FORMAT))


def test_an_error_within_a_member_counts_bytes_from_the_start_of_the_archive():
    stream = bytearray(torch_file({"w": tensor("float32", (2,), [1, 2])}))
    stream[stream.index(b"\x80\x02") + 2] = 0xFF
    archive = tar_file({"a": b"x", "model_weights.ckpt": bytes(stream)})

    with pytest.raises(FormatError) as caught:
        fastload.open(archive)

    assert archive[caught.value.offset] == 0xFF and re.search(f"{caught.value.offset:#x}", str(caught.value))


@pytest.mark.parametrize(
    "whole", [nemo(), nemo(tarfile.PAX_FORMAT), gzip.compress(nemo(), mtime=0)], ids=["tar", "pax", "gz"]
)
def test_changed_bytes_are_read_or_refused(whole):
    random = np.random.default_rng(1)
    size = min(len(whole), 6000)
    for _ in range(1500):
        file = bytearray(whole)
        for _ in range(random.integers(1, 4)):
            file[random.integers(size)] = random.integers(256)
        read_all(bytes(file))


def test_a_cast_tells_parts_of_an_inflated_storage_apart(tmp_path):
    whole = torch.arange(8, dtype=torch.float32)
    torch.save({"a": whole[:4], "b": whole[4:], "c": whole[:4]}, tmp_path / "m.pt")
    (tmp_path / "m.pt.gz").write_bytes(gzip.compress((tmp_path / "m.pt").read_bytes()))

    with pytest.raises(fastload.SaveError) as caught:
        fastload.convert(tmp_path / "m.pt.gz", tmp_path / "n.safetensors", cast="float16")

    (lost,) = caught.value.lost
    assert "'a', 'c'" in lost
