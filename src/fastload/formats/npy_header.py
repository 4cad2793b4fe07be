r"""The header of NumPy's array file (.npy), which says what the bytes behind it are.

    "\x93NUMPY", version in 2 bytes, length of the text, the text: a dict as Python writes it

The text is a literal, and is taken apart as one: only what `repr` makes of dicts, lists, tuples, texts, whole numbers
and bools is let through. A dtype is made of it by us, from parts that were checked.

Format: numpy/lib/_format_impl.py of NumPy 2.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from functools import lru_cache
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fastload.errors import FormatError, LimitError, UnsupportedError

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["MAGIC", "MAX_HEADER_BYTES", "USUAL_BYTES", "Header", "dtype_of_name", "header_bytes", "read_header"]

MAGIC = b"\x93NUMPY"
MAX_HEADER_BYTES = 65_536  # NumPy's own are a few hundred bytes; those of version 1 cannot be longer
USUAL_BYTES = 128  # a header of NumPy's as a whole, unless the array has fields or very many dimensions
ALIGNMENT = 64  # of the data behind a header that we write, as NumPy has it
GROWTH_DIGITS = 21  # NumPy leaves room for the first size to grow to so many digits
MAX_FIELDS = 4096  # of a dtype, all levels together
MAX_DEPTH = 16  # of dtypes within each other
KEYS = {"descr", "fortran_order", "shape"}

# The header of nearly every file, as NumPy writes it: a syntax tree would take five times longer.
_USUAL = re.compile(
    r"\{'descr': '([<>|][a-zA-Z]\d{1,9})', 'fortran_order': (True|False),"
    r" 'shape': \(((?:0|[1-9]\d{0,18})(?:, (?:0|[1-9]\d{0,18}))+|(?:0|[1-9]\d{0,18}),|)\), \} *\n?",
    re.ASCII,
)
# What may stand in the literal: each alternative begins with another character, so nothing is tried twice.
_TEXT = r"'(?:[^'\\\n]|\\[\\'\"nrtxuU])*'|\"(?:[^\"\\\n]|\\[\\'\"nrtxuU])*\""
_LITERAL = re.compile(rf"(?:[\s{{}}()\[\],:\dL-]|True|False|{_TEXT})*", re.ASCII)
_LONG = re.compile(rf"({_TEXT})|(?<=\d)L", re.ASCII)  # of Python 2: 3L is 3
_UNITS = "Y|M|W|D|h|m|s|ms|us|ns|ps|fs|as|generic"
_SPELLING = re.compile(
    r"[<>|=]?(?:[?befdFDBhHiIqQO]|b1|[iufcSUVaO]\d{1,10}|"
    rf"[mM](?:8(?:\[\d{{0,9}}(?:{_UNITS})\])?)?|"
    r"bool|u?int(?:8|16|32|64)|float(?:16|32|64)|complex(?:64|128))",
    re.ASCII,
)

Fetch = Callable[[int, int], "Buffer"]  # offset and count → bytes of the array file
_Refused = (
    TypeError,
    ValueError,
    OverflowError,
    LookupError,
    MemoryError,
    RecursionError,
)  # what numpy raises at nonsense


class Header(NamedTuple):
    """What the header says, and where the data begin."""

    dtype: np.dtype[Any]
    fortran: bool
    shape: tuple[int, ...]
    begin: int
    nbytes: int  # of the data, where they are no pickle

    @property
    def is_pickled(self) -> bool:
        """Whether the data are a pickle, since there are Python objects among them."""
        return self.dtype.hasobject

    @property
    def strides(self) -> list[int] | None:
        """The strides in elements; None where they are those of C."""
        if not self.fortran:
            return None
        strides, dense = [], 1
        for length in self.shape:
            strides.append(dense)
            dense *= max(length, 1)
        return strides


def read_header(head: bytes, fetch: Fetch) -> Header:
    """Read the header of an array file.

    Parameters
    ----------
    head : bytes
        The first `USUAL_BYTES` of the file, or all.
    fetch : function
        Gives more of it.

    Raises
    ------
    FormatError
        It is no header, or makes no sense.
    UnsupportedError
        It is of a later version, or of a dtype that cannot be had here.
    """
    if len(head) < 10 or not head.startswith(MAGIC):
        raise FormatError("does not begin as an array file does", offset=0)
    version = head[6]
    if version not in (1, 2, 3):
        raise UnsupportedError(f"is a NumPy array file of version {version}, which does not exist yet")
    start = 10 if version == 1 else 12
    length = int.from_bytes(head[8:start], "little")
    if length > MAX_HEADER_BYTES:
        raise FormatError(f"the header claims {length:,} bytes, which no array needs", offset=8)
    if start + length > len(head):
        head = bytes(fetch(0, start + length))
    text = head[start : start + length].decode("utf-8" if version == 3 else "latin-1", "replace")
    begin = start + length
    usual = _USUAL.fullmatch(text)
    if usual:
        descr, order, sizes = usual.groups()
        dtype, shape = _dtype_or_refuse(descr), tuple([int(size) for size in sizes.split(",") if size])
        return _header(dtype, order == "True", shape, begin)
    fields = _parse(text.strip())
    fortran, shape = fields["fortran_order"], fields["shape"]
    if type(fortran) is not bool:
        raise FormatError(f"the header has no order: {fortran!r:.80}", offset=8)
    if not isinstance(shape, tuple) or not all(type(size) is int and size >= 0 for size in shape):
        raise FormatError(f"the header has no shape: {shape!r:.80}", offset=8)
    dtype = _dtype_or_refuse(fields["descr"])
    return _header(dtype, fortran, shape, begin)


def _header(dtype: np.dtype[Any], fortran: bool, shape: tuple[int, ...], begin: int) -> Header:
    nbytes = dtype.itemsize * prod(shape)
    if nbytes >> 63:
        raise LimitError(f"its size does not fit 63 bits: {shape!r:.80} elements of {dtype.itemsize:,} bytes", offset=8)
    return Header(dtype, fortran, shape, begin, nbytes)


@lru_cache(maxsize=1024)  # since many arrays of a file have few shapes
def header_bytes(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    """The header of a C-contiguous array, byte for byte as NumPy writes it."""
    descr = dtype.str if dtype.names is None else dtype.descr
    text = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape!r}, }}"
    text += " " * (GROWTH_DIGITS - len(repr(shape[0])) if shape else 0)
    version, encoding = (1, "latin-1") if _is_latin(text) else (3, "utf-8")
    data = text.encode(encoding)
    if version == 1 and len(data) + 1 + ALIGNMENT > 65_535:
        version = 2
    start = 10 if version == 1 else 12
    data += b" " * (ALIGNMENT - (start + len(data) + 1) % ALIGNMENT) + b"\n"
    return MAGIC + bytes([version, 0]) + len(data).to_bytes(start - 8, "little") + data


def dtype_of_name(name: str) -> np.dtype[Any] | None:
    """The dtype that a header would spell *name*; None where there is none without Python objects."""
    try:
        descr = _literal(name) if name.startswith("[") else name
        dtype = _dtype(descr, [0], 0)
    except (*_Refused, SyntaxError):
        return None
    return None if dtype.hasobject else dtype


def _is_latin(text: str) -> bool:
    return text.isascii() or all(ord(character) < 256 for character in text)


def _dtype_or_refuse(descr: Any) -> np.dtype[Any]:
    try:
        return _plain(descr) if isinstance(descr, str) else _dtype(descr, [0], 0)
    except _Refused:
        what = f"is an array of {descr!r:.80}, which cannot be read: use numpy.load"
        raise UnsupportedError(what, offset=8) from None


def _parse(text: str) -> dict[str, Any]:
    try:
        fields = _literal(text)
    except (*_Refused, SyntaxError):
        fields = None
    if not isinstance(fields, dict) or fields.keys() != KEYS:
        raise FormatError("the header is not the dict of descr, fortran_order and shape that it should be", offset=8)
    return fields


def _literal(text: str) -> Any:
    """The value of a literal; of anything else, an error before Python's own parser, which may warn, has seen it."""
    if not _LITERAL.fullmatch(text):
        raise ValueError("no literal")
    try:
        return ast.literal_eval(text)
    except SyntaxError:
        return ast.literal_eval(_LONG.sub(lambda match: match[1] or "", text))


@lru_cache(maxsize=64)
def _plain(spelling: str) -> np.dtype[Any]:
    """A dtype without parts."""
    if not _SPELLING.fullmatch(spelling):
        raise ValueError("an unknown dtype")
    return np.dtype(spelling.replace("a", "S") if spelling.lstrip("<>|=").startswith("a") else spelling)


def _dtype(descr: Any, count: list[int], depth: int) -> np.dtype[Any]:
    """The dtype of a description; *count* has how many parts there were so far."""
    count[0] += 1
    if count[0] > MAX_FIELDS or depth > MAX_DEPTH:
        raise ValueError("too many fields")
    if isinstance(descr, str):
        return _plain(descr)
    if isinstance(descr, tuple) and len(descr) == 2 and depth:
        return _repeated(_dtype(descr[0], count, depth + 1), descr[1])
    if not isinstance(descr, list):
        raise TypeError("an unknown dtype")
    names, titles, formats, offsets, offset = [], [], [], [], 0
    for name, part, *shape in descr:
        dtype = _dtype(part, count, depth + 1)
        if shape:
            dtype = _repeated(dtype, *shape)
        if name != "" or dtype.kind != "V" or dtype.names is not None:  # bytes without a name are padding
            title, name = name if isinstance(name, tuple) else (None, name)
            if not isinstance(name, str) or not isinstance(title, (str, type(None))):
                raise TypeError("a field without a name")
            names.append(name)
            titles.append(title)
            formats.append(dtype)
            offsets.append(offset)
        offset += dtype.itemsize
    fields = {"names": names, "titles": titles, "formats": formats, "offsets": offsets, "itemsize": offset}
    return np.dtype(fields)  # type: ignore[call-overload, no-any-return]


def _repeated(dtype: np.dtype[Any], shape: Any) -> np.dtype[Any]:
    sizes = shape if isinstance(shape, tuple) else (shape,)
    if not all(type(size) is int and size >= 0 for size in sizes):
        raise ValueError("a subarray without a shape")
    return np.dtype((dtype, shape))
