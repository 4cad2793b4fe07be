"""A folder as a zip archive that Python runs and imports from, with all files stored and aligned to be mapped."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterator
from typing import NamedTuple

from fastload import atomic
from fastload.errors import Advice, FastloadError, FormatError, UnsupportedError, advised, located
from fastload.formats.zip_writer import ZipWriter
from fastload.source import Source

__all__ = ["MAIN", "PackReport", "check_main", "pack"]

LEFT_OUT = "__pycache__"
MAIN = "__main__.py"
EXTENSIONS = (".so", ".pyd", ".dylib", ".dll")  # what the system loads from files alone
BLOCK_BYTES = 1 << 22  # read at a time

_MAIN = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")


class PackReport(NamedTuple):
    """What was packed.

    Attributes
    ----------
    path : str
        The archive.
    files : int
        How many it holds.
    nbytes : int
        Of the archive.
    not_importable : tuple of str
        Compiled modules among them, which Python does not import out of archives.
    """

    path: str
    files: int
    nbytes: int
    not_importable: tuple[str, ...]


def pack(
    folder: str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    main: str | None = None,
    python: str | None = None,
    alignment: int = 64,
    overwrite: bool = False,
    progress: Callable[[int, int], object] | None = None,
) -> PackReport:
    """Pack a folder into a zip archive that Python can run and import from, and fastload can map models out of.

    All files are stored as they are and aligned in the archive, which any tool can read. The same files make the same
    archive: in the order of their names, without times and modes. Folders `__pycache__` are left out.

    Parameters
    ----------
    folder : path
        What is in it is to be at the top of the archive.
    path : path
        The archive to write, most often `….pyz`.
    main : str, optional
        What running the archive calls, as ``"package.module:function"``; not needed where the folder has a
        ``__main__.py``.
    python : str, optional
        The interpreter that is to run it, such as ``"/usr/bin/env python3"``; the archive is then executable.
    alignment : int
        Of each file's bytes.
    overwrite : bool
        Whether to replace what is there.
    progress : function, optional
        Called with the bytes written so far and those in all.

    Raises
    ------
    FormatError
        A symbolic link leads out of the folder, a name cannot be one in an archive, or a file changes meanwhile.
    UnsupportedError
        Something is neither a file nor a folder, or the archive would be a program with nothing to run.
    SaveError
        The archive could not be written.
    """
    root, target = os.fspath(folder), os.fspath(path)
    if main is not None:
        check_main(main)
    if python is not None and "\n" in python:
        raise ValueError(f"the name of an interpreter is one line, not {python!r}")
    try:
        found = list(_walk(root, "", (os.path.realpath(root),), os.path.realpath(target)))
    except FastloadError as error:
        raise located(error, root) from None
    names = {name for name, _ in found}
    if main is not None and MAIN in names:
        raise UnsupportedError(
            f"has a {MAIN} already, which would be lost to {main!r}: leave one of them out", path=root
        )
    if main is None and MAIN not in names and (python is not None or target.endswith(".pyz")):
        say = Advice(": say {}", "main", "package:function")
        raise advised(UnsupportedError(f"has no {MAIN}, so that there is nothing to run{say}", path=root), say)
    if main is not None:
        module, _, function = main.partition(":")
        found.append((MAIN, f"import {module}\n\n{module}.{function}()\n".encode()))
    found.sort(key=lambda item: item[0])
    total = sum(
        len(data) if isinstance(data, bytes) else os.stat(data).st_size for _, data in found if data is not None
    )
    done = 0
    with atomic.publish(target, overwrite=overwrite, size=total, executable=python is not None) as file:
        if python is not None:
            file.write(f"#!{python}\n".encode())
        writer = ZipWriter(file, alignment)
        for name, data in found:
            try:
                size = _add(writer, name, data)
            except FastloadError as error:
                raise located(error, root) from None
            done += size
            if progress is not None:
                progress(done, total)
        writer.close()
        nbytes = file.tell()
    files = [name for name, data in found if data is not None]
    return PackReport(target, len(files), nbytes, tuple(name for name in files if name.endswith(EXTENSIONS)))


def check_main(main: str) -> None:
    """See that *main* is what an archive can call: a ValueError where it is not."""
    if not _MAIN.fullmatch(main):
        raise ValueError(f'what is to be called is "package.module:function", not {main!r}')


def _walk(path: str, prefix: str, above: tuple[str, ...], target: str) -> Iterator[tuple[str, str | bytes | None]]:
    """(name in the archive, path) of all files below a folder; of a folder, its name with a slash, and None.

    *above* are the real paths of the folders on the way, the first of which nothing may leave.
    """
    with os.scandir(path or os.curdir) as entries:
        for entry in entries:
            name = prefix + entry.name
            real = os.path.realpath(entry.path)
            if entry.is_symlink() and not real.startswith(os.path.join(above[0], "")):
                raise FormatError(
                    f"{name!r} is a symbolic link that leaves the folder: put a copy of what it means there"
                )
            if real == target:
                raise FormatError(f"{name!r} is the archive that is to be written: write it outside of the folder")
            mode = entry.stat().st_mode
            if stat.S_ISDIR(mode):
                if entry.name == LEFT_OUT:
                    continue
                if real in above:
                    raise FormatError(f"{name!r} is a symbolic link to a folder that it lies in, and so has no end")
                yield f"{name}/", None
                yield from _walk(entry.path, f"{name}/", (*above, real), target)
            elif stat.S_ISREG(mode):
                yield name, entry.path
            else:
                raise UnsupportedError(f"{name!r} is a device, pipe or socket, and cannot be packed")


def _add(writer: ZipWriter, name: str, data: str | bytes | None) -> int:
    """Add a file, by its path or its bytes, or a folder; returns the size."""
    if data is None or isinstance(data, bytes):
        writer.add(name, [data or b""], len(data or b""))
        return len(data or b"")
    if not os.stat(data).st_size:
        writer.add(name, [], 0)
        return 0
    source = Source.of(data)
    chunks = (source.fetch(at, min(BLOCK_BYTES, source.size - at)) for at in range(0, source.size, BLOCK_BYTES))
    writer.add(name, chunks, source.size)
    if not source.still_valid():
        raise FormatError(f"{name!r} changed while it was read: do it again")
    return source.size
