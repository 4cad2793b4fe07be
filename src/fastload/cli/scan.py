"""`fastload scan`: the globals that a file names, and what a real unpickler would do with them."""

from __future__ import annotations

import argparse

from fastload.cli import flags
from fastload.cli.document import document
from fastload.cli.table import NAME_WIDTH, Column, counted, layout, painter, prose, terminal_width
from fastload.errors import printable
from fastload.scan import PickledGlobal

ABOUT = """\
List the classes and functions that a checkpoint names, and what they would do if it were
unpickled. harmless: makes a tensor or a plain value. imports: unknown, so its module would
be imported and it might be called. dangerous: runs code or programs, or reaches files, the
network or the interpreter. fastload itself imports and calls none of them.
Exit status: 0 all harmless, 1 something would run, 2 wrong usage, 3 bad or unreadable file."""
EXAMPLE = "fastload scan model.pt"

SCHEMA = "fastload.scan/1"
VERDICTS = ("dangerous", "imports", "harmless")  # the worst first
STYLES = {"dangerous": "bold red", "imports": "yellow", "harmless": "green"}
COLUMNS = (
    Column("global", gives="middle", least=NAME_WIDTH),
    Column("verdict", styles=STYLES),
    Column("what it would do", gives="lines"),
)
FOUND = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `scan`."""
    flags.add_source(parser)
    flags.add_json(parser, SCHEMA)


def run(arguments: argparse.Namespace) -> int:
    """List the globals of a file."""
    with flags.open_source(arguments) as opened:
        found, format = opened.globals(), opened.format
    counts = {verdict: sum(row.verdict == verdict for row in found) for verdict in VERDICTS}
    if arguments.json:
        fields = {
            "path": arguments.path,
            "format": format,
            "harmless": len(found) == counts["harmless"],
            "totals": counts,
        }
        print(document(SCHEMA, fields, globals=(row._asdict() for row in found)))
    else:
        print("\n".join(_text(f"{printable(arguments.path)}: {format}", found, counts)))
    return 0 if len(found) == counts["harmless"] else FOUND


def _text(title: str, found: list[PickledGlobal], counts: dict[str, int]) -> list[str]:
    paint = painter()
    rows = sorted(found, key=lambda row: VERDICTS.index(row.verdict))
    cells = [(printable(f"{row.module}.{row.name}"), row.verdict, row.reason) for row in rows]
    listed = [*layout(COLUMNS, cells, paint, limit=terminal_width()), ""] if rows else []
    sums = ", ".join(f"{count:,} {verdict}" for verdict, count in counts.items() if count)
    return [*listed, *prose(f"{title}, {counted(len(found), 'global')}{f': {sums}' if sums else ''}", paint, "bold")]
