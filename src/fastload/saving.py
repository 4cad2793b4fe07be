"""Saving: tensors into a file of any format that can be written, whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO, NamedTuple, Protocol

from fastload.atomic import publish
from fastload.checkpoint import Checkpoint
from fastload.errors import Advice, FastloadError, SaveError, UnsupportedError, advised, located
from fastload.formats import burnpack, npy, npz, safetensors
from fastload.formats.torch import write as torch_write
from fastload.formats.writing import MODULE_VERSIONS, Outgoing
from fastload.outgoing import of_arrays, of_checkpoint

__all__ = [
    "WRITERS",
    "Draft",
    "SaveReport",
    "Writer",
    "checked_metadata",
    "draft",
    "kept_metadata",
    "least_size",
    "own_metadata",
    "save",
    "writer_of",
]

MAX_LISTED = 5  # losses in a message; `SaveError.lost` has them all

# Metadata that describe a file and not its tensors, so that no other file should have them.
FILE_FACTS = frozenset({"total_size"})
ARCHIVE_FACTS = FILE_FACTS | {
    "version",
    "format_version",
    "storage_alignment",
    "byteorder",
    "serialization_id",
    "archive_version",
    "programs",
    "producerName",
    "producerVersion",
    "protoVersion",
}
TEXT_FORMATS = frozenset({"safetensors", "burnpack"})  # whose metadata are their users' alone


class Module(Protocol):
    """What the module of a format offers that can be written; see `formats.writing`."""

    def check_writable(self, tensors: Sequence[Outgoing], metadata: Mapping[str, Any]) -> list[str]:
        """What would be lost, a line each."""

    def write(self, file: BinaryIO, tensors: Sequence[Outgoing], metadata: Mapping[str, Any]) -> None:
        """Write the whole file."""


class Writer(NamedTuple):
    """A format that can be written.

    Attributes
    ----------
    name : str
        As `Checkpoint.format` has it.
    suffixes : tuple of str
        Of files that are written so where nothing else is said. Without the dot they are names of the format, too.
    module : Module
        What writes it.
    keeps_sharing : bool
        Whether bytes that several tensors share are written once.
    """

    name: str
    suffixes: tuple[str, ...]
    module: Module
    keeps_sharing: bool = False


WRITERS = (
    Writer("safetensors", (".safetensors",), safetensors),
    Writer("pytorch-zip", (".pt", ".pth", ".bin", ".ckpt"), torch_write, keeps_sharing=True),
    Writer("burnpack", (".bpk",), burnpack),
    Writer("npz", (".npz",), npz),
    Writer("npy", (".npy",), npy),
)


class SaveReport(NamedTuple):
    """What was saved.

    Attributes
    ----------
    path : str
        The file, as it was given.
    format : str
        The name of its format.
    tensors : int
        How many there are.
    nbytes : int
        The size of the file.
    lost : tuple of str
        What the format could not keep, a line each; empty unless losses were allowed.
    """

    path: str
    format: str
    tensors: int
    nbytes: int
    lost: tuple[str, ...]


def save(
    tensors: Mapping[str, Any],
    path: str | os.PathLike[str],
    *,
    format: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    lossy: bool = False,
    sync: bool = True,
) -> SaveReport:
    """Write tensors to a file, which is there whole when this returns, and not touched if it raises.

    At every moment, even of a crash, *path* holds the old file or the new one. A checkpoint is streamed: no more than
    a few megabytes of it are in memory beside what its own arrays need. It may be saved over its own file.

    Parameters
    ----------
    tensors : Checkpoint or mapping
        Names to NumPy arrays, or to whatever can become one (DLPack, ``__array__``; torch tensors of any plain dtype).
    path : path
        Of a symbolic link, the file to which it points is written. The mode of a file that is replaced is kept.
    format : str, optional
        "safetensors", "pytorch-zip", "burnpack", "npz" or "npy", or a suffix of one; told from the suffix if not given.
    metadata : mapping, optional
        Of text to text, where the format holds only that. If not given, what a checkpoint has of its own, and the
        ``_metadata`` of a state dict of torch.
    overwrite : bool
        Whether a file that is there may be replaced.
    lossy : bool
        Whether to save even what the format cannot keep: metadata that it has no place for, that tensors share memory,
        how quantised integers stand for floats, Burn's param ids.
    sync : bool
        Whether to wait until the disk has it all. If not, a crash of the process harms nothing either, but one of the
        machine within the next half minute may leave a file at *path* that is cut or empty: the system writes later.

    Returns
    -------
    SaveReport
        Among other things, what was lost.

    Raises
    ------
    UnsupportedError
        The format, or the suffix, is none that can be written, or cannot hold a tensor, which is named.
    SaveError
        Something would be lost, and *lossy* is false; or writing failed, as with a full disk.
    FileExistsError
        There is a file, and *overwrite* is false.
    """
    shown = os.fsdecode(path)
    writer = writer_of(shown, format)
    try:
        outgoing = of_checkpoint(tensors) if isinstance(tensors, Checkpoint) else of_arrays(tensors)
        kept = kept_metadata(tensors, metadata)
    except FastloadError as error:
        raise located(error, shown, writer.name) from None
    return draft(shown, writer, outgoing, kept, lossy=lossy).write(overwrite=overwrite, sync=sync)


class Draft(NamedTuple):
    """A file that can be written: all that can be known before has been checked, and nothing is written yet.

    Attributes
    ----------
    path : str
        Where it shall be.
    writer : Writer
        Its format.
    tensors : list of Outgoing
        What will be in it.
    metadata : dict
        What else.
    lost : tuple of str
        What the format cannot keep, a line each.
    """

    path: str
    writer: Writer
    tensors: list[Outgoing]
    metadata: dict[str, Any]
    lost: tuple[str, ...]

    def write(self, *, overwrite: bool = False, sync: bool = True) -> SaveReport:
        """Write it, whole or not at all; *overwrite* and *sync* as for `save`.

        Raises
        ------
        SaveError
            Writing failed.
        FileExistsError
            There is a file, and *overwrite* is false.
        """
        try:
            size = least_size(self.tensors, self.writer)
            with publish(self.path, overwrite=overwrite, size=size, sync=sync) as file:
                self.writer.module.write(file, self.tensors, self.metadata)
                nbytes = file.seek(0, os.SEEK_END)
        except FastloadError as error:
            raise located(error, self.path, self.writer.name) from None
        return SaveReport(self.path, self.writer.name, len(self.tensors), nbytes, self.lost)


def draft(
    path: str,
    writer: Writer,
    tensors: list[Outgoing],
    metadata: dict[str, Any],
    *,
    lossy: bool,
    lost: Sequence[str] = (),
) -> Draft:
    """The draft of a file; *lost* is what has been lost before its format was asked.

    Raises
    ------
    UnsupportedError
        The format cannot hold a tensor.
    SaveError
        Something would be lost, and *lossy* is false.
    """
    try:
        losses = (*lost, *writer.module.check_writable(tensors, metadata))
        if losses and not lossy:
            raise _refusal(writer, losses)
    except FastloadError as error:
        raise located(error, path, writer.name) from None
    return Draft(path, writer, tensors, metadata, losses)


def writer_of(path: str, format: str | None = None) -> Writer:
    """The writer of a format by its name, or of a file by its suffix.

    Raises
    ------
    UnsupportedError
        The suffix is none of a format that can be written.
    ValueError
        There is no format of that name.
    """
    known = ", ".join(f"{writer.name} ({' '.join(writer.suffixes)})" for writer in WRITERS)
    if format is not None:
        found = [row for row in WRITERS if format == row.name or f".{format.lstrip('.')}" in row.suffixes]
        if not found:
            raise ValueError(f"no format {format!r} that could be written: there are {known}")
    else:
        suffix = os.path.splitext(path)[1].lower()
        found = [row for row in WRITERS if suffix in row.suffixes]
        if not found:
            give = Advice(f": give {{}}, one of {known}", "format")
            raise advised(UnsupportedError(f"the suffix {suffix!r} tells no format{give}", path=path), give)
    return found[0]


def kept_metadata(tensors: Mapping[str, Any], metadata: Mapping[str, Any] | None) -> dict[str, Any]:
    """What to keep beside tensors: *metadata*, or where that is not given, what they have of their own."""
    return own_metadata(tensors) if metadata is None else checked_metadata(metadata)


def own_metadata(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """What a checkpoint keeps about its tensors, without what it says about its file; of a state dict, its versions."""
    if not isinstance(tensors, Checkpoint):
        versions = getattr(tensors, MODULE_VERSIONS, None)
        return {MODULE_VERSIONS: versions} if isinstance(versions, dict) else {}
    facts = FILE_FACTS if tensors.format.removeprefix("sharded-") in TEXT_FORMATS else ARCHIVE_FACTS
    return {key: value for key, value in tensors.metadata.items() if key not in facts}


def checked_metadata(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """What was given as metadata, if its keys are text."""
    for key in metadata:
        if not isinstance(key, str):
            raise TypeError(f"keys of metadata are text, not {type(key).__name__}: {key!r}")
    return dict(metadata)


def _refusal(writer: Writer, lost: tuple[str, ...]) -> SaveError:
    listed = "; ".join(lost[:MAX_LISTED])
    more = f"; and {len(lost) - MAX_LISTED:,} more" if len(lost) > MAX_LISTED else ""
    advice = (
        Advice("; {} saves without it", "lossy", True),
        Advice(", and {} leaves a checkpoint's own metadata out", "metadata", {}),
    )
    message = f"{writer.name} cannot keep everything: {listed}{more}. Nothing was written{''.join(map(str, advice))}"
    return advised(SaveError(message, lost=lost), *advice)


def least_size(tensors: Sequence[Outgoing], writer: Writer) -> int:
    """Bytes that the format needs for these tensors at least."""
    shared = {tensor.storage: tensor.view[2] for tensor in tensors if writer.keeps_sharing and tensor.view is not None}
    return sum(shared.values()) + sum(tensor.nbytes for tensor in tensors if tensor.storage not in shared)
