"""The fixtures of the benchmarks, and the tables that end a run: ratios to fastload, and memory."""

from __future__ import annotations

import ast
import functools
import gc
import importlib
import importlib.metadata
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import fastload
import inputs
import pairs
from fastload.benching.run import machine
from memory import MIB
from readers import Reader
from report import shown

PEERS = ("numpy", "safetensors", "torch", "mlx", "runai-model-streamer", "tensorizer")
MAX_ROUNDS = 3 if inputs.QUICK else 15
SECONDS_A_READER = 3.0  # what all rounds together may take, though there are always three


@dataclass
class Results:
    """What the run has found so far, for the tables at its end."""

    times: dict[str, dict[str, tuple[float, str]]] = field(default_factory=dict)  # group → name → seconds, work
    memory: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)  # group → name → figures

    def add_time(self, benchmark: Any, name: str, work: str) -> None:
        """Keep the median of a finished benchmark; there is none under --benchmark-disable."""
        benchmark.extra_info.update(name=name, work=work)
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


@pytest.fixture
def in_turn(replay: Callable[..., None], benchmark: Any, results: Results) -> Callable[..., None]:
    """Compare sides that take turns (pairs.py); the first is what others are compared with.

    *bar* is what is wanted; *curve* is (title, what grows, how much of it).
    """

    def run(
        group: str,
        sides: Sequence[pairs.Side],
        *,
        rounds: int = pairs.ROUNDS,
        bar: str = "",
        curve: tuple[str, str, int] | None = None,
    ) -> None:
        inputs.freeze()
        for side in sides:  # imports, and what else is done but once
            pairs.timed(side)
        seconds = pairs.in_turn([functools.partial(pairs.timed, side) for side in sides], rounds)
        rows = pairs.compared(sides, seconds)
        benchmark.extra_info.update(pairs=rows, bar=bar, curve=curve)
        replay(group, sides[0].name, sides[0].work, seconds[0])
        for row in rows[1:]:
            results.times.setdefault(group, {})[row["name"]] = (row["seconds"]["median"], row["work"])

    return run


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    """What the figures were measured on, and nothing that tells whose machine it is."""
    installed = {found.name: found.version for found in importlib.metadata.distributions()}
    versions = {name: installed[name] for name in PEERS if name in installed}
    machine_info.clear()
    machine_info.update({**machine(), **versions, "fastload": fastload.__version__})


def pytest_benchmark_update_json(config: pytest.Config, benchmarks: object, output_json: dict[str, Any]) -> None:
    """Keep what `report.py` needs: no paths, no host, no single runs; and the question of each file."""
    output_json.update(commit_info={}, quick=inputs.QUICK)
    for found in output_json["benchmarks"]:
        file = Path(found["fullname"].partition("::")[0]).name
        found.update(params=None, param=None, options={}, file=file, question=question_of(file))
        found["stats"].pop("data", None)


def question_of(file: str) -> str:
    """The first sentence of a benchmark's docstring."""
    text = ast.get_docstring(ast.parse((Path(__file__).parent / file).read_text())) or ""
    return text.partition("\n\n")[0].replace("\n", " ")


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
