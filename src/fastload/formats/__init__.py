"""The formats, and which of them a file is: told from its first bytes, never from its name."""

from __future__ import annotations

from typing import Any, Protocol

from fastload._native import Index, parse
from fastload.errors import FastloadError, TruncatedError, UnknownFormatError, UnsupportedError
from fastload.formats import safetensors
from fastload.formats.torch import old_pt2, pt2, script_json
from fastload.formats.torch import zip as torch_zip
from fastload.options import Options
from fastload.source import Source

__all__ = ["CONTAINERS", "FORMATS", "Container", "Format", "detect", "detect_container"]

HEAD_BYTES = 512  # enough for every mark below; tar's lies at 257
MAX_PROBED_PICKLE_BYTES = 1 << 24  # of a file without any mark that is tried as a pickle of protocol 0 or 1


class Format(Protocol):
    """What a module of a format offers."""

    NAME: str

    def probe(self, source: Source, head: bytes) -> bool:
        """Whether *source*, which begins with *head*, is of this format."""

    def index(self, source: Source, options: Options) -> Index:
        """Describe every tensor without reading its data."""

    def metadata(self, source: Source, index: Index) -> dict[str, Any]:
        """What the format keeps about the tensors as a whole."""

    def objects(self, source: Source, options: Options) -> Any:
        """What else the file holds, as plain Python values."""

    def list_globals(self, source: Source) -> list[tuple[str, str]]:
        """(module, name) of every global that the pickles of the file name, once each."""

    def verify(self, source: Source, index: Index) -> None:
        """Check every structure and extent that `index` leaves until it is needed."""


class Container(Protocol):
    """What a module offers for files that hold other files."""

    NAME: str

    def probe(self, source: Source, head: bytes) -> bool:
        """Whether *source*, which begins with *head*, is of this sort."""

    def parts(self, source: Source, options: Options) -> list[Source]:
        """The files in it that hold tensors."""


FORMATS: tuple[Format, ...] = (pt2, script_json, torch_zip, safetensors)
CONTAINERS: tuple[Container, ...] = (old_pt2,)

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of a PyTorch file of torch 0.1.10 to 1.5
_NOT_YET = "which this version of fastload cannot read yet"

# What is no checkpoint of ours and known all the same: the mark, where it stands, and what to say.
FOREIGN = (
    (0, b"PYTORCH1", UnsupportedError, "is a preview archive of torch 1.0, which torch itself no longer reads"),
    (0, b"NRUB", UnsupportedError, f"is a Burnpack file, {_NOT_YET}"),
    (0, b"\x93NUMPY", UnsupportedError, f"is a NumPy array (.npy), {_NOT_YET}: use numpy.load"),
    (0, b"GGUF", UnsupportedError, "is a GGUF file: use the gguf package"),
    (0, b"\x89HDF\r\n", UnsupportedError, "is an HDF5 file (Keras?): use h5py"),
    (0, b"\x1f\x8b", UnsupportedError, f"is compressed with gzip, {_NOT_YET}: unpack it first"),
    (0, b"BZh", UnsupportedError, "is compressed with bzip2: unpack it first"),
    (0, b"\xfd7zXZ\0", UnsupportedError, "is compressed with xz: unpack it first"),
    (0, b"\x28\xb5\x2f\xfd", UnsupportedError, "is compressed with zstd: unpack it first"),
    (0, b"7z\xbc\xaf\x27\x1c", UnsupportedError, "is a 7z archive: unpack it first"),
    (0, b"Rar!", UnsupportedError, "is a RAR archive: unpack it first"),
    (257, b"ustar", UnsupportedError, f"is a tar archive (torch before 0.1.10, or .nemo), {_NOT_YET}"),
    (0, b"version https://git-lfs", UnknownFormatError, "is a git-lfs pointer and not the file: run `git lfs pull`"),
    (0, b"\x89PNG", UnknownFormatError, "is a PNG image"),
    (0, b"%PDF", UnknownFormatError, "is a PDF document"),
)
# A tar without "ustar", as torch before 0.1.10 may have written.
_TAR_MEMBERS = (b"storages\0", b"sys_info\0", b"pickle\0", b"tensors\0")


def detect_container(source: Source) -> Container | None:
    """What *source* is wrapped in, if anything."""
    head = bytes(source.fetch(0, min(HEAD_BYTES, source.size)))
    for container in CONTAINERS:
        if container.probe(source, head):
            return container
    return None


def detect(source: Source) -> Format:
    """The format of *source*.

    Raises
    ------
    UnknownFormatError
        None that fastload knows; pages of HTML, git-lfs pointers and some others are recognised by name.
    UnsupportedError
        One that it knows and cannot read.
    """
    head = bytes(source.fetch(0, min(HEAD_BYTES, source.size)))
    for format in FORMATS:
        if format.probe(source, head):
            return format
    for place, mark, error, what in FOREIGN:
        if head.startswith(mark, place):
            raise error(what)
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        raise UnknownFormatError("is a page of HTML: the download got an error or login page instead of the file")
    if head.startswith(_TAR_MEMBERS) and source.size >= 1024:
        raise UnsupportedError(f"is a tar archive of torch before 0.1.10, {_NOT_YET}")
    if text.startswith(b"{"):
        raise UnsupportedError(f"is JSON: a configuration, or the index of a sharded checkpoint, {_NOT_YET}")
    what = _pickle(source, head)
    if what:
        raise UnsupportedError(f"is {what}, {_NOT_YET}: load it with its program and save it anew with torch.save")
    if head[8:9] == b"{":
        return safetensors  # whose header claims too many bytes, as it will say
    if len(head) <= 8:
        raise TruncatedError(f"has only {len(head)} bytes, too few for any checkpoint: fetch it again")
    raise UnknownFormatError(f"is of no format that fastload knows; it begins with {head[:8].hex(' ')}")


def _pickle(source: Source, head: bytes) -> str:
    """What sort of bare pickle *source* is; "" where it is none."""
    magic = _LEGACY_MAGIC.to_bytes(10, "little")
    if magic in head[:64] or str(_LEGACY_MAGIC).encode() in head[:64]:
        return "a legacy PyTorch stream (torch 0.1.10 to 1.5, or saved with _use_new_zipfile_serialization=False)"
    if head[:1] == b"\x80" and head[1:2] <= b"\x05":
        return "a bare pickle"
    # Protocols 0 and 1 have no mark: only a parse can tell, and a file that is no pickle soon fails it.
    try:
        graph = parse(source.fetch(0, min(source.size, MAX_PROBED_PICKLE_BYTES)))
    except FastloadError:
        return ""
    return "a bare pickle" if graph.end > 1 else ""
