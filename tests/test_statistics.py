"""The statistics of values, against numpy's: exact counts, bounded memory, the same by any number of threads."""

import math
import tracemalloc

import ml_dtypes
import numpy as np
import pytest

import fastload
from builders import Tensor, safetensors_file, storage, torch_file
from fastload import opening
from fastload import statistics as module
from fastload.statistics import BLOCK, PIECE, NotFinite, find_not_finite, first_values, statistics, survey


def found_of(file, name="w"):
    with opening.open(file) as opened:
        return statistics(opened, name)


def first_of(file, name="w"):
    with opening.open(file) as opened:
        return first_values(opened[name], opened.entry(name))


@pytest.mark.parametrize("dtype", ["U8", "I8", "U16", "I16", "U32", "I32", "U64", "I64", "F16", "F32", "F64"])
def test_statistics_are_those_of_numpy(dtype):
    numpy_dtype = np.dtype(f"<{dtype[0].lower()}{int(dtype[1:]) // 8}")
    raw = np.random.default_rng(1).integers(0, 200, 3 * PIECE + 17).astype("f8")
    values = (raw - (0 if dtype[0] == "U" else 90)).astype("i1" if dtype == "I8" else numpy_dtype).astype(numpy_dtype)

    file = safetensors_file({"w": (dtype, values.shape, values.tobytes())})
    found = found_of(file)

    assert (found.min, found.max) == (values.min(), values.max())
    assert found.zeros == np.count_nonzero(values == 0) > 0
    assert found.mean == pytest.approx(values.mean(dtype="f8"), rel=1e-12)
    assert found.std == pytest.approx(values.std(dtype="f8"), rel=1e-12)
    assert first_of(file) == values[:8].tolist()


@pytest.mark.parametrize(
    ("dtype", "numpy_dtype"),
    [("BF16", ml_dtypes.bfloat16), ("F8_E4M3", ml_dtypes.float8_e4m3fn), ("F8_E5M2", ml_dtypes.float8_e5m2)],
)
def test_floats_that_numpy_lacks(dtype, numpy_dtype):
    values = np.array([0, -1.5, 2, np.nan, 8], numpy_dtype)

    file = safetensors_file({"w": (dtype, (5,), values.tobytes())})

    assert found_of(file) == (-1.5, 8.0, 2.125, pytest.approx(np.std([0, -1.5, 2, 8])), 1, 1, 0)
    assert first_of(file)[:3] == [0, -1.5, 2] and math.isnan(first_of(file)[3])


def test_every_byte_of_float8_is_a_scale_or_nan():
    found = found_of(safetensors_file({"w": ("F8_E8M0", (256,), bytes(range(256)))}))

    assert (found.min, found.max, found.nans, found.zeros) == (2.0**-127, 2.0**127, 1, 0)


def test_what_is_not_finite_is_counted_and_left_out():
    values = np.array([np.nan, np.inf, -np.inf, 1, 3, -0.0], "<f8")

    found = found_of(safetensors_file({"w": ("F64", (6,), values.tobytes())}))

    assert found == (0, 3, pytest.approx(4 / 3), pytest.approx(np.std([1, 3, 0])), 1, 1, 2)


def test_numbers_at_the_ends_of_their_range():
    floats = np.array([1.7e308, 1.7e308, -1.7e308], "<f8")
    integers = np.array([2**63 - 1, 2**63 - 2, -(2**63)], "<i8")
    file = safetensors_file({"f": ("F64", (3,), floats.tobytes()), "i": ("I64", (3,), integers.tobytes())})

    assert found_of(file, "f").max == 1.7e308 and not math.isnan(found_of(file, "f").std)
    assert (found_of(file, "i").min, found_of(file, "i").max) == (-(2**63), 2**63 - 1)


def test_small_differences_of_large_numbers_are_kept():
    values = 1e8 + np.tile(np.array([0, 1], "<f4"), PIECE).astype("<f8")

    found = found_of(safetensors_file({"w": ("F64", values.shape, values.tobytes())}))

    assert (found.mean, found.std) == (pytest.approx(1e8 + 0.5, rel=1e-15), pytest.approx(0.5, rel=1e-9))


def test_bools_count_as_0_and_1():
    found = found_of(safetensors_file({"w": ("BOOL", (4,), b"\0\1\1\1")}))

    assert found == (False, True, 0.75, pytest.approx(math.sqrt(3) / 4), 1, 0, 0)


def test_half_complex_numbers_are_pairs():
    pairs = np.array([[1, 2], [3, -4], [0, 0]], "<f2")
    held = Tensor(storage("float8_e4m3fn", pairs.tobytes()), (3,), (1,), 0, "complex32")

    file = torch_file({"w": held})

    assert (found_of(file).mean, found_of(file).zeros) == (pytest.approx((4 - 2j) / 3), 1)
    assert first_of(file) == [1 + 2j, 3 - 4j, 0j]


def test_an_empty_tensor_and_a_single_number():
    empty = safetensors_file({"w": ("F32", (0, 3), b"")})
    single = safetensors_file({"w": ("I64", (), (7).to_bytes(8, "little"))})

    assert (found_of(empty), first_of(empty)) == ((None, None, None, None, 0, 0, 0), [])
    assert (found_of(single), first_of(single)) == ((7, 7, 7.0, 0.0, 0, 0, 0), [7])


def test_first_values_of_a_strided_tensor_are_in_row_major_order():
    file = torch_file({"w": Tensor(storage("int32", range(6)), (2, 3), (1, 2))})

    assert (first_of(file), found_of(file).max) == ([0, 2, 4, 1, 3, 5], 5)


def test_a_tensor_that_repeats_two_numbers_a_quadrillion_times():
    file = torch_file({"w": Tensor(storage("float32", [0, 2]), (1 << 50, 2), (0, 1))})

    assert (found_of(file), first_of(file)) == ((0, 2, 1, 1, 1 << 50, 0, 0), [0, 2] * 4)


def test_packed_elements_have_none():
    file = safetensors_file({"w": ("F4", (4,), bytes(2))})

    with opening.open(file) as opened, pytest.raises(NotImplementedError, match="packed into bytes"):
        statistics(opened, "w")


@pytest.fixture
def large(tmp_path):
    """A file with a tensor of several blocks, of which some values are not finite, and one that lies transposed."""
    values = np.random.default_rng(5).standard_normal((3, BLOCK // 2 + 5)).astype("f4")
    values[1, 7], values[2, -1], values[0, 0] = np.nan, -np.inf, 0
    other = np.arange(BLOCK + 8, dtype="i4")
    path = tmp_path / "m.pt"
    path.write_bytes(
        torch_file(
            {
                "w": Tensor(storage("float32", values.tobytes()), values.shape, (values.shape[1], 1)),
                "t": Tensor(storage("int32", other.tobytes()), (8, BLOCK // 8 + 1), (1, 8)),
            }
        )
    )
    return path, values, other


def test_several_blocks_are_put_together_as_numpy_has_them(large):
    path, values, other = large
    finite = values[np.isfinite(values)].astype("f8")

    with opening.open(path) as opened:
        found = {one.entry.name: one.found for one in survey(opened, 2)}

    assert found["w"][:2] == (finite.min(), finite.max())
    assert found["w"].mean == pytest.approx(finite.mean(), rel=1e-12, abs=1e-15)
    assert found["w"].std == pytest.approx(finite.std(), rel=1e-12)
    assert found["w"][4:] == (1, 1, 1)
    assert found["t"] == (0, other[-1], pytest.approx(other.mean()), pytest.approx(other.std()), 1, 0, 0)


def test_the_result_does_not_depend_on_the_number_of_threads(large):
    with opening.open(large[0]) as opened:
        one, two, five = (list(survey(opened, threads)) for threads in (1, 2, 5))

    assert [row.found for row in one] == [row.found for row in two] == [row.found for row in five]


@pytest.mark.parametrize("io", ["mmap", "read"])
def test_the_result_does_not_depend_on_how_the_file_is_read(large, io):
    with opening.open(large[0], io=io) as opened, opening.open(large[0]) as other:
        assert [row.found for row in survey(opened)] == [row.found for row in survey(other)]


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("plan", [{}, {"cast": "bfloat16"}, {"cast": "float64"}], ids=str)
def test_memory_stays_small(plan, threads, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "BLOCK", 4 * PIECE)
    path = tmp_path / "m.pt"
    values = np.zeros(128 * PIECE, "f4")
    strided = Tensor(storage("float32", values.tobytes()), (values.size // 8, 8), (1, values.size // 8))
    path.write_bytes(torch_file({"w": strided}))
    with opening.open(path, **plan) as opened:
        tracemalloc.start()
        found = [one.found.zeros for one in survey(opened, threads)]
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()

    assert found == [values.size]
    assert peak < values.nbytes / 4


@pytest.mark.parametrize("target", ["float16", "bfloat16", "float8_e4m3fn", "float64"])
def test_a_cast_has_the_statistics_of_what_would_be_written(target, tmp_path):
    path = tmp_path / "m.safetensors"
    fastload.save({"w": np.random.default_rng(2).standard_normal((70, 2000)).astype("f4")}, path)

    with opening.open(path, cast=target) as opened:
        planned = statistics(opened, "w")
        fastload.save(opened, tmp_path / "c.safetensors")

    with opening.open(tmp_path / "c.safetensors") as written:
        assert planned == statistics(written, "w")


def test_tensors_without_statistics_say_why_and_the_others_go_on():
    file = safetensors_file({"p": ("F4", (4,), bytes(2)), "w": ("U8", (2,), b"\1\3")})

    with opening.open(file) as opened:
        packed, plain = survey(opened)

    assert packed.found is None and "packed into bytes" in str(packed.error)
    assert plain.error is None and plain.found.mean == 2


def test_a_bool_is_true_whatever_its_byte_is():
    assert found_of(safetensors_file({"w": ("BOOL", (3,), b"\0\2\xff")})).mean == pytest.approx(2 / 3)


def test_what_is_not_finite_is_found_and_integers_are_not_read():
    floats = np.array([1, np.nan, np.inf, np.inf], "<f4").tobytes()
    file = safetensors_file({"w": ("F32", (4,), floats), "i": ("I32", (4,), floats), "b": ("BF16", (8,), floats)})

    with opening.open(file) as opened:
        found = {one.entry.name: one.found for one in find_not_finite(opened)}

    assert found == {"w": NotFinite(1, 2), "b": NotFinite(1, 2)}


def test_progress_is_told_in_bytes():
    told = []
    file = safetensors_file({"a": ("U8", (3,), bytes(3)), "b": ("U8", (4,), bytes(4))})

    with opening.open(file) as opened:
        list(survey(opened, 2, lambda done, total: told.append((done, total))))

    assert told == [(3, 7), (7, 7)]
