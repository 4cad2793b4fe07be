"""LoadReport: what became of every tensor when a checkpoint was poured into a target."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, field
from typing import NamedTuple

from fastload.errors import FastloadError, printable

__all__ = ["LoadError", "LoadProblem", "LoadReport"]

SHOWN_NAMES = 10  # of each list, in a summary
MIN_SIMILARITY = 0.7  # of a name that is suggested for another
MAX_COMPARED_NAMES = 20_000  # for a message; twice as many would take seconds
CAMEL_CASE = re.compile(r"[A-Z][a-z0-9]*(?:[A-Z][a-z0-9]*)*")  # how enum variants and classes are written


class LoadProblem(NamedTuple):
    """A tensor that does not fit.

    Attributes
    ----------
    name : str
    expected, found : str
        A shape, a dtype, or what went wrong.
    """

    name: str
    expected: str
    found: str


@dataclass
class LoadReport:
    """What became of every tensor.

    Attributes
    ----------
    applied : list of str
        Names that were filled, in the order in which the target has them.
    skipped : list of str
        Names of the target whose tensor the plan left out.
    missing : list of str
        Names of the target for which there is no tensor.
    unused : list of str
        Tensors that the target did not ask for.
    errors : list of LoadProblem
        Tensors that do not fit, or could not be read.
    """

    applied: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    errors: list[LoadProblem] = field(default_factory=list)

    @property
    def is_success(self) -> bool:
        """Whether every name of the target that the plan did not leave out was filled."""
        return not (self.missing or self.errors)

    def suggestion(self, name: str) -> str | None:
        """The unused name that a missing one may have been meant to be.

        First the name without one segment in CamelCase in its middle, as enum variants leave behind; else the most
        similar one.
        """
        return self._suggestion(name, MAX_COMPARED_NAMES)

    def _suggestion(self, name: str, most: int) -> str | None:
        """A suggestion, for which at most so many names are compared."""
        unused = set(self.unused)
        segments = name.split(".")
        for place in range(1, len(segments) - 1):
            if CAMEL_CASE.fullmatch(segments[place]):
                without = ".".join(segments[:place] + segments[place + 1 :])
                if without in unused:
                    return without
        if len(self.unused) > most:
            return None
        near = difflib.get_close_matches(name, self.unused, n=1, cutoff=MIN_SIMILARITY)
        return near[0] if near else None

    def __str__(self) -> str:
        counts = {
            "applied": len(self.applied),
            "skipped": len(self.skipped),
            "missing": len(self.missing),
            "unused": len(self.unused),
            "errors": len(self.errors),
        }
        lines = [", ".join(f"{count:,} {what}" for what, count in counts.items())]
        for problem in self.errors[:SHOWN_NAMES]:
            lines.append(f"  error: {printable(problem.name)}: expected {problem.expected}, found {problem.found}")
        lines += _more(self.errors)
        shown = self.missing[:SHOWN_NAMES]
        for name in shown:
            near = self._suggestion(name, MAX_COMPARED_NAMES // len(shown))
            hint = f"; did you mean {printable(repr(near))}?" if near else ""
            lines.append(f"  missing: {printable(name)}{hint}")
        lines += _more(self.missing)
        for what, names in (("skipped", self.skipped), ("unused", self.unused)):
            lines += [f"  {what}: {printable(name)}" for name in names[:SHOWN_NAMES]] + _more(names)
        return "\n".join(lines)


def _more(names: list[str] | list[LoadProblem]) -> list[str]:
    return [f"  … {len(names) - SHOWN_NAMES:,} more"] if len(names) > SHOWN_NAMES else []


class LoadError(FastloadError):
    """A checkpoint could not be poured into a target; `report` says what was, and what was not.

    Attributes
    ----------
    report : LoadReport
    """

    def __init__(self, message: str, report: LoadReport, path: str | None = None) -> None:
        super().__init__(message, path=path)
        self.report = report

    def __str__(self) -> str:
        return f"{super().__str__()}\n{self.report}"
