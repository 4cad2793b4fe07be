"""The dtype table: one row a dtype, no spelling twice, and every row agrees with numpy, ml_dtypes and torch."""

import collections
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
import torch

from fastload import dtypes

ROWS = dtypes.DTYPES


@pytest.mark.parametrize("field", ["name", "safetensors", "torch_storage", "burnpack"])
def test_no_spelling_is_used_twice(field):
    spellings = collections.Counter(getattr(row, field) for row in ROWS if getattr(row, field))

    assert set(spellings.values()) == {1}


@pytest.mark.parametrize("row", [row for row in ROWS if row.in_torch], ids=lambda row: row.name)
def test_names_and_sizes_are_those_of_torch(row):
    assert row.bits == 8 * getattr(torch, row.name).itemsize


@pytest.mark.parametrize("row", [row for row in ROWS if row.torch_storage], ids=lambda row: row.name)
@pytest.mark.filterwarnings("ignore")
def test_storage_classes_are_those_of_torch(row):
    assert getattr(torch, row.torch_storage).dtype == getattr(torch, row.name)


@pytest.mark.parametrize("code", range(len(ROWS)), ids=lambda code: ROWS[code].name)
def test_the_numpy_dtype_has_the_size_of_an_element(code):
    row, numpy_dtype = ROWS[code], dtypes.numpy_dtype(code)
    per_element = {"complex32": 2}.get(row.name, 1)

    assert numpy_dtype.itemsize * 8 * per_element == max(row.bits, 8)
    assert numpy_dtype.isnative


@pytest.mark.parametrize("row", [row for row in ROWS if row.numpy[0] not in "|<"], ids=lambda row: row.name)
def test_dtypes_that_numpy_lacks_are_those_of_ml_dtypes(row):
    assert np.dtype(getattr(ml_dtypes, row.numpy)).name == row.name


def test_every_dtype_of_torch_that_can_be_saved_has_a_row():
    # int1 to int7 and uint1 to uint7 exist as names, and torch cannot save them
    names = {str(value).removeprefix("torch.") for value in vars(torch).values() if isinstance(value, torch.dtype)}
    unsaved = {f"{kind}{bits}" for kind in ("int", "uint") for bits in range(1, 8)}

    assert names - unsaved <= {row.name for row in ROWS}


def test_ml_dtypes_is_loaded_only_for_a_tensor_that_needs_it():
    code = """if True:
        import json, struct, sys, fastload
        def file(dtype, size):
            header = json.dumps({"w": {"dtype": dtype, "shape": [2], "data_offsets": [0, 2 * size]}}).encode()
            return struct.pack("<Q", len(header)) + header + bytes(2 * size)
        fastload.open(file("F32", 4))["w"]
        checkpoint = fastload.open(file("BF16", 2))
        assert checkpoint.entry("w").dtype == "bfloat16"
        assert "ml_dtypes" not in sys.modules
        checkpoint["w"]
        assert "ml_dtypes" in sys.modules
    """

    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
