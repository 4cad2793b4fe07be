"""Loading: all tensors of a checkpoint at once, in memory of one's own.

A tensor whose bytes lie in a file as they are wanted, or one cast of floats away from it, is a run that is moved there
by several threads (`moving`). Whatever else there is, compressed, transposed or put together, is made as an array and
copied into its place, one after the other. So no second copy of the model ever exists.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fastload._native import CAN_READ, Layout, arrays_of, lay_out
from fastload.casting import FLOATS, cast
from fastload.checkpoint import Checkpoint, tensors_of
from fastload.dtypes import CODES, DTYPES, numpy_dtype
from fastload.entry import TensorEntry
from fastload.errors import Advice, FastloadError, LimitError, PlanError, advised, located
from fastload.extents import is_c_order
from fastload.moving import HUGE_PAGE, MOVES, Errand, Move, Run, move, move_layout
from fastload.opening import open as open_checkpoint
from fastload.opening import planned
from fastload.page_cache import read_headers_ahead
from fastload.plan.making import Cast, Concatenated, Making, array_of, casts_last, entry_of, rows_of
from fastload.planned import PlannedTensors
from fastload.report import LoadError, LoadProblem, LoadReport
from fastload.source import Source, free_memory
from fastload.target import Slot, slots_of_arrays
from fastload.tensors import FileTensors, Tensors

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["load"]

ALIGNMENT = 64  # of a tensor in memory: a line of the cache, and what torch, JAX and vector instructions ask for
MIN_HUGE_BYTES = 1 << 22  # from where numpy asks for huge pages
MIN_CHECKED_BYTES = 1 << 23  # from where it is seen that there is so much memory
NUMPY_DIMENSIONS = 64
FLOAT_OF_CODE = [FLOATS.get(dtype.name, -1) for dtype in DTYPES]

Progress = Callable[[int, int], object]


@dataclass(slots=True)
class Piece:
    """What one tensor, or several over the same bytes, is loaded from, and where it goes.

    Attributes
    ----------
    row : int
        Of the first such tensor.
    entry : TensorEntry
    nbytes : int
        Of its place.
    runs : list of Run or None
        What it consists of, one behind the other; None where it must be made as an array.
    start : int
        Of its place, in bytes from the start of the arena.
    """

    row: int
    entry: TensorEntry
    nbytes: int
    runs: list[Run] | None
    start: int = 0


def load(
    source: str | os.PathLike[str] | Buffer | Checkpoint,
    *,
    dtype: str | None = None,
    threads: int | None = None,
    into: Mapping[str, Any] | None = None,
    io: Move = "auto",
    progress: Progress | None = None,
    **plan: Any,
) -> dict[str, np.ndarray]:
    """Load every tensor into memory of your own: arrays to be written to at will, which need no file any more.

    They lie in one block of memory, each at a multiple of 64 bytes, and hold it until the last of them goes. Names,
    shapes and dtypes are those of `fastload.open(source, **plan)`; the arrays are C-contiguous. Tensors that are the
    very same bytes of the file (tied weights) are loaded once, and share memory.

    Parameters
    ----------
    source : path, buffer or Checkpoint
        What `fastload.open` takes, or what it gave.
    dtype : str, optional
        Of all floats: the plan's ``cast``, done while the bytes are on their way.
    threads : int, optional
        How many read and cast. By default one for every 4 MiB, up to the number of processors, at most 8; but 16 where
        they wait for a disk, and 8 for a network.
    into : mapping of names to arrays, optional
        Arrays of numpy, or tensors of torch, to be filled in place of new memory: of the same names, shapes and dtypes.
        Nothing is written unless all of them fit.
    io : {"auto", "mmap", "read", "direct"}
        "mmap" copies from a mapping, "read" reads by way of the page cache, and "direct" around it. "auto" is "direct"
        for local files that are not in the page cache, if there are 4 MiB to read, and "read" for all others. A file
        that is cut while it is loaded is an error; with "mmap", that may end the process if it happens just as a block
        is copied.
    progress : callable, optional
        Called now and then with the bytes that are loaded, and with all there are; what it raises ends the loading.
    **plan
        Steps of a plan and other keywords of `fastload.open`.

    Returns
    -------
    dict of str to numpy.ndarray
        In the order of the checkpoint; the arrays of *into*, if that is given.

    Raises
    ------
    LimitError
        The tensors are larger than the memory that is free.
    LoadError
        *into* lacks a tensor, has one too many, or one does not fit; or the system cannot read a file.
    TruncatedError
        A file was cut meanwhile.
    FastloadError
        Whatever `fastload.open` and taking an array raise.

    Examples
    --------
    >>> arrays = fastload.load("model.safetensors", dtype="float32")  # doctest: +SKIP
    """
    if io not in MOVES:
        raise ValueError(f"io is one of {', '.join(map(repr, MOVES))}, not {io!r}")
    if threads is not None and (not isinstance(threads, int) or isinstance(threads, bool) or threads < 1):
        raise ValueError(f"threads is a number from 1 on, not {threads!r}")
    if dtype is not None:
        if plan.get("cast") is not None:
            raise TypeError("load() takes dtype= or cast=, not both: dtype= is a cast of all floats")
        plan["cast"] = dtype
    if isinstance(source, Checkpoint):
        return _load(tensors_of(planned(source, plan)), threads, into, io, progress)
    with open_checkpoint(source, io="auto" if io in ("auto", "mmap") else "read", **plan) as checkpoint:
        return _load(tensors_of(checkpoint), threads, into, io, progress)


def _load(
    tensors: Tensors, threads: int | None, into: Mapping[str, Any] | None, io: Move, progress: Progress | None
) -> dict[str, np.ndarray]:
    try:
        if into is None:
            found = _layout(tensors)
            if found is not None:
                return _load_layout(tensors, *found, threads, io, progress)
        entries = tensors.entries()
        pieces, of = _pieces(tensors, entries)
        if into is None:
            return _load_anew(tensors, entries, pieces, of, threads, io, progress)
        return _load_into(tensors, entries, pieces, of, into, threads, io, progress)
    except FastloadError as error:
        located(error, tensors.path)
        raise


# Tensors that are bytes of one source, as they are or cast.


def _layout(tensors: Tensors) -> tuple[Layout, Source] | None:
    """Where the tensors come to lie, and what they lie in now; None where they are not all just bytes of one source."""
    rows: Sequence[int] = range(len(tensors))
    targets = None
    base = tensors
    if isinstance(tensors, PlannedTensors):
        base = tensors.base
        codes = [CODES[making.dtype] if isinstance(making, Cast) else -1 for making in tensors.table.makings]
        of = [making.of if isinstance(making, Cast) else making for making in tensors.table.makings]
        rows = [row for row in of if isinstance(row, int)]
        if len(rows) < len(of):
            return None
        targets = codes
    if not isinstance(base, FileTensors) or not len(tensors):
        return None
    source = base.source
    if source.is_inflated or (not CAN_READ and source.region is None):
        return None
    read_headers_ahead(source, base.index, rows)
    layout = lay_out(base.index, rows, targets, numpy_dtype, FLOAT_OF_CODE, source.origin, source.size, ALIGNMENT)
    return None if layout is None else (layout, source)


def _load_layout(
    tensors: Tensors, layout: Layout, source: Source, threads: int | None, io: Move, progress: Progress | None
) -> dict[str, np.ndarray]:
    memory = _block(layout.size, tensors.path)
    names = tensors.list_names()
    move_layout(layout, source, memory.data, io, threads, _reporter(progress, layout.filled), names.__getitem__)
    if progress is not None:
        progress(layout.filled, layout.filled)
    return dict(zip(names, arrays_of(layout, memory), strict=True))


# All others.


def _pieces(tensors: Tensors, entries: list[TensorEntry]) -> tuple[list[Piece], list[int]]:
    """What there is to load, and which of it each tensor is."""
    makings: Sequence[Making] = range(len(entries))
    base = tensors
    if isinstance(tensors, PlannedTensors):
        makings, base = tensors.table.makings, tensors.base
    pieces: list[Piece] = []
    of: list[int] = []
    known: dict[Any, int] = {}
    for row, (entry, making) in enumerate(zip(entries, makings, strict=True)):
        runs = _runs(base, making, entry if isinstance(making, int) else None)
        # A source is the same as itself alone, so that runs are equal where they are the same bytes.
        key = row if runs is None else runs[0] if len(runs) == 1 else tuple(runs)
        number = known.setdefault(key, len(pieces))
        if number == len(pieces):
            if runs is None:
                _check(base, making)
            pieces.append(Piece(row, entry, entry.nbytes, runs))
        of.append(number)
    return pieces, of


def _runs(base: Tensors, making: Making, entry: TensorEntry | None = None) -> list[Run] | None:
    """The runs of bytes that a tensor consists of; None where it is not made of such alone."""
    making = casts_last(making)
    if isinstance(making, Concatenated):
        parts = [(entry_of(part, base), _runs(base, part)) for part in making.of]
        if any(runs is None or math.prod(part.shape[: making.axis]) != 1 for part, runs in parts):
            return None
        return [run for _, runs in parts for run in runs or ()]
    target = None
    if isinstance(making, Cast):
        target, making = making.dtype, making.of
        if isinstance(making, (Cast, Concatenated)):
            return None
    if entry is None:
        entry = entry_of(making, base)
    dtype, shape, strides, offset, nbytes = entry.dtype, entry.shape, entry.strides, entry.offset, entry.nbytes
    if dtype not in CODES or strides is None or offset is None or not nbytes or not _is_plain(entry):
        return None
    count = math.prod(shape)
    if (target is not None and not (dtype in FLOATS and target in FLOATS)) or (
        not is_c_order(shape, strides, nbytes // count)
    ):
        return None
    source = base.source_of(rows_of(making)[0])
    if source is None or (not CAN_READ and source.region is None):
        return None
    if target is None:
        return [Run(source, offset, nbytes, nbytes)]
    return [Run(source, offset, nbytes, count * DTYPES[CODES[target]].bits // 8, (FLOATS[dtype], FLOATS[target]))]


def _is_plain(entry: TensorEntry) -> bool:
    """Whether shape and dtype say what its array is: of packed dtypes, and of very many dimensions, its view knows."""
    shape, dtype = _form(entry)
    return math.prod(shape) * dtype.itemsize == entry.nbytes and len(shape) <= NUMPY_DIMENSIONS


def _check(base: Tensors, making: Making) -> None:
    """See that a tensor that must be made as an array has data; the error says which has not."""
    for row in rows_of(making):
        if base.entry(row).storage is None:
            base.array(row)


# New memory.


def _load_anew(
    tensors: Tensors,
    entries: list[TensorEntry],
    pieces: list[Piece],
    of: list[int],
    threads: int | None,
    io: Move,
    progress: Progress | None,
) -> dict[str, np.ndarray]:
    arena = _arena(tensors, pieces)
    errands = []
    for piece in pieces:
        start = piece.start
        for run in piece.runs or ():
            errands.append(Errand(piece.entry.name, run, 0, start))
            start += run.size
    total = sum(piece.nbytes for piece in pieces)
    report = _reporter(progress, total)
    move(errands, [arena.data], io, threads, report)
    done = sum(piece.nbytes for piece in pieces if piece.runs is not None)
    made: dict[int, np.ndarray] = {}
    for number, piece in enumerate(pieces):
        if piece.runs is None:
            made[number] = _make(tensors, piece, arena)
            done += piece.nbytes
            report(done)
    if progress is not None:
        progress(total, total)
    names = tensors.list_names()
    return {
        name: made[number] if number in made else _place(arena, pieces[number].start, *_form(entry))
        for name, entry, number in zip(names, entries, of, strict=True)
    }


def _arena(tensors: Tensors, pieces: list[Piece]) -> np.ndarray:
    """The memory for all, on huge pages where it is large; sets where each piece starts.

    Those of a file lie in its order, so that both are walked from their beginning to their end.
    """
    files: dict[int, int] = {}

    def place(piece: Piece) -> tuple[int, int]:
        if piece.runs is None:
            return len(pieces), piece.row
        first = piece.runs[0]
        return files.setdefault(id(first.source), len(files)), first.offset

    total = 0
    for piece in sorted(pieces, key=place):
        piece.start = total
        total += -(-piece.nbytes // ALIGNMENT) * ALIGNMENT
    return _block(total, tensors.path)


def _block(size: int, path: str | None) -> np.ndarray:
    """New memory, on huge pages where it is large."""
    # Asking takes as long as a small file does, and what is missing of so little is missing anyway.
    free = free_memory() if size >= MIN_CHECKED_BYTES else size
    if size > free:
        which = Advice(" ({})", "include")
        message = f"its tensors take {size:,} bytes in memory, and {free:,} are free: load some of them{which}, or"
        raise advised(LimitError(f"{message} open it and take views", path=path), which)
    # From numpy, which asks for huge pages where the system has them for the asking, and gives memory back at once.
    alignment = HUGE_PAGE if size >= MIN_HUGE_BYTES else ALIGNMENT
    memory = np.empty(size + alignment, np.uint8)
    start = -memory.ctypes.data % alignment
    return memory[start : start + size]


def _form(entry: TensorEntry) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and dtype of the array of a tensor that consists of runs."""
    shape = (*entry.shape, 2) if entry.dtype == "complex32" else entry.shape
    return shape, numpy_dtype(CODES[entry.dtype])


def _place(arena: np.ndarray, start: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    return np.ndarray(shape, dtype, arena, start)


def _make(tensors: Tensors, piece: Piece, arena: np.ndarray) -> np.ndarray:
    """Make the array of a tensor, in its place of the arena."""

    def out(shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
        if math.prod(shape) * dtype.itemsize > piece.nbytes:
            return np.empty(shape, dtype)
        return _place(arena, piece.start, shape, dtype)

    return _fill(tensors, piece.row, piece.entry, out)


def _fill(
    tensors: Tensors,
    row: int,
    entry: TensorEntry,
    out: Callable[[tuple[int, ...], np.dtype[Any]], np.ndarray],
) -> np.ndarray:
    """Put a tensor into the array that *out* gives for its shape and dtype; a cast is made on the way there."""
    making = tensors.table.makings[row] if isinstance(tensors, PlannedTensors) else row
    if isinstance(making, Cast) and isinstance(tensors, PlannedTensors):
        source = entry_of(making.of, tensors.base).dtype
        array = array_of(making.of, tensors.base)
        place = out(*_form(entry))
        try:
            return cast(array, source, entry.dtype, out=place, allow_integers=True)
        except PlanError as error:
            raise PlanError(f"tensor {entry.name!r}: {error.message}") from None
    array = tensors.array(row)
    place = out(array.shape, array.dtype.newbyteorder("="))
    if entry.dtype in CODES:
        return cast(array, entry.dtype, entry.dtype, out=place)
    place[...] = array
    return place


def _reporter(progress: Progress | None, total: int) -> Callable[[int], object]:
    return lambda done: progress(done, total) if progress is not None and done < total else None


# Memory of the caller.


def _load_into(
    tensors: Tensors,
    entries: list[TensorEntry],
    pieces: list[Piece],
    of: list[int],
    into: Mapping[str, Any],
    threads: int | None,
    io: Move,
    progress: Progress | None,
) -> dict[str, np.ndarray]:
    slots = _checked_slots(tensors, entries, into)
    targets: list[memoryview] = []
    errands: list[Errand] = []
    rest: list[tuple[int, TensorEntry]] = []
    done = 0
    for row, (entry, number) in enumerate(zip(entries, of, strict=True)):
        runs, memory = pieces[number].runs, slots[row].memory()
        if runs is None or memory is None:
            rest.append((row, entry))
            continue
        start = 0
        for run in runs:
            errands.append(Errand(entry.name, run, len(targets), start))
            start += run.size
        targets.append(memory)
        done += start
    total = sum(entry.nbytes for entry in entries)
    report = _reporter(progress, total)
    move(errands, targets, io, threads, report)
    for row, entry in rest:
        value = into[slots[row].name]
        if isinstance(value, np.ndarray):
            _fill(tensors, row, entry, lambda shape, dtype, value=value: value)  # type: ignore[misc]
        else:
            slots[row].fill(tensors.array(row))  # type: ignore[misc]
        done += entry.nbytes
        report(done)
    if progress is not None:
        progress(total, total)
    return {slot.name: into[slot.name] for slot in slots}


def _checked_slots(tensors: Tensors, entries: list[TensorEntry], into: Mapping[str, Any]) -> list[Slot]:
    """The slot of every tensor.

    Raises
    ------
    LoadError
        There is none, or one without its tensor, or one of another shape or dtype.
    TypeError
        What is there cannot be filled.
    """
    names = tensors.list_names()
    slots = {slot.name: slot for slot in slots_of_arrays(into)}
    report = LoadReport()
    report.missing = [name for name in slots if tensors.find(name) < 0]
    report.unused = [name for name in names if name not in slots]
    for row, (name, entry) in enumerate(zip(names, entries, strict=True)):
        slot = slots.get(name)
        if slot is None:
            continue
        shape, dtype = entry.shape, entry.dtype
        value = into[name]
        if isinstance(value, np.ndarray):
            # As views give it: complex32 has an axis more, and packed dtypes are bytes.
            if entry.strides is None or dtype not in CODES or not _is_plain(entry):
                array = tensors.array(row)
                shape, expected = array.shape, array.dtype
            else:
                shape, expected = _form(entry)
            if value.dtype.newbyteorder("=") != expected.newbyteorder("="):
                report.errors.append(LoadProblem(name, str(value.dtype), str(expected)))
            elif value.shape != shape:
                report.errors.append(LoadProblem(name, f"shape {value.shape}", f"shape {shape}"))
        elif slot.dtype != dtype:
            report.errors.append(LoadProblem(name, slot.dtype, dtype))
        elif slot.shape != shape:
            report.errors.append(LoadProblem(name, f"shape {slot.shape}", f"shape {shape}"))
    if report.missing or report.unused or report.errors:
        raise LoadError("nothing was written, since the tensors do not all fit", report, tensors.path)
    return [slots[name] for name in names]
