"""The page cache: what the system keeps in memory of the files that tensors lie in, and what it is told about that."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from mmap import PAGESIZE
from threading import Thread
from typing import TYPE_CHECKING, NamedTuple

from fastload import _native
from fastload._native import ADVICE, LOCATE, Index, count_cached, count_resident, local_header
from fastload.errors import FormatError
from fastload.extents import Extent, extent_of
from fastload.plan.making import rows_of
from fastload.planned import PlannedTensors
from fastload.source import Source
from fastload.tensors import Tensors

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["Run", "advise", "prefetch", "read_headers_ahead", "residency", "runs_of"]

MAX_GAP_BYTES = 128 << 10  # between neighbours that are read together: to seek costs as much as to read them
SAMPLED_HEADERS = 32  # of an archive, that tell whether the others are in memory


class Run(NamedTuple):
    """Bytes that are asked for together.

    Attributes
    ----------
    source : Source
        Of a file.
    begin, end : int
        In bytes from the start of the source.
    """

    source: Source
    begin: int
    end: int


def prefetch(tensors: Tensors, rows: Iterable[int]) -> int:
    """Have the system read tensors into its page cache, and go on at once; returns how many bytes it was asked for."""
    found = _paged(runs_of(tensors, rows))
    if found:
        # The system takes note of as much as its queue to the disk has room for, and then waits.
        Thread(target=_tell, args=(found, "willneed"), name="fastload-prefetch", daemon=True).start()
    return sum(run.end - run.begin for run, _ in found)


def advise(tensors: Tensors, rows: Iterable[int], advice: str) -> None:
    """Tell the system how tensors will be used.

    Raises
    ------
    ValueError
        There is no such advice.
    """
    if advice not in ADVICE:
        raise ValueError(f"advice is one of {', '.join(map(repr, ADVICE))}, not {advice!r}")
    if advice == "willneed":
        prefetch(tensors, rows)
        return
    runs = runs_of(tensors, rows)
    # What is read has no mapping that could be advised; one made now would be gone at once.
    _tell(_paged(run for run in runs if run.source.is_in_memory), advice)
    if advice == "dontneed":
        for run in runs:
            _let_go(run)


def read_headers_ahead(source: Source, index: Index, rows: Sequence[int]) -> None:
    """Have the system read the local headers of an archive's records together; one by one, each waits for the disk.

    Nothing is done where they are in memory, as a few of them tell.
    """
    records = index.records
    if records is None or len(rows) < SAMPLED_HEADERS or not hasattr(os, "posix_fadvise"):
        return
    file = source.opened()
    if file is None:
        return

    def headers(chosen: Sequence[int]) -> list[int]:
        numbers = [index.storage_of(row) for row in chosen if index.access(row) == LOCATE]
        return [source.origin + local_header(records, number)[0] for number in numbers]

    sampled = headers(rows[:: len(rows) // SAMPLED_HEADERS])
    if 2 * count_cached(file.descriptor, sampled) >= len(sampled):
        return
    with suppress(OSError):  # a system that takes no advice
        for position in headers(rows):
            os.posix_fadvise(file.descriptor, position, 1, os.POSIX_FADV_WILLNEED)


def residency(tensors: Tensors) -> dict[str, float | None]:
    """The share of each tensor's bytes that is in memory; None where that is not known."""
    names = tensors.list_names()
    makings = [_extents(tensors, row) for row in range(len(names))]
    pages = {found.source: found.source.pages() for extents in makings if extents for found in extents}
    return {name: _share(extents, pages) for name, extents in zip(names, makings, strict=True)}


def runs_of(tensors: Tensors, rows: Iterable[int]) -> list[Run]:
    """The bytes of tensors, in the order of their files; neighbours are one run. Those that are no views are left out.

    Their order in the list of *rows*, and whether one is there twice, makes no difference.
    """
    places: dict[Source, list[tuple[int, int]]] = {}
    for row in rows:
        for extent in _extents(tensors, row) or ():
            if extent.nbytes:
                begin = extent.offset - extent.source.origin
                places.setdefault(extent.source, []).append((begin, begin + extent.nbytes))
    runs: list[Run] = []
    for source, found in places.items():
        found.sort()
        first, reach = found[0]
        for begin, end in found:
            if begin - reach > MAX_GAP_BYTES:
                runs.append(Run(source, first, reach))
                first = begin
            reach = max(reach, end)
        runs.append(Run(source, first, reach))
    return runs


def _extents(tensors: Tensors, row: int) -> list[Extent] | None:
    """Where the bytes lie that a tensor is made of; None where one of them is not known."""
    extent = extent_of(tensors, row)
    if extent is not None:
        return [extent]
    if not isinstance(tensors, PlannedTensors):
        return None
    found = [extent_of(tensors.base, known) for known in rows_of(tensors.table.makings[row])]
    extents = [part for part in found if part is not None]
    return extents if len(extents) == len(found) else None


def _paged(runs: Iterable[Run]) -> list[tuple[Run, Buffer]]:
    """The runs that lie in files, each with the pages of its source, which is mapped at most once for all of them."""
    pages: dict[Source, Buffer | None] = {}
    found = []
    for run in runs:
        if run.source not in pages:
            pages[run.source] = run.source.pages()
        mapped = pages[run.source]
        if mapped is not None:
            found.append((run, mapped))
    return found


def _tell(runs: list[tuple[Run, Buffer]], advice: str) -> None:
    for run, pages in runs:
        _native.advise(pages, run.begin, run.end - run.begin, advice)  # what the system does not take is no error


def _let_go(run: Run) -> None:
    """Take the pages of a run out of the cache; to the edges of the first and the last, since none goes in part."""
    if not hasattr(os, "posix_fadvise"):
        return
    begin = run.source.origin + run.begin
    first = begin - begin % PAGESIZE
    count = -(-(begin + run.end - run.begin - first) // PAGESIZE) * PAGESIZE
    with suppress(FormatError, OSError):  # another file is there now: nobody needs the pages of this one
        file = run.source.opened()
        if file is not None:
            os.posix_fadvise(file.descriptor, first, count, os.POSIX_FADV_DONTNEED)


def _share(extents: list[Extent] | None, pages: Mapping[Source, Buffer | None]) -> float | None:
    if extents is None:
        return None
    resident = 0
    for source, offset, nbytes, _ in extents:
        found = pages[source]
        if source.path is None or not nbytes:
            resident += nbytes
        elif found is None:
            return None
        else:
            with suppress(OSError):
                resident += count_resident(found, offset - source.origin, nbytes)
                continue
            return None
    total = sum(extent.nbytes for extent in extents)
    return resident / total if total else 1.0
