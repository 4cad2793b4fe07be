"""Opening: from a path or a buffer, and the keywords of a plan, to a Checkpoint."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fastload import folders
from fastload.checkpoint import Checkpoint
from fastload.errors import FastloadError, located
from fastload.options import CheckpointSource, Io, Options
from fastload.source import Source
from fastload.tensors import open_source

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["open", "planned"]

PLAN_KEYWORDS = {
    "subtree", "include", "exclude", "where", "drop_segments", "rename", "remap", "contiguous", "split", "concat",
    "adapt", "cast", "types",
}  # fmt: skip


def open(
    source: str | os.PathLike[str] | Buffer,
    *,
    io: Io = "auto",
    member: str | None = None,
    allow_copy: bool = True,
    attributes: bool = False,
    max_inflated: int | None = None,
    **plan: Any,
) -> Checkpoint:
    """Open a checkpoint: read what it holds, and none of its tensors.

    Parameters
    ----------
    source : path or buffer
        A file; a folder or an ``…index.json`` of a sharded checkpoint; or any object with the buffer protocol (bytes,
        bytearray, memoryview, mmap, array), which is viewed, never copied, and kept alive by the arrays over it. The
        format is told from the bytes.
    io : {"auto", "mmap", "read"}
        How a file's tensors come to memory. "mmap" maps the file, shared and read-only. "read" reads headers now, and
        each storage when it is first asked for, once for as long as an array over it lives; a page fault on a network
        disk costs more than that. "auto" is "read" on network file systems and "mmap" on others, where a small file is
        mapped only when its first array is asked for.
    member : str, optional
        The name of a file within *source*: of a member of a zip archive (.zip, .whl, .pyz, .npz), with its folders, or
        of a model that was embedded into an executable. It is mapped in place, unless it is compressed. Of an archive
        it may also be a folder (``"weights/"``), or the index of a sharded checkpoint.
    allow_copy : bool
        False refuses tensors that cannot be views of the file: compressed, encoded, big-endian or conjugated ones, and
        those that lie in several pieces.
    attributes : bool
        True lists the tensors, too, that pickled modules hold beside their state dict: buffers that are not
        persistent, and plain attributes.
    max_inflated : int, optional
        Bytes to which a gzip file or a compressed member may inflate; half of the free memory if not given.
    **plan
        Steps of a plan by keyword, in this order whatever that of the keywords: ``subtree``, ``include``, ``exclude``,
        ``where``, ``drop_segments``, ``rename``, ``remap``, ``contiguous``, ``split``, ``concat``, ``adapt``, ``cast``;
        each is what the method of `Checkpoint` takes first. ``types`` is what `adapt` and `cast` take by that name.

    Raises
    ------
    FormatError
        The file breaks the rules of its format. Among its kinds: TruncatedError for a file that was cut short,
        UnknownFormatError for one of no known format, LimitError for one that claims too much.
    UnsupportedError
        The file is sound and of a sort that cannot be read.
    MemberNotFoundError
        The file has no such member.
    OSError
        The file cannot be opened.

    Examples
    --------
    >>> with fastload.open("model.safetensors") as checkpoint:  # doctest: +SKIP
    ...     checkpoint["encoder.weight"].shape
    (768, 768)
    """
    options = Options(io, allow_copy, attributes, max_inflated)
    path = os.fsdecode(source) if isinstance(source, (str, os.PathLike)) else None
    origin = None
    try:
        if member is not None:
            tensors, kind = folders.open_member(Source.of(source, io), member, options)
            origin = CheckpointSource(kind, path, member)
        elif path is not None:
            tensors = folders.open_path(path, options)
        else:
            assert not isinstance(source, (str, os.PathLike))
            tensors = open_source(Source.of(source, io), options)
    except FastloadError as error:
        raise located(error, path) from None
    return planned(Checkpoint(tensors, options, origin), plan)


def planned(checkpoint: Checkpoint, plan: Mapping[str, Any]) -> Checkpoint:
    """*checkpoint* after the steps that keywords of `open` state, in the order that they have.

    Raises
    ------
    TypeError
        A keyword is none of a plan.
    PlanError
        A step cannot be done.
    """
    if not plan:
        return checkpoint
    unknown = plan.keys() - PLAN_KEYWORDS
    if unknown:
        raise TypeError(f"open() got an unexpected keyword argument {min(unknown)!r}")
    given = {keyword: value for keyword, value in plan.items() if value is not None and value is not False}
    if "subtree" in given:
        checkpoint = checkpoint.subtree(given["subtree"])
    if given.keys() & {"include", "exclude", "where"}:
        checkpoint = checkpoint.select(given.get("include"), given.get("exclude"), given.get("where"))
    for keyword in ("drop_segments", "rename", "remap"):
        if keyword in given:
            checkpoint = getattr(checkpoint, keyword)(given[keyword])
    if "contiguous" in given:
        checkpoint = checkpoint.contiguous_indices()
    for keyword in ("split", "concat"):
        if keyword in given:
            from fastload.plan.fuse import rules_of

            checkpoint = getattr(checkpoint, keyword)(*rules_of(given[keyword]))
    for keyword in ("adapt", "cast"):
        if keyword in given:
            checkpoint = getattr(checkpoint, keyword)(given[keyword], types=given.get("types"))
    return checkpoint
