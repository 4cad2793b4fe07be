"""Checkpoints of several files: a folder, or the index of a sharded checkpoint; also within an archive."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING

from fastload import formats
from fastload.errors import FastloadError, UnsupportedError, located
from fastload.options import Kind, Options
from fastload.source import Source
from fastload.tensors import Tensors, open_source

if TYPE_CHECKING:
    from fastload.members import Archive

__all__ = ["open_member", "open_path"]


def open_path(path: str, options: Options) -> Tensors:
    """The tensors of a file, of a folder, or of the files that an index names."""
    try:
        source: Source | None = Source.of(path, options.io)
    except (UnsupportedError, OSError):  # only now is it asked for a folder, since most checkpoints are a file
        if not os.path.isdir(path):
            raise
        source = None
    # What many files need is imported where there are many.
    if source is None:
        from fastload.folders import dcp
        from fastload.folders.folder import open_folder
        from fastload.folders.places import DiskFolder

        try:
            if os.path.isfile(os.path.join(path, dcp.METADATA)):
                return dcp.open_folder(path, options)
            return open_folder(DiskFolder(path, options), options)[0]
        except FastloadError as error:
            raise located(error, path) from None
    if formats.is_shard_index(source):
        from fastload.folders.places import DiskFolder
        from fastload.folders.sharded import open_index
        from fastload.folders.weight_map import read_weight_map

        folder = DiskFolder(os.path.dirname(path), options)
        return open_index(path, path, source, read_weight_map(source), folder, options)
    return open_source(source, options)


def open_member(source: Source, member: str, options: Options) -> tuple[Tensors, Kind]:
    """The tensors of what *source* holds under the name *member*, and how their bytes are had.

    That may be a model in an executable, or in an archive a file, a folder, or the index of a sharded checkpoint.

    Raises
    ------
    MemberNotFoundError
        There is none; the message offers near names.
    UnsupportedError
        The member is encrypted, compressed by another method than deflate, or compressed at
        all and copies are not allowed; or it is a folder of a distributed checkpoint.
    LimitError
        The member would inflate to more than `options.max_inflated`.
    """
    from fastload.members import Archive, find_embedded

    try:
        embedded = find_embedded(source, member)
        if embedded is not None:
            return open_source(embedded, options), "embedded"
        archive = Archive(source, member)
        if archive.has_file(member):
            return _open_file(archive, member, options)
        if archive.has_folder(member.removesuffix("/")):
            return _open_folder(archive, member.removesuffix("/"), options)
    except FastloadError as error:
        if repr(member) not in error.message:
            error.message = f"member {member!r}: {error.message}"
        raise
    raise archive.not_found(member)


def _open_file(archive: Archive, member: str, options: Options) -> tuple[Tensors, Kind]:
    if not member.endswith(".json"):
        archive.check_copy(member, options)
    part = archive.source(member, options)
    if formats.is_shard_index(part):
        from fastload.folders.places import ArchivedFolder
        from fastload.folders.sharded import open_index
        from fastload.folders.weight_map import read_weight_map

        said = read_weight_map(part)
        folder = member.rpartition("/")[0]
        tensors = open_index(archive.path, member, part, said, ArchivedFolder(archive, folder, options), options)
        return tensors, _kind(archive, folder, said.files.values())
    archive.check_copy(member, options)
    return open_source(part, options), _kind(archive, "", [member])


def _open_folder(archive: Archive, folder: str, options: Options) -> tuple[Tensors, Kind]:
    from fastload.folders import dcp
    from fastload.folders.folder import open_folder
    from fastload.folders.places import ArchivedFolder

    archived = ArchivedFolder(archive, folder, options)
    if archived.has_file(dcp.METADATA):
        raise UnsupportedError(
            "is a folder of torch.distributed.checkpoint, which is read from the disk: unpack it first"
        )
    tensors, files = open_folder(archived, options)
    return tensors, _kind(archive, folder, files)


def _kind(archive: Archive, folder: str, files: Iterable[str]) -> Kind:
    """Whether all of some files of a folder lie in the archive as they are."""
    names = [f"{folder}/{file}" if folder else file for file in dict.fromkeys(files)]
    return "member" if all(map(archive.is_stored, names)) else "inflated"
