"""Table: the names and makings of all tensors of a plan, in order; and the rule that no two come to one name.

Names are made when they are needed: of a file that was just opened, a choice of tensors is rows and no more.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence

from fastload._native import Globs, Index
from fastload.entry import TensorEntry
from fastload.errors import PlanError, printable
from fastload.plan.making import Making, Rows, entry_of

__all__ = ["Dropped", "Table", "described", "renamed"]

SHOWN_COLLISIONS = 3  # in an error


class Dropped:
    """Names of the tensors that were left out, renamed by every later step as if they had not been.

    They are made when someone asks for them, since few do: only a report of what a target did not get.

    Parameters
    ----------
    names : list of str, optional
        All of them. Without it, they are what *step* makes of those of *before*.
    """

    __slots__ = ("_before", "_names", "_step")

    def __init__(
        self,
        names: list[str] | None = None,
        before: Dropped | None = None,
        step: Callable[[list[str]], list[str]] | None = None,
    ) -> None:
        self._names = names
        self._before = before
        self._step = step

    def then(self, step: Callable[[list[str]], list[str]]) -> Dropped:
        """The names after one more *step*, which must not fail."""
        return Dropped(None, self, step)

    def names(self) -> list[str]:
        """All of them."""
        waiting = []
        known = self
        while known._names is None:  # not by recursion: a plan may have thousands of steps
            assert known._step is not None and known._before is not None
            waiting.append(known._step)
            known = known._before
        names = known._names
        for step in reversed(waiting):
            names = step(names)
        self._names = names
        return names


class Table:
    """Tensors in order.

    Parameters
    ----------
    names : list of str, optional
        None where *index* knows them.
    makings : sequence of Making
        What each is made of; a row where it is a tensor of the file as it is.
    dropped : Dropped or list of str
    parents : list of int or None
        The place of each in the table before the step that made this one; None where places stayed.
    index : Index, optional
        What has the names as long as no step has made others: every making is a row of it, and they ascend.
    """

    __slots__ = ("_names", "index", "left_out", "makings", "parents")

    def __init__(
        self,
        names: list[str] | None,
        makings: Sequence[Making],
        dropped: Dropped | list[str] | None = None,
        parents: list[int] | None = None,
        index: Index | None = None,
    ) -> None:
        self._names = names
        self.makings = makings
        self.left_out = dropped if isinstance(dropped, Dropped) else Dropped(dropped or [])
        self.parents = parents
        self.index = index

    def __len__(self) -> int:
        return len(self.makings)

    @property
    def names(self) -> list[str]:
        """All names."""
        if self._names is None:
            assert self.index is not None
            self._names = self.index.names_at(self.makings)
        return self._names

    @property
    def dropped(self) -> list[str]:
        """Names of the tensors that were left out."""
        return self.left_out.names()

    def places_of(self, texts: Sequence[str]) -> dict[str, int]:
        """The place of each text that is the name of a tensor."""
        if self.index is None:
            wanted = set(texts)
            return {name: place for place, name in enumerate(self.names) if name in wanted} if wanted else {}
        found = {}
        for text in texts:
            row = self.index.find(text)
            place = bisect_left(self.makings, row)  # type: ignore[type-var]  # all are rows, and ascend
            if row >= 0 and place < len(self.makings) and self.makings[place] == row:
                found[text] = place
        return found

    def marks_of(self, globs: list[str]) -> bytearray:
        """A mark for every name, not 0 where one of *globs* matches it; they have no wildcard but ``*``."""
        if not globs:
            return bytearray(len(self))
        if self.index is not None and self._names is None:
            return Globs(globs).marks_in(self.index, self.makings)
        return Globs(globs).marks(self.names)

    def mark_found(self, search: Callable[[str], object], marks: bytearray) -> None:
        """Set those of *marks* that are 0 and where *search* finds something in the name of the tensor."""
        if self.index is not None and self._names is None:
            Globs.mark_found(self.index, self.makings, search, marks)
            return
        for place, name in enumerate(self.names):
            if not marks[place] and search(name):
                marks[place] = 1

    def only(self, places: list[int]) -> Table:
        """The tensors at *places*, which ascend; the others are left out."""
        if len(places) == len(self):
            return Table(self._names, self.makings, self.left_out, None, self.index)

        def also_these(dropped: list[str]) -> list[str]:
            inside = set(places)
            return dropped + [name for place, name in enumerate(self.names) if place not in inside]

        are_rows = self.makings == range(len(self))  # nothing has been made of them, or left out, before
        return Table(
            None if self._names is None else list(map(self._names.__getitem__, places)),
            places if are_rows else list(map(self.makings.__getitem__, places)),
            self.left_out.then(also_these),
            places,
            self.index,
        )


def described(table: Table, place: int, rows: Rows) -> TensorEntry:
    """The description of the tensor at a place of the table."""
    entry = entry_of(table.makings[place], rows)
    if table.index is not None:
        return entry
    name = table.names[place]
    return entry if entry.name == name else entry.changed(name=name)


def renamed(
    table: Table, names: list[str], dropped: Dropped | list[str], step: str, parents: list[int] | None = None
) -> Table:
    """The same tensors under other *names*.

    Raises
    ------
    PlanError
        Two of them come to one name.
    """
    if len(set(names)) != len(names):
        raise PlanError(f"{step}: {_collisions(table.names, names)}")
    return Table(names, table.makings, dropped, parents)


def _collisions(before: Sequence[str], after: Sequence[str]) -> str:
    """Which tensors come to one name."""
    found: dict[str, list[str]] = {}
    for old, new in zip(before, after, strict=True):
        found.setdefault(new, []).append(old)
    twice = [(new, old) for new, old in found.items() if len(old) > 1]
    shown = "; ".join(
        f"{' and '.join(printable(repr(name)) for name in old[:3])} would both be {printable(repr(new))}"
        for new, old in twice[:SHOWN_COLLISIONS]
    )
    return f"{shown}{f'; and {len(twice) - SHOWN_COLLISIONS} more' if len(twice) > SHOWN_COLLISIONS else ''}"
