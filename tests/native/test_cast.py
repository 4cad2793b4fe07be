"""Floats to floats, bit by bit: against torch, and against the definition where torch rounds twice."""

import functools

import ml_dtypes
import numpy as np
import pytest
import torch

from fastload._native import FLOATS, KERNELS, convert

WIDTHS = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}
SMALL = [name for name in FLOATS if WIDTHS.get(name, 1) < 4]
PAIRS = [(source, target) for source in FLOATS for target in FLOATS if source != target]
COUNTS = [0, 1, 7, 8, 9, 31, 255, 256, 257, 511, 512, 513, 2049, 4095, 4096, 5000]
TORCH_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def width(name):
    return WIDTHS.get(name, 1)


def words(name):
    return np.dtype(f"u{width(name)}")


def numpy_type(name):
    return np.dtype(getattr(ml_dtypes, name, None) or name)


def casted(bits, source, target, kernel, streams=None):
    result = np.empty(bits.shape, words(target))
    convert(bits.view(np.uint8), FLOATS.index(source), result.view(np.uint8), FLOATS.index(target), kernel, streams)
    return result


def torch_casted(bits, source, target):
    signed = torch.from_numpy(bits.view(f"i{bits.itemsize}" if bits.itemsize > 1 else "u1").copy())
    result = signed.view(getattr(torch, source)).to(getattr(torch, target))
    return result.view(TORCH_INTEGERS[width(target)]).numpy().view(words(target))


def is_nan(bits, name):
    return np.isnan(bits.view(numpy_type(name)).astype(np.float64))


def rounded_twice(source, target):
    """Torch goes by float32; what it loses then is the matter of a test of its own."""
    return source == "float64" and target in SMALL


@functools.cache
def patterns(name):
    """Every pattern of the small dtypes; of the others whatever rounds in a special way, and many at random."""
    if width(name) <= 2:
        return np.arange(256 ** width(name)).astype(words(name))
    kind = numpy_type(name)
    random = np.random.default_rng(3).integers(0, 2 ** (8 * width(name)), 100_000, words(name), endpoint=False)
    exponents = 10.0 ** np.random.default_rng(4).uniform(-60, 50, 100_000)
    found = [random.view(kind), exponents.astype(kind), -exponents.astype(kind)]
    for small in SMALL:
        values = np.arange(256 ** width(small)).astype(words(small)).view(numpy_type(small)).astype(np.float64)
        values = np.unique(values[np.isfinite(values)])
        top = values[-1] + (values[-1] - values[-2])  # where the next number would be
        values = np.concatenate(([-top], values, [top]))
        for near in (values.astype(kind), (values[:-1] / 2 + values[1:] / 2).astype(kind)):
            found += [near, np.nextafter(near, kind.type(np.inf)), np.nextafter(near, kind.type(-np.inf))]
    if name == "float64":
        largest = np.float64(np.finfo(np.float32).max)
        half = np.array([largest + 2.0**103, 2.0**-149, 2.0**-150, 2.0**-1074, 0.0])
        found += [sign * near for sign in (1, -1) for near in (half, np.nextafter(half, np.inf), np.nextafter(half, 0))]
    nans = random | np.array(np.inf, kind).view(words(name))
    bits = np.concatenate([part.astype(kind).view(words(name)) for part in found] + [nans])
    return np.concatenate([bits, np.zeros(-len(bits) % 64, bits.dtype)])  # torch's tails treat NaN otherwise


@pytest.fixture(autouse=True)
def _quiet():
    with np.errstate(all="ignore"):
        yield


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(("source", "target"), [pair for pair in PAIRS if not rounded_twice(*pair)])
def test_every_pattern_becomes_what_torch_makes_of_it(source, target, kernel):
    bits = patterns(source)

    result = casted(bits, source, target, kernel)

    np.testing.assert_array_equal(result, torch_casted(bits, source, target))


def nearest(values, target):
    """The definition: the nearest number of *target*, of two equally near ones the one whose last bit is zero."""
    codes = np.arange(128 * 256 ** (width(target) - 1)).astype(words(target))
    grid = codes.view(numpy_type(target)).astype(np.float64)
    grid = grid[np.isfinite(grid)]  # ascending, from zero
    past = grid[-1] + (grid[-1] - grid[-2])
    bounds = np.append(grid, past)
    middle = (bounds[:-1] + bounds[1:]) / 2  # exact: 53 bits are enough
    magnitude = np.abs(values)
    code = np.searchsorted(middle, magnitude, side="left")
    tie = (code < len(middle)) & (magnitude == middle[np.minimum(code, len(middle) - 1)])
    code = code + (tie & (code % 2 == 1))
    return code.astype(np.int64), len(grid)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("target", [name for name in SMALL if name != "float8_e8m0fnu"])
def test_float64_is_rounded_once(target, kernel):
    bits = patterns("float64")
    bits = bits[~is_nan(bits, "float64")]
    values = bits.view(np.float64)
    negative = np.signbit(values)
    sign = 1 << (8 * width(target) - 1)
    code, count = nearest(values, target)
    if target == "float8_e4m3fn":
        code = np.minimum(code, count - 1)  # the largest, as torch has it
    expected = np.where(negative, code | sign, code)
    if target.endswith("fnuz"):
        expected = np.where(code == 0, 0, np.where(code >= count, 0x80, expected))

    result = casted(bits, "float64", target, kernel)

    np.testing.assert_array_equal(result, expected.astype(words(target)))
    twice = torch_casted(bits, "float64", target)
    assert 0 < np.count_nonzero(twice != result) < len(bits)  # else this test could go


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_power_of_two_alone_is_rounded_once(kernel):
    values = np.array([0, -0.0, 2.0**-127, 1.5, np.nextafter(1.5, 0), -3.0, 2.0**127 * 1.5, 1e300, np.inf, np.nan])

    result = casted(values.view(np.uint64), "float64", "float8_e8m0fnu", kernel)

    assert result.tolist() == [0, 0, 0, 128, 127, 129, 255, 255, 255, 255]


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("target", SMALL)
def test_nan_of_float64_stays_nan(target, kernel):
    bits = patterns("float64")
    bits = bits[is_nan(bits, "float64")]

    result = casted(bits, "float64", target, kernel)

    if target == "bfloat16":
        assert set(result) == {0xFFFF}  # torch: this or 0x7FC0, as the number of elements has it
    else:
        np.testing.assert_array_equal(result, torch_casted(bits, "float64", target))


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_every_variant_agrees_with_the_portable_one(source, target, kernel, streams):
    times = 4096 // len(patterns(source)) + 1  # long enough for tables, as the portable one's is not
    expected = casted(patterns(source), source, target, "portable", False)

    result = casted(np.tile(patterns(source), times), source, target, kernel, streams)

    np.testing.assert_array_equal(result, np.tile(expected, times))


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_any_count_at_any_address(source, target, kernel, streams):
    bits = np.random.default_rng(5).permutation(patterns(source))
    bits = np.resize(bits[~is_nan(bits, source)], max(COUNTS))
    expected = casted(bits, source, target, kernel, False).tobytes()
    data = memoryview(bytearray(1) + bits.tobytes())[1:]  # odd
    room = np.empty(max(COUNTS) * width(target) + 256, np.uint8)
    line = -room.ctypes.data % 64 + 64

    for count in COUNTS:
        for start in (line, line + 3, line - count % 8 * width(target)):
            end = start + count * width(target)
            room[:] = 0xA5
            ends = FLOATS.index(source), room[start:end], FLOATS.index(target)
            convert(data[: count * width(source)], *ends, kernel, streams)

            assert room[start:end].tobytes() == expected[: end - start]
            assert (room[:start] == 0xA5).all() and (room[end:] == 0xA5).all()


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(
    ("source", "target"), [("float16", "float32"), ("float32", "bfloat16"), ("float64", "float8_e5m2")]
)
def test_heads_and_tails_of_lines_are_whole(source, target, kernel, streams):
    bits = patterns(source)[:130]
    expected = casted(bits, source, target, "portable", False).tobytes()
    room = np.empty(130 * width(target) + 128, np.uint8)
    line = -room.ctypes.data % 64

    for count in range(131):
        for start in range(line, line + 64, width(target)):
            end = start + count * width(target)
            room[:] = 0xA5
            data = bits[:count].view(np.uint8)
            convert(data, FLOATS.index(source), room[start:end], FLOATS.index(target), kernel, streams)

            assert room[start:end].tobytes() == expected[: end - start]
            assert (room[:start] == 0xA5).all() and (room[end:] == 0xA5).all()


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(
    ("source", "target"), [("bfloat16", "float64"), ("float64", "float32"), ("float64", "bfloat16")]
)
def test_a_processor_that_flushes_subnormal_numbers_changes_nothing(source, target, kernel):
    bits = patterns(source)
    expected = casted(bits, source, target, kernel)
    assert torch.set_flush_denormal(True)
    try:
        result = casted(bits, source, target, kernel)
        still_flushes = float(torch.tensor([1e-310], dtype=torch.float64) * 1) == 0
    finally:
        torch.set_flush_denormal(False)

    np.testing.assert_array_equal(result, expected)
    assert still_flushes


@pytest.mark.parametrize(
    ("data", "source", "result", "target"),
    [
        (bytes(8), -1, bytearray(8), 0),
        (bytes(8), 0, bytearray(8), len(FLOATS)),
        (bytes(8), 0, bytearray(8), 0),
        (bytes(8), 1, bytearray(8), 2),
        (bytes(7), 1, bytearray(2), 2),
        (bytes(8), 1, bytearray(5), 2),
    ],
)
def test_what_does_not_fit_is_refused(data, source, result, target):
    with pytest.raises(ValueError, match=r"bytes|floats"):
        convert(data, source, result, target)


def test_a_result_over_the_data_is_refused():
    memory = memoryview(bytearray(12))

    with pytest.raises(ValueError, match="overlap"):
        convert(memory[:8], FLOATS.index("float32"), memory[4:8], FLOATS.index("float16"))


def test_a_variant_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="no kernel 'abacus'"):
        convert(bytes(8), FLOATS.index("float32"), bytearray(4), FLOATS.index("float16"), "abacus")


def test_the_portable_variant_is_always_there_and_comes_last():
    assert KERNELS[-1] == "portable"
    assert len(set(KERNELS)) == len(KERNELS)


def test_a_result_that_is_read_only_is_refused():
    with pytest.raises(BufferError):
        convert(bytes(8), FLOATS.index("float32"), bytes(4), FLOATS.index("float16"))
