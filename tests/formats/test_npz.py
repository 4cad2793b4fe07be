"""NumPy's archives and array files: what numpy.load gives is the answer, and nothing in them is lost without a word."""

import io
import os
import pickle
import struct
import zipfile
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fastload
from builders import npy_file, npy_raw, smallest_npz, zip_file
from fastload import FormatError, LimitError, TruncatedError, UnsupportedError
from fastload.formats import npy, npz
from fastload.formats.writing import Outgoing
from reading import read_all

A = np.arange(24, dtype="<f4").reshape(2, 3, 4)
RECORD = np.dtype([("id", "<i4"), ("at", ">f8", (2,)), ("of", [("x", "|u1"), ("name", "<U3")])])
ARRAYS = {
    "plain": A,
    "fortran": np.asfortranarray(A),
    "scalar": np.array(5, "<i8"),
    "empty": np.zeros((3, 0, 2)),
    "bool": np.array([True, False]),
    "half": np.ones(3, "<f2"),
    "complex": np.array([1 + 2j]),
    "long double": np.ones(2, np.longdouble),
    "text": np.array(["a", "größer"]),
    "bytes": np.array([b"ab", b"c"]),
    "void": np.array([b"ab"], "V2"),
    "times": np.array(["2020-01-01T00:00:01", "NaT"], "M8[s]"),
    "spans": np.array([3], "m8[25ns]"),
    "no unit": np.array([3], "m8"),
    "records": np.zeros(2, RECORD),
    "padded": np.ones(2, np.dtype([("a", "i1"), ("b", "<f8")], align=True)),
    "no dimensions and fields": np.zeros((), [("größe", "<i2")]),
    "many dimensions": np.ones((1,) * 31 + (2,)),
    "layer/weight.0": np.ones(1),
    "big text": np.array(["ab"], ">U2"),
    "big times": np.array([7], ">M8[D]"),
    "": np.ones(2, "u1"),
}
BIG = {"f": A.astype(">f4"), "c": np.ones((2, 2), ">c8"), "i": np.asfortranarray(A.astype(">i2"))}


def saved(arrays, save=np.savez):
    file = io.BytesIO()
    save(file, **arrays)
    return file.getvalue()


def saved_alone(array, **options):
    file = io.BytesIO()
    np.save(file, array, **options)
    return file.getvalue()


def numpys(data):
    return np.load(io.BytesIO(data), allow_pickle=True)


def outgoing(name, array, dtype=None):
    data = np.asarray(array, order="C")
    chunks = [memoryview(data.tobytes()[at : at + 100]) for at in range(0, data.nbytes, 100)]
    return Outgoing(name, dtype or data.dtype.name, data.shape, data.nbytes, lambda: iter(chunks))


def written(format, tensors):
    assert format.check_writable(tensors, {}) == []
    file = io.BytesIO()
    format.write(file, tensors, {})
    return file.getvalue()


def same(found, expected):
    return (
        found.shape == expected.shape
        and found.dtype == expected.dtype.newbyteorder(found.dtype.byteorder)
        and found.flags.c_contiguous == expected.flags.c_contiguous
        # numpy copies no padding between fields; and NaT is not equal to itself.
        and (repr(found.tolist()) if found.dtype.names else found.tobytes())
        == (repr(expected.tolist()) if found.dtype.names else expected.astype(found.dtype).tobytes())
    )


# Reading.


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("io_", ["mmap", "read"])
def test_every_array_is_what_numpy_says(save, io_, tmp_path):
    (tmp_path / "a.npz").write_bytes(saved(ARRAYS, save))
    oracle = np.load(tmp_path / "a.npz")

    with fastload.open(tmp_path / "a.npz", io=io_) as checkpoint:
        found = dict(checkpoint)
        checkpoint.verify()

    assert list(found) == oracle.files
    for name in oracle.files:
        assert same(found[name], oracle[name]), name


@pytest.mark.parametrize("name", ARRAYS)
def test_an_array_alone_has_the_empty_name(name):
    checkpoint = fastload.open(saved_alone(ARRAYS[name]))

    assert list(checkpoint) == [""]
    assert same(checkpoint[""], ARRAYS[name])
    assert checkpoint[""].dtype.isnative
    assert checkpoint.entry("").zero_copy == ARRAYS[name].dtype.isnative  # others are put in order, in a copy
    checkpoint.verify()


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_big_endian_numbers_come_native_by_a_copy(save):
    checkpoint = fastload.open(saved(BIG, save))

    for name, array in BIG.items():
        assert checkpoint[name].dtype == array.dtype.newbyteorder("=")
        assert (checkpoint[name] == array).all()
        assert not checkpoint.entry(name).zero_copy
        assert (fastload.open(saved_alone(array))[""] == array).all()


def test_stored_arrays_are_views_of_the_file(tmp_path):
    (tmp_path / "a.npz").write_bytes(saved({"a": A, "b": A}))

    with fastload.open(tmp_path / "a.npz", allow_copy=False) as checkpoint:
        entries = checkpoint.entries()
        data = (tmp_path / "a.npz").read_bytes()

        for entry in entries:
            assert entry.zero_copy
            assert entry.kind == "numpy"
            assert data[entry.offset : entry.offset + entry.nbytes] == A.tobytes() == checkpoint[entry.name].tobytes()
        assert entries[0].storage != entries[1].storage


def test_a_compressed_array_needs_leave_to_be_copied_and_shares_its_memory():
    data = saved({"a": A}, np.savez_compressed)

    checkpoint = fastload.open(data)

    assert np.shares_memory(checkpoint["a"], kept := checkpoint["a"])
    assert not kept.flags.writeable
    with pytest.raises(UnsupportedError, match="allow_copy"):
        fastload.open(data, allow_copy=False)["a"]


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_tensors_in_an_array_of_objects_are_listed_below_its_name(save):
    weights = {"conv1": {"weights": A, "bias": np.ones(2)}, "note": "x"}
    data = saved({"first": A, "ir": np.array(weights, dtype=object), "last": np.ones(1)}, save)

    checkpoint = fastload.open(data)

    assert list(checkpoint) == ["first", "ir.conv1.weights", "ir.conv1.bias", "last"]
    assert checkpoint.entry("ir.conv1.weights").key_path == ("ir", "conv1", "weights")
    assert same(checkpoint["ir.conv1.weights"], A)
    assert same(checkpoint["last"], np.ones(1))
    assert list(checkpoint.objects) == ["ir"]
    assert {found.module.split(".")[0] for found in checkpoint.globals()} == {"numpy"}


def test_records_with_objects_among_their_fields_are_a_pickle_too():
    data = saved({"r": np.array([(1, {"w": A})], [("n", "<i4"), ("o", "O")])})

    checkpoint = fastload.open(data)

    assert list(checkpoint) == ["r.0.1.w"]
    assert same(checkpoint["r.0.1.w"], A)


def test_two_ways_to_one_name_are_numbered():
    objects = saved_alone(np.array({"b": np.zeros(2)}, dtype=object))
    data = zip_file([("a", saved_alone(A)), ("a.npy", saved_alone(np.ones(2))), ("a#2.npy", saved_alone(A)),
                     ("x.npy", objects), ("x.b.npy", saved_alone(A))])  # fmt: skip

    checkpoint = fastload.open(data)

    assert list(checkpoint) == ["a", "a#2", "a#2#2", "x.b", "x.b#2"]
    assert checkpoint.entry("a#2").key_path == ("a",)
    assert same(checkpoint["a#2"], np.ones(2))
    assert same(checkpoint["x.b"], np.zeros(2))


def test_records_that_are_no_arrays_do_not_vanish():
    data = zip_file([("w.npy", saved_alone(A)), ("docs/", b""), ("docs/read.me", b"hello"), ("empty", b"")])

    checkpoint = fastload.open(data)

    assert list(checkpoint) == ["w"]
    assert checkpoint.metadata == {"other_records": ["docs/read.me", "empty"]}
    assert checkpoint.objects == {"docs/read.me": b"hello", "empty": b""}
    checkpoint.verify()


def test_an_archive_without_arrays_is_none_of_numpys():
    with pytest.raises(UnsupportedError, match="no checkpoint"):
        fastload.open(zip_file([("a.txt", b"x")]))


@pytest.mark.parametrize("version", [1, 2, 3])
def test_every_version_of_the_header(version):
    names = "größe" if version == 3 else "grösse"
    data = npy_file([(names, "<i2")], (2,), bytes(4), version=version)

    assert fastload.open(data)[""].dtype.names == numpys(data).dtype.names == (names,)


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<f4', 'fortran_order': False, 'shape': (2L, 3L), }",
        "{'shape':(2,3),'fortran_order':False,'descr':'<f4'}",
        '{"descr": "f4", "fortran_order": False, "shape": (2, 3)}',
        "{'descr': 'float32', 'fortran_order': False, 'shape': (\n2, 3)}",
        "{'descr': '=f4', 'fortran_order': False, 'shape': (2, 3), }",
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_other_spellings_of_a_header(header):
    data = npy_raw(header, np.arange(6, dtype="<f4").tobytes())

    assert same(fastload.open(data)[""], numpys(data))


@pytest.mark.parametrize("length", [57, 61, 64, 71])
def test_a_header_of_any_length_does_not_shift_big_endian_data(length):
    header = b"{'descr': '>f8', 'fortran_order': False, 'shape': (2,), }".ljust(length)
    array = b"\x93NUMPY\1\0" + struct.pack("<H", length) + header + np.array([1.5, 2], ">f8").tobytes()

    for deflate in ([], ["a.npy"]):
        assert fastload.open(zip_file([("a.npy", array)], deflate=deflate))["a"].tolist() == [1.5, 2]


def test_a_header_longer_than_what_is_read_first():
    fields = [(f"field_{i:04}", "<f4") for i in range(1500)]
    array = np.ones(2, fields)

    for save in (np.savez, np.savez_compressed):
        assert fastload.open(saved({"a": array}, save))["a"].dtype == array.dtype


# What is refused.


@pytest.mark.parametrize(
    ("header", "what"),
    [
        ("", "not the dict"),
        ("{'descr': '<f4', 'fortran_order': False}", "not the dict"),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': 3}", "no shape"),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (True,)}", "no shape"),
        ("{'descr': '<f4', 'fortran_order': 0, 'shape': (3,)}", "no order"),
        ("{'descr': __import__('os').system('true'), 'fortran_order': False, 'shape': (3,)}", "not the dict"),
        ("{'descr': '\\q', 'fortran_order': False, 'shape': (3,)}", "not the dict"),
        ("[" * 30_000, "not the dict"),
        ("-" * 60_000 + "1", "not the dict"),
        ("[-" * 30_000 + "1", "not the dict"),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}", "no shape"),
        ("9" * 60_000, "not the dict"),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (9999999999999999999,)}", "63 bits|ends beyond"),
        ("{'descr': 'Q9', 'fortran_order': False, 'shape': (3,)}", "cannot be read"),
        ("{'descr': '<f3', 'fortran_order': False, 'shape': (3,)}", "cannot be read"),
        ("{'descr': '<U9999999999', 'fortran_order': False, 'shape': (3,)}", "cannot be read"),
        ("{'descr': ('<f4', (2,)), 'fortran_order': False, 'shape': (3,)}", "cannot be read"),
        ("{'descr': [('a', '<f4'), ('a', '<f4')], 'fortran_order': False, 'shape': (3,)}", "cannot be read"),
        ("{'descr': [('a', '<f4', (-1,))], 'fortran_order': False, 'shape': (3,)}", "cannot be read"),
        ("{'descr': [('a', '|u1', (2147483647, 9))], 'fortran_order': False, 'shape': (3,)}", "cannot be read"),
        ("{'descr': " + "[('a', " * 20 + "'<f4'" + ")]" * 20 + ", 'fortran_order': False, 'shape': ()}", "be read"),
        ("{'descr': None, 'fortran_order': False, 'shape': ()}", "cannot be read|not the dict"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_a_header_that_makes_no_sense_is_refused(header, what):
    array = npy_raw(header, bytes(12))

    with pytest.raises(fastload.FastloadError, match=what):
        fastload.open(array)
    with pytest.raises(fastload.FastloadError, match=r"'w\.npy'|'w'"):
        fastload.open(zip_file([("w.npy", array)]))


def test_a_header_that_claims_more_than_there_is():
    with pytest.raises(FormatError, match=r"promises|ends after"):
        fastload.open(zip_file([("w.npy", npy_raw("{}", length=5000))]))
    with pytest.raises(FormatError, match="too few"):
        fastload.open(zip_file([("w.npy", npy_raw("{}", length=5000))], deflate=["w.npy"]))
    with pytest.raises(FormatError, match="claims 70,000 bytes"):
        fastload.open(npy_raw("{}", version=2, length=70_000))


@pytest.mark.parametrize("deflate", [[], ["w.npy"]])
def test_an_array_shorter_than_its_header_says(deflate):
    data = zip_file([("w.npy", npy_file("<f4", (4,), bytes(12)))], deflate=deflate)

    with pytest.raises(FormatError, match=r"'w.npy': it has 12 bytes of data, and its header promises 16"):
        fastload.open(data)


def test_a_file_that_ends_within_its_array_is_truncated():
    with pytest.raises(TruncatedError):
        fastload.open(npy_file("<f4", (4,), bytes(12)))


def test_arrays_behind_the_first_are_not_passed_over():
    data = saved_alone(A) + saved_alone(A)

    with pytest.raises(UnsupportedError, match="several arrays"):
        fastload.open(data)
    with pytest.raises(UnsupportedError, match=r"'w.npy'.*several arrays"):
        fastload.open(zip_file([("w.npy", data)]))


def test_bytes_behind_an_array_are_found_by_verify():
    data = saved_alone(A) + b"more"

    for file in (data, zip_file([("w.npy", data)])):
        checkpoint = fastload.open(file)
        with pytest.raises(FormatError, match="4 bytes follow"):
            checkpoint.verify()


def test_a_record_called_npy_that_is_none_is_refused():
    with pytest.raises(FormatError, match=r"'b.npy': it does not begin"):
        fastload.open(zip_file([("a.npy", saved_alone(A)), ("b.npy", b"hello")]))


@pytest.mark.parametrize(("method", "what"), [(zipfile.ZIP_BZIP2, "bzip2"), (zipfile.ZIP_LZMA, "lzma")])
def test_other_compression_is_refused_by_name(method, what):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        archive.writestr("w.npy", saved_alone(A))

    with pytest.raises(UnsupportedError, match=what):
        fastload.open(file.getvalue())


def test_an_encrypted_record_is_refused():
    data = bytearray(smallest_npz())
    for signature, place in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        data[data.index(signature) + place] |= 1

    with pytest.raises(UnsupportedError, match=r"'w.npy' is encrypted"):
        fastload.open(bytes(data))


def test_elements_without_bytes_are_as_many_as_the_shape_says():
    for file in (npy_file("|S0", (3,), b""), pickle.dumps({"w": np.zeros(3, [("a", "S0")])["a"]})):
        checkpoint = fastload.open(file)
        (name,) = checkpoint

        assert checkpoint.entry(name).shape == checkpoint[name].shape == (3,)
        assert checkpoint.entry(name).nbytes == 0
        assert checkpoint[name].tolist() == [b""] * 3


def test_many_long_headers_are_a_bomb():
    header = "{'descr': [" + "('a', '<f4'), " * 4000 + "], 'fortran_order': False, 'shape': ()}"
    members = [(f"{i}.npy", npy_raw(header.replace("'a'", f"'{i}'", 1))) for i in range(100)]
    array = npy_raw("{'descr': [('a', '<i4')], 'fortran_order': False, 'shape': (1,)}" + " " * 60_000, bytes(4))

    assert not read_all(zip_file(members, deflate=[name for name, _ in members]))
    with pytest.raises(LimitError, match="headers"):
        fastload.open(zip_file([(f"{i}.npy", array) for i in range(80)], deflate=[f"{i}.npy" for i in range(80)]))


@given(st.data())
def test_a_mutated_header_is_read_or_refused(data):
    for array in (saved_alone(np.zeros(2, RECORD)), saved_alone(A)):
        changed = bytearray(array)
        for _ in range(data.draw(st.integers(1, 3))):
            changed[data.draw(st.integers(6, 127))] = data.draw(st.sampled_from(b"\0 '(),:9L[]{}\\<>|fUSOV\xff"))

        read_all(bytes(changed))
        read_all(zip_file([("a.npy", bytes(changed))], deflate=["a.npy"]))


# Writing.


NATIVE = ["bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float16", "float32",
          "float64", "complex64", "complex128"]  # fmt: skip


def test_what_is_written_is_what_numpy_reads():
    arrays = {f"layer.{name}": np.ones((3, 4), name) for name in NATIVE} | {"": A, "größe/0": np.array(7), "e": A[:0]}

    data = written(npz, [outgoing(name, array) for name, array in arrays.items()])

    oracle = numpys(data)
    assert zipfile.ZipFile(io.BytesIO(data)).testzip() is None
    assert oracle.files == list(arrays)
    checkpoint = fastload.open(data)
    checkpoint.verify()
    for name, array in arrays.items():
        assert same(oracle[name], array)
        assert same(checkpoint[name], array)
        assert checkpoint.entry(name).offset % 64 == 0


def test_an_array_file_is_numpys_own_byte_for_byte():
    for array in (A, np.array(7), np.zeros((0, 2)), np.ones((1,) * 40, "u1")):
        assert written(npy, [outgoing("w", array)]) == saved_alone(array)


@pytest.mark.parametrize("dtype", ["<U3", "|S2", "<M8[ns]", str(RECORD.descr)])
def test_dtypes_that_only_numpy_has_are_written_too(dtype):
    array = np.zeros(2, RECORD if dtype.startswith("[") else dtype)

    assert same(numpys(written(npz, [outgoing("w", array, dtype)]))["w"], array)


@pytest.mark.parametrize("dtype", ["bfloat16", "float8_e4m3fn", "complex32", "quint8", "float4_e2m1fn", "bits8", ">U2"])
def test_dtypes_that_numpy_lacks_are_refused_by_tensor(dtype):
    tensor = Outgoing("a.w", dtype, (2,), 4, lambda: iter([memoryview(bytes(4))]))

    for format in (npz, npy):
        with pytest.raises(UnsupportedError, match=f"'a.w' is {dtype}"):
            format.check_writable([tensor], {})


def test_an_array_file_holds_one_array():
    for count in (0, 2):
        with pytest.raises(UnsupportedError, match="exactly one"):
            npy.check_writable([outgoing(f"{i}", A) for i in range(count)], {})


def test_an_archive_holds_some_array():
    with pytest.raises(UnsupportedError, match="no arrays"):
        npz.check_writable([], {})


@pytest.mark.parametrize("names", [["a\0b"], ["\ud800"], ["w", "w.npy"]])
def test_names_that_numpy_would_mistake_are_refused(names):
    with pytest.raises(UnsupportedError):
        npz.check_writable([outgoing(name, A) for name in names], {})


def test_metadata_is_told_to_be_lost():
    assert "'author'" in npz.check_writable([outgoing("w", A)], {"author": "x"})[0]
    assert "'author'" in npy.check_writable([outgoing("w", A)], {"author": "x"})[0]


def test_the_same_tensors_make_the_same_file():
    tensors = [outgoing("w", A), outgoing("v", np.ones(20_000))]

    assert written(npz, tensors) == written(npz, tensors)


def test_more_dimensions_than_numpy_has_are_refused():
    with pytest.raises(UnsupportedError, match="65 dimensions"):
        npz.check_writable([Outgoing("w", "uint8", (1,) * 65, 1, lambda: iter([memoryview(b"x")]))], {})


@pytest.mark.slow
def test_more_than_4_gib_are_written_as_a_stream(tmp_path):
    zeros, count = memoryview(bytes(1 << 24)), 257
    tensors = [
        Outgoing("big", "uint8", (count << 24,), count << 24, lambda: (zeros for _ in range(count))),
        outgoing("w", A),
    ]
    try:
        with open(tmp_path / "a.npz", "wb") as file:
            npz.write(Sparse(file), tensors, {})

        oracle = zipfile.ZipFile(tmp_path / "a.npz")
        with fastload.open(tmp_path / "a.npz") as checkpoint:
            assert oracle.getinfo("big.npy").file_size == (count << 24) + 128
            assert crc_of_zeros(oracle, count << 24) == oracle.getinfo("big.npy").CRC
            assert same(np.load(tmp_path / "a.npz")["w"], A)
            assert same(checkpoint["w"], A)
            assert checkpoint["big"].shape == (count << 24,)
            assert checkpoint.entry("w").offset > 1 << 32
    finally:
        os.remove(tmp_path / "a.npz")


class Sparse:
    """A file that leaves holes where it is given long runs of zeros."""

    def __init__(self, file):
        self.file = file
        self.seek, self.tell = file.seek, file.tell

    def write(self, data):
        if len(data) < 1 << 24:
            return self.file.write(data)
        self.file.seek(len(data), os.SEEK_CUR)
        return len(data)


def crc_of_zeros(archive, count):
    with archive.open("big.npy") as file:
        crc = zlib.crc32(file.read(128))
    zeros = bytes(1 << 24)
    for _ in range(count >> 24):
        crc = zlib.crc32(zeros, crc)
    return crc


def test_a_flipped_bit_of_a_compressed_member_is_found(tmp_path):
    path = tmp_path / "m.npz"
    np.savez_compressed(path, a=np.random.default_rng(0).integers(0, 4, 20_000, np.uint8))
    data = path.read_bytes()

    for place in range(200, len(data) - 200, 97):
        path.write_bytes(data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :])
        with pytest.raises(fastload.FormatError):
            fastload.open(path)["a"]
