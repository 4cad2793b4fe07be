r"""NumPy's array file (.npy): one array, or one of Python objects, as MMdnn keeps its weights.

    the header, the data

The one array has the empty name. Objects are a pickle, which `numpy.load` refuses, or runs whatever it says: MMdnn's
`X.npy` is a 0-d array of one dict of dicts of arrays, whose names here are layer.parameter.

Format: numpy/lib/_format_impl.py of NumPy 2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, BinaryIO

import numpy as np

from fastload import dtypes
from fastload._native import KINDS, Index, Records, add_storage, append, finish, parse
from fastload.dtypes import CODES, DTYPES
from fastload.errors import FormatError, UnsupportedError
from fastload.formats.npy_header import MAGIC, USUAL_BYTES, Fetch, Header, dtype_of_name, header_bytes, read_header
from fastload.formats.torch import saved
from fastload.formats.torch.numpy_values import table_dtype
from fastload.formats.writing import Outgoing, write_tensor
from fastload.options import Options
from fastload.source import Source

NAME = "npy"

MAX_DIMENSIONS = 64  # of NumPy's arrays
_NUMPY = KINDS.index("numpy")


def index(source: Source, options: Options) -> Index:
    """Describe the array, or the arrays among its objects.

    Raises
    ------
    TruncatedError
        The file ends within the array.
    FormatError
        The header makes no sense, or the data are no sound pickle.
    UnsupportedError
        An array of a dtype that cannot be had here, or several arrays in one file.
    """
    header = _header(source)
    if header.is_pickled:
        return saved.index(_saved(source, header), source, options)
    found = Index(source, dtypes.TABLE)
    storage = add_storage(found, header.begin, header.nbytes, source.size)
    refuse_second(source.fetch, header, source.size)
    append_array(found, (), header, storage)
    finish(found)
    return found


def metadata(source: Source, index: Index) -> dict[str, Any]:
    """What the file keeps about the arrays as a whole: nothing."""
    return {}


def objects(source: Source, options: Options) -> Any:
    """The objects of the array as plain Python values; arrays are their entries. Nothing, of any other array."""
    header = _header(source)
    return saved.objects(_saved(source, header), source, options) if header.is_pickled else {}


def list_globals(source: Source) -> list[tuple[str, str]]:
    """(module, name) of every global that the pickle names, once each."""
    header = _header(source)
    return saved.list_globals(_saved(source, header).graph) if header.is_pickled else []


def verify(source: Source, index: Index) -> None:
    """Check that nothing but the array is in the file."""
    check_end(_header(source), source.size)


def check_writable(tensors: Sequence[Outgoing], metadata: Mapping[str, Any]) -> list[str]:
    """What would be lost of a tensor, a line each.

    Raises
    ------
    UnsupportedError
        There is not exactly one, or it is of a dtype that NumPy lacks.
    """
    if len(tensors) != 1:
        raise UnsupportedError(f"a .npy file holds exactly one array, and there are {len(tensors):,}: write .npz")
    dtype_to_write(tensors[0])
    return list_lost(metadata)


def write(file: BinaryIO, tensors: Sequence[Outgoing], metadata: Mapping[str, Any]) -> None:
    """Write the one tensor to *file*; its name has no place there."""
    (tensor,) = tensors
    file.write(header_bytes(dtype_to_write(tensor), tensor.shape))
    write_tensor(file, tensor)


# What .npz needs of the same.


def append_array(index: Index, key_path: tuple[str, ...], header: Header, storage: int) -> None:
    """Add the array of a header, whose data are a *storage*, to an Index."""
    code, name, dtype, unit, swapped = _row(header.dtype)
    if code < 0:
        code = index.code_for(name, dtype, unit)
    strides = header.strides if header.fortran else None
    append(index, key_path, code, header.shape, strides=strides, storage=storage, kind=_NUMPY, swapped=swapped)


def refuse_second(fetch: Fetch, header: Header, size: int) -> None:
    """Refuse a file of several arrays, one after the other, as calls of `numpy.save` on one open file make it."""
    end = header.begin + header.nbytes
    if size - end >= len(MAGIC) and bytes(fetch(end, len(MAGIC))) == MAGIC:
        raise UnsupportedError(
            "holds several arrays, one after the other, of which numpy.load gives the first: load them from the open"
            " file one by one, and write them to a .npz",
            offset=end,
        )


def check_end(header: Header, size: int) -> None:
    """See that an array of *size* bytes with its header ends where they do; where a pickle ends, it says itself."""
    if not header.is_pickled and header.begin + header.nbytes != size:
        extra = size - header.begin - header.nbytes
        raise FormatError(f"{extra:,} bytes follow the array that the header describes", offset=size - extra)


def dtype_to_write(tensor: Outgoing) -> np.dtype[Any]:
    """The dtype that NumPy is to find in a file.

    Raises
    ------
    UnsupportedError
        NumPy has none, or no array of so many dimensions.
    """
    dtype = _written_dtype(tensor.dtype)
    if dtype is None:
        raise UnsupportedError(
            f"tensor {tensor.name!r} is {tensor.dtype}, which NumPy's files cannot hold: cast it, or write safetensors"
        )
    if len(tensor.shape) > MAX_DIMENSIONS:
        raise UnsupportedError(
            f"tensor {tensor.name!r} has {len(tensor.shape)} dimensions, and NumPy's arrays at most {MAX_DIMENSIONS}"
        )
    return dtype


@lru_cache(maxsize=64)
def _written_dtype(name: str) -> np.dtype[Any] | None:
    known = DTYPES[CODES[name]].numpy if name in CODES else None
    dtype = dtype_of_name(name if known is None else known)
    if dtype is None or (known and dtype.name != name) or dtype.byteorder == ">":
        return None
    return dtype


def list_lost(metadata: Mapping[str, Any]) -> list[str]:
    """What NumPy's files have no place for, a line each."""
    if not metadata:
        return []
    keys = ", ".join(repr(key) for key in list(metadata)[:10])
    more = f" and {len(metadata) - 10:,} more" if len(metadata) > 10 else ""
    return [f"the metadata ({keys}{more}): NumPy's files hold none"]


def _header(source: Source) -> Header:
    return read_header(bytes(source.fetch(0, min(USUAL_BYTES, source.size))), source.fetch)


@lru_cache(maxsize=64)
def _row(dtype: np.dtype[Any]) -> tuple[int, str, np.dtype[Any], int, bool]:
    """What the core takes a dtype for, and the row of the table that every file has, or -1."""
    name, native, unit, swapped = table_dtype(dtype)
    return CODES.get(name, -1), name, native, unit, swapped


def _saved(source: Source, header: Header) -> saved.Saved:
    return saved.Saved(parse(source.fetch(header.begin, source.size - header.begin), header.begin), Records())
