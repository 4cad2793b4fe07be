"""The rows of a listing: one a tensor, or one for all tensors that differ only by numbers in their names.

How folding works. A number is a segment of a name, between dots, of digits alone. Tensors whose names are equal but for
their numbers, and that are of one dtype, shape and kind, form a group. Within a group the numbers are folded place by
place, from the last to the first: tensors that agree in every other place come into one row, as a set. So a row is
always a full product of sets, and never speaks of a tensor that is not there: where layer 3 lacks a tensor that the
others have, it gets a row of its own. A set is written as its runs: ``{0..31}``, ``{0..2,5,7}``.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from fastload.entry import TensorEntry

__all__ = ["SORTS", "Row", "fold", "single"]

# Zero-padded digits are no number, since 007 and 7 are two names; 18 digits fit 64 bits, and int() is quadratic.
NUMBER = re.compile(r"(?:^|(?<=\.))(0|[1-9][0-9]{0,17})(?=\.|\Z)")
MAX_NUMBERS = 8  # places of a name that can fold; real names have up to three, and hostile ones may have millions
MAX_RUNS = 8  # in one pair of braces; more would be no easier to read than a second row

Numbers = tuple[int, ...]
Sets = tuple[Numbers, ...]  # one for each number in a name
Box = tuple[Sets, int]  # the names of a product of sets, and the position of the first of them


class Row(NamedTuple):
    """Tensors that are shown as one: the pattern of their names, the first of them, and how many they are."""

    name: str
    first: TensorEntry
    tensors: int

    @property
    def nbytes(self) -> int:
        """The bytes of all of them."""
        one: int = self.first.nbytes
        return one * self.tensors


def single(entries: Iterable[TensorEntry]) -> list[Row]:
    """A row for each tensor."""
    return [Row(entry.name, entry, 1) for entry in entries]


def fold(entries: Sequence[TensorEntry]) -> list[Row]:
    """Rows for all tensors that differ only by numbers in their names, where the first of each stood."""
    groups: dict[Any, dict[Numbers, int]] = {}
    for position, entry in enumerate(entries):
        parts = NUMBER.split(entry.name, maxsplit=MAX_NUMBERS)
        key = (tuple(parts[::2]), entry.dtype, entry.shape, entry.kind, entry.zero_copy)
        groups.setdefault(key, {})[tuple(map(int, parts[1::2]))] = position
    placed = []
    for (texts, *_), positions in groups.items():
        for sets, position in _products(positions):
            row = Row(_pattern(texts, sets), entries[position], math.prod(map(len, sets)))
            placed.append((position, row))
    placed.sort(key=lambda pair: pair[0])
    return [row for _, row in placed]


def _products(positions: dict[Numbers, int]) -> list[Box]:
    """Full products of sets that cover the keys exactly, each with the first position of its members."""
    boxes: list[Box] = [(tuple((number,) for number in numbers), position) for numbers, position in positions.items()]
    places = len(boxes[0][0]) if len(boxes) > 1 else 0
    for place in reversed(range(places)):
        alike: dict[tuple[Sets, Sets], dict[int, int]] = {}
        for sets, position in boxes:
            (number,) = sets[place]
            alike.setdefault((sets[:place], sets[place + 1 :]), {})[number] = position
        boxes = [
            ((*before, numbers, *after), min(found[number] for number in numbers))
            for (before, after), found in alike.items()
            for numbers in _readable(sorted(found))
        ]
    return boxes


def _readable(numbers: list[int]) -> list[Numbers]:
    """*numbers*, which ascend, in sets of at most MAX_RUNS runs."""
    runs = _runs(numbers)
    return [tuple(itertools.chain(*runs[start : start + MAX_RUNS])) for start in range(0, len(runs), MAX_RUNS)]


def _runs(numbers: Iterable[int]) -> list[list[int]]:
    """Ascending numbers in runs without gaps."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return runs


def _pattern(texts: Sequence[str], sets: Sequence[Numbers]) -> str:
    """The name with its sets of numbers between the texts."""
    return "".join(itertools.chain(*zip(texts, map(_braces, sets), strict=False))) + texts[-1]


def _braces(numbers: Numbers) -> str:
    if len(numbers) == 1:
        return str(numbers[0])
    runs = [str(run[0]) if len(run) == 1 else f"{run[0]}..{run[-1]}" for run in _runs(numbers)]
    return f"{{{','.join(runs)}}}"


def _by_name(row: Row) -> list[str | int]:
    """Texts by their letters and numbers by their value, so that layer 10 comes after layer 9."""
    parts = NUMBER.split(row.first.name, maxsplit=MAX_NUMBERS)
    return [int(part) if place % 2 else part for place, part in enumerate(parts)]


def _by_offset(row: Row) -> tuple[bool, int]:
    offset = row.first.offset
    return offset is None, offset or 0


SORTS: dict[str, Callable[[Row], Any]] = {
    "name": _by_name,
    "size": lambda row: -row.nbytes,  # the largest first
    "offset": _by_offset,
    "dtype": lambda row: row.first.dtype,
}
