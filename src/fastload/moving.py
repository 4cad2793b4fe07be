"""Moving: runs of bytes of files and buffers into memory, as fast as they come: which way, and by how many threads.

What is in the page cache is read from there, straight into place. Copying it from a mapping takes between three fifths
of that time and half as much again, by the pages in which the cache has the file; and a file that is cut meanwhile is
an error of reading, where it may end a process that copies. What is not there is read around the cache, by more
threads than there are processors, since they wait for the disk.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Literal, NamedTuple

from fastload._native import CAN_READ, Layout, Region, Transfer, count_cached, filesystem_type
from fastload.errors import FormatError, TruncatedError
from fastload.report import LoadError, LoadProblem, LoadReport
from fastload.source import NETWORK_FILE_SYSTEMS, OpenFile, Source

__all__ = ["HUGE_PAGE", "MOVES", "Errand", "Move", "Run", "move", "move_layout", "processors"]

Move = Literal["auto", "mmap", "read", "direct"]
MOVES = ("auto", "mmap", "read", "direct")

HUGE_PAGE = 1 << 21
COPY_SPAN = 1 << 23  # of the source, for a page of the target: as much as any cast makes that of
DISK_SPAN = HUGE_PAGE - 2 * 4096  # of one direct read: with the sectors at both ends it fills one page of its thread
NETWORK_SPAN = 1 << 24
MAX_COPYING_THREADS = 8  # beyond which memory is no faster
DISK_THREADS = 16  # that read directly: with four a disk has pauses, and with eight, while they copy and wait for pages
NETWORK_THREADS = 8
MIN_BYTES_A_THREAD = 1 << 22  # of the target: to start a thread takes as long as to copy some of it
MIN_CHOSEN_BYTES = 1 << 22  # from where it is asked how they are read best; fewer are a read or two anyway
SAMPLE_BYTES = 1 << 18  # for each page of a file that is looked for in the cache
SAMPLES = 256  # of these, at most
MIN_RESIDENT = 1 / 8  # of them, from where the cache is the faster way: it gives five times what a disk does
BATCH_BYTES = 1 << 28  # of small files that are moved together
MAX_OPEN_FILES = 16  # at once, since a process may have no more than some hundreds


class Run(NamedTuple):
    """Bytes that lie side by side.

    Attributes
    ----------
    source : Source
    offset, nbytes : int
        In bytes, from the start of the file or the buffer.
    size : int
        What they become, in bytes.
    floats : tuple of int
        What they are cast from and to, as positions in `_native.FLOATS`; equal where they are not.
    """

    source: Source
    offset: int
    nbytes: int
    size: int
    floats: tuple[int, int] = (-1, -1)


class Errand(NamedTuple):
    """A run, the name of its tensor, and where it goes: a buffer by its number, and bytes from the start of that."""

    name: str
    run: Run
    target: int
    offset: int


class Held(NamedTuple):
    """What a batch reads from: a file as it was opened, perhaps around the cache too, or memory alone."""

    file: OpenFile | None
    direct: OpenFile | None
    threads: int = 1  # that it takes at least, since they wait


MEMORY = Held(None, None)


def move(
    errands: Iterable[Errand],
    targets: Sequence[memoryview],
    how: Move = "auto",
    threads: int | None = None,
    report: Callable[[int], object] = lambda done: None,
) -> None:
    """Bring all runs to their places; those of one file in the order in which they lie there.

    Parameters
    ----------
    how : {"auto", "mmap", "read", "direct"}
    threads : int, optional
        How many move bytes, the calling one among them.
    report : function
        Called by the calling thread now and then, with the bytes of the targets that are there.

    Raises
    ------
    TruncatedError
        A file ends before a tensor does.
    FormatError
        A file is another than was opened, or was written to.
    LoadError
        The system cannot read a file.
    """
    files: dict[object, list[Errand]] = {}
    for errand in errands:
        source = errand.run.source
        files.setdefault(source.path if source.path is not None else id(source), []).append(errand)
    done = 0
    for batch in _batches(files.values()):
        done += _move_batch(batch, targets, how, threads, lambda more, before=done: report(before + more))  # type: ignore[misc]


def move_layout(
    layout: Layout,
    source: Source,
    target: memoryview,
    how: Move,
    threads: int | None,
    report: Callable[[int], object],
    name_of: Callable[[int], str],
) -> None:
    """Bring all tensors of a Layout of one source to their places in its block; *name_of* tells whose number it is.

    The other parameters, and what is raised, are those of `move`.
    """
    transfer = Transfer()
    held = _hold(source, layout.nbytes, layout.samples, _unless_small(how, layout.nbytes), [source])
    origin, start = _add_origin(transfer, source, held)
    transfer.add_layout(origin, start, transfer.add_target(target), layout)
    _work(transfer, _count_threads(threads, transfer, [held]), report)
    if transfer.failure is not None:
        _, position, error = transfer.failure
        position += start
        _fail(name_of(layout.number_at(position)), source, position, error)


def _batches(files: Iterable[list[Errand]]) -> Iterator[list[list[Errand]]]:
    batch: list[list[Errand]] = []
    size = 0
    for errands in files:
        errands.sort(key=lambda errand: errand.run.offset)
        batch.append(errands)
        size += sum(errand.run.nbytes for errand in errands)
        if size >= BATCH_BYTES or len(batch) == MAX_OPEN_FILES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _move_batch(
    batch: list[list[Errand]],
    targets: Sequence[memoryview],
    how: Move,
    threads: int | None,
    report: Callable[[int], object],
) -> int:
    """Move the runs of a few files; returns the bytes of the targets."""
    transfer = Transfer()
    numbers: dict[int, int] = {}
    jobs: list[Errand] = []
    held = []
    sizes = [sum(errand.run.nbytes for errand in errands) for errands in batch]
    how = _unless_small(how, sum(sizes))
    for errands, nbytes in zip(batch, sizes, strict=True):
        found = _hold(
            errands[0].run.source,
            nbytes,
            partial(_samples, errands),
            how,
            (errand.run.source for errand in errands),
        )
        held.append(found)
        origins: dict[int, tuple[int, int]] = {}
        for errand in errands:
            run = errand.run
            key = id(run.source) if found.file is None else 0
            if key not in origins:
                origins[key] = _add_origin(transfer, run.source, found)
            if errand.target not in numbers:
                numbers[errand.target] = transfer.add_target(targets[errand.target])
            origin, start = origins[key]
            transfer.add(origin, run.offset - start, run.nbytes, numbers[errand.target], errand.offset, *run.floats)
            jobs.append(errand)
    _work(transfer, _count_threads(threads, transfer, held), report)
    if transfer.failure is not None:
        number, position, error = transfer.failure
        _fail(jobs[number].name, jobs[number].run.source, position, error)
    return transfer.total


def _count_threads(threads: int | None, transfer: Transfer, held: Iterable[Held]) -> int:
    """How many threads do the work, the calling one among them: as many as were asked for, or as are worth it."""
    if transfer.blocks <= 1:
        return transfer.blocks
    if threads is None:
        copying = min(-(-transfer.total // MIN_BYTES_A_THREAD), processors(), MAX_COPYING_THREADS)
        threads = max([copying, *(one.threads for one in held)])
    return min(threads, transfer.blocks)


def _unless_small(how: Move, nbytes: int) -> Move:
    return "read" if how == "auto" and nbytes < MIN_CHOSEN_BYTES else how


def _hold(
    source: Source, nbytes: int, samples: Callable[[int], list[int]], how: Move, sources: Iterable[Source]
) -> Held:
    """Open the file that a source lies in, in the way in which so many bytes of it are best read.

    *samples* gives positions of these that are so many bytes apart; *sources* are all that lie in the file.
    """
    file = source.opened()
    if file is None or not CAN_READ:
        return MEMORY
    if not file.is_unchanged():
        raise FormatError("was written to after it was opened: open it again", path=file.path)
    if how == "auto":
        if filesystem_type(file.descriptor) in NETWORK_FILE_SYSTEMS:
            return Held(file, None, NETWORK_THREADS)
        how = "direct" if _is_cold(file, nbytes, samples) else "read"
    if how == "mmap" and all(one.region is not None for one in sources):
        return MEMORY
    direct = file.opened_directly() if how == "direct" else None
    return Held(file, direct, 1 if direct is None else DISK_THREADS)


def _is_cold(file: OpenFile, nbytes: int, samples: Callable[[int], list[int]]) -> bool:
    positions = samples(max(nbytes // SAMPLES, SAMPLE_BYTES))
    return count_cached(file.descriptor, positions) < len(positions) * MIN_RESIDENT


def _samples(errands: list[Errand], step: int) -> list[int]:
    """Positions in a file that are evenly spread over its runs, *step* bytes of these apart."""
    positions = []
    start = place = 0
    for errand in errands:
        while place < start + errand.run.nbytes:
            positions.append(errand.run.offset + place - start)
            place += step
        start += errand.run.nbytes
    return positions


def _add_origin(transfer: Transfer, source: Source, held: Held) -> tuple[int, int]:
    """Tell a Transfer what to read from; returns the number of that, and the position in the file where it begins."""
    if held.file is None:
        region = source.region
        assert isinstance(region, Region), "what is not in memory is read from its file"
        return transfer.add_memory(region, COPY_SPAN, HUGE_PAGE, source.path is not None), source.origin
    size = held.file.status.st_size
    if held.direct is not None:
        return transfer.add_file(held.file.descriptor, size, DISK_SPAN, 0, held.direct.descriptor), 0
    if held.threads > 1:
        return transfer.add_file(held.file.descriptor, size, NETWORK_SPAN, 0), 0
    return transfer.add_file(held.file.descriptor, size, COPY_SPAN, HUGE_PAGE), 0


def processors() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _work(transfer: Transfer, threads: int, report: Callable[[int], object]) -> None:
    """Let so many threads work, of which the calling one is one; whatever stops this one stops all."""
    workers = [threading.Thread(target=transfer.work, daemon=True) for _ in range(threads - 1)]
    started: list[threading.Thread] = []
    try:
        for worker in workers:
            try:
                worker.start()
            except RuntimeError:  # the system gives no more threads: those that there are do the work
                break
            started.append(worker)
        transfer.work(lambda: report(transfer.done))
        for worker in started:
            while worker.is_alive():
                worker.join(0.1)
                report(transfer.done)
    finally:
        transfer.stop()
        for worker in started:
            worker.join()


def _fail(name: str, source: Source, position: int, error: int | None) -> None:
    """Raise what stopped the work, with the tensor and the file."""
    path = source.path
    if error == errno.EFAULT:  # of a mapping: the file was cut, or else its disk fails
        error = errno.EIO if source.still_valid() else None
    if error is None:
        raise TruncatedError(
            f"tensor {name!r}: the file was cut while it was open; open it again", path=path, offset=position
        )
    cause = OSError(error, os.strerror(error), path)
    problem = LoadProblem(name, "its data", f"{os.strerror(error)} at byte {position:#x}")
    message = f"reading failed at {name!r}: {os.strerror(error)}"
    raise LoadError(message, LoadReport(errors=[problem]), path) from cause
