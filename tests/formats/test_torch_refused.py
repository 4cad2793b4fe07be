"""What looks like a file of PyTorch and is none, or a damaged one: `open` refuses it and says what it is."""

import io
import pickle
import tarfile
import zipfile

import pytest

import fastload
from builders import smallest_torch_zip, storage, torch_pickle, torch_zip, zip_file
from pickles import Call, Global, dumps


def tarred(names):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name in names:
            archive.addfile(tarfile.TarInfo(name))
    return file.getvalue()


@pytest.mark.parametrize(
    ("file", "what"),
    [
        (zip_file([("readme.txt", b"hello"), ("more", b"1234")]), "no checkpoint"),
        (zip_file([("readme.txt", b"hello"), ("data/0", b"1234")]), "lost its pickle"),
        (zip_file([("archive/version", b"3\n"), ("archive/data/0", b"1234")]), "lost its pickle"),
        (zip_file([("archive/version", b"3\n")]), r"data\.pkl"),
        (zip_file([("x/y", b""), ("a/data.pkl", b"."), ("b/data.pkl", b".")]), "several saved objects"),
        (tarred(["storages", "tensors", "pickle"]), "0 left"),
        (tarred(["readme.txt"]), "tar archive"),
        (b"PYTORCH1" + bytes(200), "preview archive"),
        (dumps(0x1950A86A20F9469CFC6C), "0 left"),
        (dumps(0x1950A86A20F9469CFC6C) + dumps(1001), "0 left"),
        (dumps(0x1950A86A20F9469CFC6C) + dumps(1002), "protocol 1002"),
        (b"\x80\x02" + b"}" * 10, "0 left"),
    ],
    ids=range(12),
)
def test_what_is_no_checkpoint_is_refused_by_what_it_is(file, what):
    with pytest.raises(fastload.FastloadError, match=what):
        fastload.open(file)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("value", [{"w": 1}, [], {"a": [None, ("x", 2.5)]}], ids=repr)
def test_a_pickle_without_tensors_is_a_checkpoint_of_none(value, protocol):
    try:
        ckpt = fastload.open(pickle.dumps(value, protocol))
    except fastload.UnknownFormatError:
        assert protocol < 2  # whose pickles begin with nothing that tells them from a text
        return

    assert list(ckpt) == [] and ckpt.objects == value


def test_an_unknown_function_that_makes_a_tensor_loses_no_bytes():
    """Its storage is listed, since what it would have made of it is not known."""
    made = Call(Global("torch._utils", "_rebuild_tensor_v99"), (storage("float32", [1, 2]), 0, (2,), (1,)))

    with fastload.open(torch_zip(*torch_pickle({"w": made}))) as ckpt:
        assert [(entry.name, entry.kind) for entry in ckpt.entries()] == [("w.0", "storage")]
        assert ckpt["w.0"].tolist() == [1, 2]


def test_an_unknown_class_of_storages_is_refused_by_name():
    held = storage("float32", [1, 2])
    made = type(held)("Float3Storage", 1, held.data)

    with pytest.raises(fastload.UnsupportedError, match=r"torch\.Float3Storage"):
        fastload.open(torch_zip(*torch_pickle({"w": made})))


def test_an_encrypted_record_is_refused():
    with zipfile.ZipFile(io.BytesIO(smallest_torch_zip())) as archive:
        members = [(name, archive.read(name)) for name in archive.namelist()]
    file = bytearray(zip_file(members))
    start = file.index(b"PK\1\2")
    file[start + 8] |= 1  # the flag of the directory

    with pytest.raises(fastload.FastloadError, match="encrypted"):
        fastload.open(bytes(file))
