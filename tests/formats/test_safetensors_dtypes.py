"""Every dtype of safetensors: its canonical name, its numpy dtype, its values; the reference writer is the oracle."""

import json
import struct

import ml_dtypes
import numpy as np
import pytest
import safetensors.torch
import torch

import fastload
from builders import safetensors_entry, safetensors_file, safetensors_raw

BYTES = bytes(range(3, 51))  # 48: a multiple of every element size, and no byte like its neighbour

WHOLE_BYTE_DTYPES = [
    ("BOOL", "bool", np.bool_),
    ("U8", "uint8", np.uint8),
    ("I8", "int8", np.int8),
    ("F8_E5M2", "float8_e5m2", ml_dtypes.float8_e5m2),
    ("F8_E4M3", "float8_e4m3fn", ml_dtypes.float8_e4m3fn),
    ("F8_E8M0", "float8_e8m0fnu", ml_dtypes.float8_e8m0fnu),
    ("F8_E4M3FNUZ", "float8_e4m3fnuz", ml_dtypes.float8_e4m3fnuz),
    ("F8_E5M2FNUZ", "float8_e5m2fnuz", ml_dtypes.float8_e5m2fnuz),
    ("I16", "int16", np.int16),
    ("U16", "uint16", np.uint16),
    ("F16", "float16", np.float16),
    ("BF16", "bfloat16", ml_dtypes.bfloat16),
    ("I32", "int32", np.int32),
    ("U32", "uint32", np.uint32),
    ("F32", "float32", np.float32),
    ("C64", "complex64", np.complex64),
    ("F64", "float64", np.float64),
    ("I64", "int64", np.int64),
    ("U64", "uint64", np.uint64),
]
PACKED_DTYPES = [("F4", "float4_e2m1fn", 4), ("F6_E2M3", "float6_e2m3fn", 6), ("F6_E3M2", "float6_e3m2fn", 6)]


@pytest.mark.parametrize(("spelling", "name", "numpy_dtype"), WHOLE_BYTE_DTYPES, ids=lambda value: str(value))
def test_a_dtype_of_whole_bytes_is_the_numpy_dtype_of_its_name(spelling, name, numpy_dtype):
    raw = bytes(byte & 1 for byte in BYTES) if name == "bool" else BYTES
    count = len(raw) // np.dtype(numpy_dtype).itemsize
    checkpoint = fastload.open(safetensors_file({"w": (spelling, (2, count // 2), raw)}))

    assert checkpoint.entry("w").dtype == name
    assert checkpoint["w"].dtype == np.dtype(numpy_dtype)
    assert checkpoint["w"].tobytes() == raw


@pytest.mark.parametrize(("spelling", "name", "numpy_dtype"), WHOLE_BYTE_DTYPES, ids=lambda value: str(value))
def test_the_reference_writer_and_we_agree_on_the_dtype(spelling, name, numpy_dtype):
    raw = bytes(byte & 1 for byte in BYTES) if name == "bool" else BYTES
    tensor = torch.frombuffer(bytearray(raw), dtype=torch.uint8).view(getattr(torch, name))
    file = safetensors.torch.save({"w": tensor})

    assert json.loads(file[8 : 8 + struct.unpack("<Q", file[:8])[0]])["w"]["dtype"] == spelling
    checkpoint = fastload.open(file)
    assert checkpoint.entry("w").dtype == name and checkpoint["w"].tobytes() == raw


@pytest.mark.parametrize(("spelling", "name", "numpy_dtype"), WHOLE_BYTE_DTYPES, ids=lambda value: str(value))
def test_a_scalar_of_every_dtype(spelling, name, numpy_dtype):
    size = np.dtype(numpy_dtype).itemsize
    checkpoint = fastload.open(safetensors_file({"s": (spelling, (), b"\1" * size)}))

    assert checkpoint["s"].shape == () and checkpoint["s"].tobytes() == b"\1" * size


def test_bfloat16_values_are_right():
    values = np.array([1, -2.5, 3e38, np.inf], ml_dtypes.bfloat16)

    view = fastload.open(safetensors_file({"w": ("BF16", (4,), values.tobytes())}))["w"]

    assert view.astype(np.float32).tolist() == values.astype(np.float32).tolist()


@pytest.mark.parametrize(("spelling", "name", "bits"), PACKED_DTYPES, ids=lambda value: str(value))
def test_packed_elements_come_as_bytes_with_the_last_axis_packed(spelling, name, bits):
    shape, packed = (2, 8), (2, bits)  # eight elements of b bits are b bytes
    raw = BYTES[: 2 * bits]
    checkpoint = fastload.open(safetensors_file({"w": (spelling, shape, raw)}))

    entry = checkpoint.entry("w")
    assert (entry.dtype, entry.shape, entry.nbytes) == (name, shape, 2 * bits)
    assert checkpoint["w"].dtype == np.uint8 and checkpoint["w"].shape == packed
    assert checkpoint["w"].tobytes() == raw


@pytest.mark.parametrize(
    ("spelling", "shape", "size"), [("F4", (2, 3), 3), ("F6_E2M3", (2, 2), 3), ("F6_E3M2", (4, 1), 3)]
)
def test_packed_rows_that_are_not_whole_bytes_come_flat(spelling, shape, size):
    checkpoint = fastload.open(safetensors_file({"w": (spelling, shape, BYTES[:size])}))

    assert checkpoint.entry("w").shape == shape
    assert checkpoint["w"].shape == (size,) and checkpoint["w"].tobytes() == BYTES[:size]


@pytest.mark.parametrize(("spelling", "name", "bits"), PACKED_DTYPES, ids=lambda value: str(value))
def test_packed_tensors_may_be_empty(spelling, name, bits):
    checkpoint = fastload.open(safetensors_file({"w": (spelling, (0,), b""), "v": (spelling, (3, 0), b"")}))

    assert checkpoint["w"].size == 0 and checkpoint["v"].size == 0
    assert checkpoint.entry("v").shape == (3, 0)


def test_torch_packs_two_float4_to_a_byte_and_we_read_them_back():
    tensor = torch.frombuffer(bytearray(BYTES[:6]), dtype=torch.uint8).view(torch.float4_e2m1fn_x2).reshape(2, 3)
    checkpoint = fastload.open(safetensors.torch.save({"w": tensor}))

    assert checkpoint.entry("w").shape == (2, 6)  # the format counts elements, torch counts bytes
    assert checkpoint["w"].tolist() == [[3, 4, 5], [6, 7, 8]]


def test_every_dtype_of_the_format_has_a_row_here():
    ours = {spelling for spelling, *_ in WHOLE_BYTE_DTYPES + PACKED_DTYPES}
    format_page = """BOOL F4 F6_E2M3 F6_E3M2 U8 I8 F8_E5M2 F8_E4M3 F8_E8M0 F8_E4M3FNUZ F8_E5M2FNUZ I16 U16 F16 BF16 I32
        U32 F32 C64 F64 I64 U64"""

    assert ours == set(format_page.split())


def test_spelling_of_a_dtype_is_exact():
    for wrong in ("f32", "F32 ", "float32", "F8_E4M3FN"):
        with pytest.raises(fastload.FastloadError):
            fastload.open(safetensors_raw(json.dumps({"w": safetensors_entry(wrong, (0,), 0, 0)})))
