"""The fixtures of the benchmarks, and the tables that end a run: ratios to fastload, and memory."""

from __future__ import annotations

import gc
import importlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

import inputs
from memory import MIB
from readers import Reader

MAX_ROUNDS = 3 if inputs.QUICK else 15
SECONDS_A_READER = 3.0  # what all rounds together may take, though there are always three


@dataclass
class Results:
    """What the run has found so far, for the tables at its end."""

    times: dict[str, dict[str, tuple[float, str]]] = field(default_factory=dict)  # group → name → seconds, work
    memory: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)  # group → name → figures

    def add_time(self, benchmark: Any, name: str, work: str) -> None:
        """Keep the median of a finished benchmark; there is none under --benchmark-disable."""
        benchmark.extra_info["work"] = work
        if benchmark.stats is not None:
            self.times.setdefault(benchmark.group, {})[name] = (benchmark.stats.stats.median, work)


RESULTS = pytest.StashKey[Results]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[RESULTS] = Results()


@pytest.fixture
def results(pytestconfig: pytest.Config) -> Results:
    """Where findings go that the closing tables show."""
    return pytestconfig.stash[RESULTS]


@pytest.fixture(scope="session")
def files() -> Iterator[inputs.Inputs]:
    """The files to read."""
    with inputs.folder() as found:
        yield found


@pytest.fixture
def compare(benchmark: Any, results: Results, files: inputs.Inputs) -> Callable[..., None]:
    """Check a reader's answer, then time it; what it returned is let go outside of the time."""

    def run(group: str, reader: Reader, path: Any, expected: Any) -> None:
        source = reader.prepare(path)
        for module in reader.imports:
            importlib.import_module(module)
        start = time.perf_counter()
        kept = [reader.read(source)]
        seconds = time.perf_counter() - start
        assert reader.answer(kept[0]) == expected
        inputs.freeze()

        def let_go() -> None:
            kept.clear()
            gc.collect()

        benchmark.group = group
        rounds = int(min(max(SECONDS_A_READER / seconds, 3), MAX_ROUNDS))
        benchmark.pedantic(lambda: kept.append(reader.read(source)), setup=let_go, rounds=rounds)
        results.add_time(benchmark, reader.name, reader.work)

    return run


class Clock:
    """A clock that stands still but for a nanosecond a look, and is put forward by what a child has measured."""

    now = 0.0

    def __call__(self) -> float:
        self.now += 1e-9
        return self.now

    def put_forward(self, seconds: float) -> None:
        self.now += seconds


CLOCK = Clock()


@pytest.fixture
def replay(benchmark: Any, results: Results) -> Callable[..., None]:
    """Hand to pytest-benchmark the times that another process took."""

    def run(group: str, name: str, work: str, seconds: list[float]) -> None:
        times = iter([*seconds, 0.0])  # one more for the call that pytest-benchmark makes after the rounds
        benchmark.group = group
        benchmark._timer = CLOCK
        benchmark.pedantic(lambda: CLOCK.put_forward(next(times)), rounds=len(seconds))
        results.add_time(benchmark, name, work)

    return run


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """The tables that end a run."""
    found = config.stash[RESULTS]
    if found.times:
        terminalreporter.section("medians, and their ratio to fastload")
        described = {}
        for group, times in found.times.items():
            baseline = times.get("fastload")
            terminalreporter.write_line(f"\n{group}")
            for name, (median, work) in sorted(times.items(), key=lambda item: item[1][0]):
                number = described.setdefault((name, work), len(described) + 1)
                ratio = f"{median / baseline[0]:,.2f} ×" if baseline else ""
                terminalreporter.write_line(f"  {name:<26}{shown(median):>12}{ratio:>14}   [{number}]")
        terminalreporter.write_line("")
        for (name, work), number in described.items():
            terminalreporter.write_line(f"  [{number}] {name}: {work}")
    if found.memory:
        terminalreporter.section("memory that reading adds to a fresh process, its imports left out (MiB)")
        for group, rows in found.memory.items():
            terminalreporter.write_line(f"\n{group:<28}{'anonymous':>12}{'of the file':>14}{'peak':>10}")
            for name, row in rows.items():
                anonymous, file, peak = (row[key] / MIB for key in ("anonymous", "file", "peak"))
                terminalreporter.write_line(f"  {name:<26}{anonymous:>12.1f}{file:>14.1f}{peak:>10.1f}")


def shown(seconds: float) -> str:
    """A time in the unit that suits it."""
    for unit, factor in (("s", 1), ("ms", 1e3), ("µs", 1e6)):
        if seconds * factor >= 1:
            return f"{seconds * factor:.2f} {unit}"
    return f"{seconds * 1e9:.0f} ns"
