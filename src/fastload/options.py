"""Options: how a checkpoint is to be read, as `fastload.open` was told, and what it was then read from."""

from __future__ import annotations

from typing import Literal, NamedTuple

from fastload.errors import Advice

__all__ = ["INFLATE_MORE", "CheckpointSource", "Io", "Kind", "Options"]

Io = Literal["auto", "mmap", "read"]
Kind = Literal["file", "folder", "member", "inflated", "embedded", "resource", "buffer"]

INFLATE_MORE = Advice("pass a larger {} to open, or ", "max_inflated")  # before another way out


class CheckpointSource(NamedTuple):
    """What the bytes of a checkpoint came from.

    Attributes
    ----------
    kind : str
        ``"file"`` or ``"folder"``; ``"member"``, which lies in an archive as it is; ``"inflated"``, a compressed member
        that was unpacked into memory; ``"embedded"``, a section of an executable; ``"resource"``, bytes that the loader
        of a package gave; ``"buffer"``.
    path : str or None
        The file or folder that was opened: of a member, the archive. None for bytes in memory.
    member : str or None
        The name of the file within that file, or of the resource.
    """

    kind: Kind
    path: str | None = None
    member: str | None = None


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
        Bytes to which a file may inflate, where it is compressed as a whole; None is half of the free memory.
    """

    io: Io = "auto"
    allow_copy: bool = True
    attributes: bool = False
    max_inflated: int | None = None
