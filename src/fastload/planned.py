"""Planned tensors: those of a file after the steps of a plan, by row, like any other `Tensors`."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from fastload.entry import TensorEntry
from fastload.errors import FastloadError, UnsupportedError, located, printable
from fastload.plan.making import Cast, Permuted, array_of, chunks_of, is_cast_to_integers, rows_of
from fastload.plan.table import Table, described
from fastload.source import Handing, Source
from fastload.tensors import FileTensors, PrivateRun, Tensors

__all__ = ["Explanation", "PlannedTensors", "Stage", "Step"]


class Step(NamedTuple):
    """One step of a plan: its name, and what it makes of a table."""

    name: str
    apply: Callable[[Table, Tensors], Table]


class Stage(NamedTuple):
    """What a tensor is after a step.

    Attributes
    ----------
    step : str
        The name of the step; "file" at the beginning.
    name, dtype : str
    shape : tuple of int
    is_view : bool
        Whether its array is a view of the file as it lies there.
    """

    step: str
    name: str
    dtype: str
    shape: tuple[int, ...]
    is_view: bool


class Explanation(NamedTuple):
    """How a tensor came to be what it is, or why it is not there.

    Attributes
    ----------
    stages : tuple of Stage
        The first as the file has it, then one for every step that changed it.
    dropped_by : str or None
        The step that left it out; None where it is there.
    """

    stages: tuple[Stage, ...]
    dropped_by: str | None = None

    def __str__(self) -> str:
        first = self.stages[0]
        parts = [f"{printable(first.name)}  {first.dtype} {first.shape}{'' if first.is_view else ' copy'}"]
        for before, stage in itertools.pairwise(self.stages):
            said = [printable(stage.name)] if stage.name != before.name else []
            said += [stage.dtype] if stage.dtype != before.dtype else []
            said += [str(stage.shape)] if stage.shape != before.shape else []
            said += ["copy"] if before.is_view and not stage.is_view else []
            parts.append(f"{stage.step}: {' '.join(said)}")
        return " → ".join([*parts, *([f"left out by {self.dropped_by}"] if self.dropped_by else [])])


class _PrivateRows:
    """The tensors that a plan begins with, as private arrays: views of them may be written to as well."""

    def __init__(self, base: Tensors, handing: Handing) -> None:
        self._base = base
        self._handing = handing

    def entry(self, row: int) -> TensorEntry:
        """The description of one tensor."""
        return self._base.entry(row)

    def array(self, row: int) -> np.ndarray:
        """The private array of one tensor."""
        return self._base.private_array(row, self._handing)


def _beginning(base: Tensors) -> Table:
    """The table before the first step; of a single file without its names, which its index has."""
    if isinstance(base, FileTensors):
        return Table(None, range(len(base)), index=base.index)
    return Table(base.list_names(), range(len(base)))


class PlannedTensors:
    """The tensors of a file, or of files, after the steps of a plan."""

    __slots__ = ("_base", "_copies", "_found", "_steps", "table")

    def __init__(self, base: Tensors, allow_copy: bool = True) -> None:
        self._base = base
        self._copies = allow_copy
        self._steps: tuple[Step, ...] = ()
        self.table = _beginning(base)
        self._found: dict[str, int] | None = None  # made when a name is first looked up

    @classmethod
    def after(cls, tensors: Tensors, step: Step, allow_copy: bool) -> PlannedTensors:
        """*tensors* after one more step.

        Raises
        ------
        PlanError
            The step cannot be done.
        """
        before = tensors if isinstance(tensors, cls) else cls(tensors, allow_copy)
        made = cls.__new__(cls)
        made._base = before._base
        made._copies = allow_copy
        made._steps = (*before._steps, step)
        try:
            made.table = step.apply(before.table, before._base)
        except FastloadError as error:
            raise located(error, before.path) from None
        made._found = None
        return made

    @property
    def path(self) -> str | None:
        """The file or folder; None for a buffer."""
        return self._base.path

    @property
    def format(self) -> str:
        """The name of the format."""
        return self._base.format

    @property
    def base(self) -> Tensors:
        """The tensors that the plan begins with."""
        return self._base

    def __len__(self) -> int:
        return len(self.table)

    def find(self, name: object) -> int:
        """The row of a name, or -1."""
        if self._found is None:
            self._found = {known: row for row, known in enumerate(self.table.names)}
        return self._found.get(name, -1) if isinstance(name, str) else -1

    def list_names(self) -> list[str]:
        """All names, in order."""
        return list(self.table.names)

    def entry(self, row: int) -> TensorEntry:
        """The description of one tensor."""
        return described(self.table, row, self._base)

    def entries(self) -> list[TensorEntry]:
        """The descriptions of all tensors, in order."""
        return [described(self.table, row, self._base) for row in range(len(self.table))]

    def array(self, row: int) -> np.ndarray:
        """The array of one tensor, made anew."""
        making = self.table.makings[row]
        if isinstance(making, int):
            return self._base.array(making)
        self._check_copy(row)
        return array_of(making, self._base)

    def private_array(self, row: int, handing: Handing) -> np.ndarray:
        """The array of one tensor, writable, over memory that was made for this handing over alone."""
        making = self.table.makings[row]
        if isinstance(making, int):
            return self._base.private_array(making, handing)
        self._check_copy(row)
        array = array_of(making, _PrivateRows(self._base, handing))
        return array if array.flags.writeable else np.array(array, order="C")

    def private_run(self, row: int, handing: Handing) -> PrivateRun | None:
        """Where one tensor lies in memory as that of `private_array`; None where only that can tell."""
        making = self.table.makings[row]
        return self._base.private_run(making, handing) if isinstance(making, int) else None

    def source_of(self, row: int) -> Source | None:
        """The source that the bytes of one tensor lie in; None where it is made of several, or of none."""
        rows = rows_of(self.table.makings[row])
        return self._base.source_of(rows[0]) if len(rows) == 1 else None

    def _check_copy(self, row: int) -> None:
        if not self._copies and not self.entry(row).zero_copy:
            raise UnsupportedError(
                f"tensor {self.table.names[row]!r} cannot be a view after the steps of the plan; open the file with"
                " allow_copy=True to have a copy"
            )

    def is_made(self, row: int) -> bool:
        """Whether a tensor is made of others, and not one of those that the plan begins with."""
        return not isinstance(self.table.makings[row], int)

    def chunks(self, row: int, chunk_bytes: int) -> Iterator[memoryview] | None:
        """The bytes of a tensor that is cast, in runs that are made when they are asked for; None for any other."""
        making = self.table.makings[row]
        return None if isinstance(making, int) or not self._copies else chunks_of(making, self._base, chunk_bytes)

    def check(self, row: int, *, inflating: bool = True) -> None:
        """See that a tensor can be made; without making it, where that would be a copy that cannot fail.

        Whether data can be inflated is seen by doing so, if *inflating*.

        Raises
        ------
        UnsupportedError
            It has no data, or would be a copy where none is allowed.
        PlanError
            It is cast to integers, and has numbers that do not fit.
        """
        making = self.table.makings[row]
        if not self._copies or is_cast_to_integers(making):
            self.array(row)
        for known in rows_of(making):
            entry = self._base.entry(known)
            if entry.storage is None or (inflating and not entry.zero_copy):
                self._base.check(known)

    def cast_from(self, row: int) -> tuple[Any, ...] | None:
        """Where in the file the tensor lies of which one is a cast: equal for two that were one before."""
        making = self.table.makings[row]
        is_cast = False
        while isinstance(making, (Cast, Permuted)):
            is_cast = is_cast or isinstance(making, Cast)
            making = making.of
        if not is_cast or not isinstance(making, int):
            return None
        entry = self._base.entry(making)
        if entry.storage is None or not entry.nbytes:
            return None
        return entry.storage, entry.storage_offset, entry.shape, entry.strides

    def metadata(self) -> dict[str, Any]:
        """What the format keeps about the tensors as a whole."""
        return self._base.metadata()

    def objects(self) -> Any:
        """What else there is, as plain Python values."""
        return self._base.objects()

    def list_globals(self) -> list[tuple[str, str]]:
        """(module, name) of every global that the pickles name."""
        return self._base.list_globals()

    def verify(self) -> None:
        """Check every structure and extent that opening left until it is needed."""
        self._base.verify()

    def still_valid(self) -> bool:
        """Whether the files are still those that were opened."""
        return self._base.still_valid()

    def explain(self) -> list[Explanation]:
        """How every tensor came to be what it is, in the order of the plan's result; then those left out."""
        tables = [_beginning(self._base)]
        for step in self._steps:
            tables.append(step.apply(tables[-1], self._base))
        kept = [self._explanation(tables, len(tables) - 1, place) for place in range(len(tables[-1]))]
        left_out = []
        for number in range(1, len(tables)):
            parents = tables[number].parents
            if parents is not None:
                # A tensor that became a part of another is still there: its rows are.
                rows = {row for making in tables[number].makings for row in rows_of(making)}
                for place, making in enumerate(tables[number - 1].makings):
                    if rows.isdisjoint(rows_of(making)):
                        found = self._explanation(tables, number - 1, place)
                        left_out.append(found._replace(dropped_by=self._steps[number - 1].name))
        return kept + left_out

    def _explanation(self, tables: list[Table], last: int, place: int) -> Explanation:
        """What the tensor at a *place* of table *last* was at each table before."""
        stages = []
        for number in range(last, -1, -1):
            entry = described(tables[number], place, self._base)
            step = self._steps[number - 1].name if number else "file"
            stages.append(Stage(step, entry.name, entry.dtype, entry.shape, entry.zero_copy))
            parents = tables[number].parents
            place = place if parents is None else parents[place]
        stages.reverse()
        changed = [stages[0]]
        changed += [stage for before, stage in itertools.pairwise(stages) if stage[1:] != before[1:]]
        return Explanation(tuple(changed))
