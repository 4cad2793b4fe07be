"""NumPy's dtypes and scalars as pickles spell them → the same, made by us from arguments that were checked.

    numpy.dtype      ('f4', False, True), then the state
                     (3, '<', (base, shape), names, fields, itemsize, alignment, flags)
                     (4, …, metadata)            metadata, or (metadata, (unit, count, 1, 1)) of times
    multiarray.scalar  (dtype, bytes)

A dtype with Python objects in it has no values in the file's bytes, only in its pickle; it is not made.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from fastload._native import Record
from fastload.dtypes import CODES, DTYPES, numpy_dtype

__all__ = ["bytes_of_length", "mask_dtype_of", "numpy_dtype_of", "numpy_scalar", "table_dtype"]

MAX_FIELDS = 4096  # of one structured dtype
# Fields of the structured dtypes within one, in all: these may share each other, and to hash, compare or show a dtype
# visits each as often as it is referred to.
MAX_NESTED_FIELDS = 256
MAX_SCALAR_FIELDS = 64  # of a structured scalar, which is made anew for each reference to its few bytes
MAX_DEPTH = 16  # of structured dtypes within each other

_SPELLING = re.compile(r"[<>|=]?(\?|[bBiufcSUVmM]\d{1,10}|[mM])", re.ASCII)
_OBJECTS = re.compile(r"[|]?O\d{0,2}", re.ASCII)
_SWAP_BYTES = {"U": 4, "M": 8, "m": 8}  # of the kinds of arrays beside the numbers that have an order of bytes
_BYTE_ORDERS = ("<", ">", "|", "=")
_UNITS = frozenset(["generic", "Y", "M", "W", "D", "h", "m", "s", "ms", "us", "ns", "ps", "fs", "as"])
_RECORDS = frozenset(
    [("numpy", "record"), ("numpy", "recarray"), ("numpy.core.records", "record"), ("numpy.rec", "record")]
)

Refused = (TypeError, ValueError, OverflowError, LookupError)  # what numpy and we raise at a dtype that makes no sense


def numpy_dtype_of(args: tuple[Any, ...], state: object) -> np.dtype[Any] | None:
    """The dtype that a pickle makes by calling `numpy.dtype` and handing it a state.

    Parameters
    ----------
    args : tuple
        Of the call. Dtypes within it, and within the state, are dtypes already.
    state : object
        What it was handed then; None if nothing was.

    Returns
    -------
    numpy.dtype or None
        In the byte order that the file says. None where it makes no sense, holds Python objects, or is of a sort that
        nobody here knows.
    """
    try:
        dtype = _dtype(args, state)
    except Refused:
        return None
    return None if dtype.hasobject else dtype


def mask_dtype_of(args: tuple[Any, ...], state: object) -> np.dtype[Any] | None:
    """The dtype of the mask over an array of that dtype: a bool for each element, or each of its fields."""
    if len(args) and isinstance(args[0], str) and _OBJECTS.fullmatch(args[0]):
        return np.dtype("?")
    dtype = numpy_dtype_of(args, state)
    return None if dtype is None else _mask(dtype)


def _mask(dtype: np.dtype[Any]) -> np.dtype[Any]:
    if dtype.subdtype is not None:
        return np.dtype((_mask(dtype.subdtype[0]), dtype.subdtype[1]))
    if dtype.fields is None or dtype.names is None:
        return np.dtype("?")
    return np.dtype([(name, _mask(dtype.fields[name][0])) for name in dtype.names])


def table_dtype(dtype: np.dtype[Any]) -> tuple[str, np.dtype[Any], int, bool]:
    """What the core is to take a dtype for: the name of a row of `DTYPES` where one describes it.

    Returns
    -------
    tuple
        (name, dtype, unit in bytes that is reversed in big-endian data, whether its bytes are big-endian). Fields of
        records are shown in the order of bytes that they have.
    """
    native = dtype.newbyteorder("=")
    if native.name in CODES and numpy_dtype(CODES[native.name]) == native:
        return native.name, native, 1, dtype.byteorder == ">"
    if dtype.kind in _SWAP_BYTES:
        return native.str, native, _SWAP_BYTES[dtype.kind], dtype.byteorder == ">"
    if dtype.names is None:
        return dtype.str, dtype, 1, False
    try:
        return str(dtype.descr), dtype, 1, False
    except ValueError:  # of fields that overlap, or stand in another order, there is no such list
        return str(dtype), dtype, 1, False


def numpy_scalar(dtype: object, data: object) -> Any:
    """The Python number, text or bytes that a numpy scalar is; times stay `numpy.datetime64` or `timedelta64`.

    Raises
    ------
    TypeError, ValueError
        It makes no sense.
    """
    if not isinstance(dtype, np.dtype) or dtype.hasobject or dtype.subdtype is not None:
        raise TypeError("a scalar of something else than a dtype")
    if _count_fields(dtype, 1) > MAX_SCALAR_FIELDS:
        raise ValueError("too many fields")
    raw = bytes_of_length(data, dtype.itemsize)
    try:
        value = np.ndarray((), dtype, raw)[()]
        return value if dtype.kind in "mM" else value.item()
    except SystemError as error:  # of numpy 2, at code points that Unicode does not have
        raise ValueError("a text of no characters") from error


def bytes_of_length(data: object, length: int) -> bytes:
    """*data* as so many bytes; where Python 2 wrote them as a str, they were read as UTF-8 or else as Latin-1."""
    if isinstance(data, str):
        data = data.encode("latin-1" if len(data) == length else "utf-8")
    if not isinstance(data, (bytes, bytearray)) or len(data) != length:
        raise ValueError(f"what should be {length} bytes is not")
    return bytes(data)


def _dtype(args: tuple[Any, ...], state: object) -> np.dtype[Any]:
    if not 1 <= len(args) <= 3:
        raise TypeError("numpy.dtype with so many arguments")
    structured = _is_record_class(args[0])
    plain = np.dtype("V0") if structured else _plain(args[0])
    if state is None:
        if structured:
            raise ValueError("a record without fields")
        return plain
    if not isinstance(state, tuple) or not 5 <= len(state) <= 9:
        raise ValueError("a state of so many parts")
    version = state[0] if len(state) > 5 and isinstance(state[0], int) else 0
    # Of the versions before 3, which numpy wrote before 2007, only this much is sure: they have no metadata.
    if version not in (3, 4) or len(state) != version + 5:
        raise ValueError("a state of an unknown version")
    _, order, base, names, fields, itemsize = state[:6]
    if order not in _BYTE_ORDERS:
        raise ValueError("an unknown byte order")
    if base is not None:
        dtype = _subarray(base)
    elif names is not None:
        dtype = _structure(names, fields, itemsize)
    elif plain.kind in "mM":
        dtype = _time(plain, state[8] if version == 4 else None)
    elif structured:
        raise ValueError("a record without fields")
    else:
        if plain.kind in "SUV" and itemsize != plain.itemsize:
            raise ValueError("two sizes")
        dtype = plain
    if (base is not None or names is not None) and not (structured or plain.kind == "V"):
        raise ValueError("fields in a dtype that has none")
    if base is not None or names is not None:
        if itemsize != dtype.itemsize or (not structured and plain.itemsize != itemsize):
            raise ValueError("two sizes")
        return dtype
    return dtype if order in "|=" else dtype.newbyteorder(order)


def _plain(spelling: object) -> np.dtype[Any]:
    """A dtype without parts, from its spelling or, of `ml_dtypes`', its class."""
    if isinstance(spelling, Record) and spelling.args is None and spelling.module.split(".")[0] == "ml_dtypes":
        code = CODES.get(spelling.name, -1)
        if code >= 0 and DTYPES[code].numpy == spelling.name:
            return numpy_dtype(code)
    if not isinstance(spelling, str) or not _SPELLING.fullmatch(spelling):
        raise ValueError("an unknown dtype")
    return np.dtype(spelling)


def _is_record_class(spelling: object) -> bool:
    return isinstance(spelling, Record) and spelling.args is None and (spelling.module, spelling.name) in _RECORDS


def _time(plain: np.dtype[Any], metadata: object) -> np.dtype[Any]:
    """A `datetime64` or `timedelta64` with its unit."""
    if metadata is None:
        return plain
    if not isinstance(metadata, tuple) or len(metadata) != 2:
        raise ValueError("a time without a unit")
    unit, count, *_ = metadata[1]
    if isinstance(unit, bytes):
        unit = unit.decode("ascii")
    if unit not in _UNITS or type(count) is not int or not 1 <= count < 2**31:
        raise ValueError("an unknown unit")
    return np.dtype(plain.kind + "8" if unit == "generic" else f"{plain.kind}8[{count}{unit}]")


def _subarray(base: object) -> np.dtype[Any]:
    if not isinstance(base, tuple) or len(base) != 2:
        raise ValueError("a subarray without a shape")
    dtype, shape = base
    shape = shape if isinstance(shape, tuple) else (shape,)
    if not isinstance(dtype, np.dtype) or not all(type(length) is int and length >= 0 for length in shape):
        raise ValueError("a subarray of no dtype, or no shape")
    if _count_fields(dtype, 1) > MAX_NESTED_FIELDS:
        raise ValueError("too many fields")
    return np.dtype((dtype, shape))


def _structure(names: object, fields: object, itemsize: object) -> np.dtype[Any]:
    """A dtype of named fields, each at its offset; titles, a second way to call a field, are left out."""
    if not isinstance(names, (tuple, list)) or len(names) > MAX_FIELDS or type(itemsize) is not int:
        raise ValueError("names that are none")
    if not all(isinstance(name, str) and name for name in names):
        raise ValueError("a field without a name")
    if not isinstance(fields, dict):
        if fields is None and not names:
            fields = {}
        else:
            raise ValueError("fields that are none")
    formats, offsets, nested = [], [], 0
    for name in names:
        dtype, offset, *title = fields[name]
        if not isinstance(dtype, np.dtype) or type(offset) is not int or offset < 0 or len(title) > 1:
            raise ValueError("a field of no dtype, or at no offset")
        if dtype.names is not None or dtype.subdtype is not None:
            nested += _count_fields(dtype, 1)
        if nested > MAX_NESTED_FIELDS:
            raise ValueError("too many fields")
        formats.append(dtype)
        offsets.append(offset)
    return np.dtype({"names": list(names), "formats": formats, "offsets": offsets, "itemsize": itemsize})


def _count_fields(dtype: np.dtype[Any], depth: int) -> int:
    """How many parts *dtype* has, all levels together; a dtype that was made here is never deep."""
    if depth > MAX_DEPTH:
        raise ValueError("dtypes within each other")
    if dtype.subdtype is not None:
        return 1 + _count_fields(dtype.subdtype[0], depth + 1)
    if dtype.names is None:
        return 1
    if len(dtype.names) > MAX_NESTED_FIELDS:
        return len(dtype.names)
    assert dtype.fields is not None
    count = 1
    for name in dtype.names:
        count += _count_fields(dtype.fields[name][0], depth + 1)
        if count > MAX_NESTED_FIELDS:
            break
    return count
