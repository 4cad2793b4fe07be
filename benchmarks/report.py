"""The page of figures: `make bench` stores them, and this makes docs/benchmarks.md and its charts of them.

python benchmarks/report.py docs/benchmarks/results.json docs
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from fastload.benching.chart import Bar, Bars, Curve, bar_chart, curve_chart

PAGE = "benchmarks.md"
CHARTS = "benchmarks"  # the folder of the charts, beside the page
OURS = "fastload"
MIB = 1 << 20
GIB = 1 << 30

INTRODUCTION = """\
# Benchmarks

`make bench` has measured this, and `make bench-report` made the page of it; `benchmarks/README.md` says how it is done.
Compare inside one table only, and take differences under 15 % for noise. Where sides took turns, × is the median over
the rounds of their time to that of the first side in the same round, with the lowest and the highest; in other tables
it is the ratio of two medians.
"""

Found = dict[str, Any]  # one benchmark, as pytest-benchmark stores it
Row = Sequence[str]


def main() -> None:
    """Make the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path, help="what `make bench` has stored")
    parser.add_argument("folder", type=Path, help="where the page goes")
    options = parser.parse_args()
    write(json.loads(options.results.read_text(encoding="utf-8")), options.folder)


def write(results: dict[str, Any], folder: Path) -> None:
    """Write the page and its charts into a folder."""
    (folder / CHARTS).mkdir(parents=True, exist_ok=True)
    for old in (folder / CHARTS).glob("*.svg"):
        old.unlink()
    charts = dict(drawn(results))
    for name, svg in charts.items():
        (folder / CHARTS / f"{name}.svg").write_text(svg, encoding="utf-8")
    text = "\n".join([INTRODUCTION, *machine(results), *sections(results, charts)])
    (folder / PAGE).write_text(f"{text.rstrip()}\n", encoding="utf-8")


def by_file(results: dict[str, Any]) -> Iterator[tuple[str, list[Found]]]:
    """The benchmarks of each file, together."""
    ordered = sorted(results["benchmarks"], key=lambda found: found["file"])
    for file, found in groupby(ordered, key=lambda found: found["file"]):
        yield file, list(found)


def machine(results: dict[str, Any]) -> Iterator[str]:
    """What it was measured on."""
    facts = dict(results["machine_info"])
    memory = facts.pop("memory", None)
    yield "| | |\n|---|---|"
    yield f"| when | {results['datetime'][:10]} |"
    for name, value in facts.items():
        yield f"| {cell(name.replace('_', ' '))} | {cell(str(value))} |"
    if memory:
        yield f"| memory | {memory / GIB:.1f} GiB |"
    if results.get("quick"):
        yield "\nA quick run over small files: these figures mean little."


def sections(results: dict[str, Any], charts: dict[str, str]) -> Iterator[str]:
    """A section for each file: its question, its charts, a table for each group."""
    for file, found in by_file(results):
        yield f"\n## {file}\n\n{found[0]['question']}"
        stem = Path(file).stem
        for name in sorted(charts):
            if name.partition(".")[0] == stem:
                yield f"\n![{name.partition('.')[2] or stem}]({CHARTS}/{name}.svg)"
        for _, members in groupby(sorted(found, key=group_of), key=group_of):
            yield from tables(list(members))


def group_of(found: Found) -> str:
    """The group's name, made to sort numbers as numbers."""
    return re.sub(r"[\d,]*\d", lambda number: number[0].replace(",", "").zfill(9), found["group"] or "")


def tables(members: list[Found]) -> Iterator[str]:
    """What one group came to."""
    name = members[0]["group"] or members[0]["name"]
    bars = {found["extra_info"].get("bar") for found in members} - {None, ""}
    bars |= {found["extra_info"]["subset"]["bar"] for found in members if "subset" in found["extra_info"]}
    wanted = f" Wanted: {'; '.join(sorted(bars))}." if bars else ""
    taking_turns = [found for found in members if found["extra_info"].get("pairs")]
    memories = [found for found in members if "peak" in found["extra_info"]]
    subsets = [found for found in members if "subset" in found["extra_info"]]
    timed = [found for found in members if found not in taking_turns + memories + subsets]
    yield f"\n### {name}\n"
    if wanted:
        yield f"{wanted.strip()}\n"
    for found in taking_turns:
        yield from table(("side", "time", "low – high", "GB/s", "×", "what it does"), pair_rows(found))
    if timed:
        yield from table(("reader", "time", "low – high", "×", "what it does"), timed_rows(timed))
    if memories:
        yield from table(("reader", "own memory", "of the file", "peak", "what it does"), memory_rows(memories))
    if subsets:
        head = ("reader", "time", "own memory", "of the file", "read of the disk", "of the tensors", "what it does")
        yield from table(head, subset_rows(subsets))


def pair_rows(found: Found) -> Iterator[Row]:
    """Sides that took turns."""
    for row in found["extra_info"]["pairs"]:
        seconds, ratio, speed = row["seconds"], row["ratio"], row["gb_per_s"]
        times = f"{ratio['median']:,.2f} ({ratio['low']:,.2f} – {ratio['high']:,.2f})"
        yield (
            row["name"],
            shown(seconds["median"]),
            span(seconds),
            f"{speed:.2f}" if speed else "",
            times,
            row["work"],
        )


def timed_rows(members: list[Found]) -> Iterator[Row]:
    """Readers that ran one after the other."""
    ours = next((found for found in members if name_of(found) == OURS), None)
    for found in sorted(members, key=lambda found: found["stats"]["median"]):
        stats = found["stats"]
        ratio = f"{stats['median'] / ours['stats']['median']:,.2f}" if ours else ""
        ends = span({"low": stats["min"], "high": stats["max"]})
        yield (name_of(found), shown(stats["median"]), ends, ratio, found["extra_info"].get("work", ""))


def memory_rows(members: list[Found]) -> Iterator[Row]:
    """What reading added to a process."""
    for found in members:
        facts = found["extra_info"]
        sizes = [f"{facts[key] / MIB:,.1f} MiB" for key in ("anonymous", "file", "peak")]
        yield (found["name"].partition("[")[2].rstrip("]"), *sizes, facts["work"])


def subset_rows(members: list[Found]) -> Iterator[Row]:
    """What taking some tensors cost."""
    for found in members:
        row = found["extra_info"]["subset"]
        sizes = [f"{row[key] / MIB:,.1f} MiB" for key in ("anonymous", "file", "read_bytes")]
        share = f"{row['read_bytes'] / row['nbytes']:.2f} ×"
        yield (row["name"], shown(row["seconds"]), *sizes, share, row["work"])


def name_of(found: Found) -> str:
    """Who was measured."""
    return str(found["extra_info"].get("name") or found["name"])


def table(head: Row, rows: Iterable[Row]) -> Iterator[str]:
    """A table of markdown; columns that hold nothing are left out."""
    columns = [column for column in zip(head, *rows, strict=True) if any(column[1:])]
    lines = list(zip(*columns, strict=True))
    yield f"| {' | '.join(lines[0])} |"
    yield f"|{'---|' * len(lines[0])}"
    for line in lines[1:]:
        yield f"| {' | '.join(map(cell, line))} |"
    yield ""


def cell(text: str) -> str:
    """*text* as a cell of markdown: it may hold neither bars nor tags, and stars are meant."""
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")


def drawn(results: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """(name, SVG) of each chart: curves where something grows, bars of other sides that took turns."""
    processor = results["machine_info"].get("cpu", "")
    for file, members in by_file(results):
        stem = Path(file).stem
        taking_turns = [found for found in members if found["extra_info"].get("pairs")]
        growing = [found for found in taking_turns if found["extra_info"].get("curve")]
        fixed = [found for found in taking_turns if not found["extra_info"].get("curve")]
        if fixed:
            yield stem, bar_chart(members[0]["question"], processor, [bars_of(found) for found in fixed])
        titles = dict.fromkeys(tuple(found["extra_info"]["curve"][:2]) for found in growing)
        for title, what in titles:
            points = [found for found in growing if found["extra_info"]["curve"][0] == title]
            name = f"{stem}.{re.sub(r'[^a-z0-9]+', '-', title.lower())}"
            yield name, curve_chart(title, processor, curves_of(points), (what, "seconds"))


def bars_of(found: Found) -> Bars:
    """The times of sides, as bars."""
    bars = []
    for number, row in enumerate(found["extra_info"]["pairs"]):
        seconds = row["seconds"]
        kind = "peer" if number else "ours"
        bars.append(
            Bar(row["name"], seconds["median"], seconds["low"], seconds["high"], kind, shown(seconds["median"]))
        )
    return Bars(f"{found['group']}: time, shorter is better", bars)


def curves_of(points: list[Found]) -> list[Curve]:
    """A curve for each side, over what grows."""
    curves: dict[str, list[tuple[float, float]]] = {}
    for found in sorted(points, key=lambda found: found["extra_info"]["curve"][2]):
        for row in found["extra_info"]["pairs"]:
            point = (found["extra_info"]["curve"][2], row["seconds"]["median"])
            curves.setdefault(row["name"], []).append(point)
    return [Curve(name, along) for name, along in curves.items()]


def span(seconds: dict[str, float]) -> str:
    """The ends of a spread."""
    return f"{shown(seconds['low'])} – {shown(seconds['high'])}"


def shown(seconds: float) -> str:
    """A time in the unit that suits it."""
    for unit, factor in (("s", 1.0), ("ms", 1e3), ("µs", 1e6)):
        if seconds * factor >= 1:
            return f"{seconds * factor:.2f} {unit}"
    return f"{seconds * 1e9:.0f} ns"


if __name__ == "__main__":
    main()
