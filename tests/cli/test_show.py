"""`fastload show`: the facts of a tensor, and its statistics against numpy's."""

import json
import math

import numpy as np
import pytest

from builders import Tensor, safetensors_file, storage, tensor, torch_file
from fastload.cli import main
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


def test_nothing_finite_has_no_statistics(show):
    file = safetensors_file({"w": ("F32", (1,), np.array([np.nan], "<f4").tobytes())})

    assert json.loads(show(file, "w", "--json"))["statistics"]["first"] == ["nan"]
    assert "mean" not in show(file, "w")


@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
def test_complex_numbers_have_no_order(dtype, show):
    values = np.array([1 + 2j, 3 - 4j, 0, complex(np.nan, 1)], dtype)
    file = torch_file({"w": tensor(dtype, (4,), values)})

    found = json.loads(show(file, "w", "--json"))["statistics"]

    assert (found["min"], found["max"], found["zeros"], found["nans"]) == (None, None, 1, 1)
    assert complex(*found["mean"]) == pytest.approx(values[:3].mean())
    assert found["std"] == pytest.approx(values[:3].std())
    assert found["first"][:2] == [[1, 2], [3, -4]]
    assert "first values  1+2j, 3-4j" in show(file, "w")


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


def test_a_name_that_is_not_there_is_status_2_with_near_ones(tmp_path, capsys):
    path = tmp_path / "m.bin"
    path.write_bytes(safetensors_file({"encoder.weight": ("U8", (1,), b"\0")}))

    assert main(["show", str(path), "encoder.wieght"]) == 2
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
