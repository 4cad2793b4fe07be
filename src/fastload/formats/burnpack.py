"""Burnpack (`.bpk`), the container of the Rust framework Burn: 10 bytes, CBOR metadata, the data.

    0      4             6      10       10+M             D
    | NRUB | version u16 | M u32| CBOR   | zeros to 256 B | each tensor at a multiple of 256 B from D on

Little-endian, row-major, no strides. Burn 0.19 wrote neither the padding nor the alignment and the same version; the
extents tell. Texts of the metadata are `Checkpoint.metadata`; numbers and bools beside them (Burn's scalars) are a
dict under its key `scalars` (`scalars#2` where a text has that name), and are written back from there.

Bools are read in all of Burn's spellings: of one byte as bool, of four bytes as bool32, an array of uint32 that is no
copy. Flex32 is float32. A QFloat tensor is of the dtype qfloat: its array is its bytes in Burn's encoding as they are,
its entry has the logical shape, and in `quantization` the scheme as the file has it; it is written back as it was.

Format: https://github.com/tracel-ai/burn/tree/main/crates/burn-pack
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, BinaryIO

import numpy as np

from fastload import dtypes
from fastload._native import (
    BURNPACK_ALIGNMENT,
    BURNPACK_HEADER_BYTES,
    BURNPACK_MAX_TENSORS,
    Index,
    read_burnpack,
    read_burnpack_start,
)
from fastload.errors import FormatError, LimitError, TruncatedError, UnsupportedError
from fastload.formats.writing import Outgoing, is_unicode, list_shared, write_tensors
from fastload.options import Options
from fastload.source import Source

NAME = "burnpack"

MARK = b"NRUB"  # 0x4255524E, little-endian
VERSION = 1  # what Burn writes; its reader takes 0 too, and so do we

HEADER_BYTES = BURNPACK_HEADER_BYTES
ALIGNMENT = BURNPACK_ALIGNMENT  # in bytes: of the data, and of every tensor in it

# Burn's reader refuses what is beyond these, so neither do we write it.
MAX_TENSORS = BURNPACK_MAX_TENSORS
MAX_METADATA_BYTES = 100 << 20
MAX_TENSOR_BYTES = 10 << 30
MAX_FILE_BYTES = 100 << 30

SCALARS = ("scalars", "scalars#2")  # keys of the metadata under which scalars stand


class UInt(int):
    """A scalar that Burn holds as an unsigned number, so that it is written back as one."""


# By the kind of a scalar, what it is made of; None where the CBOR does not fit.
_SCALARS = {
    "Int": lambda value: value if type(value) is int and -(1 << 63) <= value < 1 << 63 else None,
    "UInt": lambda value: UInt(value) if type(value) is int and value >= 0 else None,
    "Float": lambda value: value if type(value) is float else None,
    "Bool": lambda value: value if type(value) is bool else None,
}


def index(source: Source, options: Options) -> Index:
    """Describe every tensor without reading its data.

    Order: by data offset, then as the metadata have them.

    Raises
    ------
    TruncatedError
        The metadata are longer than the file, or promise more data than the file has.
    LimitError
        The metadata are longer, or describe more, than Burn itself reads.
    FormatError
        The metadata are no CBOR of the format's shape, or tensors overlap, are misplaced or share a name.
    UnsupportedError
        The version, or the dtype of a tensor, is of a later Burn.
    """
    if source.size < HEADER_BYTES:
        raise TruncatedError(f"has only {source.size} bytes, too few for a Burnpack file: fetch it again")
    version, length = read_burnpack_start(source.fetch(0, HEADER_BYTES))
    if version > VERSION:
        raise UnsupportedError(f"is Burnpack of version {version}, and fastload knows version {VERSION}")
    if length > MAX_METADATA_BYTES:
        raise LimitError(f"the metadata claim {length:,} bytes, more than the {MAX_METADATA_BYTES:,} of Burn", offset=6)
    if length > source.size - HEADER_BYTES:
        raise TruncatedError(
            f"the file has {source.size:,} bytes and its metadata alone promise {HEADER_BYTES + length:,}:"
            " the download or copy is incomplete; fetch it again"
        )
    reach = min(_aligned(HEADER_BYTES + length), source.size)
    return read_burnpack(
        source.fetch(HEADER_BYTES, reach - HEADER_BYTES),
        source,
        dtypes.TABLE,
        dtypes.BURNPACK,
        dtypes.BURNPACK_BOOLS,
        dtypes.CODES["qfloat"],
        _SCALARS,
        length,
        source.size,
    )


def metadata(source: Source, index: Index) -> dict[str, Any]:
    """The text to text of the metadata, and under `scalars` what numbers and bools stand beside them."""
    return {key: dict(value) if isinstance(value, dict) else value for key, value in index.metadata.items()}


def objects(source: Source, options: Options) -> Any:
    """What the file holds beside tensors and metadata: nothing."""
    return {}


def list_globals(source: Source) -> list[tuple[str, str]]:
    """The globals that the file names: none."""
    return []


def verify(source: Source, index: Index) -> None:
    """Check what `index` has left unchecked: that the padding between tensors is of zeros."""
    extents = [index.extent_of(index.storage_of(row)) for row in range(len(index))]
    for (position, size), (following, _) in pairwise(extents):
        assert position is not None and following is not None
        end = position + size
        # What lies there beyond padding is nobody's: Burn does not look at it either.
        if end < following and any(source.fetch(end, min(following - end, -end % ALIGNMENT))):
            raise FormatError("the padding behind a tensor is not of zeros", offset=end)


# Writing.


def check_writable(tensors: Sequence[Outgoing], metadata: Mapping[str, Any]) -> list[str]:
    """What would be lost, a line each.

    Raises
    ------
    UnsupportedError
        Burn has no such dtype, or its reader would refuse so large a tensor or file.
    """
    texts, scalars, lost = _split(metadata)
    _describe(tensors, texts, scalars)
    return lost + list_shared([tensor for tensor in tensors if tensor.nbytes])


def write(file: BinaryIO, tensors: Sequence[Outgoing], metadata: Mapping[str, Any]) -> None:
    """Write the whole file as Burn's own writer would, one chunk at a time; the data in the order of *tensors*.

    Raises
    ------
    UnsupportedError
        As `check_writable`.
    """
    texts, scalars, _ = _split(metadata)
    described = _describe(tensors, texts, scalars)
    head = MARK + struct.pack("<HI", VERSION, len(described)) + described
    file.write(head + bytes(-len(head) % ALIGNMENT))
    write_tensors(file, tensors, ALIGNMENT)


def _aligned(offset: int) -> int:
    return -(-offset // ALIGNMENT) * ALIGNMENT


def _split(metadata: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, Any], list[str]]:
    """The texts of *metadata*, its scalars as Burn tags them, and what is neither."""
    texts: dict[str, str] = {}
    scalars: dict[str, Any] = {}
    lost = []
    for key, value in metadata.items():
        if _is_text(key) and _is_text(value):
            texts[key] = value
        elif key in SCALARS and isinstance(value, Mapping):
            for name, number in value.items():
                tagged = _tagged(number) if _is_text(name) else None
                if tagged is None or name in scalars:
                    lost.append(f"scalar {name!r}: Burnpack holds one integer of 64 bits, float or bool a name")
                else:
                    scalars[name] = tagged
        else:
            lost.append(f"metadata {key!r}: Burnpack holds texts, and numbers and bools only under 'scalars'")
    return texts, scalars, lost


def _is_text(value: Any) -> bool:
    """Whether *value* can stand in UTF-8, which has no place for lone surrogates."""
    return isinstance(value, str) and is_unicode(value)


def _tagged(value: Any) -> dict[str, Any] | None:
    """A scalar as Burn tags it; None where it has no place for it."""
    if isinstance(value, (bool, np.bool_)):
        return {"Bool": bool(value)}
    if isinstance(value, (float, np.floating)):
        return {"Float": float(value)}
    if isinstance(value, (int, np.integer)):
        number = int(value)
        if not isinstance(value, (UInt, np.unsignedinteger)) and -(1 << 63) <= number < 1 << 63:
            return {"Int": number}
        if 0 <= number < 1 << 64:
            return {"UInt": number}
    return None


def _describe(tensors: Sequence[Outgoing], texts: dict[str, str], scalars: dict[str, Any]) -> bytes:
    """The CBOR of the metadata."""
    if len(tensors) > MAX_TENSORS:
        raise UnsupportedError(
            f"Burn reads no more than {MAX_TENSORS:,} tensors of a file, and these are {len(tensors):,}"
        )
    rows: dict[bytes, bytes] = {}
    kinds: dict[Any, bytes] = {}
    end = 0
    for tensor in tensors:
        begin = _aligned(end)
        end = begin + tensor.nbytes
        if not _is_text(tensor.name):
            raise UnsupportedError(f"tensor {tensor.name!r}: its name cannot stand in UTF-8, as Burnpack has it")
        if tensor.nbytes > MAX_TENSOR_BYTES:
            raise UnsupportedError(
                f"tensor {tensor.name!r} has {tensor.nbytes:,} bytes, and Burn reads {MAX_TENSOR_BYTES:,} at most"
            )
        name = tensor.name.encode()
        if name in rows:
            raise UnsupportedError(f"two tensors are to be written as {tensor.name!r}")
        alike = (tensor.dtype, tensor.shape)
        kind = kinds.get(alike)
        if kind is None or tensor.dtype == "qfloat":
            kind = kinds[alike] = _kind(tensor)
        rows[name] = _descriptor(tensor, kind, begin, end)
    parts = [_head(5, 1 + bool(texts) + bool(scalars)), _value("tensors"), _head(5, len(rows))]
    for name in sorted(rows):
        parts += _head(3, len(name)), name, rows[name]
    for key, held in (("metadata", texts), ("scalars", scalars)):
        if held:
            parts += _value(key), _value({name: held[name] for name in sorted(held, key=str.encode)})
    described = b"".join(parts)
    if len(described) > MAX_METADATA_BYTES:
        raise UnsupportedError(
            f"the metadata take {len(described):,} bytes, and Burn reads at most {MAX_METADATA_BYTES:,}"
        )
    if _aligned(HEADER_BYTES + len(described)) + end > MAX_FILE_BYTES:
        raise UnsupportedError(f"Burn reads files of at most {MAX_FILE_BYTES:,} bytes: split it")
    return described


def _descriptor(tensor: Outgoing, kind: bytes, begin: int, end: int) -> bytes:
    """What is said of one tensor."""
    param_id = None if tensor.entry is None else tensor.entry.param_id
    places = _DATA_OFFSETS + _head(0, begin) + _head(0, end)
    if param_id is None:
        return _head(5, 3) + kind + places
    return _head(5, 4) + kind + places + _PARAM_ID + _head(0, param_id)


def _kind(tensor: Outgoing) -> bytes:
    """What is said of a tensor's dtype and shape."""
    entry, shape = tensor.entry, tensor.shape
    dtype: Any
    if tensor.dtype == "qfloat":
        scheme = None if entry is None else entry.quantization
        if entry is None or not isinstance(scheme, dict) or entry.nbytes != tensor.nbytes:
            raise UnsupportedError(
                f"tensor {tensor.name!r} is of Burn's quantised dtype, and not as Burn has encoded it"
            )
        dtype, shape = {"QFloat": scheme}, entry.shape
    else:
        spelling = dtypes.DTYPES[dtypes.CODES[tensor.dtype]].burnpack if tensor.dtype in dtypes.CODES else None
        if spelling is None:
            raise UnsupportedError(
                f"tensor {tensor.name!r} is {tensor.dtype}, which Burnpack does not have: cast it first"
            )
        variant, _, store = spelling.partition("/")
        dtype = {variant: store} if store else variant
    sizes = [_head(0, size) for size in shape]
    return b"".join((_DTYPE, _value(dtype), _SHAPE, _head(4, len(shape)), *sizes))


def _head(major: int, number: int) -> bytes:
    """The head of a CBOR item, in as few bytes as its number needs."""
    first = major << 5
    if number < 24:
        return bytes((first | number,))
    if number < 1 << 8:
        return bytes((first | 24, number))
    if number < 1 << 16:
        return struct.pack(">BH", first | 25, number)
    if number < 1 << 32:
        return struct.pack(">BI", first | 26, number)
    return struct.pack(">BQ", first | 27, number)


def _value(value: Any) -> bytes:
    """A value as CBOR, as the encoder of Burn writes it: definite lengths, ints and floats as short as they can be."""
    return b"".join(_pieces(value))


def _pieces(value: Any) -> Iterator[bytes]:
    if isinstance(value, str):
        text = value.encode()
        yield _head(3, len(text)) + text
    elif isinstance(value, bool) or value is None:
        yield b"\xf6" if value is None else b"\xf5" if value else b"\xf4"
    elif isinstance(value, int):
        yield _head(0, value) if value >= 0 else _head(1, -1 - value)
    elif isinstance(value, float):
        yield _float(value)
    elif isinstance(value, bytes):
        yield _head(2, len(value)) + value
    elif isinstance(value, dict):
        yield _head(5, len(value))
        for key, held in value.items():
            yield from _pieces(key)
            yield from _pieces(held)
    else:
        yield _head(4, len(value))
        for held in value:
            yield from _pieces(held)


def _float(value: float) -> bytes:
    """A float in the fewest bytes that give every bit of it back."""
    for first, form in ((b"\xf9", ">e"), (b"\xfa", ">f")):
        try:
            short = struct.pack(form, value)
        except OverflowError:
            continue
        if struct.pack(">d", *struct.unpack(form, short)) == struct.pack(">d", value):
            return first + short
    return b"\xfb" + struct.pack(">d", value)


# What stands in every description; the last with the head of an array of two.
_DTYPE, _SHAPE, _PARAM_ID = _value("dtype"), _value("shape"), _value("param_id")
_DATA_OFFSETS = _value("data_offsets") + _head(4, 2)
