"""Casting by names: which dtypes, arrays of any layout, integers on request, and casting in chunks."""

import tracemalloc

import ml_dtypes
import numpy as np
import pytest
import torch

from fastload.casting import cast, cast_chunks, check_cast, is_cast
from fastload.dtypes import DTYPES
from fastload.errors import PlanError, UnsupportedError

BF16 = np.dtype(ml_dtypes.bfloat16)
FLOATS = [
    row.name for row in DTYPES if row.name.startswith(("float", "bfloat")) and row.bits >= 8 and "x2" not in row.name
]
COMPLEX = ["complex32", "complex64", "complex128"]
INTEGERS = ["bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"]
OTHERS = [row.name for row in DTYPES if row.name not in {*FLOATS, *COMPLEX, *INTEGERS}]


def unaligned(array):
    memory = np.empty(array.nbytes + 1, np.uint8)
    result = np.ndarray(array.shape, array.dtype, memory.data, 1)
    result[...] = array
    return result


def scattered(array):
    wide = np.zeros((*array.shape[:-1], 3 * array.shape[-1]), array.dtype)
    wide[..., ::3] = array
    return wide[..., ::3]


LAYOUTS = {
    "as it is": lambda array: array,
    "unaligned": unaligned,
    "strided": scattered,
    "transposed": lambda array: np.asfortranarray(array),
    "backwards": lambda array: np.ascontiguousarray(array[::-1, :, ::-1])[::-1, :, ::-1],
    "big-endian": lambda array: array.astype(array.dtype.newbyteorder(">")),
    "read-only": lambda array: np.frombuffer(array.tobytes(), array.dtype).reshape(array.shape),
}


def numbers(shape=(7, 30, 11), dtype=np.float32):
    return np.random.default_rng(1).standard_normal(shape).astype(dtype)


def joined(chunks):
    return b"".join(chunks)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_layout_of_the_array_does_not_matter(layout, monkeypatch):
    monkeypatch.setattr("fastload.casting.BLOCK_BYTES", 256)
    array = LAYOUTS[layout](numbers())

    result = cast(array, "float32", "bfloat16")

    assert result.dtype == BF16 and result.flags.c_contiguous
    np.testing.assert_array_equal(result, numbers().astype(BF16))


@pytest.mark.parametrize("layout", ["as it is", "strided", "transposed", "backwards", "unaligned", "big-endian"])
def test_the_layout_of_the_result_does_not_matter(layout, monkeypatch):
    monkeypatch.setattr("fastload.casting.BLOCK_BYTES", 256)
    out = LAYOUTS[layout](np.zeros((7, 30, 11), np.float16))

    result = cast(numbers(), "float32", "float16", out=out)

    assert result is out
    np.testing.assert_array_equal(out, numbers().astype(np.float16))


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1,), (1, 1, 1)])
def test_few_elements_or_none(shape):
    array = np.full(shape, 1.5, np.float32)

    result = cast(array, "float32", "float8_e5m2")

    assert result.shape == shape and result.dtype == ml_dtypes.float8_e5m2 and (result == 1.5).all()
    assert joined(cast_chunks(array, "float32", "float8_e5m2", 100)) == result.tobytes()


def test_a_broadcast_array_is_read_where_it_lies():
    array = np.broadcast_to(np.float32(2.5), (300, 400))

    result = cast(array, "float32", "float64")

    assert result.shape == (300, 400) and (result == 2.5).all()


def test_the_same_dtype_is_the_same_array():
    array = numbers()

    assert cast(array, "float32", "float32") is array


def test_the_same_dtype_is_copied_where_a_place_is_given():
    out = np.zeros((7, 30, 11), np.float32)

    cast(numbers(), "float32", "float32", out=out)

    np.testing.assert_array_equal(out, numbers())


def test_nothing_is_warned_of():
    array = np.array([1e300, -1e300, np.nan, 1e-320])

    assert cast(array, "float64", "float16").tolist()[:2] == [np.inf, -np.inf]


@pytest.mark.parametrize("source", FLOATS)
@pytest.mark.parametrize("target", FLOATS)
def test_any_float_becomes_any_float(source, target):
    check_cast(source, target)

    assert is_cast(source, target)


@pytest.mark.parametrize("other", OTHERS)
def test_packed_and_quantised_dtypes_stay_what_they_are(other):
    for source, target in ((other, "float32"), ("float32", other)):
        assert not is_cast(source, target, allow_integers=True)
        with pytest.raises(UnsupportedError, match=other):
            check_cast(source, target, allow_integers=True)
    assert is_cast(other, other)


@pytest.mark.parametrize("integer", INTEGERS)
def test_integers_are_cast_only_when_asked(integer):
    for source, target in ((integer, "float32"), ("float32", integer)):
        assert not is_cast(source, target) and is_cast(source, target, allow_integers=True)
        with pytest.raises(PlanError, match="allow_integers"):
            check_cast(source, target)
    assert is_cast(integer, integer)


def test_an_unknown_dtype_is_named():
    assert not is_cast("float32", "fp16")
    with pytest.raises(PlanError, match=r"no dtype 'fp16'.*float16"):
        cast(numbers(), "float32", "fp16")


@pytest.mark.parametrize("real", ["float32", "int64"])
def test_complex_numbers_do_not_become_real_ones(real):
    for source, target in ((real, "complex64"), ("complex64", real)):
        with pytest.raises(UnsupportedError, match="complex"):
            check_cast(source, target, allow_integers=True)


@pytest.mark.parametrize("layout", ["as it is", "unaligned", "transposed", "backwards", "strided", "big-endian"])
def test_complex_numbers_among_each_other(layout):
    values = (numbers() + 1j * numbers()[::-1]).astype(np.complex128)
    array = LAYOUTS[layout](values)

    small = cast(array, "complex128", "complex32")
    middle = cast(array, "complex128", "complex64")

    np.testing.assert_array_equal(middle, values.astype(np.complex64))
    np.testing.assert_array_equal(small, np.stack([values.real, values.imag], -1).astype(np.float16))
    np.testing.assert_array_equal(
        cast(small[::2, :, ::-1], "complex32", "complex128"),
        (small[..., 0] + 1j * small[..., 1].astype(float))[::2, :, ::-1],
    )
    assert joined(cast_chunks(array, "complex128", "complex64", 1000)) == middle.tobytes()
    assert joined(cast_chunks(array, "complex128", "complex32", 1000)) == small.tobytes()


def test_a_complex_number_alone():
    result = cast(np.array(1 + 2j), "complex128", "complex32")

    assert result.shape == (2,) and result.tolist() == [1, 2]
    assert cast(result, "complex32", "complex64").shape == ()


@pytest.mark.parametrize("source", INTEGERS)
@pytest.mark.parametrize("target", [name for name in FLOATS if name != "float8_e8m0fnu"])
def test_integers_become_the_nearest_float(source, target):
    info = np.iinfo("uint8" if source == "bool" else source)
    values = np.array([0, 1] if source == "bool" else [info.min, info.max, 0, 1, 5, 17, 100, 127], source)

    result = cast(values, source, target, allow_integers=True)

    expected = torch.from_numpy(values).to(torch.float64).to(getattr(torch, target)).to(torch.float64).numpy()
    np.testing.assert_array_equal(result.astype(np.float64), expected)


def test_a_long_integer_is_rounded_once():
    halfway = (1 << 62) + (1 << 54)  # between two numbers of bfloat16; the lower one is even
    values = [halfway, halfway + 1, -halfway, -halfway - 1, halfway - 1]

    result = cast(np.array(values), "int64", "bfloat16", allow_integers=True)
    unsigned = cast(np.array([2 * halfway, 2 * halfway + 1], np.uint64), "uint64", "bfloat16", allow_integers=True)

    low, high = 2.0**62, 2.0**62 * (1 + 2.0**-7)
    assert result.astype(np.float64).tolist() == [low, high, -low, -high, low]
    assert unsigned.astype(np.float64).tolist() == [2 * low, 2 * high]


@pytest.mark.parametrize(("source", "target"), [("float64", "int8"), ("float32", "uint8"), ("bfloat16", "int64")])
def test_floats_lose_their_fraction(source, target):
    values = cast(np.array([1.75, 0.25, -0.75, 100.5]), "float64", source)

    result = cast(values, source, target, allow_integers=True)

    assert result.dtype == target and result.tolist() == [1, 0, 0, 100]


@pytest.mark.parametrize(
    ("value", "target"),
    [
        (np.nan, "int32"),
        (np.inf, "int64"),
        (128.0, "int8"),
        (-129.0, "int8"),
        (-1.0, "uint8"),
        (2.0**63, "int64"),
        (2.0**64, "uint64"),
    ],
)
def test_a_float_without_its_integer_is_refused(value, target):
    with pytest.raises(PlanError, match=f"no {target}"):
        cast(np.array([1.0, value]), "float64", target, allow_integers=True)


def test_the_outermost_integers_fit():
    edges = [(127.9, "int8", 127), (-128.9, "int8", -128), (-(2.0**63), "int64", -(2**63)), (-0.9, "uint64", 0)]

    for value, target, expected in edges:
        assert cast(np.array([value]), "float64", target, allow_integers=True).tolist() == [expected]


@pytest.mark.parametrize(
    ("value", "source", "target"),
    [(-1, "int64", "uint64"), (2**63, "uint64", "int64"), (256, "int16", "uint8"), (-129, "int32", "int8")],
)
def test_an_integer_that_does_not_fit_is_refused(value, source, target):
    with pytest.raises(PlanError, match=f"{value} is no {target}"):
        cast(np.array([0, value], source), source, target, allow_integers=True)


@pytest.mark.parametrize("source", INTEGERS)
@pytest.mark.parametrize("target", INTEGERS)
def test_integers_that_fit_stay_what_they_are(source, target):
    values = np.array([0, 1, 1] if "bool" in (source, target) else [0, 1, 100], source)

    result = cast(values, source, target, allow_integers=True)

    assert result.dtype == target and result.tolist() == values.tolist()


def test_all_but_zero_is_true():
    for source, values in (("float32", [0.0, -0.0, 1e-40, np.nan, -2]), ("int16", [0, 0, 256, -1, 1])):
        result = cast(np.array(values, source), source, "bool", allow_integers=True)

        assert result.tolist() == [False, False, True, True, True]


def test_a_bool_of_a_file_is_zero_or_one():
    array = np.array([0, 1, 2, 255], np.uint8).view(np.bool_)

    assert cast(array, "bool", "float32", allow_integers=True).tolist() == [0, 1, 1, 1]
    assert cast(array, "bool", "int64", allow_integers=True).tolist() == [0, 1, 1, 1]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("source", "target"), [("float32", "float16"), ("float32", "float32"), ("float32", "float64")])
@pytest.mark.parametrize("chunk_bytes", [0, 1, 100, 1 << 20])
def test_chunks_are_the_bytes_of_the_cast_array(layout, source, target, chunk_bytes):
    array = LAYOUTS[layout](numbers())

    chunks = list(cast_chunks(array, source, target, chunk_bytes))

    assert joined(chunks) == numbers().astype(target).tobytes()
    assert all(chunk.format == "B" and chunk.contiguous for chunk in chunks)
    assert max(chunk.nbytes for chunk in chunks) <= max(chunk_bytes, np.dtype(target).itemsize)


def test_chunks_of_an_array_as_it_is_are_views():
    array = numbers().astype(BF16)

    chunks = list(cast_chunks(array, "bfloat16", "bfloat16", 128))

    assert all(np.shares_memory(np.frombuffer(chunk, np.uint8), array.view(np.uint8)) for chunk in chunks)


def test_chunks_refuse_at_once_and_not_when_they_are_read():
    with pytest.raises(PlanError):
        cast_chunks(numbers(), "float32", "int8", 100)
    with pytest.raises(ValueError, match="float32"):
        cast_chunks(numbers(), "float16", "float32", 100)


@pytest.mark.parametrize("layout", ["as it is", "transposed"])
def test_chunks_need_memory_for_a_few_of_them_only(layout):
    array = {"as it is": np.ones((2048, 4096), np.float32), "transposed": np.ones((4096, 2048), np.float32).T}[layout]
    chunk_bytes = 1 << 18
    tracemalloc.start()
    try:
        total = sum(chunk.nbytes for chunk in cast_chunks(array, "float32", "bfloat16", chunk_bytes))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert total == array.size * 2
    assert peak < 5 * chunk_bytes


@pytest.mark.parametrize("shape", [(7, 30), (7, 30, 12)])
def test_a_place_of_another_shape_is_refused(shape):
    with pytest.raises(ValueError, match="shape"):
        cast(numbers(), "float32", "float16", out=np.zeros(shape, np.float16))


def test_a_place_of_another_dtype_or_read_only_or_over_the_array_is_refused():
    array = numbers()
    flat = array.reshape(-1)
    fixed = np.zeros(array.shape, np.float16)
    fixed.flags.writeable = False

    with pytest.raises(ValueError, match="float16"):
        cast(array, "float32", "float16", out=np.zeros(array.shape, np.float32))
    with pytest.raises(ValueError, match="read-only"):
        cast(array, "float32", "float16", out=fixed)
    with pytest.raises(ValueError, match="overlaps"):
        cast(flat[:100], "float32", "float16", out=flat[:50].view(np.float16))


def test_an_array_of_another_dtype_than_said_is_refused():
    with pytest.raises(ValueError, match="bfloat16"):
        cast(numbers(), "bfloat16", "float16")
    with pytest.raises(ValueError, match="last axis of 2"):
        cast(np.zeros((2, 3), np.float16), "complex32", "complex64")
