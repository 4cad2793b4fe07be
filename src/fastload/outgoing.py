"""From the tensors that are to be saved to what the writers of formats take: bytes in chunks, and what is shared.

Of a checkpoint nothing is read here that its entries tell; of arrays nothing is copied.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple, NoReturn

import numpy as np
from numpy.lib.array_utils import byte_bounds

from fastload._native import describe_arrays, describe_entries
from fastload.checkpoint import Checkpoint, tensors_of
from fastload.dtypes import CODES, DTYPES, TABLE, numpy_dtype
from fastload.entry import TensorEntry
from fastload.errors import UnsupportedError
from fastload.extents import extent_of
from fastload.formats.writing import CHUNK_BYTES, MIN_COPIED_BYTES, Outgoing, Stored, chunks_of
from fastload.planned import PlannedTensors
from fastload.tensors import Tensors

__all__ = ["of_arrays", "of_checkpoint", "of_tensor"]


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


Spans = dict[int, Span | None]  # by the rows of the tensors


def of_checkpoint(checkpoint: Checkpoint) -> list[Outgoing]:
    """The tensors of a checkpoint, as their entries describe them.

    Raises
    ------
    UnsupportedError
        One has no data, or no dtype that any format could hold.
    """
    opened = tensors_of(checkpoint)
    tensors, together = describe_entries(opened.entries(), opened, CODES, TABLE, chunks_of, _refuse)
    tensors = [_checked(opened, tensor, row) for row, tensor in enumerate(tensors)]
    return _tied_before(opened, _shared(tensors, _spans_of_entries(tensors, together)))


def _tied_before(opened: Tensors, tensors: list[Outgoing]) -> list[Outgoing]:
    """The tensors, of which those that were one in the file, and that a cast takes apart, say that they shared it."""
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
                tensors[row] = tensors[row].changed(storage=("cast", origin))
    return tensors


def of_tensor(checkpoint: Checkpoint, name: str) -> Outgoing:
    """One tensor of a checkpoint, as if it shared memory with none.

    Raises
    ------
    UnsupportedError
        It has no data, or no dtype that any format could hold.
    """
    opened = tensors_of(checkpoint)
    row = opened.find(name)
    ((tensor,), _) = describe_entries([checkpoint.entry(name)], _Only(opened, row), CODES, TABLE, chunks_of, _refuse)
    return _checked(opened, tensor, row)


class _Only(NamedTuple):
    """One of some tensors."""

    tensors: Tensors
    row: int

    def array(self, _: int) -> np.ndarray:
        """Its array."""
        return self.tensors.array(self.row)


def _refuse(entry: TensorEntry) -> NoReturn:
    if entry.kind == "meta":
        raise _unsupported(entry.name, f"is a meta tensor: it has a shape {entry.shape} and no data")
    raise _unsupported(entry.name, f"is of the NumPy dtype {entry.dtype}, which no format of ours has")


def _checked(opened: Tensors, tensor: Outgoing, row: int) -> Outgoing:
    """A tensor that can be had, as far as that can be known; with what gives its bytes better than its array does."""
    if isinstance(opened, PlannedTensors):
        opened.check(row, inflating=False)  # what cannot be inflated is found while it is written, to no harm
        if opened.is_made(row):
            tensor = tensor.changed(chunks=partial(_planned_chunks, opened, row))
    elif tensor.entry is not None and tensor.entry.storage is None:
        opened.check(row)  # whether it can be had is better known now
    if tensor.nbytes >= MIN_COPIED_BYTES:
        stored = _stored(opened, row, tensor.nbytes)
        tensor = tensor if stored is None else tensor.changed(stored=stored)
    return tensor


def _stored(tensors: Tensors, row: int, nbytes: int) -> Stored | None:
    """Where a tensor lies in a file just as it is to be written, if it does."""
    if sys.byteorder != "little":
        return None
    extent = extent_of(tensors, row)
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
    tensors, overlapping = describe_arrays(arrays, _array_of, _name_of, chunks_of)
    spans = {}
    for row in overlapping:
        array = tensors[row].array()
        assert array is not None
        spans[row] = _span_in_memory(array, array.ndim)
    return _shared(tensors, spans)


def _name_of(name: str, dtype: np.dtype[Any]) -> str:
    known = _canonical(dtype)
    if known is None:
        raise _unsupported(name, f"is of the NumPy dtype {dtype}, which no format of ours has")
    return known


@lru_cache(maxsize=64)
def _canonical(dtype: np.dtype[Any]) -> str | None:
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


def _planned_chunks(planned: PlannedTensors, row: int) -> Iterable[memoryview]:
    """The bytes of a tensor of a plan; what is cast is cast as it is written."""
    cast = planned.chunks(row, CHUNK_BYTES)
    return chunks_of(planned.array(row)) if cast is None else cast


def _unsupported(name: str, what: str) -> UnsupportedError:
    return UnsupportedError(f"tensor {name!r} {what}")


# What is shared.


def _spans_of_entries(tensors: Sequence[Outgoing], together: Iterable[list[int]]) -> Spans:
    """Where the tensors lie that have a storage in common, or repeat theirs."""
    spans: Spans = {}
    for rows in together:
        found = {row: _span_in_file(entry) for row in rows if (entry := tensors[row].entry) is not None}
        if None in found.values():  # inflated, say: only the arrays tell, which share memory while they live
            arrays = {row: array for row in rows if (array := tensors[row].array()) is not None}
            found = {row: _span_in_memory(array, len(tensors[row].shape)) for row, array in arrays.items()}
        entry = tensors[rows[0]].entry
        storage = None if entry is None else entry.storage
        spans.update({row: span and span._replace(space=storage) for row, span in found.items()})
    return spans


def _span_in_file(entry: TensorEntry) -> Span | None:
    offset, strides = entry.offset, entry.strides
    if offset is None or strides is None or not entry.zero_copy or len(strides) != len(entry.shape):
        return None
    if DTYPES[CODES[entry.dtype]].bits < 8:
        return None
    steps = [(length - 1) * stride for length, stride in zip(entry.shape, strides, strict=True) if length > 1]
    first = offset + sum(step for step in steps if step < 0)
    last = offset + sum(step for step in steps if step > 0)
    return Span(entry.storage, first, last + DTYPES[CODES[entry.dtype]].bits // 8, strides)


def _span_in_memory(array: np.ndarray, dimensions: int) -> Span | None:
    if array.size == 0:
        return None
    return Span(None, *byte_bounds(array), array.strides[:dimensions])


def _shared(tensors: list[Outgoing], spans: Spans) -> list[Outgoing]:
    """The tensors; those whose spans overlap with what they share, and where they lie in it."""
    places: dict[Any, list[tuple[int, int, int]]] = {}
    for row, span in spans.items():
        if span is not None:
            places.setdefault(span.space, []).append((span.begin, span.end, row))
    for space, found in places.items():
        found.sort()
        group: list[int] = []
        reach = -1
        for begin, end, row in [*found, (sys.maxsize, sys.maxsize, -1)]:
            if begin >= reach:
                if len(group) > 1 or (group and _repeats(tensors[group[0]], spans[group[0]])):
                    _share(tensors, spans, group, (space, spans[group[0]]))
                group = []
            group.append(row)
            reach = max(reach, end)
    return tensors


def _repeats(tensor: Outgoing, span: Span | None) -> bool:
    """Whether a tensor is more than the memory that it lies in: broadcast, with strides of 0."""
    return span is not None and tensor.nbytes > span.end - span.begin


def _share(tensors: list[Outgoing], spans: Spans, group: list[int], storage: Any) -> None:
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
    chunks = partial(_storage_chunks, [tensors[row] for row in regular])
    for row in group:
        tensors[row] = tensors[row].changed(storage=storage)
    for row in regular:
        view = (known[row].begin - begin, known[row].strides, size)
        tensors[row] = tensors[row].changed(view=view, storage_chunks=chunks)


def _storage_chunks(tensors: Sequence[Outgoing]) -> Iterable[memoryview]:
    """The bytes from the first to the last of arrays whose memory overlaps, so that all between is theirs to read."""
    arrays = [array for tensor in tensors if (array := tensor.array()) is not None]
    lowest = min(arrays, key=lambda array: byte_bounds(array)[0])
    size = max(byte_bounds(array)[1] for array in arrays) - byte_bounds(lowest)[0]
    first = lowest[(slice(0, 1),) * lowest.ndim].reshape(-1)[:1].view(np.uint8)
    yield from chunks_of(np.lib.stride_tricks.as_strided(first, (size,), (1,), writeable=False))
