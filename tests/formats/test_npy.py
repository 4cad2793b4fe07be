"""NumPy's array file, with a single array or with the dict of dicts that MMdnn keeps in one: NumPy is the oracle."""

import io
import struct

import numpy as np
import pytest

import fastload
from fastload import FormatError, TruncatedError
from pickles import Call, Global, dumps

PLAIN = (
    "bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float16", "float32", "float64",
    "complex64", "complex128",
)  # fmt: skip


def npy(array, version=None):
    file = io.BytesIO()
    np.lib.format.write_array(file, np.asanyarray(array), version, allow_pickle=True)
    return file.getvalue()


def with_header(header, data=b"", version=(1, 0)):
    raw = header if isinstance(header, bytes) else header.encode("latin-1")
    return b"\x93NUMPY" + bytes(version) + struct.pack("<H" if version[0] == 1 else "<I", len(raw)) + raw + data


def described(descr="'<f4'", order="False", shape="(2,)", data=bytes(8)):
    return with_header(f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}\n", data)


def read(file, **options):
    with fastload.open(file, **options) as checkpoint:
        return dict(checkpoint.items())


@pytest.mark.parametrize("order", "CF")
@pytest.mark.parametrize("dtype", PLAIN)
def test_one_array_is_a_view_under_the_empty_name(dtype, order):
    array = np.array(np.arange(24).reshape(2, 3, 4), dtype, order=order)
    file = npy(array)

    with fastload.open(file, allow_copy=False) as checkpoint:
        entry = checkpoint.entry("")
        assert (checkpoint.format, entry.kind, entry.dtype, entry.shape) == ("npy", "numpy", dtype, (2, 3, 4))
        assert np.array_equal(checkpoint[""], array) and checkpoint[""].flags.f_contiguous == (order == "F")
        assert file[entry.offset :] == array.tobytes("A")


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
@pytest.mark.parametrize("shape", [(), (0,), (0, 3), (3, 0, 2), (1, 1), (5,)])
def test_shapes_and_versions_of_every_sort(shape, version, tmp_path):
    array = np.arange(np.prod(shape, dtype=int), dtype=np.float32).reshape(shape)
    path = tmp_path / "a.npy"
    path.write_bytes(npy(array, version))

    for mode in ("mmap", "read"):
        found = read(path, io=mode)[""]
        assert found.shape == shape and found.tobytes() == array.tobytes()


def test_headers_of_python_two():
    assert read(described(shape="(2L, 1L)", data=struct.pack("<2f", 1, 2)))[""].tolist() == [[1], [2]]


MMDNN = {
    "conv1": {"weights": np.arange(6, dtype="<f4").reshape(1, 2, 3), "bias": np.zeros(3, "<f4")},
    "bn": {"scale": np.ones(2, "<f8"), "epsilon": 1e-5},
    "fc.1": {"weights": np.asfortranarray(np.arange(4.0).reshape(2, 2))},
    "input": {},
}


def test_weights_of_mmdnn(tmp_path):
    path = tmp_path / "model.npy"
    np.save(path, MMDNN)

    for mode in ("mmap", "read"):
        with fastload.open(path, io=mode) as checkpoint:
            assert list(checkpoint) == ["conv1.weights", "conv1.bias", "bn.scale", "fc.1.weights"]
            for name, array in checkpoint.items():
                layer, _, part = name.rpartition(".")
                assert np.array_equal(array, MMDNN[layer][part])
                entry = checkpoint.entry(name)
                assert entry.key_path == (layer, part)
                assert path.read_bytes()[entry.offset :].startswith(array.tobytes("A"))
            objects = checkpoint.objects
            assert (objects.item() if hasattr(objects, "item") else objects) is not None


def test_weights_of_mmdnn_on_python_two():
    def two(text):
        raw = text.encode("latin-1") if isinstance(text, str) else text
        return b"T" + struct.pack("<I", len(raw)) + raw

    def reconstruct(shape, dtype, data):
        return (
            b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\0t" + two("b") + b"tR(K\1" + shape
            + b"cnumpy\ndtype\n(" + two(dtype) + b"K\0K\1tR(K\3U\1" + (b"|" if dtype == "O8" else b"<")
            + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb\x89"
            + data + b"tb"
        )  # fmt: skip

    weights = reconstruct(b"(K\2t", "f4", two(np.array([1, 200], "<f4").tobytes()))
    layers = b"}" + two("conv\xe9") + b"}" + two("weights") + weights + b"ss"
    pickled = b"\x80\2" + reconstruct(b")", "O8", b"]" + layers + b"a") + b"."
    file = with_header("{'descr': '|O8', 'fortran_order': False, 'shape': (), }\n", pickled)

    with fastload.open(file, allow_copy=False) as checkpoint:
        assert list(checkpoint) == ["convé.weights"] and checkpoint["convé.weights"].tolist() == [1, 200]
        assert checkpoint.entry("convé.weights").zero_copy


def test_a_dict_of_objects_of_every_protocol():
    for protocol in range(6):
        root = np.array({"a": np.arange(3)}, object)
        header = npy(np.array(None, object))[: -len(npy(np.array(None, object)).split(b"\n", 1)[1])]

        assert read(header + dumps(root, protocol))["a"].tolist() == [0, 1, 2]


def test_an_array_of_several_objects():
    array = np.empty(2, object)
    array[:] = [np.ones(2), {"b": np.zeros(1)}]

    assert {name: found.tolist() for name, found in read(npy(array)).items()} == {"0": [1, 1], "1.b": [0]}


def test_unknown_classes_among_the_objects_are_not_made():
    evil = {"a": np.arange(2), "x": Call(Global("os", "system"), ("exit 1",))}
    pickled = dumps(evil, 3)

    with fastload.open(with_header("{'descr': '|O', 'fortran_order': False, 'shape': ()}\n", pickled)) as checkpoint:
        assert list(checkpoint) == ["a"]
        assert ("os", "system") in checkpoint._tensors.list_globals()


@pytest.mark.parametrize(
    "array",
    [
        np.array(["a"]), np.array([b"a"]), np.zeros(2, "V3"), np.array(["2001-02-03"], "M8[D]"), np.ones(2, ">f4"),
        np.zeros(2, [("a", "i4"), ("b", "f8")]), np.ones(2, "longdouble"),
    ],
    ids=lambda array: array.dtype.str,
)  # fmt: skip
def test_arrays_of_other_dtypes_are_what_numpy_loads(array):
    with fastload.open(npy(array)) as checkpoint:
        found = checkpoint[""]

    assert found.dtype == array.dtype.newbyteorder("=") or found.dtype == array.dtype
    assert found.tolist() == array.tolist()


HUGE = hex(1 << 20000)


@pytest.mark.parametrize(
    "file",
    [
        described("'<f3'"), described("'<f999999999999'"), described("'?7'"), described("''"),
        described("'<f4,<f4'"), described("'|O99'"), described("'O'", data=b""), described("'O'", data=b"\x80\2"),
        described("b'<f4'"), described("5"), described("None"), described(HUGE),
        described(f"[{HUGE}]"), described(f"'<f{'9' * 5000}'"),
        described(order="2"), described(order="'yes'"), described(order=HUGE),
        described(shape="(3,)"), described(shape="(-2,)"), described(shape="[2]"), described(shape="2"),
        described(shape="('2',)"), described(shape="(2.0,)"), described(shape="(True,)"), described(shape=f"({HUGE},)"),
        described(shape=f"(-{HUGE},)"), described(shape=f"(0, {HUGE})"), described(shape=f"('a', {HUGE})"),
        described(shape="(1099511627776, 1099511627776)"), described(shape="(9223372036854775807, 2)"),
        described(shape="(18446744073709551616,)"), described(shape="(4611686018427387904,)"),
        described(shape=f"({'1,' * 30000})"),
        with_header("{}"), with_header(""), with_header("5"), with_header("{[]: 1}"), with_header("{{}}"),
        with_header("{**{}}"), with_header("__import__('os')"), with_header("(" * 60000),
        with_header("-" * 60000 + "1"),
        with_header("{'descr': '<f4', 'fortran_order': False}"), with_header("\0"), with_header(b"\xff" * 20),
        with_header("[" * 90 + "]" * 90), with_header("{'a': 1}" + "\\d"), with_header("1" * 5000),
        with_header("{}", version=(4, 0)), with_header("{}", version=(0, 0)),
        b"\x93NUMPY", b"\x93NUMPY\1", b"\x93NUMPY\1\0", b"\x93NUMPY\1\0\xff\xff{", b"\x93NUMPY\2\0\xff\xff\xff\xff{",
    ],
)  # fmt: skip
def test_headers_that_make_no_sense_are_refused(file):
    with pytest.raises(fastload.FastloadError):
        read(file)


def test_an_array_that_was_cut_is_truncated():
    file = npy(np.arange(5.0))

    with pytest.raises(TruncatedError, match="incomplete"):
        fastload.open(file[:-1])
    for length in range(len(file)):
        with pytest.raises(fastload.FastloadError):
            read(file[:length])


def test_bytes_behind_the_array_are_ignored():
    assert read(npy(np.arange(2)) + b"more")[""].tolist() == [0, 1]


def test_a_bad_header_names_its_place():
    with pytest.raises(FormatError) as caught:
        fastload.open(with_header("{}"))

    assert caught.value.offset == 8
