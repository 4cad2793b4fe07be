"""`fastload stats`: the statistics of the values of all tensors."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from fastload.cli import flags, rows
from fastload.cli.document import document, in_parts, jsonable
from fastload.cli.progress import progress
from fastload.cli.table import NAME_WIDTH, Column, counted, layout, number, painter, prose, terminal_width
from fastload.errors import printable
from fastload.statistics import Statistics, Surveyed, survey

ABOUT = """\
Say of each tensor the least and the greatest value, the mean, the standard deviation, and how
many values are zero, NaN and infinite. All but the counts are of the finite values; complex
numbers have a mean alone and a deviation; of a quantised tensor, the values are the integers
in the file. Tensors without data, without numbers or with packed elements are listed with the
reason. Reads the data block by block, by several threads.
With flags of a plan, the values are those that a conversion with them would write.
Exit status: 0 fine, whatever the values, 2 wrong usage, 3 bad or unreadable file."""
EXAMPLE = "fastload stats model.safetensors --include '*.weight' --sort max"

SCHEMA = "fastload.stats/1"
MEASURES = Statistics._fields
COLUMNS = (
    Column("name", gives="middle", least=NAME_WIDTH),
    Column("dtype", style="cyan", leave=7),
    Column("shape", gives="middle", leave=8),
    Column("min", right=True, leave=2),
    Column("max", right=True),
    Column("mean", right=True, leave=4),
    Column("std", right=True, leave=5),
    Column("zeros", right=True, leave=6),
    Column("NaN", right=True, style="red", leave=3),
    Column("Inf", right=True, style="red", leave=1),
    Column("", style="yellow", gives="middle", leave=9),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `stats`."""
    flags.add_json(parser, SCHEMA)
    flags.add_sort(parser, [*rows.SORTS, *MEASURES])
    parser.add_argument("--nan", action="store_true", help="list only tensors that hold NaN or infinity")
    flags.add_threads(parser)
    flags.add_source(parser, plan=True)


def run(arguments: argparse.Namespace) -> int:
    """Go through all values."""
    with flags.open_source(arguments) as opened:
        with progress("reading") as report:
            found = list(survey(opened, arguments.threads, report))
        format = opened.format
    sums = {
        "tensors": len(found),
        "measured": sum(one.error is None for one in found),
        "nans": sum(one.found.nans for one in found if one.found is not None),
        "infinities": sum(one.found.infinities for one in found if one.found is not None),
    }
    shown = [one for one in found if not arguments.nan or (one.found is not None and any(one.found[-2:]))]
    if arguments.sort:
        shown.sort(key=_order(arguments.sort))
    if arguments.json:
        fields = {"path": arguments.path, "format": format, "totals": sums}
        print(document(SCHEMA, fields, tensors=map(_description, shown)))
    else:
        paint = painter()
        if shown:
            print("\n".join([*layout(COLUMNS, map(_cells, shown), paint, limit=terminal_width()), ""]))
        head = f"{printable(arguments.path)}: {format}, {counted(sums['tensors'], 'tensor')}"
        rest = f"{sums['nans']:,} NaN, {sums['infinities']:,} infinite"
        without = sums["tensors"] - sums["measured"]
        foot = f"{head}, {rest}{f', {without:,} without statistics' if without else ''}"
        print("\n".join(prose(foot, paint, "bold")))
    return 0


def _order(by: str) -> Callable[[Surveyed], Any]:
    if by in rows.SORTS:
        order = rows.SORTS[by]
        return lambda one: order(rows.Row(one.entry.name, one.entry, 1))

    def largest_first(one: Surveyed) -> tuple[bool, Any]:
        value = getattr(one.found, by) if one.found is not None else None
        return value is None, -(abs(value) if isinstance(value, complex) else value) if value is not None else 0

    return largest_first


def _cells(one: Surveyed) -> tuple[str, ...]:
    entry = one.entry
    values = [""] * len(MEASURES) if one.found is None else [_short(value) for value in one.found]
    counts = [value if value != "0" else "" for value in values[-2:]]
    why_not = "" if one.error is None else printable(one.error.message)
    return printable(entry.name), entry.dtype, str(entry.shape), *values[:-2], *counts, why_not


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, (float, complex)) else number(value)


def _description(one: Surveyed) -> dict[str, Any]:
    return {
        "name": one.entry.name,
        "dtype": one.entry.dtype,
        "shape": one.entry.shape,
        "statistics": jsonable(in_parts(one.found._asdict())) if one.found is not None else None,
        "no_statistics": None if one.error is None else one.error.message,
    }
