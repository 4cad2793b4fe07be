"""A progress bar on standard error, for work that takes more than a moment and that a person is watching."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["progress"]

PATIENCE = 1.0  # seconds without a bar: most work is done by then
INTERVAL = 0.1  # seconds between two lines

Report = Callable[[int, int], object]  # (done, in all)


@contextmanager
def progress(what: str, *, counts: str = "bytes") -> Iterator[Report | None]:
    """What to call with the bytes, or what else it counts, that are done and in all; None where nobody watches."""
    if sys.stderr is None or not sys.stderr.isatty():
        yield None
        return
    bar = _Bar(what, counts)
    try:
        yield bar
    finally:
        bar.close()


class _Bar:
    def __init__(self, what: str, counts: str) -> None:
        self._what = what
        self._counts = counts
        self._next = time.monotonic() + PATIENCE
        self._show: Report | None = None
        self._end: Callable[[], object] = lambda: None

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + INTERVAL
        if self._show is None:
            self._show, self._end = _of_rich(self._what, self._counts) or _plain(self._what)
        self._show(done, total)

    def close(self) -> None:
        self._end()


def _of_rich(what: str, counts: str) -> tuple[Report, Callable[[], object]] | None:
    """A bar of rich's, if that is installed."""
    try:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )
    except ImportError:
        return None
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True) if counts == "bytes" else MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    task = bar.add_task(what)
    bar.start()
    return lambda done, total: bar.update(task, completed=done, total=total), bar.stop


def _plain(what: str) -> tuple[Report, Callable[[], object]]:
    """A percentage that is written over itself."""

    def show(done: int, total: int) -> None:
        print(f"\r{what} {100 * done // max(total, 1):3d} %", end="", file=sys.stderr, flush=True)

    return show, lambda: print("\r\033[K", end="", file=sys.stderr, flush=True)
