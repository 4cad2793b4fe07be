r"""NumPy's array file (.npy): one array, or one of Python objects, as MMdnn keeps its weights.

    "\x93NUMPY", version in 2 bytes, length of the header, the header (a dict as Python writes it), the data

The one array has the empty name. Objects are a pickle, which `numpy.load` refuses, or runs whatever it says: MMdnn's
`X.npy` is a 0-d array of one dict of dicts of arrays, whose names here are layer.parameter.

Format: numpy/lib/format.py.
"""

from __future__ import annotations

import ast
import re
from typing import Any, NamedTuple

import numpy as np

from fastload import dtypes
from fastload._native import KINDS, Index, Records, add_storage, append, finish, parse
from fastload.dtypes import CODES
from fastload.errors import FormatError, LimitError, UnsupportedError
from fastload.formats.torch import saved
from fastload.options import Options
from fastload.source import Source

NAME = "npy"

MAGIC = b"\x93NUMPY"
MAX_HEADER_BYTES = 65_536  # NumPy's own are a few hundred bytes; those of version 1 cannot be longer
OBJECTS = re.compile(r"[<>|=]?O\d*")
PLAIN = re.compile(r"[<>|=]?(\?|[biufc]\d{1,2})")
LONG = re.compile(r"(?<=\d)L\b")  # how Python 2 ended some numbers
MAX_DESCR = 80  # characters of a dtype that is no record's
MAX_SIZE_BITS = 63  # of a dimension, and of all elements in bytes


class _Header(NamedTuple):
    """What the header says, and where the data begin."""

    descr: str
    fortran: bool
    shape: tuple[int, ...]
    data: int


def probe(source: Source, head: bytes) -> bool:
    """Whether a file that begins with *head* is an array file."""
    return head.startswith(MAGIC)


def index(source: Source, options: Options) -> Index:
    """Describe the array, or the arrays among its objects.

    Raises
    ------
    FormatError
        The header makes no sense, or the data are no sound pickle.
    UnsupportedError
        An array of texts, times or records by itself.
    """
    header = _header(source)
    if OBJECTS.fullmatch(header.descr):
        return saved.index(_saved(source, header), source, options)
    dtype = _plain_dtype(header.descr)
    if dtype is None or dtype.name not in CODES or dtype.byteorder == ">":
        raise UnsupportedError(f"is an array of {header.descr!r}, which cannot be read: use numpy.load")
    found = Index(source, dtypes.TABLE)
    size = dtype.itemsize
    strides: list[int] = []
    for length in header.shape if header.fortran else header.shape[::-1]:
        strides.append(size // dtype.itemsize)
        size *= length
    if size.bit_length() > MAX_SIZE_BITS:
        raise LimitError(f"the array would have more than 2**{MAX_SIZE_BITS} bytes", offset=8)
    storage = add_storage(found, header.data, size, source.size)
    strides = strides if header.fortran else strides[::-1]
    append(found, (), CODES[dtype.name], header.shape, strides=strides, storage=storage, kind=KINDS.index("numpy"))
    finish(found)
    return found


def metadata(source: Source, index: Index) -> dict[str, Any]:
    """What the file keeps about the arrays as a whole: nothing."""
    return {}


def objects(source: Source, options: Options) -> Any:
    """The objects of the array as plain Python values; arrays are their entries. Nothing, of any other array."""
    header = _header(source)
    return saved.objects(_saved(source, header), source, options) if OBJECTS.fullmatch(header.descr) else {}


def list_globals(source: Source) -> list[tuple[str, str]]:
    """(module, name) of every global that the pickle names, once each."""
    header = _header(source)
    return saved.list_globals(_saved(source, header).graph) if OBJECTS.fullmatch(header.descr) else []


def verify(source: Source, index: Index) -> None:
    """Check what `index` has left unchecked: nothing."""


def _plain_dtype(descr: str) -> np.dtype[Any] | None:
    """The dtype of numbers that a header gives; None for any other."""
    if not PLAIN.fullmatch(descr):
        return None
    try:
        return np.dtype(descr)
    except TypeError:  # of a size that no number has
        return None


def _saved(source: Source, header: _Header) -> saved.Saved:
    return saved.Saved(parse(source.fetch(header.data, source.size - header.data), header.data), Records())


def _header(source: Source) -> _Header:
    version = source.fetch(6, 2)[0]
    if version not in (1, 2, 3):
        raise UnsupportedError(f"is a NumPy array file of version {version}, which does not exist yet")
    width = 2 if version == 1 else 4
    length = int.from_bytes(source.fetch(8, width), "little")
    if length > MAX_HEADER_BYTES:
        raise FormatError(f"the header claims {length:,} bytes, which no array needs", offset=8)
    text = bytes(source.fetch(8 + width, length)).decode("utf-8" if version == 3 else "latin-1", "replace")
    fields = _evaluate(text)
    if fields is None and version < 3:
        fields = _evaluate(LONG.sub("", text))
    if not isinstance(fields, dict) or fields.keys() != {"descr", "fortran_order", "shape"}:
        raise FormatError("the header is not the dict of descr, fortran_order and shape that it should be", offset=8)
    descr, shape, fortran = fields["descr"], fields["shape"], fields["fortran_order"]
    if isinstance(descr, (list, tuple)):
        raise UnsupportedError("is an array of records, which cannot be read: use numpy.load")
    if not isinstance(descr, str) or len(descr) > MAX_DESCR or not isinstance(fortran, bool):
        raise FormatError("the header has no dtype, or no order of elements", offset=8)
    if not isinstance(shape, tuple) or not all(
        type(size) is int and size >= 0 and size.bit_length() <= MAX_SIZE_BITS for size in shape
    ):
        raise FormatError("the header has no shape: what should be a tuple of sizes is none", offset=8)
    return _Header(descr, fortran, shape, 8 + width + length)


def _evaluate(text: str) -> Any:
    """What a header says; None where it is no literal."""
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return None
