"""Names of files that a file mentions: each must lead to a regular file within its folder."""

from __future__ import annotations

import ntpath
import os
import stat

from fastload.errors import FormatError

__all__ = ["inside"]


def inside(folder: str, name: str) -> str:
    """The path of *name* in *folder*; whether there is such a file is not asked.

    Raises
    ------
    FormatError
        The name leaves the folder, or what it names is no regular file.
    """
    parts = name.replace("\\", "/").split("/")
    if not name or "\0" in name or ".." in parts or parts[0] == "" or ntpath.splitdrive(name)[0]:
        raise FormatError(f"names the file {name!r}, which is not within its folder: it is not opened", path=folder)
    path = os.path.join(folder, name)
    root = os.path.realpath(folder)
    parent = os.path.realpath(os.path.dirname(path))
    if os.path.commonpath([root, parent]) != root:
        raise FormatError(f"names the file {name!r}, which leads out of its folder: it is not opened", path=folder)
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return path
    if not stat.S_ISREG(mode):
        raise FormatError(f"names {name!r}, which is a folder, device, pipe or socket, and no file", path=folder)
    return path
