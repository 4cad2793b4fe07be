"""TensorRef: where the bytes of a tensor lie in a file, to be sent to another process instead of the bytes."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fastload import dtypes
from fastload._native import Index, add_storage, append, finish
from fastload.dtypes import CODES, DTYPES
from fastload.errors import FastloadError, FormatError, UnsupportedError, located
from fastload.extents import extent_of
from fastload.source import Source

if TYPE_CHECKING:
    import numpy as np

    from fastload.tensors import Tensors

__all__ = ["TensorRef", "ref_of"]


@dataclass(frozen=True, slots=True)
class TensorRef:
    """Where the bytes of a tensor lie in a file; made by `Checkpoint.ref`.

    It pickles to a few hundred bytes. Whoever has it and sees the same file has the tensor: `array`, or `numpy.asarray`
    of it, maps the pages that it lies in and no others, so that processes of one machine share them. One of a few
    kilobytes is read, since a process may have but some ten thousands of mappings.

    Attributes
    ----------
    name : str
        The name of the tensor.
    path : str
        The file, absolute.
    member : str or None
        The file within that file, where it is one; the offset is that in the outer file all the same.
    offset, nbytes : int
        The first byte of the tensor from the start of the file, and how many there are up to the last.
    dtype : str
        As `TensorEntry` has it, such as ``"bfloat16"``.
    shape : tuple of int
        In elements.
    strides : tuple of int or None
        In bytes; None where elements are smaller than a byte.
    size, mtime_ns : int
        Those of the file, by which it is known again.
    """

    name: str
    path: str
    member: str | None
    offset: int
    nbytes: int
    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...] | None
    size: int
    mtime_ns: int

    def array(self) -> np.ndarray:
        """The tensor as a read-only array: a view of the file, mapped anew, or of its own bytes where they are few.

        Raises
        ------
        FormatError
            The file is gone, or is not the one that the reference was made of; or the reference makes no sense.
        """
        try:
            source = Source.of_run(self.path, self.offset, self.nbytes, (self.size, self.mtime_ns))
            return source.array(self._index(source), 0)
        except FastloadError as error:
            if repr(self.name) not in error.message:
                error.message = f"tensor {self.name!r}: {error.message}"
            raise located(error, self.path) from None

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        array = self.array()
        if dtype is not None and array.dtype != dtype:
            if copy is False:
                raise ValueError(f"tensor {self.name!r} is {array.dtype}, and {dtype} only as a copy")
            return array.astype(dtype)
        return array.copy() if copy else array

    def _index(self, source: Source) -> Index:
        """A table of this tensor alone, in which its geometry is checked as that of any file's."""
        if self.dtype not in CODES:
            raise FormatError(f"its dtype {self.dtype!r} is none of fastload's")
        code = CODES[self.dtype]
        steps = None
        if self.strides is not None:
            size = DTYPES[code].bits // 8
            if not size or any(stride % size for stride in self.strides):
                raise FormatError(f"its strides {self.strides} are no whole elements")
            steps = [stride // size for stride in self.strides]
        index = Index(source, dtypes.TABLE)
        storage = add_storage(index, 0, self.nbytes, self.nbytes)
        append(index, (self.name,), code, self.shape, strides=steps, storage=storage)
        finish(index)
        return index


def ref_of(tensors: Tensors, row: int, member: str | None = None) -> TensorRef:
    """The reference of one tensor, of a checkpoint that is a *member* of its file or that file itself.

    Raises
    ------
    UnsupportedError
        It is no view of a file, so that another process would have to make it, too.
    FormatError
        The file was replaced or written to since it was opened.
    """
    entry = tensors.entry(row)
    extent = extent_of(tensors, row)
    if extent is None or not entry.zero_copy or entry.dtype not in CODES:
        raise UnsupportedError(
            f"tensor {entry.name!r} has no bytes in the file that another process could map: it is {_why(entry)};"
            " save the checkpoint with fastload.save, and refer to the tensors of that file",
            path=tensors.path,
        )
    source = extent.source
    stamp = source.stamp()
    if source.path is None or stamp is None:
        raise UnsupportedError(
            f"tensor {entry.name!r} lies in a buffer, which no other process has: open a file, and refer to its tensors"
        )
    if not source.still_valid():
        raise FormatError("was replaced or written to after it was opened: open it again", path=source.path)
    return TensorRef(
        entry.name,
        os.path.abspath(source.path),
        member,
        extent.offset,
        extent.nbytes,
        entry.dtype,
        entry.shape,
        entry.strides,
        *stamp,
    )


def _why(entry: Any) -> str:
    """Why a tensor is no view of a file."""
    if entry.kind == "meta":
        return "a meta tensor, a shape without data"
    if entry.dtype not in CODES:
        return f"of the NumPy dtype {entry.dtype}"
    return "compressed, encoded, big-endian, conjugated, cast or put together of parts"
