"""Sides that take turns: the one way to compare on a machine that others use, too.

In each round every side runs once, the order turned round from round to round, so that a busy moment falls on all. The
ratio of two sides is the median over the rounds of their ratio within a round; differences under 15 % are noise.

A benchmark hands its sides to the fixture `in_turn` (conftest.py), the first being fastload. pytest-benchmark shows the
times of that one; all sides, and the ratios, stand in `extra_info["pairs"]`, from which `report.py` makes its tables:

    def test_load(in_turn, files):
        in_turn("load 2 GiB", [Side("fastload", "what it does", ours), Side("peer", "what it does", theirs)])
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import inputs

ROUNDS = 3 if inputs.QUICK else 7


class Side(NamedTuple):
    """One of those that are compared.

    Attributes
    ----------
    name : str
    work : str
        What it does for its time.
    run : callable
        What is timed; what it returns is let go outside of the time.
    nbytes : int or None
        That it goes through, where a speed means something.
    count : int
        Of what it does many times: its time is told for one.
    """

    name: str
    work: str
    run: Callable[[], object]
    nbytes: int | None = None
    count: int = 1


def timed(side: Side) -> float:
    """Seconds of one run, for each of what it counts."""
    gc.collect()
    start = time.perf_counter()
    kept = side.run()
    seconds = time.perf_counter() - start
    del kept
    return seconds / side.count


def in_turn(measures: Sequence[Callable[[], float]], rounds: int) -> list[list[float]]:
    """What each of *measures* says in each round."""
    found: list[list[float]] = [[] for _ in measures]
    places = list(range(len(measures)))
    for _ in range(rounds):
        for place in places:
            found[place].append(measures[place]())
        places.reverse()
    return found


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, lowest and highest."""
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def compared(sides: Sequence[Side], seconds: Sequence[Sequence[float]]) -> list[dict[str, Any]]:
    """A row for each side: its times, its ratio to the first, and its speed."""
    ours = seconds[0]
    return [
        {
            "name": side.name,
            "work": side.work,
            "seconds": spread(times),
            "ratio": spread([theirs / our for theirs, our in zip(times, ours, strict=True)]),
            "gb_per_s": side.nbytes / statistics.median(times) / 1e9 if side.nbytes else None,
        }
        for side, times in zip(sides, seconds, strict=True)
    ]
