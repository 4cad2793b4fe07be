"""Checkpoints in packages and in the program itself, wherever those are: on the disk, in an archive, in an executable.

A package tells where it lies by its `__path__`. That is a folder, also in what PyInstaller, cx_Freeze and Nuitka make,
or a folder within an archive, as zipimport has it; both can be mapped. Only where it is neither, its loader is asked.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from fastload import elf, executables, opening
from fastload.checkpoint import Checkpoint
from fastload.errors import FastloadError, MemberNotFoundError, located, near_hint
from fastload.opening import planned
from fastload.options import CheckpointSource, Options
from fastload.source import Source
from fastload.tensors import open_source

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec
    from types import ModuleType

__all__ = ["open_embedded", "open_resource"]

RUNNING = "/proc/self/exe"  # the program of this process, where the system has such a link
UNPACKER = "NUITKA_ONEFILE_PARENT"  # the process that has unpacked this one out of the one file of Nuitka


def open_resource(package: str | ModuleType, name: str, **options: Any) -> Checkpoint:
    """Open a checkpoint that comes with a package.

    A file on the disk is mapped, and so is a stored member of the archive that the package was imported from (.zip,
    .pyz, .whl). Of a loader that only gives bytes, those are viewed. `Checkpoint.source` says which it was.

    Parameters
    ----------
    package : str or module
        Where the file lies; by its name, the package itself is imported only where its place is not known else.
    name : str
        Of the file within the package, with folders divided by ``/``; of a sharded checkpoint, of its folder or index.
    **options
        As `fastload.open` has them.

    Raises
    ------
    MemberNotFoundError
        The package has no such file.
    ModuleNotFoundError
        There is no such package.

    Examples
    --------
    >>> checkpoint = fastload.open_resource("mypackage.data", "model.safetensors")  # doctest: +SKIP
    """
    parts = name.removesuffix("/").split("/")
    if any(part in ("", ".", "..") for part in parts) or "\0" in name or (os.sep != "/" and os.sep in name):
        raise ValueError(f"the name of a resource is a path within its package, with forward slashes, not {name!r}")
    spec = _spec(package)
    locations = _locations(package, spec)
    missing = None
    for location in locations:
        path = os.path.join(location, *parts)
        if os.path.exists(path):
            return opening.open(path, **options)
        archive, folder = _archive(location)
        if archive is not None:
            try:
                return opening.open(archive, member="/".join((*folder, *parts)), **options)
            except MemberNotFoundError as error:
                missing = error
    data = _given_by_loader(spec, locations, parts)
    if data is None:
        near = [file for location in locations for file in _list(os.path.join(location, *parts[:-1]))]
        hint = near_hint(parts[-1], near)
        raise missing or MemberNotFoundError(f"package {spec.name!r} has no file {name!r}{hint}")
    settings, plan = _taken_apart(options)
    origin = CheckpointSource("resource", None, f"{spec.name}/{name}")
    return planned(Checkpoint(open_source(Source.of(data, settings.io), settings), settings, origin), plan)


def open_embedded(
    name: str = "weights", *, path: str | os.PathLike[str] | None = None, verify: bool = False, **options: Any
) -> Checkpoint:
    """Open a model that was put into the running program by `fastload embed --into`.

    It is mapped where it lies in the program's file: nothing is unpacked, and starting takes no longer than without it.

    Parameters
    ----------
    name : str
        As it was embedded.
    path : path, optional
        Of another executable than the running one.
    verify : bool
        Whether to compare its checksum, for which all of it is read.
    **options
        As `fastload.open` has them.

    Raises
    ------
    MemberNotFoundError
        The program has no such model.
    UnsupportedError
        It is not one of those in which models are found.
    FormatError
        The model was damaged, or has changed, where *verify* is set.
    """
    elf.check_name(name)
    settings, plan = _taken_apart(options)
    found = os.fspath(path) if path is not None else _own_path()
    source = executables.open_program(found, settings.io)
    try:
        embedded = executables.find(source, name)
        if verify:
            executables.check_sum(embedded)
        tensors = open_source(embedded.part, settings)
    except FastloadError as error:
        raise located(error, found) from None
    return planned(Checkpoint(tensors, settings, CheckpointSource("embedded", found, name)), plan)


def _own_path() -> str:
    """The file of the running program; of one that Nuitka made one file of, that file."""
    if getattr(globals().get("__compiled__"), "onefile", False):
        outer = os.path.realpath(f"/proc/{os.environ.get(UNPACKER)}/exe")
        if os.path.isfile(outer):
            return outer
    if not getattr(sys, "frozen", False) and os.path.exists(RUNNING):
        path = os.path.realpath(RUNNING)
        return path if os.path.exists(path) else RUNNING  # which still leads to a program that was replaced
    return sys.executable


def _spec(package: str | ModuleType) -> ModuleSpec:
    if isinstance(package, str):
        loaded = sys.modules.get(package)
        spec = find_spec(package) if loaded is None else getattr(loaded, "__spec__", None)
        name = package
    else:
        spec, name = getattr(package, "__spec__", None), package.__name__
    if spec is None:
        raise ModuleNotFoundError(f"there is no package {name!r} to open a file of", name=name)
    return spec


def _locations(package: str | ModuleType, spec: ModuleSpec) -> list[str]:
    """The folders of a package, which may lie within archives; of a module, the one that it lies in."""
    module = sys.modules.get(package) if isinstance(package, str) else package
    found = list(spec.submodule_search_locations or ())
    if module is None and not found and not spec.has_location:
        module = import_module(spec.name)  # what Nuitka has compiled knows its place only then
    found = list(getattr(module, "__path__", found)) or found
    if found or spec.submodule_search_locations is not None:
        return found
    return [os.path.dirname(spec.origin)] if spec.origin and spec.has_location else []


def _archive(location: str) -> tuple[str | None, list[str]]:
    """The file on the way to *location*, if there is one, and the folders within it."""
    folder: list[str] = []
    while not os.path.isfile(location):
        location, last = os.path.split(location)
        if not last:
            return None, []
        folder.insert(0, last)
    return location, folder


def _given_by_loader(spec: ModuleSpec, locations: list[str], parts: list[str]) -> bytes | None:
    """The bytes of a resource, from a loader that has them in no file; None if it has none."""
    loader: Any = spec.loader
    with suppress(OSError):
        reader = loader.get_resource_reader(spec.name) if hasattr(loader, "get_resource_reader") else None
        if reader is not None:
            with reader.open_resource("/".join(parts)) as file:
                given: bytes = file.read()
                return given
    for location in locations if hasattr(loader, "get_data") else ():
        with suppress(OSError):
            given = loader.get_data(os.path.join(location, *parts))
            return given
    return None


def _list(folder: str) -> Iterator[str]:
    """The names of the files in a folder, for a message."""
    try:
        yield from os.listdir(folder)
    except OSError:
        return


def _taken_apart(options: dict[str, Any]) -> tuple[Options, dict[str, Any]]:
    """The keywords of `open`: what they say of reading, and the steps of the plan."""
    settings = {key: value for key, value in options.items() if key in Options._fields}
    return Options(**settings), {key: value for key, value in options.items() if key not in settings}
