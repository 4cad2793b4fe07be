"""Options: how a checkpoint is to be read, as `fastload.open` was told."""

from __future__ import annotations

from typing import Literal, NamedTuple

__all__ = ["Io", "Options"]

Io = Literal["auto", "mmap", "read"]


class Options(NamedTuple):
    """How a checkpoint is to be read.

    Attributes
    ----------
    io : {"auto", "mmap", "read"}
        How a file's tensors come to memory; see `fastload.open`.
    allow_copy : bool
        Whether tensors may be given that are no views of the file.
    attributes : bool
        Whether tensors that modules hold beside their state dict are listed too.
    max_inflated : int or None
        Bytes to which a file may inflate that does not say how large it will be; None is half of the free memory.
    """

    io: Io = "auto"
    allow_copy: bool = True
    attributes: bool = False
    max_inflated: int | None = None
