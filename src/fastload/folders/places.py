"""Where the files of a checkpoint lie beside each other: a folder of the disk, or one within an archive.

Both list their files and open them. A name that a checkpoint gives for one of its files is checked by either, and never
leads out of the folder.
"""

from __future__ import annotations

import os
from typing import Protocol

from fastload.errors import FastloadError, FormatError
from fastload.folders import paths
from fastload.members import Archive
from fastload.options import Options
from fastload.source import Source

__all__ = ["ArchivedFolder", "DiskFolder", "Folder"]


class Folder(Protocol):
    """A folder, wherever it is."""

    @property
    def path(self) -> str | None:
        """What the user opened: the folder, or the archive that it is in; None for bytes in memory."""

    def has_file(self, name: str) -> bool:
        """Whether there is a file of that name."""

    def has_folder(self, name: str) -> bool:
        """Whether there is a folder of that name."""

    def list_files(self) -> list[str]:
        """The names of the files that lie right in it, sorted; not those of hidden ones."""

    def told(self, name: str) -> str:
        """A file of it, as messages name it."""

    def check(self, name: str) -> None:
        """See that *name*, which a checkpoint gives for one of its files, is that of a file in here.

        Raises
        ------
        FormatError
            It is not, or could mean a place elsewhere.
        """

    def source(self, name: str, *, keep_open: bool = True) -> Source:
        """One of its files, in which tensors may be; *keep_open* as for `Source.of`."""

    def index_source(self, name: str) -> Source:
        """One of its files, in which there are none: it may be unpacked even where copies are not allowed."""

    def naming(self, error: FastloadError, name: str) -> FastloadError:
        """*error*, which came of a file of it, so that it tells which."""


class DiskFolder:
    """A folder of the disk."""

    def __init__(self, path: str, options: Options) -> None:
        self.path = path
        # Of files that are opened again and again, when the process may be in another folder.
        self._absolute = os.path.join(os.getcwd(), path)
        self._io = options.io

    def has_file(self, name: str) -> bool:
        """Whether there is a file of that name."""
        return os.path.isfile(os.path.join(self._absolute, name))

    def has_folder(self, name: str) -> bool:
        """Whether there is a folder of that name."""
        return os.path.isdir(os.path.join(self._absolute, name))

    def list_files(self) -> list[str]:
        """The names of the files that lie right in it, sorted; not those of hidden ones."""
        found = []
        with os.scandir(self.path or os.curdir) as entries:
            for entry in entries:
                try:
                    if entry.is_file() and not entry.name.startswith("."):
                        found.append(entry.name)
                except OSError:  # a link that leads back to itself
                    continue
        return sorted(found)

    def told(self, name: str) -> str:
        """A file of it, as messages name it."""
        return os.path.join(self.path, name)

    def check(self, name: str) -> None:
        """See that *name*, which a checkpoint gives for one of its files, is that of a file in here."""
        paths.inside(self._absolute, name)

    def source(self, name: str, *, keep_open: bool = True) -> Source:
        """One of its files, in which tensors may be; *keep_open* as for `Source.of`."""
        folder = self.path if keep_open else self._absolute
        return Source.of(os.path.join(folder, name), self._io, keep_open=keep_open)

    def index_source(self, name: str) -> Source:
        """One of its files, in which there are no tensors."""
        return self.source(name)

    def naming(self, error: FastloadError, name: str) -> FastloadError:
        """*error*, which has the path of the file already."""
        return error


class ArchivedFolder:
    """A folder within an archive, whose stored files are parts of that; "" is the archive's own."""

    def __init__(self, archive: Archive, folder: str, options: Options) -> None:
        self.path = archive.path
        self._archive = archive
        self._folder = f"{folder}/" if folder else ""
        self._options = options

    def has_file(self, name: str) -> bool:
        """Whether there is a file of that name."""
        return self._archive.has_file(self._folder + name)

    def has_folder(self, name: str) -> bool:
        """Whether there is a folder of that name."""
        return self._archive.has_folder(self._folder + name)

    def list_files(self) -> list[str]:
        """The names of the files that lie right in it, sorted; not those of hidden ones."""
        begin = len(self._folder)
        found = {name[begin:] for name in self._archive.names() if name.startswith(self._folder)}
        return sorted(name for name in found if name and "/" not in name and not name.startswith("."))

    def told(self, name: str) -> str:
        """A file of it, as messages name it."""
        return self._folder + name

    def check(self, name: str) -> None:
        """See that *name*, which a checkpoint gives for one of its files, is that of a file in here."""
        paths.refuse_spelling(name)
        if not self.has_file(name):
            raise FormatError(f"the file {name!r} is missing: the archive is incomplete")
        self._archive.check_copy(self._folder + name, self._options)

    def source(self, name: str, *, keep_open: bool = True) -> Source:
        """One of its files, in which tensors may be: a part of the archive, or unpacked from it."""
        self._archive.check_copy(self._folder + name, self._options)
        return self._archive.source(self._folder + name, self._options)

    def index_source(self, name: str) -> Source:
        """One of its files, in which there are no tensors: it may be unpacked even where copies are not allowed."""
        return self._archive.source(self._folder + name, self._options)

    def naming(self, error: FastloadError, name: str) -> FastloadError:
        """*error* with the name of the file within the archive."""
        member = repr(self._folder + name)
        if member not in error.message:
            error.message = f"member {member}: {error.message}"
        return error
