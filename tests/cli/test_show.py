"""`fastload show`: the facts of a tensor, and its statistics against numpy's."""

import json
import math
import tracemalloc

import ml_dtypes
import numpy as np
import pytest

from builders import Tensor, safetensors_file, storage, tensor, torch_file
from fastload import opening
from fastload.cli import main
from fastload.cli.statistics import PIECE, statistics
from pickles import Call, Global

HOOKS = Call(Global("collections", "OrderedDict"), ())


@pytest.fixture
def show(tmp_path, capsys):
    """Run `show` on the bytes of a file, and return what it printed."""

    def run(file, *arguments):
        path = tmp_path / "m.bin"
        path.write_bytes(file)
        status = main(["show", str(path), *arguments])
        out, err = capsys.readouterr()
        assert (status, err) == (0, "")
        return out.replace(str(path), "PATH")

    return run


def test_the_facts_and_the_statistics(show):
    file = safetensors_file({"w": ("F32", (2, 3), np.array([0, -1.5, 2, 3, 0, 4], "<f4").tobytes())})

    assert show(file, "w") == (
        "name          w\n"
        "key path      ('w',)\n"
        "kind          tensor\n"
        "dtype         float32\n"
        "shape         (2, 3)\n"
        "strides       (12, 4) bytes\n"
        "size          24 bytes\n"
        "offset        72 (0x48)\n"
        "file          PATH\n"
        "storage       0, 24 bytes\n"
        "zero copy     yes\n"
        "min           -1.5\n"
        "max           4\n"
        "mean          1.25\n"
        "std           1.90941\n"
        "zeros         2\n"
        "nans          0\n"
        "infinities    0\n"
        "first values  0, -1.5, 2, 3, 0, 4\n"
    )


def test_those_who_share_the_storage_are_named(show):
    held = storage("float32", range(10))
    root = {f"w{n}": tensor("float32", (2,), held, offset=n) for n in range(8)} | {"x": tensor("int8", (1,), [1])}

    text = show(torch_file(root), "w0")
    found = json.loads(show(torch_file(root), "w0", "--json"))

    assert "shared with   w1, w2, w3, w4, w5, 2 others\n" in text
    assert found["shared_with"] == [f"w{n}" for n in range(1, 8)]
    assert found["storage_nbytes"] == 40 and "shared with" not in show(torch_file(root), "x")


def test_json(show):
    root = {"a": [tensor("int16", (2, 2), [1, 2, 3, 0])]}

    found = json.loads(show(torch_file(root), "a.0", "--json"))

    assert found == {
        "schema": "fastload.show/1",
        "path": "PATH",
        "format": "pytorch-zip",
        "name": "a.0",
        "key_path": ["a", 0],
        "kind": "tensor",
        "dtype": "int16",
        "shape": [2, 2],
        "strides": [4, 2],
        "nbytes": 8,
        "offset": found["offset"],
        "file": "PATH",
        "storage": found["storage"],
        "storage_nbytes": 8,
        "shared_with": [],
        "zero_copy": True,
        "quantization": None,
        "statistics": {
            "min": 0, "max": 3, "mean": 1.5, "std": math.sqrt(1.25), "zeros": 1, "nans": 0, "infinities": 0,
            "first": [1, 2, 3, 0],
        },
        "no_statistics": None,
    }  # fmt: skip


def found_of(file, name="w"):
    with opening.open(file) as opened:
        return statistics(opened[name], opened.entry(name))


@pytest.mark.parametrize("dtype", ["U8", "I8", "U16", "I16", "U32", "I32", "U64", "I64", "F16", "F32", "F64"])
def test_statistics_are_those_of_numpy(dtype):
    numpy_dtype = np.dtype(f"<{dtype[0].lower()}{int(dtype[1:]) // 8}")
    raw = np.random.default_rng(1).integers(0, 200, 3 * PIECE + 17).astype("f8")
    values = (raw - (0 if dtype[0] == "U" else 90)).astype("i1" if dtype == "I8" else numpy_dtype).astype(numpy_dtype)

    found = found_of(safetensors_file({"w": (dtype, values.shape, values.tobytes())}))

    assert (found.min, found.max) == (values.min(), values.max())
    assert found.zeros == np.count_nonzero(values == 0) > 0
    assert found.mean == pytest.approx(values.mean(dtype="f8"), rel=1e-12)
    assert found.std == pytest.approx(values.std(dtype="f8"), rel=1e-12)
    assert found.first == values[:8].tolist()


@pytest.mark.parametrize(
    ("dtype", "numpy_dtype"),
    [("BF16", ml_dtypes.bfloat16), ("F8_E4M3", ml_dtypes.float8_e4m3fn), ("F8_E5M2", ml_dtypes.float8_e5m2)],
)
def test_floats_that_numpy_lacks(dtype, numpy_dtype):
    values = np.array([0, -1.5, 2, np.nan, 8], numpy_dtype)

    found = found_of(safetensors_file({"w": (dtype, (5,), values.tobytes())}))

    assert found[:7] == (-1.5, 8.0, 2.125, pytest.approx(np.std([0, -1.5, 2, 8])), 1, 1, 0)
    assert found.first[:3] == [0, -1.5, 2] and math.isnan(found.first[3])


def test_every_byte_of_float8_is_a_scale_or_nan():
    found = found_of(safetensors_file({"w": ("F8_E8M0", (256,), bytes(range(256)))}))

    assert (found.min, found.max, found.nans, found.zeros) == (2.0**-127, 2.0**127, 1, 0)


def test_what_is_not_finite_is_counted_and_left_out():
    values = np.array([np.nan, np.inf, -np.inf, 1, 3, -0.0], "<f8")

    found = found_of(safetensors_file({"w": ("F64", (6,), values.tobytes())}))

    assert found[:7] == (0, 3, pytest.approx(4 / 3), pytest.approx(np.std([1, 3, 0])), 1, 1, 2)


def test_nothing_finite_has_no_statistics(show):
    file = safetensors_file({"w": ("F32", (1,), np.array([np.nan], "<f4").tobytes())})

    assert found_of(file)[:4] == (None, None, None, None)
    assert json.loads(show(file, "w", "--json"))["statistics"]["first"] == ["nan"]
    assert "mean" not in show(file, "w")


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

    assert found == (False, True, 0.75, pytest.approx(math.sqrt(3) / 4), 1, 0, 0, [False, True, True, True])


@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
def test_complex_numbers_have_no_order(dtype, show):
    values = np.array([1 + 2j, 3 - 4j, 0, complex(np.nan, 1)], dtype)
    file = torch_file({"w": tensor(dtype, (4,), values)})

    found = found_of(file)

    assert (found.min, found.max, found.zeros, found.nans) == (None, None, 1, 1)
    assert found.mean == pytest.approx(values[:3].mean()) and found.std == pytest.approx(values[:3].std())
    assert json.loads(show(file, "w", "--json"))["statistics"]["first"][:2] == [[1, 2], [3, -4]]
    assert "first values  1+2j, 3-4j" in show(file, "w")


def test_half_complex_numbers_are_pairs():
    pairs = np.array([[1, 2], [3, -4], [0, 0]], "<f2")
    held = Tensor(storage("float8_e4m3fn", pairs.tobytes()), (3,), (1,), 0, "complex32")

    found = found_of(torch_file({"w": held}))

    assert (found.mean, found.zeros, found.first) == (pytest.approx((4 - 2j) / 3), 1, [1 + 2j, 3 - 4j, 0j])


def test_an_empty_tensor_and_a_single_number():
    empty = found_of(safetensors_file({"w": ("F32", (0, 3), b"")}))
    single = found_of(safetensors_file({"w": ("I64", (), (7).to_bytes(8, "little"))}))

    assert empty == (None, None, None, None, 0, 0, 0, [])
    assert single == (7, 7, 7.0, 0.0, 0, 0, 0, [7])


def test_first_values_of_a_strided_tensor_are_in_row_major_order():
    found = found_of(torch_file({"w": Tensor(storage("int32", range(6)), (2, 3), (1, 2))}))

    assert (found.first, found.max) == ([0, 2, 4, 1, 3, 5], 5)


def test_a_tensor_that_repeats_two_numbers_a_quadrillion_times():
    found = found_of(torch_file({"w": Tensor(storage("float32", [0, 2]), (1 << 50, 2), (0, 1))}))

    assert found == (0, 2, 1, 1, 1 << 50, 0, 0, [0, 2] * 4)


def test_windows_that_overlap_without_end_have_facts_only(show):
    wide = Tensor(storage("uint8", bytes(1 << 16)), (1 << 15, 1 << 15), (1, 1))

    assert "none: the tensor repeats its storage too often" in show(torch_file({"w": wide}), "w")


def test_a_meta_tensor_has_facts_only(show):
    meta = Call(
        Global("torch._utils", "_rebuild_meta_tensor_no_storage"), (Global("torch", "float32"), (2, 3), (3, 1), False)
    )

    text = show(torch_file({"w": meta}), "w")
    found = json.loads(show(torch_file({"w": meta}), "w", "--json"))

    assert "storage     none\n" in text and "statistics  none: 'w' is a meta tensor" in text
    assert found["statistics"] is None and found["shape"] == [2, 3] and "meta" in found["no_statistics"]


def test_packed_elements_have_facts_only():
    file = safetensors_file({"w": ("F4", (4,), bytes(2))})

    with opening.open(file) as opened, pytest.raises(NotImplementedError, match="packed into bytes"):
        statistics(opened["w"], opened.entry("w"))


def test_memory_stays_small():
    values = np.arange(64 * PIECE, dtype="<f4").reshape(8, -1)
    file = torch_file({"w": Tensor(storage("float32", values.tobytes()), (8 * PIECE, 8), (1, 8 * PIECE))})
    with opening.open(file) as opened:
        array, entry = opened["w"], opened.entry("w")
        tracemalloc.start()
        statistics(array, entry)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()

    assert peak < values.nbytes / 4


def test_a_name_that_is_not_there_is_status_3_with_near_ones(tmp_path, capsys):
    path = tmp_path / "m.bin"
    path.write_bytes(safetensors_file({"encoder.weight": ("U8", (1,), b"\0")}))

    assert main(["show", str(path), "encoder.wieght"]) == 3
    assert capsys.readouterr() == (
        "",
        f"fastload: {path}: no tensor 'encoder.wieght' among 1; near: 'encoder.weight'\n",
    )


def test_a_name_is_needed(capsys):
    assert main(["show", "m.safetensors"]) == 2
    assert "NAME" in capsys.readouterr().err


def test_names_are_escaped_for_a_person_and_exact_as_json(show):
    file = safetensors_file({"a\x1b\u202e": ("U8", (1,), b"\0")})

    assert show(file, "a\x1b\u202e").startswith("name          a\\x1b\\u202e\n")
    assert json.loads(show(file, "a\x1b\u202e", "--json"))["name"] == "a\x1b\u202e"
