"""NumPy arrays in pickles, bare or inside a PyTorch zip: NumPy is the oracle of what they hold."""

import io
import pickle
import zipfile

import ml_dtypes  # noqa: F401  (so that NumPy knows its names)
import numpy as np
import pytest
import torch

import fastload
from fastload import LimitError, UnsupportedError
from pickles import Call, Global, ValuePickler, dumps

PROTOCOLS = range(6)
ALIGNED = np.dtype([("a", "u1"), ("b", "f8"), ("c", "i2")], align=True)
NESTED = np.dtype([("id", "<i4"), ("box", [("lo", "<f4", (2,)), ("hi", "<f4", (2,))]), ("tag", "S3")])
SPREAD = np.dtype({"names": ["x", "y"], "formats": ["<i2", "<f4"], "offsets": [6, 0], "itemsize": 16})
OVERLAPPING = np.dtype({"names": ["whole", "low"], "formats": ["<u4", "<u2"], "offsets": [0, 0], "itemsize": 4})


def read(file, **options):
    with fastload.open(file, **options) as checkpoint:
        return dict(checkpoint.items())


def same(ours, theirs):
    """Whether two arrays hold the same values: bytes, since NaN and padding have values too."""
    theirs = np.asarray(theirs)
    native = theirs.astype(theirs.dtype.newbyteorder("="), copy=False) if theirs.dtype.names is None else theirs
    return ours.shape == native.shape and ours.dtype == native.dtype and ours.tobytes() == native.tobytes()


def array_state(shape, dtype, data, fortran=False, function="_reconstruct", core="numpy._core"):
    """An array as a pickle spells it, of parts that need not fit together."""
    ndarray = Global("numpy", "ndarray")
    return Call(Global(f"{core}.multiarray", function), (ndarray, (0,), b"b"), (1, shape, dtype, fortran, data))


def plain_dtype(spelling="f4", state=(3, "<", None, None, None, -1, -1, 0)):
    return Call(Global("numpy", "dtype"), (spelling, False, True), state)


ARRAYS = {
    "bool": np.array([True, False, True]),
    **{name: np.arange(6).reshape(2, 3).astype(name) for name in (
        "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float16", "float32", "float64",
        "complex64", "complex128", "longdouble", "clongdouble",
    )},
    "nan": np.array([np.nan, -0.0, np.inf, -np.inf]),
    "fortran": np.asfortranarray(np.arange(24.0).reshape(2, 3, 4)),
    "transposed": np.arange(24.0).reshape(2, 3, 4).transpose(1, 0, 2),
    "every second": np.arange(20)[::2],
    "backwards": np.arange(5)[::-1],
    "broadcast": np.broadcast_to(np.float32(3), (2, 3)),
    "no dimensions": np.array(7, np.int16),
    "empty": np.zeros((0, 3), np.float32),
    "empty, huge": np.zeros((1 << 40, 0), np.float32),
    "length one": np.ones((1, 1, 3, 1), order="F"),
    "text": np.array(["a", "", "слово\U0001f600"]),
    "no text": np.array(["", ""]),
    "bytes": np.array([b"a", b"bc\0d", b"\xff"]),
    "one text": np.array("abc"),
    "raw": np.array([b"abc", b"\0\xff\0"], "V3"),
    "dates": np.array(["2001-02-03", "NaT"], "datetime64[D]"),
    "times": np.array(["2001-02-03T04:05:06.000007"], "datetime64[us]"),
    "sevenfold": np.array([1, 2], "timedelta64[7D]"),
    "durations": np.array([1, -2], "timedelta64[ns]"),
    "no unit": np.array([1, 2], "timedelta64"),
    "records": np.array([(1, 2.5), (3, 4.5)], [("a", "<i4"), ("b", "<f8")]),
    "one record": np.array((1, 2.5), [("a", "<i4"), ("b", "<f8")]),
    "aligned": np.array([(1, 2.5, -3)], ALIGNED),
    "nested": np.array([(1, ([1, 2], [3, 4]), b"ab")] * 2, NESTED),
    "spread": np.array([(1, 2.5)], SPREAD),
    "overlapping": np.array([(0x12345678, 0x5678)], OVERLAPPING),
    "subarrays": np.ones(3, [("m", "<f4", (2, 2)), ("n", "<i8", 3)]),
    "big-endian fields": np.array([(1, 2.5)], [("a", ">i4"), ("b", "<f8")]),
    **{name: np.arange(6).astype(name) for name in ("bfloat16", "float8_e4m3fn", "float8_e5m2")},
}  # fmt: skip
BIG_ENDIAN = {name: ARRAYS[name].astype(ARRAYS[name].dtype.newbyteorder(">")) for name in (
    "int16", "uint32", "int64", "float16", "float32", "float64", "complex64", "complex128", "text", "dates", "times",
)}  # fmt: skip


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("array", ARRAYS.values(), ids=ARRAYS)
def test_arrays_of_every_sort(array, protocol):
    file = pickle.dumps({"w": array}, protocol)

    ours = read(file)["w"]

    assert same(ours, pickle.loads(file)["w"])
    assert not ours.flags.writeable


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("array", BIG_ENDIAN.values(), ids=BIG_ENDIAN)
def test_big_endian_arrays_have_native_values(array, protocol):
    file = pickle.dumps({"w": array}, protocol)

    assert same(read(file)["w"], array)
    assert not fastload.open(file).entry("w").zero_copy


def test_a_big_endian_array_is_refused_where_no_copy_is_allowed():
    file = pickle.dumps({"w": BIG_ENDIAN["float32"]}, 4)

    with pytest.raises(UnsupportedError, match="'w'"):
        read(file, allow_copy=False)


def test_titles_of_fields_are_left_out():
    array = np.array([(1, 2)], [(("long title", "a"), "<i4"), ("b", "<i2")])

    assert same(read(pickle.dumps({"w": array}, 4))["w"], array.astype([("a", "<i4"), ("b", "<i2")]))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_dtypes_of_no_size_keep_their_shape(protocol):
    file = pickle.dumps(
        {"v": np.zeros((2, 3), "V0"), "s": np.zeros((), np.dtype([])), "u": np.ndarray(4, "U0", b"")}, protocol
    )

    arrays = read(file)

    assert {name: array.shape for name, array in arrays.items()} == {"v": (2, 3), "s": (), "u": (4,)}
    assert {name: array.dtype.itemsize for name, array in arrays.items()} == {"v": 0, "s": 0, "u": 0}


class NumpyOnePickler(ValuePickler):
    """Names the functions of NumPy as NumPy 1 did."""

    core = "numpy.core"

    def reducer_override(self, obj):
        if isinstance(obj, np.ndarray):
            function, *rest = obj.__reduce_ex__(self.proto)
            return Global(function.__module__.replace("numpy._core", self.core), function.__name__), *rest
        return super().reducer_override(obj)


class NumpyTwoPickler(NumpyOnePickler):
    core = "numpy._core"


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("pickler", [NumpyOnePickler, NumpyTwoPickler])
def test_numpy_one_and_two_name_their_functions_differently(pickler, protocol):
    file = dumps({"w": np.arange(3), "o": np.array([None, np.ones(1)], object)}, protocol, pickler)
    assert pickler.core.encode() in file

    arrays = read(file)

    assert arrays["w"].tolist() == [0, 1, 2] and arrays["o.1"].tolist() == [1]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_arrays_are_views_where_the_pickle_has_their_bytes(protocol):
    file = pickle.dumps({"c": np.arange(6.0).reshape(2, 3), "f": np.asfortranarray(np.ones((2, 3), "i2"))}, protocol)

    with fastload.open(file) as checkpoint:
        entries = {entry.name: entry for entry in checkpoint.entries()}
        assert {entry.kind for entry in entries.values()} == {"numpy"}
        assert all(entry.zero_copy == (protocol >= 3) for entry in entries.values())
        for name, entry in entries.items():
            if protocol >= 3:
                raw = checkpoint[name].tobytes("A")
                assert file[entry.offset : entry.offset + entry.nbytes] == raw
                assert np.shares_memory(checkpoint[name], np.frombuffer(file, np.uint8))
            else:
                assert entry.offset is None
        if protocol < 3:
            with pytest.raises(UnsupportedError, match="'c'"):
                read(file, allow_copy=False)
        else:
            assert read(file, allow_copy=False).keys() == {"c", "f"}


def test_arrays_over_one_bytes_object_share_a_storage():
    data, dtype = np.arange(4, dtype="<f4").tobytes(), plain_dtype()
    file = dumps({"a": array_state((4,), dtype, data), "b": array_state((2, 2), dtype, data)}, 4)

    checkpoint = fastload.open(file)

    assert checkpoint.entry("a").storage == checkpoint.entry("b").storage
    assert np.shares_memory(checkpoint["a"], checkpoint["b"]) and checkpoint["b"].tolist() == [[0, 1], [2, 3]]


@pytest.mark.parametrize("deflated", [False, True])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_arrays_inside_a_torch_zip(protocol, deflated, tmp_path):
    buffer = io.BytesIO()
    torch.save({"a": np.arange(3, dtype="<i4"), "t": torch.ones(2)}, buffer, pickle_protocol=protocol)
    path = tmp_path / "model.pt"
    with zipfile.ZipFile(buffer) as source, zipfile.ZipFile(path, "w") as target:
        for info in source.infolist():
            method = zipfile.ZIP_DEFLATED if deflated and info.filename.endswith(".pkl") else zipfile.ZIP_STORED
            target.writestr(info.filename, source.read(info), method)

    for mode in ("mmap", "read"):
        with fastload.open(path, io=mode) as checkpoint:
            entry = checkpoint.entry("a")
            assert checkpoint["a"].tolist() == [0, 1, 2] and checkpoint["t"].tolist() == [1, 1]
            assert (entry.kind, checkpoint.entry("t").kind) == ("numpy", "tensor")
            assert entry.zero_copy == (protocol >= 3 and not deflated)
            if entry.zero_copy:
                assert path.read_bytes()[entry.offset :][: entry.nbytes] == np.arange(3, dtype="<i4").tobytes()


def test_dtypes_are_called_as_numpy_calls_them():
    file = pickle.dumps(dict(ARRAYS, **{f"big {name}": array for name, array in BIG_ENDIAN.items()}), 4)
    with fastload.open(file) as checkpoint:
        dtypes = {entry.name: entry.dtype for entry in checkpoint.entries()}

    assert dtypes["float16"] == "float16" and dtypes["big float32"] == "float32" and dtypes["bfloat16"] == "bfloat16"
    assert dtypes["text"] == dtypes["big text"] == "<U6" and dtypes["bytes"] == "|S4" and dtypes["raw"] == "|V3"
    assert dtypes["dates"] == dtypes["big dates"] == "<M8[D]" and dtypes["durations"] == "<m8[ns]"
    assert dtypes["longdouble"] == np.dtype("longdouble").str
    assert dtypes["records"] == "[('a', '<i4'), ('b', '<f8')]"
    assert dtypes["overlapping"].startswith("{") and "'low'" in dtypes["overlapping"]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_tensors_and_arrays_in_arrays_of_objects(protocol):
    inner = np.array(None, object)
    inner[()] = {"x": np.int64(3), "y": np.arange(2)}
    grid = np.empty((2, 2), object)
    grid[0, 0], grid[0, 1], grid[1, 0], grid[1, 1] = np.ones(1), "text", torch.zeros(2), [np.full(3, 5)]
    file = pickle.dumps({"inner": inner, "grid": grid, "none": np.empty((0, 2), object)}, protocol)

    with fastload.open(file) as checkpoint:
        arrays = {name: array.tolist() for name, array in checkpoint.items()}

    assert arrays == {"inner.y": [0, 1], "grid.0": [1], "grid.2": [0, 0], "grid.3.0": [5, 5, 5]}


def test_records_with_objects_are_walked_for_arrays():
    array = np.array([(1, np.arange(3))], [("n", "i4"), ("o", object)])

    assert {name: found.tolist() for name, found in read(pickle.dumps({"w": array}, 4)).items()} == {"w.0.1": [0, 1, 2]}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_variable_texts_are_objects(protocol):
    file = pickle.dumps({"t": np.array(["a", "bcd"], np.dtypes.StringDType()), "w": np.ones(1)}, protocol)

    assert list(read(file)) == ["w"]


@pytest.mark.filterwarnings("ignore:the matrix subclass")
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_subclasses_of_arrays(protocol, tmp_path):
    mapped = np.memmap(tmp_path / "mapped", np.float32, "w+", shape=(2,))
    mapped[:] = 3, 4
    file = pickle.dumps(
        {
            "matrix": np.matrix([[1.0, 2.0]]),
            "recarray": np.rec.array([(1, 2.5)], dtype=[("a", "<i4"), ("b", "<f8")]),
            "chararray": np.char.array(["ab", "c"]),
            "memmap": mapped,
        },
        protocol,
    )

    arrays = read(file)

    assert arrays["matrix"].tolist() == [[1, 2]] and arrays["recarray"].tolist() == [(1, 2.5)]
    assert arrays["chararray"].tolist() == ["ab", "c"] and arrays["memmap"].tolist() == [3, 4]
    assert all(type(array) is np.ndarray for array in arrays.values())


class Measured(np.ndarray):
    """A subclass that pickles more than NumPy does, as NumPy's documentation shows it."""

    def __reduce__(self):
        function, args, state = super().__reduce__()
        return function, args, (*state, {"calibration": np.arange(2.0)})


class Quantity(np.ndarray):
    """A subclass that puts NumPy's state into one of its own, as astropy's do."""

    def __reduce__(self):
        function, args, state = super().__reduce__()
        return function, args, (state, {"unit": "m"})

    def __reduce_ex__(self, protocol):
        return self.__reduce__()


Measured.__reduce_ex__ = Quantity.__reduce_ex__


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(("cls", "names"), [(Measured, ["w", "w.5.calibration"]), (Quantity, ["w"])])
def test_subclasses_with_a_state_of_their_own(cls, names, protocol):
    file = pickle.dumps({"w": np.arange(3).view(cls)}, protocol)

    arrays = read(file)

    assert arrays["w"].tolist() == [0, 1, 2] and len(arrays) == len(names)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_masked_arrays_are_their_data_and_their_mask(protocol):
    masked = np.ma.array(np.arange(6.0).reshape(2, 3), mask=[[0, 1, 0], [0, 0, 1]])
    fortran = np.ma.array(np.asfortranarray([[1, 2], [3, 4]]), mask=False, fill_value=9)
    records = np.ma.array([(1, 2.5), (3, 4.5)], [("a", "<i4"), ("b", "<f8")], mask=[(0, 1), (1, 0)])
    file = pickle.dumps({"m": masked, "f": fortran, "r": records}, protocol)

    with fastload.open(file) as checkpoint:
        arrays = dict(checkpoint.items())
        kinds = {entry.name: (entry.kind, entry.dtype) for entry in checkpoint.entries()}

    assert list(arrays)[:2] == ["m.data", "m.mask"]
    for name, theirs in (("m", masked), ("f", fortran), ("r", records)):
        assert same(arrays[f"{name}.data"], theirs.data)
        assert arrays[f"{name}.mask"].tolist() == np.ma.getmaskarray(theirs).tolist()
    assert kinds["m.data"] == ("component", "float64") and kinds["m.mask"] == ("component", "bool")


def test_an_array_of_objects_that_is_masked_has_its_mask():
    masked = np.ma.array([np.ones(2), None], mask=[0, 1], dtype=object)

    arrays = read(pickle.dumps({"m": masked}, 4))

    assert arrays["m.mask"].tolist() == [False, True] and arrays["m.data.0"].tolist() == [1, 1]


def test_scalars_of_numpy_are_plain_values():
    values = {"f": np.float32(0.5), "i": np.int64(3), "s": np.str_("a"), "d": np.datetime64("2001-02-03")}

    with fastload.open(pickle.dumps({**values, "w": np.ones(1)}, 4)) as checkpoint:
        assert list(checkpoint) == ["w"]
        assert {key: checkpoint.objects[key] for key in values} == values


# What no pickler writes.


@pytest.mark.parametrize(
    "parts",
    [
        ((3,), plain_dtype(), b"\0" * 11),
        ((3,), plain_dtype("f4", (3, "<", None, None, None, 8, 4, 0)), b"\0" * 11),
        ((-1,), plain_dtype(), b"\0" * 4),
        ((1 << 62, 4), plain_dtype(), b"\0" * 4),
        ((1 << 64,), plain_dtype(), b"\0" * 4),
        ((1 << 32, 1 << 32), plain_dtype(), b"\0" * 4),
        (("3",), plain_dtype(), b"\0" * 12),
        ([3], plain_dtype(), b"\0" * 12),
        (None, plain_dtype(), b"\0" * 12),
        ((3,), plain_dtype("O"), b"\0" * 24),
        ((3,), plain_dtype("f4", (3, ">", None, None)), b"\0" * 12),
        ((3,), plain_dtype("f4", (9, "<", None, None, None, -1, -1, 0)), b"\0" * 12),
        ((3,), plain_dtype("f4", (3, "!", None, None, None, -1, -1, 0)), b"\0" * 12),
        ((3,), plain_dtype("x9"), b"\0" * 12),
        ((3,), plain_dtype(7), b"\0" * 12),
        ((3,), plain_dtype("V4", (3, "|", None, ("a",), {"a": (plain_dtype(), 2)}, 4, 1, 0)), b"\0" * 12),
        ((3,), plain_dtype("V4", (3, "|", None, ("a",), {"b": (plain_dtype(), 0)}, 4, 1, 0)), b"\0" * 12),
        ((3,), plain_dtype("V4", (3, "|", None, ("a", "a"), {"a": (plain_dtype(), 0)}, 4, 1, 0)), b"\0" * 12),
        ((3,), plain_dtype("V4", (3, "|", (plain_dtype(), (1 << 40,)), None, None, 4, 1, 0)), b"\0" * 12),
        ((3,), plain_dtype("U1000000000", (3, "<", None, None, None, 4000000000, 4, 0)), b"\0" * 12),
        ((3,), "f4", b"\0" * 12),
        ((3,), None, b"\0" * 12),
        ((3,), plain_dtype(), "слово"),
        ((3,), plain_dtype(), 7),
        ((3,), plain_dtype(), None),
        ((3,), plain_dtype(), (b"\0" * 12,)),
    ],
)
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_arrays_that_make_no_sense_are_refused(parts, protocol):
    with pytest.raises(fastload.FastloadError):
        read(dumps({"w": array_state(*parts)}, protocol))


@pytest.mark.parametrize(
    "state",
    [None, (), (1,), (1, 2, 3), [1, (3,), plain_dtype(), False, b"\0" * 12], {"a": 1}, 3, ((1, 2), {}), (1,) * 9],
    ids=repr,
)
def test_states_that_make_no_sense_are_refused_or_hold_nothing(state):
    ndarray = Global("numpy", "ndarray")
    array = Call(Global("numpy._core.multiarray", "_reconstruct"), (ndarray, (0,), b"b"), state)

    try:
        found = list(read(dumps({"w": array}, 4)))
    except fastload.FastloadError:
        return

    assert state is None and found == []


@pytest.mark.parametrize(
    "args",
    [
        (), (b"\0" * 12,), (b"\0" * 11, plain_dtype(), (3,), "C"), (b"\0" * 12, plain_dtype(), (4,), "C"),
        (b"\0" * 12, plain_dtype(), (3,), "K"), (b"\0" * 12, plain_dtype(), (3,), "C", None, None),
        (b"\0" * 12, plain_dtype(), (3, 1), "K", (0, 0)), (b"\0" * 12, plain_dtype(), (3, 1), "K", (0, 2)),
        (b"\0" * 12, plain_dtype(), (3, 1), "K", (0,)), (b"\0" * 12, plain_dtype(), (3, 1), "K", "01"),
        (b"\0" * 12, plain_dtype(), (3,), "X"), (b"\0" * 12, plain_dtype(), (3,), 3),
    ],
    ids=lambda args: repr(args[2:]),
)  # fmt: skip
def test_arrays_of_protocol_five_that_make_no_sense_are_refused(args):
    with pytest.raises(fastload.FastloadError):
        read(dumps({"w": Call(Global("numpy._core.numeric", "_frombuffer"), args)}, 5))


def test_two_hundred_odd_dtypes_are_read_and_many_more_are_refused():
    def file(count):
        return pickle.dumps([np.zeros(1, f"V{size}") for size in range(1, count + 1)], 4)

    assert len(read(file(200))) == 200
    with pytest.raises(LimitError, match="200"):
        fastload.open(file(300))
