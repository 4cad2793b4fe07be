"""Names of files that a checkpoint gives for its other files: they must stay inside its folder.

Whoever wrote the index of a downloaded checkpoint must not choose which file of this machine is read.
"""

from __future__ import annotations

import os
import stat

from fastload.errors import FormatError

__all__ = ["inside", "refuse_spelling"]


def inside(folder: str, name: str, *, may_lack: bool = False) -> str:
    """The path of the file that a checkpoint in *folder* calls *name*, where it is a file inside that folder.

    Sub-folders are fine. A symbolic link is followed where *folder* itself lists it, since Hugging Face's cache is made
    of such; a link further down must lead to somewhere inside the folder. Nothing is opened.

    Parameters
    ----------
    folder : str
        The folder; "" is the current one.
    name : str
        As the checkpoint has it: relative, with forward slashes.
    may_lack : bool
        Whether the file need not be there yet.

    Raises
    ------
    FormatError
        The name is empty or absolute, has a drive, a backslash, a NUL or `..`, leads out of the folder, or is not that
        of a regular file; or there is no such file.
    """
    refuse_spelling(name)
    path = os.path.join(folder, name)
    try:
        leaves = "/" in name and not _is_within(folder, path)
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        if may_lack and not os.path.lexists(path):
            return path
        what = "is a link to nothing" if os.path.lexists(path) else "is missing"
        raise FormatError(f"the file {name!r} {what}: the download or copy is incomplete") from None
    except (OSError, ValueError) as error:  # ValueError: characters that no file name can have
        why = error.strerror if isinstance(error, OSError) else "no file can have such a name"
        raise FormatError(f"the file {name!r} cannot be found: {why}") from None
    if leaves:
        raise FormatError(f"the file {name!r} leaves the folder by a symbolic link")
    if not stat.S_ISREG(mode):
        what = "a folder" if stat.S_ISDIR(mode) else "a device, pipe or socket"
        raise FormatError(f"the file {name!r} is {what}, and no file")
    return path


def refuse_spelling(name: str) -> None:
    """Raise FormatError at a name that could mean a place outside of its folder, on this system or another."""
    if not name or "\0" in name:
        raise FormatError(f"{name!r} is no name of a file")
    if "\\" in name:
        raise FormatError(f"the file {name!r} has a backslash in its name: folders are divided by /")
    if name.startswith("/") or (name[1:2] == ":" and name[0].isalpha()):
        raise FormatError(f"the file {name!r} is named by an absolute path and must be inside the folder")
    if any(part in ("", ".", "..") for part in name.split("/")):
        raise FormatError(f"the file {name!r} must be named plainly, without '.', '..' or empty parts in its path")


def _is_within(folder: str, path: str) -> bool:
    """Whether all links on the way from *folder* to *path*, the last included, lead to somewhere inside."""
    base = os.path.realpath(folder or os.curdir)
    return os.path.realpath(path).startswith(os.path.join(base, ""))
