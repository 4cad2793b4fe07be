"""From the tensors that are to be saved to what the writers of formats take: bytes in chunks, and what is shared.

Of a checkpoint nothing is read here that its entries tell; of arrays nothing is copied.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.array_utils import byte_bounds

from fastload.checkpoint import Checkpoint, tensors_of
from fastload.dtypes import CODES, DTYPES, numpy_dtype
from fastload.entry import TensorEntry
from fastload.errors import UnsupportedError
from fastload.extents import extent_of
from fastload.formats.writing import CHUNK_BYTES, MIN_COPIED_BYTES, Outgoing, Stored, chunks_of
from fastload.planned import PlannedTensors
from fastload.tensors import Tensors

__all__ = ["of_arrays", "of_checkpoint", "of_tensor"]

Get = Callable[[], np.ndarray]


class Span(NamedTuple):
    """Where the elements of a tensor lie: in a space of addresses that is the memory, or a file.

    Attributes
    ----------
    space : object
        Equal for tensors whose addresses can be compared.
    begin, end : int
        The first byte, and that behind the last.
    strides : tuple of int
        In bytes, one for each dimension of the tensor's shape.
    """

    space: Any
    begin: int
    end: int
    strides: tuple[int, ...]


def of_checkpoint(checkpoint: Checkpoint) -> list[Outgoing]:
    """The tensors of a checkpoint, as their entries describe them.

    Raises
    ------
    UnsupportedError
        One has no data, or no dtype that any format could hold.
    """
    entries = checkpoint.entries()
    tensors = [_of_entry(checkpoint, entry) for entry in entries]
    gets: list[Get] = [partial(checkpoint.__getitem__, entry.name) for entry in entries]
    return _tied_before(checkpoint, _shared(tensors, gets, _spans_of_entries(entries, gets)))


def _tied_before(checkpoint: Checkpoint, tensors: list[Outgoing]) -> list[Outgoing]:
    """The tensors, of which those that were one in the file, and that a cast takes apart, say that they shared it."""
    opened = tensors_of(checkpoint)
    if not isinstance(opened, PlannedTensors):
        return tensors
    found: dict[Any, list[int]] = {}
    for row in range(len(tensors)):
        origin = opened.cast_from(row)
        if origin is not None:
            found.setdefault(origin, []).append(row)
    for origin, rows in found.items():
        if len(rows) > 1:
            for row in rows:
                tensors[row] = tensors[row]._replace(storage=("cast", origin))
    return tensors


def of_tensor(checkpoint: Checkpoint, name: str) -> Outgoing:
    """One tensor of a checkpoint, as if it shared memory with none.

    Raises
    ------
    UnsupportedError
        It has no data, or no dtype that any format could hold.
    """
    return _of_entry(checkpoint, checkpoint.entry(name))


def _of_entry(checkpoint: Checkpoint, entry: TensorEntry) -> Outgoing:
    if entry.kind == "meta":
        raise _unsupported(entry.name, f"is a meta tensor: it has a shape {entry.shape} and no data")
    if entry.dtype not in CODES:
        raise _unsupported(entry.name, f"is of the NumPy dtype {entry.dtype}, which no format of ours has")
    chunks = _chunks(partial(checkpoint.__getitem__, entry.name))
    opened = tensors_of(checkpoint)
    if isinstance(opened, PlannedTensors):
        row = opened.find(entry.name)
        opened.check(row, inflating=False)  # what cannot be inflated is found while it is written, to no harm
        chunks = _planned_chunks(opened, row)
    elif entry.storage is None:
        opened.check(opened.find(entry.name))  # whether it can be had is better known now
    nbytes = _packed_bytes(entry.dtype, entry.shape)
    stored = _stored(opened, entry.name, nbytes) if nbytes >= MIN_COPIED_BYTES else None
    return Outgoing(entry.name, entry.dtype, entry.shape, nbytes, chunks, entry=entry, stored=stored)


def _stored(tensors: Tensors, name: str, nbytes: int) -> Stored | None:
    """Where a tensor lies in a file just as it is to be written, if it does."""
    if sys.byteorder != "little":
        return None
    extent = extent_of(tensors, tensors.find(name))
    if extent is None or extent.source.path is None or not extent.is_plain or extent.nbytes != nbytes:
        return None
    return Stored(extent.source, extent.offset)


def of_arrays(arrays: Mapping[str, Any]) -> list[Outgoing]:
    """The arrays of a mapping; whatever is none, and can become one without a copy, becomes one.

    Raises
    ------
    UnsupportedError
        An object is no array, or of a dtype that no format holds.
    TypeError
        A name is no text.
    """
    tensors: list[Outgoing] = []
    gets: list[Get] = []
    spans: list[Span | None] = []
    for name, value in arrays.items():
        if not isinstance(name, str):
            raise TypeError(f"names of tensors are text, not {type(name).__name__}: {name!r}")
        array = _array_of(name, value)
        dtype = _name_of(array.dtype)
        if dtype is None:
            raise _unsupported(name, f"is of the NumPy dtype {array.dtype}, which no format of ours has")
        get = partial(_itself, array)
        tensors.append(Outgoing(name, dtype, array.shape, array.nbytes, _chunks(get)))
        gets.append(get)
        spans.append(_span_in_memory(array, array.ndim))
    return _shared(tensors, gets, spans)


@cache  # since there are few dtypes and many arrays
def _name_of(dtype: np.dtype[Any]) -> str | None:
    """The canonical name of a NumPy dtype in either byte order; None where no row of the table is of it."""
    native = dtype.newbyteorder("=")
    return native.name if native.name in CODES and numpy_dtype(CODES[native.name]) == native else None


def _array_of(name: str, value: Any) -> np.ndarray:
    if isinstance(value, np.ma.MaskedArray):
        raise _unsupported(name, "is a masked array, and no format has masks: save its .filled() or .data")
    if isinstance(value, np.ndarray):
        return value
    torch = sys.modules.get("torch")  # whoever has one of its tensors has imported it
    if torch is not None and isinstance(value, torch.Tensor):
        return _array_of_torch(torch, name, value)
    try:
        if hasattr(value, "__dlpack__"):
            return np.from_dlpack(value)
    except (BufferError, RuntimeError, TypeError, ValueError):
        pass  # a dtype or a device that DLPack, or NumPy's part of it, does not know: perhaps __array__ does
    if hasattr(value, "__array__") or isinstance(value, (bool, int, float, complex)):
        return np.asarray(value)
    raise _unsupported(name, f"is no array, but {type(value).__name__}")


def _array_of_torch(torch: Any, name: str, tensor: Any) -> np.ndarray:
    """The array over the memory of a torch tensor, also of a dtype that NumPy has from ml_dtypes."""
    dtype = str(tensor.dtype).removeprefix("torch.")
    if tensor.layout is not torch.strided or tensor.is_meta or tensor.is_quantized:
        raise _unsupported(name, f"is a torch tensor that is no plain run of numbers ({tensor.layout}, {tensor.dtype})")
    plain = tensor.detach().cpu().resolve_conj().resolve_neg()
    if dtype in CODES and DTYPES[CODES[dtype]].numpy[0] not in "|<":  # one of ml_dtypes'
        bits: Any = torch.int16 if plain.element_size() == 2 else torch.uint8
        array: np.ndarray = plain.view(bits).numpy().view(numpy_dtype(CODES[dtype]))
        return array
    try:
        array = plain.numpy()
    except TypeError:
        raise _unsupported(name, f"is of a dtype that NumPy has not: {tensor.dtype}") from None
    return array


def _itself(array: np.ndarray) -> np.ndarray:
    return array


def _chunks(get: Get) -> Callable[[], Iterable[memoryview]]:
    return lambda: chunks_of(get())


def _planned_chunks(planned: PlannedTensors, row: int) -> Callable[[], Iterable[memoryview]]:
    """The bytes of a tensor of a plan; what is cast is cast as it is written."""

    def chunks() -> Iterable[memoryview]:
        cast = planned.chunks(row, CHUNK_BYTES)
        return chunks_of(planned.array(row)) if cast is None else cast

    return chunks


def _packed_bytes(dtype: str, shape: Sequence[int]) -> int:
    row = DTYPES[CODES[dtype]]
    count = 1
    for length in shape:
        count *= length
    return -(-count // row.packed) * row.bits // 8


def _unsupported(name: str, what: str) -> UnsupportedError:
    return UnsupportedError(f"tensor {name!r} {what}")


# What is shared.


def _spans_of_entries(entries: Sequence[TensorEntry], gets: Sequence[Get]) -> list[Span | None]:
    """Where the tensors lie that have a storage in common, or repeat theirs; None for the others."""
    rows: dict[int, list[int]] = {}
    for row, entry in enumerate(entries):
        if entry.storage is not None and entry.nbytes:
            rows.setdefault(entry.storage, []).append(row)
    spans: list[Span | None] = [None] * len(entries)
    for storage, together in rows.items():
        if len(together) == 1 and entries[together[0]].nbytes <= entries[together[0]].storage_nbytes:
            continue
        found = [_span_in_file(entries[row], storage) for row in together]
        if None in found:  # inflated, say: only the arrays tell, which share memory while they live
            arrays = [gets[row]() for row in together]
            found = [
                _span_in_memory(array, len(entries[row].shape))
                for row, array in zip(together, arrays, strict=True)
            ]  # fmt: skip
            found = [span and span._replace(space=storage) for span in found]
        for row, span in zip(together, found, strict=True):
            spans[row] = span
    return spans


def _span_in_file(entry: TensorEntry, storage: int) -> Span | None:
    offset, strides = entry.offset, entry.strides
    if offset is None or strides is None or not entry.zero_copy or len(strides) != len(entry.shape):
        return None
    if DTYPES[CODES[entry.dtype]].bits < 8:
        return None
    steps = [(length - 1) * stride for length, stride in zip(entry.shape, strides, strict=True) if length > 1]
    first = offset + sum(step for step in steps if step < 0)
    last = offset + sum(step for step in steps if step > 0)
    return Span(storage, first, last + DTYPES[CODES[entry.dtype]].bits // 8, strides)


def _span_in_memory(array: np.ndarray, dimensions: int) -> Span | None:
    if array.size == 0:
        return None
    return Span(None, *byte_bounds(array), array.strides[:dimensions])


def _shared(tensors: list[Outgoing], gets: Sequence[Get], spans: Sequence[Span | None]) -> list[Outgoing]:
    """The tensors; those whose spans overlap with what they share, and where they lie in it."""
    places: dict[Any, list[tuple[int, int, int]]] = {}
    for row, span in enumerate(spans):
        if span is not None:
            places.setdefault(span.space, []).append((span.begin, span.end, row))
    for space, found in places.items():
        found.sort()
        group: list[int] = []
        reach = -1
        for begin, end, row in [*found, (sys.maxsize, sys.maxsize, -1)]:
            if begin >= reach:
                if len(group) > 1 or (group and _repeats(tensors[group[0]], spans[group[0]])):
                    _share(tensors, gets, spans, group, (space, spans[group[0]]))
                group = []
            group.append(row)
            reach = max(reach, end)
    return tensors


def _repeats(tensor: Outgoing, span: Span | None) -> bool:
    """Whether a tensor is more than the memory that it lies in: broadcast, with strides of 0."""
    return span is not None and tensor.nbytes > span.end - span.begin


def _share(
    tensors: list[Outgoing], gets: Sequence[Get], spans: Sequence[Span | None], group: list[int], storage: Any
) -> None:
    """Note for the tensors of *group* that they share memory."""
    known = {row: span for row in group if (span := spans[row]) is not None}
    sizes = {row: DTYPES[CODES[tensors[row].dtype]].bits // 8 for row in group}
    # PyTorch's strides are of whole elements and never negative; what lies otherwise becomes a copy.
    regular = [
        row
        for row, span in known.items()
        if all(stride >= 0 and stride % sizes[row] == 0 for stride in span.strides)
    ]  # fmt: skip
    begin = min((known[row].begin for row in regular), default=0)
    regular = [row for row in regular if (known[row].begin - begin) % sizes[row] == 0]
    size = max((known[row].end for row in regular), default=0) - begin
    chunks = partial(_storage_chunks, [gets[row] for row in regular])
    for row in group:
        tensors[row] = tensors[row]._replace(storage=storage)
    for row in regular:
        view = (known[row].begin - begin, known[row].strides, size)
        tensors[row] = tensors[row]._replace(view=view, storage_chunks=chunks)


def _storage_chunks(gets: Sequence[Get]) -> Iterable[memoryview]:
    """The bytes from the first to the last of arrays whose memory overlaps, so that all between is theirs to read."""
    arrays = [get() for get in gets]
    lowest = min(arrays, key=lambda array: byte_bounds(array)[0])
    size = max(byte_bounds(array)[1] for array in arrays) - byte_bounds(lowest)[0]
    first = lowest[(slice(0, 1),) * lowest.ndim].reshape(-1)[:1].view(np.uint8)
    yield from chunks_of(np.lib.stride_tricks.as_strided(first, (size,), (1,), writeable=False))
