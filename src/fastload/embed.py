"""Models inside programs: as a section of a finished executable, or as the read-only data of a C extension."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import NamedTuple

from fastload import atomic, csource, elf, executables
from fastload.errors import FastloadError, FormatError, located
from fastload.options import Options
from fastload.source import Source
from fastload.tensors import open_source

__all__ = ["EmbedReport", "EmbeddedModel", "embed_c", "embed_into", "list_embedded", "remove_embedded"]


class EmbeddedModel(NamedTuple):
    """A model in an executable: its name, its size in bytes, and the SHA-256 that it had when it was embedded."""

    name: str
    nbytes: int
    sha256: str


class EmbedReport(NamedTuple):
    """What was written: the file, the name of the model in it, and the size of the model in bytes."""

    path: str
    name: str
    nbytes: int


def embed_into(
    model: str | os.PathLike[str],
    executable: str | os.PathLike[str],
    name: str = "weights",
    *,
    progress: Callable[[int, int], object] | None = None,
) -> EmbedReport:
    """Put a model into a finished executable, where `open_embedded` finds it and maps it in place.

    The program itself is not changed: the model is a section of the file that is not loaded with it. What was embedded
    under the same name before is replaced. The executable is written anew beside itself and takes its place, with its
    mode, when it is whole.

    Parameters
    ----------
    model : path
        A checkpoint of one file.
    executable : path
        A 64-bit ELF program: one that PyInstaller made, also of one file, or any other.
    name : str
        What `open_embedded` is to be asked for.
    progress : function, optional
        Called with the bytes written so far and those in all.

    Raises
    ------
    UnsupportedError
        It is no such program, or has something behind its sections that may have to stay where it is.
    SaveError
        It could not be written, and is as it was.
    """
    elf.check_name(name)
    held = _model(model)
    return _rewrite(os.fspath(executable), name, held, progress)


def remove_embedded(executable: str | os.PathLike[str], name: str = "weights") -> None:
    """Take a model out of an executable.

    Raises
    ------
    MemberNotFoundError
        It has none of that name.
    """
    elf.check_name(name)
    _rewrite(os.fspath(executable), name, None, None)


def list_embedded(executable: str | os.PathLike[str]) -> list[EmbeddedModel]:
    """The models in an executable."""
    path = os.fspath(executable)
    source = executables.open_program(path)
    try:
        found = elf.find_all(source)
    except FastloadError as error:
        raise located(error, path) from None
    return [EmbeddedModel(embedded.name, embedded.part.size, embedded.sha256.hex()) for embedded in found]


def embed_c(
    model: str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    build: bool = False,
    overwrite: bool = False,
) -> EmbedReport:
    """Write the C source of an extension module whose read-only data is a model.

    ``fastload.open(MODULE.data)`` views it without a copy. The source takes the model in with the assembler's
    ``.incbin``, by its absolute path, and needs only a compiler: it is C99 for Python's stable ABI, from 3.11 on.

    Parameters
    ----------
    model : path
        A checkpoint of one file.
    path : path
        The source to write; its name without ``.c`` is that of the module.
    build : bool
        Whether to compile it, too, beside the source.
    overwrite : bool
        Whether to replace what is there.

    Returns
    -------
    EmbedReport
        Of what was made last: the module, where it was built.

    Raises
    ------
    NotInstalledError
        There is no compiler.
    UnsupportedError
        It fails; its message is quoted.
    """
    held, target = _model(model), os.fspath(path)
    module = csource.module_name(target)
    assert held.path is not None
    text = csource.source(module, os.path.abspath(held.path), held.size)
    if build:
        csource.check_compiler()
    with atomic.publish(target, overwrite=overwrite) as file:
        file.write(text.encode())
    if build:
        target = csource.build(target, module, overwrite=overwrite)
    return EmbedReport(target, module, held.size)


def _model(path: str | os.PathLike[str]) -> Source:
    """The file of a checkpoint, which can be opened by itself."""
    found = os.fspath(path)
    source = Source.of(found)
    try:
        open_source(source, Options())
    except FastloadError as error:
        raise located(error, found) from None
    return source


def _rewrite(path: str, name: str, model: Source | None, progress: Callable[[int, int], object] | None) -> EmbedReport:
    """Write an executable anew, with another model or none under *name*."""
    source = executables.open_program(path)
    try:
        if model is None:
            executables.find(source, name)  # raises where there is none
        layout = elf.lay_out(source, name, None if model is None else model.size)
    except FastloadError as error:
        raise located(error, path) from None
    done = 0
    with atomic.publish(path, overwrite=True, size=layout.size) as file:
        for chunk in _chunks(source, layout, name, model):
            file.write(chunk)
            done += len(chunk)
            if progress is not None:
                progress(done, layout.size)
        assert done == layout.size
        if not source.still_valid() or not (model is None or model.still_valid()):
            raise FormatError("changed while it was read: do it again", path=path)
    return EmbedReport(path, name, 0 if model is None else model.size)


def _chunks(source: Source, layout: elf.Layout, name: str, model: Source | None) -> Iterator[bytes | memoryview]:
    for piece in layout.pieces:
        if isinstance(piece, bytes):
            yield piece
        elif piece is not None:
            yield from executables.blocks(source, *piece)
        else:
            assert model is not None
            yield elf.header(name, model.size, executables.digest(model))
            yield from executables.blocks(model, 0, model.size)
