"""In what two checkpoints differ: names, shapes, dtypes, then the values of the tensors that agree in shape."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from fastload.checkpoint import Checkpoint
from fastload.differences import Differences, differences
from fastload.dtypes import CODES
from fastload.entry import TensorEntry
from fastload.errors import LimitError, UnsupportedError
from fastload.outgoing import of_tensor
from fastload.statistics import MAX_OVERLAP, PACKED

__all__ = ["Finding", "findings"]

Tell = Callable[[int, int], object]  # (bytes that are done, in all)


class Finding(NamedTuple):
    """One tensor in which two checkpoints differ.

    Attributes
    ----------
    name : str
        Its name in both.
    what : str
        "only in a", "only in b", "shape", "dtype", "values", or "not compared".
    a, b : TensorEntry or None
        What it is there.
    values : Differences or None
        How its values differ, where they can be compared.
    why : str or None
        Why they cannot.
    """

    name: str
    what: str
    a: TensorEntry | None
    b: TensorEntry | None
    values: Differences | None = None
    why: str | None = None


def findings(a: Checkpoint, b: Checkpoint, tell: Tell | None, *, values: bool) -> Iterator[Finding]:
    """What differs, in the order of A, and then what B alone has.

    Parameters
    ----------
    a, b : Checkpoint
        What is compared.
    tell : callable, optional
        Called with the bytes of A that are done, and in all, after each tensor.
    values : bool
        Whether values are compared too.
    """
    others = {entry.name: entry for entry in b.entries()}
    entries = a.entries()
    total = sum(entry.nbytes for entry in entries)
    done = 0
    for entry in entries:
        other = others.pop(entry.name, None)
        finding = _compared(a, b, entry, other, values=values)
        if finding is not None:
            yield finding
        done += entry.nbytes
        if tell is not None:
            tell(done, total)
    for other in others.values():
        yield Finding(other.name, "only in b", None, other)


def _compared(
    a: Checkpoint, b: Checkpoint, entry: TensorEntry, other: TensorEntry | None, *, values: bool
) -> Finding | None:
    name = entry.name
    if other is None:
        return Finding(name, "only in a", entry, None)
    if entry.shape != other.shape:
        return Finding(name, "shape", entry, other)
    is_same = entry.dtype == other.dtype
    if not values or (entry.kind == other.kind == "meta"):
        return None if is_same else Finding(name, "dtype", entry, other)
    why = _why_not(entry, other)
    try:
        found = _values(a, b, name) if why is None else None
    except (UnsupportedError, LimitError) as error:
        found, why = None, error.message
    if not is_same:
        return Finding(name, "dtype", entry, other, found, why)
    if found is None:
        return Finding(name, "not compared", entry, other, None, why)
    return Finding(name, "values", entry, other, found) if found.differing else None


def _why_not(entry: TensorEntry, other: TensorEntry) -> str | None:
    """Why the values of two tensors cannot be compared."""
    for one in (entry, other):
        if one.kind == "meta":
            return "one has no data"
        if one.dtype not in CODES:
            return f"elements of {one.dtype} are no numbers"
        if one.dtype != other.dtype and one.dtype.startswith(PACKED):
            return f"elements of {one.dtype} are packed into bytes"
        if one.storage is not None and one.nbytes > MAX_OVERLAP * max(one.storage_nbytes, 1):
            return "it repeats its storage too often to be gone through"
    return None if other.dtype == entry.dtype or not other.dtype.startswith(PACKED) else "one is packed into bytes"


def _values(a: Checkpoint, b: Checkpoint, name: str) -> Differences:
    return differences(of_tensor(a, name), of_tensor(b, name))
