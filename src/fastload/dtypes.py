"""The dtype table: one row a dtype, every format's spelling of it.

The native core knows a dtype by its row number (its *code*) and its bits; numpy's dtype is looked up when a tensor is
first asked for, so that `ml_dtypes` is imported only for a tensor that needs it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fastload import _native

__all__ = [
    "BURNPACK",
    "BURNPACK_BOOLS",
    "CODES",
    "DTYPES",
    "SAFETENSORS",
    "TABLE",
    "TORCH_DTYPES",
    "TORCH_STORAGES",
    "Dtype",
    "numpy_dtype",
]


class Dtype(NamedTuple):
    """One dtype.

    Attributes
    ----------
    name : str
        The canonical name, which is torch's where torch has the dtype.
    numpy : str
        The numpy dtype of an array of it; a name without a byte-order mark is `ml_dtypes`'.
    bits : int
        The size of one element. Below 8, elements are packed and arrays hold the packed bytes.
    swap : int
        The unit in bytes whose order is reversed in big-endian data; 1 where there is nothing to reverse.
    safetensors, torch_storage : str or None
        What the format calls it; None where the format lacks it.
    in_torch : bool
        Whether `torch.<name>` is a dtype of torch, as `_rebuild_tensor_v3` names it.
    packed : int
        Elements to a stored one in quantised tensors, which count them singly though their storages do not.
    burnpack : str or None
        What Burn calls it; of a bool also how it is stored, behind a slash.
    """

    name: str
    numpy: str
    bits: int
    swap: int
    safetensors: str | None = None
    torch_storage: str | None = None
    in_torch: bool = True
    packed: int = 1
    burnpack: str | None = None


DTYPES = (
    #     name               numpy              bits swap safetensors     torch storage
    Dtype("bool",            "|b1",             8, 1, "BOOL",        "BoolStorage", burnpack="Bool/Native"),
    Dtype("uint8",           "|u1",             8, 1, "U8",          "ByteStorage", burnpack="U8"),
    Dtype("int8",            "|i1",             8, 1, "I8",          "CharStorage", burnpack="I8"),
    Dtype("uint16",          "<u2",            16, 2, "U16", burnpack="U16"),
    Dtype("int16",           "<i2",            16, 2, "I16",         "ShortStorage", burnpack="I16"),
    Dtype("uint32",          "<u4",            32, 4, "U32", burnpack="U32"),
    Dtype("int32",           "<i4",            32, 4, "I32",         "IntStorage", burnpack="I32"),
    Dtype("uint64",          "<u8",            64, 8, "U64", burnpack="U64"),
    Dtype("int64",           "<i8",            64, 8, "I64",         "LongStorage", burnpack="I64"),
    Dtype("float16",         "<f2",            16, 2, "F16",         "HalfStorage", burnpack="F16"),
    Dtype("bfloat16",        "bfloat16",       16, 2, "BF16",        "BFloat16Storage", burnpack="BF16"),  # ml_dtypes
    Dtype("float32",         "<f4",            32, 4, "F32",         "FloatStorage", burnpack="F32"),
    Dtype("float64",         "<f8",            64, 8, "F64",         "DoubleStorage", burnpack="F64"),
    Dtype("complex32",       "<f2",            32, 2),  # numpy has no half complex: float16 with a last axis of 2
    Dtype("complex64",       "<c8",            64, 4, "C64",         "ComplexFloatStorage"),
    Dtype("complex128",      "<c16",          128, 8, None,          "ComplexDoubleStorage"),
    Dtype("float8_e4m3fn",   "float8_e4m3fn",   8, 1, "F8_E4M3"),
    Dtype("float8_e5m2",     "float8_e5m2",     8, 1, "F8_E5M2"),
    Dtype("float8_e8m0fnu",  "float8_e8m0fnu",  8, 1, "F8_E8M0"),
    Dtype("float8_e4m3fnuz", "float8_e4m3fnuz", 8, 1, "F8_E4M3FNUZ"),
    Dtype("float8_e5m2fnuz", "float8_e5m2fnuz", 8, 1, "F8_E5M2FNUZ"),
    Dtype("float4_e2m1fn",   "|u1",             4, 1, "F4",          None, False),
    Dtype("float6_e2m3fn",   "|u1",             6, 1, "F6_E2M3",     None, False),
    Dtype("float6_e3m2fn",   "|u1",             6, 1, "F6_E3M2",     None, False),
    # torch counts these in bytes, whatever is packed into one.
    Dtype("float4_e2m1fn_x2", "|u1",            8, 1),
    Dtype("bits8",           "|u1",             8, 1),
    Dtype("bits16",          "<u2",            16, 2),
    Dtype("bits1x8",         "|u1",             8, 1),
    Dtype("bits2x4",         "|u1",             8, 1),
    Dtype("bits4x2",         "|u1",             8, 1),
    Dtype("quint8",          "|u1",             8, 1, None,          "QUInt8Storage"),
    Dtype("qint8",           "|i1",             8, 1, None,          "QInt8Storage"),
    Dtype("qint32",          "<i4",            32, 4, None,          "QInt32Storage"),
    Dtype("quint4x2",        "|u1",             8, 1, None,          "QUInt4x2Storage", True, 2),
    Dtype("quint2x4",        "|u1",             8, 1, None,          "QUInt2x4Storage", True, 4),
    Dtype("bool32",          "<u4",            32, 4, in_torch=False, burnpack="Bool/U32"),  # 0 or 1, in four bytes
    Dtype("qfloat",          "|u1",             8, 1, in_torch=False),  # Burn's quantised tensors: bytes of any number
)  # fmt: skip

TABLE = _native.DtypeTable([(row.name, row.bits, row.swap, row.packed) for row in DTYPES])
SAFETENSORS = _native.Spellings({row.safetensors: code for code, row in enumerate(DTYPES) if row.safetensors})
_BURNPACK = {row.burnpack: code for code, row in enumerate(DTYPES) if row.burnpack}
_BOOL = _BURNPACK["Bool/Native"]
# A bare "Bool" is that of Burn 0.19 and 0.20; Flex32 says how Burn computes, and is stored as float32.
BURNPACK = _native.Spellings(
    {text: code for text, code in _BURNPACK.items() if "/" not in text} | {"Bool": _BOOL, "Flex32": _BURNPACK["F32"]}
)
BURNPACK_BOOLS = _native.Spellings({"Native": _BOOL, "U8": _BOOL, "U32": _BURNPACK["Bool/U32"]})
CODES = {row.name: code for code, row in enumerate(DTYPES)}
TORCH_STORAGES = {row.torch_storage: code for code, row in enumerate(DTYPES) if row.torch_storage}
TORCH_DTYPES = {row.name: code for code, row in enumerate(DTYPES) if row.in_torch}


# The dtypes of numpy by row number, as far as they were asked for.
NUMPY: list[np.dtype[Any] | None] = [None] * len(DTYPES)


def numpy_dtype(code: int) -> np.dtype[Any]:
    """The numpy dtype of arrays whose dtype has this row number."""
    dtype = NUMPY[code]
    if dtype is None:
        name = DTYPES[code].numpy
        if name[0] in "|<":
            dtype = np.dtype(name)
        else:
            import ml_dtypes  # 8 ms, so only for a tensor that needs it

            dtype = np.dtype(getattr(ml_dtypes, name))
        NUMPY[code] = dtype
    return dtype
