"""What every writer of a format is given: the tensors that are to be written, one by one."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import NamedTuple

from fastload.entry import TensorEntry

__all__ = ["Outgoing"]


class Outgoing(NamedTuple):
    """One tensor that is to be written."""

    name: str
    dtype: str  # canonical name, a row of DTYPES
    shape: tuple[int, ...]
    nbytes: int  # of its elements, C-contiguous, as the format will hold them
    chunks: Callable[[], Iterable[memoryview]]  # its bytes, C-contiguous and little-endian, in runs of bounded size
    storage: Hashable = None  # equal for tensors whose arrays share memory; None: nobody's
    entry: TensorEntry | None = None  # where it came from, if from a checkpoint: param_id, quantization, kind
    # (byte offset in the shared storage, strides in bytes, bytes of the storage) for formats that keep sharing
    view: tuple[int, tuple[int, ...], int] | None = None
    storage_chunks: Callable[[], Iterable[memoryview]] | None = None  # bytes of that whole storage
