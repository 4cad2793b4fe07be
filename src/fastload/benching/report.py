"""What a run of the bench has found: the fields of its JSON, and how runs become medians.

All times are in seconds, all sizes in bytes, all speeds in 10**9 bytes a second.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import TypedDict

__all__ = ["Found", "LimitFound", "Machine", "ReaderUsed", "Refusal", "Report", "Settings", "SourceRead", "Spread"]
__all__ += ["spread_of"]


class Spread(TypedDict):
    """A figure over the rounds."""

    median: float
    low: float
    high: float
    runs: list[float]


class SourceRead(TypedDict):
    """What was read."""

    path: str
    member: str | None
    format: str
    files: int
    tensors: int
    nbytes: int  # of the tensors
    file_nbytes: int  # of the files


class Machine(TypedDict):
    """What it was read on."""

    cpu: str
    cores: int
    memory: int | None
    system: str
    huge_pages: str | None  # when the system gives them: always, madvise or never
    python: str
    numpy: str


class Settings(TypedDict):
    """How it was read."""

    repeat: int
    threads: int | None  # that readers were given; None: each as it likes
    cold: bool
    dtype: str | None  # that floats were cast to; None where there was nothing to cast


class LimitFound(TypedDict):
    """One limit of the machine."""

    name: str
    work: str
    threads: int
    nbytes: int
    seconds: Spread
    gb_per_s: Spread


class ReaderUsed(TypedDict):
    """One reader that was asked."""

    name: str
    version: str | None
    work: str
    views_are_copies: bool
    executes: str  # what of a file it would run


class MemoryFound(TypedDict):
    """What one call added to the process: at its end, and at most."""

    private: int
    page_cache: int
    peak: int | None


class FaultsFound(TypedDict):
    """Page faults of one call."""

    minor: int
    major: int


class Found(TypedDict):
    """What one reader took for one question."""

    question: str  # open, list, views, touch, load or cast
    state: str  # of the files before: warm or cold
    reader: str
    seconds: Spread
    gb_per_s: Spread | None  # of the tensors' bytes, where all of them were read
    ratio: Spread | None  # seconds of this reader to those of fastload, round by round
    tensors: int | None  # that it gave; None where the question gives none
    nbytes: int | None
    memory: MemoryFound | None  # of the median round
    faults: FaultsFound | None


class Refusal(TypedDict):
    """A reader that was not measured, and why."""

    reader: str
    question: str | None  # None: all of them
    why: str


class Report(TypedDict):
    """All of it; in the JSON after `"schema": "fastload.bench/1"`."""

    source: SourceRead
    machine: Machine
    settings: Settings
    notes: list[str]
    limits: list[LimitFound]
    readers: list[ReaderUsed]
    results: list[Found]
    refused: list[Refusal]


def spread_of(runs: Sequence[float]) -> Spread:
    """The median, the lowest and the highest of some runs."""
    return {"median": statistics.median(runs), "low": min(runs), "high": max(runs), "runs": list(runs)}
