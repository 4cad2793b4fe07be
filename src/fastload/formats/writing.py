"""What all writers of formats share: the tensor that is to be written, its bytes in chunks, and what would be lost.

A format that can be written offers two functions::

    def check_writable(tensors: Sequence[Outgoing], metadata: Mapping[str, Any]) -> list[str]: ...
    def write(file: BinaryIO, tensors: Sequence[Outgoing], metadata: Mapping[str, Any]) -> None: ...

The first says what would be lost, a line each, and raises UnsupportedError naming a tensor that the format cannot hold;
nothing is written before. The second writes the whole file, streamed: never more than one chunk in memory. The file is
at position 0, binary, writable and seekable. Where a format needs nothing of a tensor's bytes but that they are there,
`write_tensor` writes them, and those that lie in a file already are copied by the system.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, Protocol

import numpy as np

from fastload._native import Outgoing, gather
from fastload.dtypes import DTYPES
from fastload.errors import FormatError, TruncatedError, UnsupportedError
from fastload.source import Source

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = [
    "CHUNK_BYTES",
    "MIN_COPIED_BYTES",
    "MODULE_VERSIONS",
    "PARAM_IDS",
    "QUANTIZATION",
    "SHARING",
    "Outgoing",
    "Stored",
    "Writable",
    "chunks_of",
    "dtype_matrix",
    "find_losses",
    "integers_of",
    "is_unicode",
    "list_shared",
    "runs_of",
    "shared_groups",
    "texts_of",
    "versions_of",
    "write_tensor",
    "write_tensors",
]

CHUNK_BYTES = 8 << 20  # what is copied at once of an array that does not lie in one run
MIN_COPIED_BYTES = 256 << 10  # of a tensor that is written, or copied by the system, alone; smaller ones are gathered
GATHERED_BYTES = 1 << 20  # of small tensors that are written together

# What formats may lack beside dtypes; `find_losses`.
SHARING = "sharing"
PARAM_IDS = "param ids"
QUANTIZATION = "quantisation"

MODULE_VERSIONS = "_metadata"  # what PyTorch calls the versions of modules beside a state dict

# The integers of quantised dtypes, for formats that cannot say how they stand for floats.
INTEGERS = {"quint8": "uint8", "qint8": "int8", "qint32": "int32"}


class Stored(NamedTuple):
    """Where the bytes of a tensor lie in a file, just as they are to be written.

    Attributes
    ----------
    source : Source
        The file.
    offset : int
        In bytes from the start of that file.
    tell : callable or None
        What is told how many bytes have been copied, each time that some have.
    """

    source: Source
    offset: int
    tell: Callable[[int], object] | None = None


class Writable(Protocol):
    """What a format offers that can be written."""

    def check_writable(self, tensors: Sequence[Outgoing], metadata: Mapping[str, Any]) -> list[str]:
        """What would be lost, a line each."""


def write_tensors(file: BinaryIO, tensors: Sequence[Outgoing], alignment: int = 1) -> None:
    """Write the bytes of tensors, each at a multiple of *alignment* from where *file* is, with zeros between.

    Raises
    ------
    FormatError
        A tensor gives another number of bytes than was said.
    TruncatedError
        The file that they lie in was cut meanwhile.
    """
    held = list(tensors)
    small = sum(tensor.nbytes for tensor in held if tensor.nbytes < MIN_COPIED_BYTES)
    room = memoryview(bytearray(min(GATHERED_BYTES, small)))
    at = place = 0
    while place < len(held):
        first = place
        file.write(bytes(-at % alignment))
        at += -at % alignment
        place, count = gather(held, first, room, MIN_COPIED_BYTES, alignment)
        if place > first:
            file.write(room[:count])
            at += count
        else:
            written = write_tensor(file, held[place])
            if written != held[place].nbytes:
                raise FormatError(
                    f"tensor {held[place].name!r} gave {written:,} bytes where {held[place].nbytes:,} were announced:"
                    " it changed while it was written"
                )
            at += written
            place += 1


def write_tensor(file: BinaryIO, tensor: Outgoing) -> int:
    """Write the bytes of a tensor, and return how many those were; the system copies them, where it can, by itself.

    Raises
    ------
    TruncatedError
        The file that they lie in was cut meanwhile.
    """
    if tensor.stored is not None and hasattr(file, "copy_from"):  # as the files of `atomic` have
        begin = file.tell()
        if _is_copied(file, tensor.stored, tensor.nbytes):
            return tensor.nbytes
        file.seek(begin)
    return sum(map(file.write, tensor.chunks()))  # which holds no chunk while the next is read


def runs_of(tensor: Outgoing) -> Iterable[Buffer]:
    """The bytes of a tensor, in one run where it is small."""
    data = tensor.data() if tensor.nbytes < MIN_COPIED_BYTES else None
    return tensor.chunks() if data is None else (data,)


def _is_copied(file: Any, stored: Stored, count: int) -> bool:
    """Have the system copy bytes to where *file* is; False if it did not, or not all."""
    try:
        found = stored.source.opened()
    except (FormatError, OSError):
        return False  # another file has the name now, and a mapping of the old one is as good as ever
    if found is None:
        return False
    copied: int = file.copy_from(found.descriptor, stored.offset, count, stored.tell)
    if copied < count and os.fstat(found.descriptor).st_size < stored.offset + count:
        path = stored.source.path
        raise TruncatedError("was cut while it was open, and a tensor's bytes are gone: open it again", path=path)
    return copied == count


def chunks_of(array: np.ndarray) -> Iterator[memoryview]:
    """The bytes of an array, C-contiguous and little-endian, in runs of at most `CHUNK_BYTES`.

    They are views of the array where its bytes lie so; else one run is copied at a time.
    """
    if array.size == 0:
        return
    if array.dtype.kind in "iufcb" and array.dtype.newbyteorder("<") != array.dtype:
        for part in _blocks(array):
            yield _flat(part.astype(part.dtype.newbyteorder("<")))
    elif array.flags.c_contiguous:
        flat = _flat(array)
        for begin in range(0, len(flat), CHUNK_BYTES):
            yield flat[begin : begin + CHUNK_BYTES]
    else:
        for part in _blocks(array):
            yield _flat(np.ascontiguousarray(part))


def _blocks(array: np.ndarray) -> Iterator[np.ndarray]:
    """An array in blocks of at most `CHUNK_BYTES`, in the order of its elements."""
    while array.nbytes > CHUNK_BYTES and len(array) == 1:
        array = array[0]
    if array.nbytes <= CHUNK_BYTES:
        yield array
        return
    rows = max(1, CHUNK_BYTES // (array.nbytes // len(array)))
    for begin in range(0, len(array), rows):
        part = array[begin : begin + rows]
        if part.nbytes <= CHUNK_BYTES:
            yield part
        else:
            yield from _blocks(part)


def _flat(array: np.ndarray) -> memoryview:
    """The bytes of a contiguous array; as uint8, since the dtypes of ml_dtypes have no buffer format."""
    return array.reshape(-1).view(np.uint8).data


def shared_groups(tensors: Sequence[Outgoing]) -> list[list[Outgoing]]:
    """The tensors whose arrays share memory, together; those that share it with nobody are left out."""
    groups: dict[Hashable, list[Outgoing]] = {}
    for tensor in tensors:
        if tensor.storage is not None:
            groups.setdefault(tensor.storage, []).append(tensor)
    return [group for group in groups.values() if len(group) > 1]


def list_shared(tensors: Sequence[Outgoing]) -> list[str]:
    """What a format loses that keeps each tensor by itself, a line for each memory that several share."""
    return [f"{SHARING}: {_listed(group)} share memory, and become copies" for group in shared_groups(tensors)]


def integers_of(dtype: str) -> str:
    """The dtype of the integers of a quantised one; any other is itself."""
    return INTEGERS.get(dtype, dtype)


def find_losses(tensors: Sequence[Outgoing], kept: frozenset[str] = frozenset()) -> list[str]:
    """What a format loses that keeps only *kept* of SHARING, PARAM_IDS and QUANTIZATION; a line each."""
    lost = [] if SHARING in kept else list_shared(tensors)
    for tensor in tensors:
        is_quantized = tensor.dtype in INTEGERS or getattr(tensor.entry, "quantization", None) is not None
        if is_quantized and QUANTIZATION not in kept:
            lost.append(f"{QUANTIZATION}: scale and zero point of {tensor.name!r}; its integers are kept")
        if PARAM_IDS not in kept and getattr(tensor.entry, "param_id", None) is not None:
            lost.append(f"{PARAM_IDS}: that of {tensor.name!r}")
    return lost


def texts_of(metadata: Mapping[str, Any]) -> tuple[dict[str, str], list[str]]:
    """What of *metadata* a format holds that holds text alone, and what it loses, a line each.

    PyTorch's versions of modules go as the text of their JSON, from which `versions_of` has them back.
    """
    texts, lost = {}, []
    for key, value in metadata.items():
        text = _json(value) if key == MODULE_VERSIONS and not isinstance(value, str) else value
        if not isinstance(text, str):
            lost.append(f"metadata: {key!r} is of type {type(value).__name__}, and not text")
        elif not is_unicode(key) or not is_unicode(text):
            lost.append(f"metadata: {key!r} holds half a surrogate pair, which is no text")
        else:
            texts[key] = text
    return texts, lost


def versions_of(metadata: Mapping[str, Any]) -> Any:
    """PyTorch's versions of modules in *metadata*, also where they are the text of their JSON."""
    value = metadata[MODULE_VERSIONS]
    if isinstance(value, str):
        import json

        with suppress(ValueError, RecursionError):
            found = json.loads(value)
            return found if isinstance(found, dict) else value
    return value


def _json(value: Any) -> str | None:
    """The JSON of *value*; None where that would not say all of it."""
    import json

    with suppress(TypeError, ValueError, RecursionError):
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        return text if json.loads(text) == value else None
    return None


def is_unicode(text: str) -> bool:
    """Whether a text can be written as UTF-8: it holds no half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _listed(group: Sequence[Outgoing]) -> str:
    names = [repr(tensor.name) for tensor in group]
    shown = ", ".join(names[:4])
    return f"{shown} and {len(names) - 4:,} more" if len(names) > 4 else shown


def dtype_matrix(formats: Mapping[str, Writable]) -> list[tuple[str, ...]]:
    """Which format holds which dtype, as rows of a table for people, its head first.

    A cell is "yes", "no", or what is lost.
    """
    rows = [("dtype", *formats)]
    for dtype in DTYPES:
        sample = Outgoing("w", dtype.name, (8,), 8 * dtype.bits // 8, lambda: ())
        rows.append((dtype.name, *(_holds(format, sample) for format in formats.values())))
    return rows


def _holds(format: Writable, sample: Outgoing) -> str:
    try:
        lost = format.check_writable([sample], {})
    except UnsupportedError:
        return "no"
    return "loses " + "; ".join(line.partition(":")[0] for line in lost) if lost else "yes"
