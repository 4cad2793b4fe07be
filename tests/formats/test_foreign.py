"""What is no checkpoint: each file is told by name, and the message says what to do."""

import gzip
import io
import struct
import zipfile

import pytest

import fastload
from builders import smallest_file, tensor, torch_file, zip_file
from fastload import FastloadError, FormatError, TruncatedError, UnknownFormatError, UnsupportedError
from fastload.formats.foreign import MARKS, RECORDS, TEXTS

ACCESS_DENIED = b"""<?xml version="1.0" encoding="UTF-8"?>
<Error><Code>AccessDenied</Code><Message>Access Denied</Message><RequestId>4442587FB7D0A2F9</RequestId></Error>"""
LEVELDB_MAGIC = bytes.fromhex("57fb808b247547db")
BLOB = bytes(range(1, 250))

FOREIGN = {
    # What a download brings instead of the file.
    "html": (b"<!DOCTYPE html><html></html>", UnknownFormatError, "page of HTML.*login"),
    "html after blanks": (b"\xef\xbb\xbf\r\n  <HTML lang=en>", UnknownFormatError, "page of HTML"),
    "xhtml": (b'<?xml version="1.0"?>\n<!DOCTYPE html PUBLIC "x">', UnknownFormatError, "page of HTML"),
    "access denied": (ACCESS_DENIED, UnknownFormatError, "object store.*AccessDenied.*rights"),
    "no such key": (b"<Error><Code>NoSuchKey</Code></Error>", UnknownFormatError, "object store.*NoSuchKey"),
    "xml": (b'<?xml version="1.0"?><opml/>', UnknownFormatError, "is XML"),
    "json error": (b'{"error":"Repository not found"}', UnknownFormatError, "JSON.*Repository not found.*download"),
    "json message": (b'{"message": "Not Found"}', UnknownFormatError, "JSON.*Not Found"),
    "text error": (b"Entry not found", UnknownFormatError, "Entry not found.*download"),
    "credentials": (b"Invalid username or password.", UnknownFormatError, "Invalid username"),
    "403": (b"Forbidden\n", UnknownFormatError, "Forbidden.*rights"),
    "git-lfs": (b"version https://git-lfs.github.com/spec/v1\n", UnknownFormatError, "git lfs pull"),
    "dvc": (b"outs:\n- md5: 0123\n  path: model.pt\n", UnknownFormatError, "dvc pull"),
    "annex": (b"/annex/objects/SHA256E-s1--0123.pt\n", UnknownFormatError, "git annex get"),
    "zeros": (bytes(4096), UnknownFormatError, "4,096 zeros.*fetch it again"),
    "text": ("Größe: 12\n".encode() * 50, UnknownFormatError, "is text.*'Größe: 12"),
    "noise": (b"\xff\xfe\xfd" * 100, UnknownFormatError, "no format.*ff fe fd"),
    "few bytes": (b"\xc1\xc2\xc3", TruncatedError, "only 3 bytes"),
    # What other programs write.
    "preview archive": (b"PYTORCH1" + BLOB, UnsupportedError, r"preview archive of torch 1\.0"),
    "gguf": (b"GGUF\3\0\0\0" + BLOB, UnsupportedError, "GGUF.*gguf package"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + BLOB, UnsupportedError, "HDF5.*h5py"),
    "tflite": (b"\x1c\0\0\0TFL3" + BLOB, UnsupportedError, "TensorFlow Lite"),
    "executorch": (b"\x1c\0\0\0ET12" + BLOB, UnsupportedError, "ExecuTorch"),
    "mobile": (b"\x1c\0\0\0PTMF" + BLOB, UnsupportedError, "mobile"),
    "tensorflow index": (BLOB * 9 + LEVELDB_MAGIC, UnsupportedError, "index of a TensorFlow checkpoint"),
    "saved model": (b"\x08\x01\x12\xf0\x01\x0a" + BLOB, UnsupportedError, "SavedModel"),
    "onnx": (b"\x08\x08\x12\x07pytorch" + BLOB, UnsupportedError, "ONNX"),
    "msgpack": (b"\x82\xa6params\x81\xa5Dense" + BLOB, UnsupportedError, "MessagePack.*Flax"),
    "mxnet": (struct.pack("<4Q", 0x112, 0, 1, 0xF993FAC9), UnsupportedError, "MXNet"),
    "sentencepiece": (b"\x0a\x0e\x0a\x05<unk>\x15\0\0\0\0" + BLOB, UnsupportedError, "SentencePiece"),
    "merges": ("#version: 0.2\nĠ t\n".encode(), UnsupportedError, "merges"),
    "vocabulary": (b"[PAD]\n[unused0]\n", UnsupportedError, "vocabulary"),
    "tokenizer": (b'{"version":"1.0","truncation":null,"padding":null}', UnsupportedError, "tokeniser"),
    "config": (b'{\n  "architectures": ["BertModel"]\n}', UnsupportedError, "configuration of a model"),
    "python": (b"import torch\n\nmodel = torch.nn.Linear(2, 2)\n", UnsupportedError, "Python source"),
    "script": (b"#!/bin/sh\nexit 1\n", UnsupportedError, "script"),
    "elf": (b"\x7fELF" + BLOB, UnsupportedError, "program"),
    "model card": (b"---\nlicense: mit\n---\n", UnsupportedError, "model card"),
    # Compressed and packed.
    "bzip2": (b"BZh9" + BLOB, UnsupportedError, "bzip2: unpack"),
    "xz": (b"\xfd7zXZ\0" + BLOB, UnsupportedError, "xz: unpack"),
    "zstd": (b"\x28\xb5\x2f\xfd" + BLOB, UnsupportedError, "zstd: unpack"),
    "lz4": (b"\x04\x22\x4d\x18" + BLOB, UnsupportedError, "lz4: unpack"),
    "7z": (b"7z\xbc\xaf\x27\x1c" + BLOB, UnsupportedError, "7z archive: unpack"),
    "rar": (b"Rar!\x1a\x07\x01\0" + BLOB, UnsupportedError, "RAR archive: unpack"),
    "cut tar header": (b"x".ljust(257, b"\0") + b"ustar\00000", FormatError, "tar archive.*first header"),
    "split zip": (b"PK\7\x08" + smallest_file("pytorch-zip"), UnsupportedError, "first volume.*join"),
    "spanned zip": (b"PK00" + smallest_file("pytorch-zip"), UnsupportedError, "split over volumes"),
    "zip behind something": (
        b"\x01\x02\x03\x04" * 9 + smallest_file("pytorch-zip"),
        UnknownFormatError,
        "ends as a zip archive does",
    ),
}


@pytest.mark.parametrize(("file", "error", "words"), FOREIGN.values(), ids=FOREIGN)
def test_a_foreign_file_is_told_by_name(file, error, words, tmp_path):
    (tmp_path / "model.pt").write_bytes(file)

    for source in (file, tmp_path / "model.pt"):
        with pytest.raises(error, match=words) as caught:
            fastload.open(source)
        assert str(caught.value).isprintable() and len(str(caught.value)) < 500


def test_a_foreign_file_within_gzip_is_told_by_name_too():
    with pytest.raises(UnknownFormatError, match="page of HTML"):
        fastload.open(gzip.compress(b"<!doctype html>"))


ARCHIVES = {
    "keras 3": ({"metadata.json": b"{}", "config.json": b"{}", "model.weights.h5": b"x"}, "Keras 3.*h5py"),
    "core ml": ({"m.mlpackage/Manifest.json": b"{}"}, "Core ML"),
    "saved model": ({"m/saved_model.pb": b"x", "m/variables/variables.index": b"x"}, "SavedModel"),
    "wheel": ({"x/__init__.py": b"", "x-1.dist-info/WHEEL": b"x"}, "Python wheel"),
    "zipped checkpoint": ({"model.safetensors": b"x", "README.md": b"x"}, "member='model.safetensors'"),
    "onnx": ({"m/model.onnx": b"x"}, "ONNX"),
    "anything": ({"readme.txt": b"x"}, "no checkpoint"),
}


@pytest.mark.parametrize(("members", "words"), ARCHIVES.values(), ids=ARCHIVES)
def test_a_zip_archive_of_something_else_is_told_by_its_records(members, words):
    with pytest.raises(UnsupportedError, match=words):
        fastload.open(zip_file(members.items()))


@pytest.mark.parametrize(
    ("method", "name"),
    [(zipfile.ZIP_BZIP2, "bzip2"), (zipfile.ZIP_LZMA, "lzma")],
    ids=["bzip2", "lzma"],
)
def test_a_record_compressed_otherwise_names_its_method(method, name):
    file = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(torch_file({"w": tensor("float32", (2,), [1, 2])}))) as archive,
        zipfile.ZipFile(file, "w", method) as packed,
    ):
        for record in archive.namelist():
            packed.writestr(record, archive.read(record))

    with pytest.raises(UnsupportedError, match=f"compressed with {name}; .*zip it again"):
        list(fastload.open(file.getvalue()).values())


@pytest.mark.parametrize(("method", "name"), [(93, "zstd"), (99, "AES encryption"), (77, "method 77")])
def test_methods_are_named_where_they_have_a_name(method, name):
    file = smallest_file("pytorch-zip")
    local, central = file.index(b"PK\3\4"), file.index(b"PK\1\2")
    file = bytearray(file)
    file[local + 8 : local + 10] = file[central + 10 : central + 12] = struct.pack("<H", method)

    with pytest.raises(UnsupportedError, match=f"compressed with {name};"):
        fastload.open(file)


def test_a_zip_without_its_end_says_how_many_bytes_it_has():
    file = torch_file({"w": tensor("float32", (500,), range(500))})[:1234]

    with pytest.raises(TruncatedError, match=r"cut short: the 1,234 bytes.*download"):
        fastload.open(file)


def test_a_zip_cut_in_the_middle_says_how_many_bytes_are_missing():
    file = torch_file({"w": tensor("float32", (500,), range(500))}, zip64="")

    with pytest.raises(FormatError, match=r"directory does not end.* 100 bytes are missing"):
        fastload.open(file[:800] + file[900:])


def test_a_damaged_directory_says_so():
    file = bytearray(smallest_file("pytorch-zip"))
    file[file.rindex(b"PK\1\2") + 30] = 0xFF  # the length of the extra field

    with pytest.raises(FormatError, match="the archive's directory is damaged"):
        fastload.open(file)


@pytest.mark.parametrize(("place", "mark", "error", "what"), MARKS, ids=lambda value: str(value)[:20])
def test_every_mark_has_an_effect(place, mark, error, what):
    file = bytes(300) + b"." * 22
    at = place if place >= 0 else len(file) + place

    with pytest.raises(error, match=r"^is |^ends "):
        fastload.open(file[:at] + mark + file[at + len(mark) :])
    assert issubclass(error, FastloadError) and not what.endswith(".")


def test_rows_are_unique():
    assert len({(place, mark) for place, mark, *_ in MARKS}) == len(MARKS)
    assert len({pattern for pattern, *_ in TEXTS}) == len(TEXTS)
    assert len({pattern for pattern, _ in RECORDS}) == len(RECORDS)
