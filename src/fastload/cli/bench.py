"""`fastload bench`: how fast a file is read on this machine, beside peers and what the machine can do."""

from __future__ import annotations

import argparse
import errno
import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from fastload.atomic import already_there, publish
from fastload.benching.readers import FASTLOAD, PEERS, QUESTIONS
from fastload.cli import flags
from fastload.cli.document import document
from fastload.cli.progress import progress
from fastload.cli.table import Column, Paint, counted, human_size, layout, painter, plain, prose, terminal_width
from fastload.dtypes import CODES
from fastload.errors import printable

if TYPE_CHECKING:
    from fastload.benching.chart import Bar
    from fastload.benching.report import Found, LimitFound, Report, SourceRead, Spread

ABOUT = f"""\
Measure how fast a checkpoint is read on this machine, beside the libraries that are installed
and what the machine can do at best. Each measurement has a process of its own; all have their
turn in each round. Shown are medians, and the lowest and highest. Nothing in the file is run.
A --member is read by fastload alone: peers read whole files.
Peers: {", ".join(PEERS)}.
Exit status: 0 fine, 2 wrong usage, or what is written is there already, 3 bad or unreadable
file."""
EXAMPLE = "fastload bench model.safetensors --against safetensors,safetensors-torch --cold"

NO_PEERS = "none"
SCHEMA = "fastload.bench/1"
STANDARD_OUTPUT = "-"
DEFAULT_ROUNDS = 5

COLUMNS = (
    Column("reader"),
    Column("time", right=True, style="bold"),
    Column("low – high", right=True, leave=3),
    Column("GB/s", right=True, style="green", leave=1),
    Column("× fastload", right=True, style="cyan", leave=2),
    Column("own memory", right=True, leave=4),
    Column("page cache", right=True, leave=5),
    Column("peak", right=True, leave=6),
    Column("page faults", right=True, leave=7),
)
LIMIT_COLUMNS = (
    Column("the machine itself", gives="middle"),
    Column("threads", right=True, leave=1),
    Column("GB/s", right=True, style="green"),
    Column("low – high", right=True, leave=2),
)
LIMIT_OF = {  # what a reader that answers the question in the best way would come to
    ("touch", "warm"): "read memory",
    ("load", "warm"): "copy into fresh huge pages",
    ("touch", "cold"): "read the disk",
    ("load", "cold"): "read the disk",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `bench`."""
    flags.add_source(parser)
    parser.add_argument(
        "--against",
        metavar="PEERS",
        type=_peers,
        help="names with commas between; none; if not given, all that are installed and made for the format",
    )
    parser.add_argument("--cold", action="store_true", help="also with the files out of the page cache")
    parser.add_argument("--repeat", metavar="N", type=flags.count, default=DEFAULT_ROUNDS, help="rounds (5)")
    flags.add_threads(parser)
    parser.add_argument("--dtype", metavar="DTYPE", type=_dtype, help="to cast floats to (float32, or bfloat16)")
    parser.add_argument(
        "--json",
        metavar="FILE",
        nargs="?",
        const=STANDARD_OUTPUT,
        help=f"print one JSON object: schema {SCHEMA}, sizes in bytes; or write it to a file, and print the table",
    )
    parser.add_argument("--plot", metavar="FILE.svg", help="draw a chart of bars")
    flags.add_overwrite(parser)


def run(arguments: argparse.Namespace) -> int:
    """Measure."""
    from fastload.benching.run import choose, look_at, measure  # 10 ms, which the other verbs can do without

    for path in (None if arguments.json == STANDARD_OUTPUT else arguments.json, arguments.plot):
        _check_target(path, arguments.overwrite)  # before the minutes that measuring takes
    subject = look_at(arguments.path, arguments.member)
    peers, refused = choose(arguments.against, subject.source["format"], arguments.member)
    with progress("measuring", counts="measurements") as watch:
        report = measure(
            subject,
            peers,
            repeat=arguments.repeat,
            threads=arguments.threads,
            dtype=arguments.dtype,
            cold=arguments.cold,
            watch=watch,
        )
    report["refused"][:0] = refused
    told = _document(report)
    if arguments.json == STANDARD_OUTPUT:
        print(told)
    else:
        print("\n".join(_lines(report, painter())))
        if arguments.json is not None:
            _write(arguments.json, f"{told}\n", arguments.overwrite)
    if arguments.plot is not None:
        _write(arguments.plot, _drawn(report), arguments.overwrite)
    return 0


def _peers(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")] if text != NO_PEERS else []
    for name in names:
        if name not in PEERS:
            known = [peer if reader.version else f"{peer} (not installed)" for peer, reader in PEERS.items()]
            raise argparse.ArgumentTypeError(f"there is no peer {name!r}; there are {', '.join(known)}")
    return names


def _dtype(text: str) -> str:
    from fastload.casting import FLOATS

    if text not in CODES or text not in FLOATS:
        raise argparse.ArgumentTypeError(f"{text!r} is not a dtype of floats; there are {', '.join(FLOATS)}")
    return text


def _document(report: Report) -> str:
    lists = ("limits", "readers", "results", "refused")
    fields: Mapping[str, Any] = {key: value for key, value in report.items() if key not in lists}
    return document(
        SCHEMA,
        fields,
        limits=report["limits"],
        readers=report["readers"],
        results=report["results"],
        refused=report["refused"],
    )


def _check_target(path: str | None, overwrite: bool) -> None:
    if path is not None and not os.path.isdir(os.path.dirname(path) or os.curdir):
        raise FileNotFoundError(errno.ENOENT, "there is no such folder", path)
    if path is not None and os.path.exists(path) and not overwrite:
        raise already_there(path)


def _write(path: str, text: str, overwrite: bool) -> None:
    with publish(path, overwrite=overwrite) as file:
        file.write(text.encode())


def _lines(report: Report, paint: Paint) -> Iterator[str]:
    """The report as people read it."""
    source, machine, settings = report["source"], report["machine"], report["settings"]
    files = f" in {counted(source['files'], 'file')}" if source["files"] != 1 else ""
    head = f"{printable(_name(source))}: {source['format']}, {counted(source['tensors'], 'tensor')}"
    yield from prose(f"{head}, {human_size(source['nbytes'])}{files}", paint, "bold")
    memory = f", {human_size(machine['memory'])} of memory" if machine["memory"] else ""
    yield from prose(f"{machine['cpu']}, {counted(machine['cores'], 'core')}{memory}, {machine['system']}", paint)
    yield f"medians of {counted(settings['repeat'], 'round')}, each measurement in a process of its own"
    for state in ("warm", "cold"):
        found = [row for row in report["results"] if row["state"] == state]
        for question, about in QUESTIONS.items():
            rows = [row for row in found if row["question"] == question]
            if rows:
                yield ""
                shown = about if question != "cast" else f"{about}: {settings['dtype']}"
                yield paint(f"{state}, {shown}", "bold")
                yield from _table(rows, paint)
    yield ""
    yield from layout(LIMIT_COLUMNS, map(_limit_cells, report["limits"]), paint, limit=terminal_width())
    yield ""
    for reader in report["readers"]:
        about = f" {reader['version'] or ''}: {reader['work']}; runs {reader['executes']}"
        yield from _paragraph(reader["name"], about, paint)
    for refusal in report["refused"]:
        about = f" ({refusal['question']})" if refusal["question"] else ""
        yield from _paragraph(
            printable(refusal["reader"]), f"{about}: not measured: {printable(refusal['why'])}", paint
        )
    for note in report["notes"]:
        yield from _paragraph("note", f": {printable(note)}", paint)


def _name(source: SourceRead) -> str:
    """What was read, as a person calls it."""
    return source["path"] if source["member"] is None else f"{source['member']} in {source['path']}"


def _paragraph(head: str, text: str, paint: Paint) -> Iterator[str]:
    """A text whose first words stand out, in lines that the terminal has room for."""
    first, *more = prose(head + text, plain)
    yield paint(first[: len(head)], "bold") + first[len(head) :]
    yield from more


def _table(rows: list[Found], paint: Paint) -> list[str]:
    """The rows of one question, without columns in which all cells are empty."""
    cells = list(map(_cells, rows))
    kept = [place for place in range(len(COLUMNS)) if any(row[place] for row in cells)]
    columns = [COLUMNS[place] for place in kept]
    return layout(columns, [[row[place] for place in kept] for row in cells], paint, limit=terminal_width())


def _cells(row: Found) -> tuple[str, ...]:
    memory, faults = row["memory"], row["faults"]
    speed, ratio = row["gb_per_s"], row["ratio"]
    return (
        row["reader"],
        _seconds(row["seconds"]["median"]),
        _range(row["seconds"]),
        f"{speed['median']:.2f}" if speed else "",
        f"{ratio['median']:,.2f}" if ratio else "",
        human_size(memory["private"]) if memory else "",
        human_size(memory["page_cache"]) if memory else "",
        human_size(memory["peak"]) if memory and memory["peak"] is not None else "",
        f"{faults['minor'] + faults['major']:,}" if faults else "",
    )


def _limit_cells(row: LimitFound) -> tuple[str, ...]:
    speed = row["gb_per_s"]
    return (row["name"], str(row["threads"]), f"{speed['median']:.2f}", f"{speed['low']:.2f} – {speed['high']:.2f}")


def _seconds(seconds: float) -> str:
    """A time in the unit that suits it."""
    for unit, factor in (("s", 1.0), ("ms", 1e3)):
        if seconds * factor >= 1:
            return f"{seconds * factor:.2f} {unit}"
    return f"{seconds * 1e6:.1f} µs"


def _range(seconds: Spread) -> str:
    """The least and the most of some times, with their unit once where they share it."""
    low, high = _seconds(seconds["low"]), _seconds(seconds["high"])
    number, _, unit = low.partition(" ")
    return f"{number} – {high}" if high.endswith(f" {unit}") else f"{low} – {high}"


def _drawn(report: Report) -> str:
    """The report as a chart of bars: speeds where all bytes are read, and times where they are not."""
    from fastload.benching.chart import Bars, bar_chart

    source, machine = report["source"], report["machine"]
    groups = []
    for state in ("warm", "cold"):
        for question in QUESTIONS:
            rows = [row for row in report["results"] if row["state"] == state and row["question"] == question]
            if rows:
                full = rows[0]["gb_per_s"] is not None
                heading = f"{state}, {question}: {'GB/s, longer is better' if full else 'time, shorter is better'}"
                bars = [_bar(row["reader"], row["gb_per_s"] or row["seconds"], full) for row in rows]
                limit = LIMIT_OF.get((question, state))
                bars += [
                    _bar(f"{limit}, {counted(row['threads'], 'thread')}", row["gb_per_s"], full, "limit")
                    for row in report["limits"]
                    if row["name"] == limit
                ]
                groups.append(Bars(heading, bars))
    title = f"{os.path.basename((source['member'] or source['path']).rstrip(os.sep))}: {human_size(source['nbytes'])}"
    subtitle = f"{counted(source['tensors'], 'tensor')}, {source['format']}; {machine['cpu']}, {machine['system']}"
    return bar_chart(title, subtitle, groups)


def _bar(label: str, spread: Spread, is_speed: bool, kind: str = "") -> Bar:
    from fastload.benching.chart import Bar

    median = spread["median"]
    shown = f"{median:.2f} GB/s" if is_speed else _seconds(median)
    return Bar(
        label, median, spread["low"], spread["high"], kind or ("ours" if label == FASTLOAD.name else "peer"), shown
    )
