"""What every format writer is given: the tensors that are to be written.

A format that can be written offers `check_writable(tensors, metadata) -> list of str` (what would be lost, a line each;
UnsupportedError names a tensor that the format cannot hold) and `write(file, tensors, metadata)` (the whole file,
streamed; the file is positioned at 0, binary, writable, seekable).
"""

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
    chunks: Callable[[], Iterable[memoryview]]  # its bytes, C-contiguous and little-endian; read only when written
    storage: Hashable = None  # equal for tensors whose arrays share memory; None: nobody's
    entry: TensorEntry | None = None  # where it came from, if from a checkpoint
    view: tuple[int, tuple[int, ...], int] | None = None  # (offset in the shared storage, strides, its size), in bytes
    storage_chunks: Callable[[], Iterable[memoryview]] | None = None  # bytes of that whole storage
