"""The tar archive of torch before 0.1.10, made by hand: nothing of today writes it, and torch still reads it."""

import io
import pickle
import struct
import tarfile

import numpy as np
import pytest
import torch

import fastload
from fastload import FormatError, TruncatedError, UnsupportedError
from pickles import Call, Global, PersistentId, Pickle, dumps

FLOAT, LONG = Global("torch", "FloatStorage"), Global("torch", "LongStorage")
FLOATS = struct.pack("<6f", *range(6))


def storage(key=1, cls=FLOAT, data=FLOATS, count=None, location="cpu", itemsize=4, protocol=2):
    count = len(data) // itemsize if count is None else count
    return dumps((key, location, cls), protocol) + struct.pack("<q", count) + data


def tensor(key=10, owner=1, sizes=(6,), strides=(1,), offset=0, ndim=None, protocol=2):
    geometry = struct.pack(f"<{len(sizes) + len(strides) + 1}q", *sizes, *strides, offset)
    ndim = len(sizes) if ndim is None else ndim
    return dumps((key, owner, Global("torch", "FloatTensor")), protocol) + struct.pack("<iI", ndim, 0) + geometry


def tarred(storages=(), tensors=(), root=None, views=(), *, counts=(None, None), format=tarfile.PAX_FORMAT, protocol=2):
    """The archive; *storages* and *tensors* are the bytes of one each, *root* the object or its pickle."""
    members = {
        "sys_info": dumps({"protocol_version": 1000}, 2),
        "pickle": root if isinstance(root, bytes) else dumps(root, protocol),
        "tensors": dumps(len(tensors) if counts[1] is None else counts[1], protocol) + b"".join(tensors),
        "storages": dumps(len(storages) if counts[0] is None else counts[0], protocol)
        + b"".join(storages)
        + (views if isinstance(views, bytes) else dumps(list(views), protocol)),
    }
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=format) as archive:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return file.getvalue()


def keyed(key):
    return PersistentId(key)


def read(file, **options):
    with fastload.open(file, **options) as checkpoint:
        return {name: array.tolist() for name, array in checkpoint.items()}


BASIC = tarred(
    [storage(1), storage(2, LONG, struct.pack("<2q", 7, -8), itemsize=8)],
    [
        tensor(10, 1, (2, 3), (3, 1)),
        tensor(11, 1, (3, 2), (1, 3)),
        tensor(12, 1, (2,), (2,), 1),
        tensor(13, 2, (), (), 1),
        tensor(14, 1, (0,), (1,)),
    ],
    {
        "a": keyed("10"),
        "t": keyed("11"),
        "s": keyed("12"),
        "list": [keyed("13"), keyed("10")],
        "e": keyed("14"),
        "n": 3,
    },
)
BASIC_VALUES = {
    "a": [[0, 1, 2], [3, 4, 5]],
    "t": [[0, 3], [1, 4], [2, 5]],
    "s": [1, 3],
    "list.0": -8,
    "list.1": [[0, 1, 2], [3, 4, 5]],
    "e": [],
}


@pytest.mark.parametrize("io_mode", ["mmap", "read"])
def test_tensors_are_views_of_the_archive_as_torch_reads_it(io_mode, tmp_path):
    path = tmp_path / "model.pt"
    path.write_bytes(BASIC)

    with fastload.open(path, io=io_mode, allow_copy=False) as checkpoint:
        assert checkpoint.format == "pytorch-tar"
        assert {name: array.tolist() for name, array in checkpoint.items()} == BASIC_VALUES
        assert all(entry.zero_copy for entry in checkpoint.entries())
        assert len({checkpoint.entry(name).storage for name in ("a", "t", "s", "list.1")}) == 1
        assert checkpoint.entry("list.0").storage != checkpoint.entry("a").storage
        assert BASIC[checkpoint.entry("a").offset :].startswith(FLOATS)
        assert checkpoint.objects["n"] == 3 and checkpoint.objects["a"].name == "a"
        checkpoint.verify()
    theirs = torch.load(path, weights_only=False)
    assert theirs["t"].tolist() == BASIC_VALUES["t"] and theirs["list"][0].tolist() == BASIC_VALUES["list.0"]


@pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
@pytest.mark.parametrize("key", [10, "10"])
@pytest.mark.parametrize("protocol", range(6))
def test_headers_keys_and_protocols_of_every_sort(format, key, protocol):
    file = tarred(
        [storage(1, protocol=protocol)], [tensor(10, protocol=protocol)], {"w": keyed(key)}, format=format,
        protocol=protocol,
    )  # fmt: skip

    assert read(file) == {"w": [0, 1, 2, 3, 4, 5]}


def test_pickles_of_python_two():
    key, name = b"\x80\2(I%dU\3cpuctorch\n%s\nt.", b"\x80\2}U\1wU\x0210Qs."
    held = key % (1, b"FloatStorage") + struct.pack("<q", 6) + FLOATS
    shown = b"\x80\2(I10\nI1\nctorch\nFloatTensor\nt." + struct.pack("<iI3q", 1, 0, 6, 1, 0)

    assert read(tarred([held.replace(b"I1U", b"I1\nU")], [shown], name)) == {"w": [0, 1, 2, 3, 4, 5]}


def test_storages_that_are_parts_of_others(tmp_path):
    file = tarred(
        [storage(1)],
        [tensor(10, 5, (2,), (1,), 1), tensor(11, 1), tensor(12, 6, (1,), (1,))],
        [keyed("10"), keyed("11"), keyed("12")],
        views=[(5, 1, 2, 3), (6, 5, 1, 2)],
    )

    path = tmp_path / "model.pt"
    path.write_bytes(file)
    assert read(file) == {"0": [3, 4], "1": [0, 1, 2, 3, 4, 5], "2": [3]}
    assert [tensor.tolist() for tensor in torch.load(path, weights_only=False)] == [
        [3, 4], [0, 1, 2, 3, 4, 5], [3],
    ]  # fmt: skip


def test_storages_that_stand_by_themselves():
    file = tarred([storage(1)], [tensor(10)], {"s": keyed("1"), "part": keyed("5"), "w": keyed("10")}, [(5, 1, 2, 3)])

    with fastload.open(file) as checkpoint:
        assert {name: array.tolist() for name, array in checkpoint.items()} == {
            "s": [0, 1, 2, 3, 4, 5],
            "part": [2, 3, 4],
            "w": [0, 1, 2, 3, 4, 5],
        }
        assert [entry.kind for entry in checkpoint.entries()] == ["storage", "storage", "tensor"]


def test_classes_with_their_source_are_no_tensors():
    cls = PersistentId((Global("__main__", "Net"), "net.py", "class Net: pass"))
    made = dumps(cls, 2)[2:-1] + b")\x81" + dumps({"weight": keyed("10")}, 2)[2:-1] + b"b"
    root = Pickle(2).raw(b"}").entry("net", made).stop()

    assert read(tarred([storage()], [tensor()], root)) == {"net.weight": [0, 1, 2, 3, 4, 5]}


@pytest.mark.parametrize("kind", ["Double", "Float", "Half", "Long", "Int", "Short", "Char", "Byte"])
@pytest.mark.parametrize("module", ["torch", "torch.cuda"])
def test_storages_of_every_class(kind, module):
    dtype = dict(Double="f8", Float="f4", Half="f2", Long="i8", Int="i4", Short="i2", Char="i1", Byte="u1")[kind]
    data = np.arange(3).astype(dtype)
    file = tarred(
        [storage(1, Global(module, f"{kind}Storage"), data.tobytes(), itemsize=data.itemsize, location="cuda:0")],
        [tensor(sizes=(3,))],
        keyed("10"),
    )

    with fastload.open(file) as checkpoint:
        assert checkpoint[""].dtype == data.dtype and checkpoint[""].tolist() == [0, 1, 2]


def test_more_dimensions_than_numpy_has_are_listed_and_refused():
    file = tarred([storage()], [tensor(sizes=(1,) * 70, strides=(1,) * 70)], {"w": keyed("10")})

    with fastload.open(file) as checkpoint, pytest.raises(UnsupportedError, match="70"):
        checkpoint["w"]


# Damaged, or made to harm.


def test_an_archive_that_was_cut_anywhere_is_refused():
    for length in range(0, len(BASIC), 97):
        try:
            found = read(BASIC[:length])
        except fastload.FastloadError:
            continue
        assert found == BASIC_VALUES  # only the zeros behind the last member are gone


DEEP = Pickle(2).raw(b")" + b"\x85" * 5000).stop()  # a tuple in a tuple in …
HUGE = 1 << 40000  # more digits than Python writes


@pytest.mark.parametrize(
    "parts",
    [
        {"storages": [storage()[:-1]], "views": b""},
        {"storages": [storage()], "counts": (2, None)},
        {"storages": [storage()], "counts": (1 << 60, None)},
        {"storages": [storage()], "counts": (-1, None)},
        {"storages": [storage()], "counts": ("1", None)},
        {"storages": [storage()], "counts": (True, None)},
        {"storages": [storage()], "counts": (HUGE, None)},
        {"storages": [storage()], "counts": (None, 2)},
        {"storages": [storage()], "counts": (None, 1 << 60)},
        {"storages": [storage(count=-1)]},
        {"storages": [storage(count=7)]},
        {"storages": [storage(count=1 << 62)]},
        {"storages": [storage(key=None)]},
        {"storages": [storage(key=HUGE)]},
        {"storages": [storage(key=((),) * 3)]},
        {"storages": [storage(), storage()]},
        {"storages": [storage(cls="FloatStorage")]},
        {"storages": [storage(cls=Global("torch", "FutureStorage"))]},
        {"storages": [storage(cls=Call(FLOAT, ()))]},
        {"storages": [dumps((1, "cpu"), 2)]},
        {"storages": [dumps([1, "cpu", FLOAT], 2)]},
        {"storages": [DEEP]},
        {"views": [(5, 1, 2, 5)]},
        {"views": [(5, 1, 7, 0)]},
        {"views": [(5, 1, -1, 2)]},
        {"views": [(5, 1, 1, -2)]},
        {"views": [(5, 1, HUGE, 1)]},
        {"views": [(5, 9, 1, 1)]},
        {"views": [(5, 5, 0, 1)]},
        {"views": [(1, 1, 0, 1)]},
        {"views": [(5, 1, 0)]},
        {"views": [5]},
        {"views": [((), 1, 0, 1)]},
        {"views": dumps({}, 2)},
        {"views": dumps(None, 2)},
        {"views": b""},
        {"tensors": [tensor(owner=9)]},
        {"tensors": [tensor(owner=None)]},
        {"tensors": [tensor(owner=HUGE)]},
        {"tensors": [tensor(key=HUGE)]},
        {"tensors": [tensor(key=())]},
        {"tensors": [tensor(sizes=(7,))]},
        {"tensors": [tensor(sizes=(-6,))]},
        {"tensors": [tensor(strides=(-1,))]},
        {"tensors": [tensor(offset=-1)]},
        {"tensors": [tensor(offset=1)]},
        {"tensors": [tensor(sizes=(1 << 62, 4), strides=(1, 1))]},
        {"tensors": [tensor(ndim=-1)]},
        {"tensors": [tensor(ndim=1 << 30)]},
        {"tensors": [tensor(ndim=2)]},
        {"tensors": [tensor(), tensor()]},
        {"tensors": [tensor(owner=5, sizes=(4,))], "views": [(5, 1, 2, 3)]},
        {"tensors": [DEEP]},
        {"root": {"w": keyed("11")}},
        {"root": {"w": keyed(None)}},
        {"root": {"w": keyed(HUGE)}},
        {"root": {"w": keyed([])}},
        {"root": {"w": keyed(1.5)}},
        {"root": b"\x80\2"},
        {"root": b""},
    ],
    ids=lambda parts: next(iter(parts)),
)
def test_what_makes_no_sense_is_refused(parts):
    with pytest.raises(fastload.FastloadError):
        read(tarred(**{"storages": [storage()], "tensors": [tensor()], "root": {"w": keyed("10")}, **parts}))


def test_an_unknown_class_of_storages_is_unsupported_and_named():
    with pytest.raises(UnsupportedError, match="FutureStorage"):
        fastload.open(tarred([storage(cls=Global("torch", "FutureStorage"))], [tensor()], {"w": keyed("10")}))


def test_a_storage_beyond_its_member_is_truncated():
    with pytest.raises(TruncatedError, match="storages"):
        fastload.open(tarred([storage(count=1 << 40)], [tensor()], {"w": keyed("10")}))


def test_a_tensor_of_an_unknown_key_is_told():
    with pytest.raises(FormatError, match="'11'"):
        fastload.open(tarred([storage()], [tensor()], {"w": keyed("11")}))


def test_a_tar_without_the_three_members_is_none_of_ours():
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name in ("storages", "pickle"):
            member = tarfile.TarInfo(name)
            member.size = 5
            archive.addfile(member, io.BytesIO(pickle.dumps(0, 2)))

    with pytest.raises(fastload.FastloadError):
        fastload.open(file.getvalue())
