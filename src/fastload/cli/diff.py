"""`fastload diff`: in what two checkpoints differ: names, shapes, dtypes, then values."""

from __future__ import annotations

import argparse
from contextlib import nullcontext
from typing import Any

from fastload import opening
from fastload.cli import flags, plan_flags
from fastload.cli.document import document, jsonable
from fastload.cli.progress import progress
from fastload.cli.table import Column, counted, layout, painter, prose, terminal_width
from fastload.comparing import Finding, findings
from fastload.differences import Differences
from fastload.entry import TensorEntry
from fastload.errors import printable

ABOUT = """\
Compare the tensors of two checkpoints, of any formats: names, shapes and dtypes, then the
values of those that agree in shape, piece by piece. Values are equal as numbers: NaN is
NaN, and -0 is 0. Order, metadata and shared memory do not count. The steps of a plan are
done to A, so that it is compared as what a conversion would make of it; with --both to B
as well. --member is of A.
Exit status: 0 equal, 1 they differ, 2 wrong usage, 3 bad or unreadable file."""
EXAMPLE = "fastload diff model.pt model.safetensors --cast bfloat16"

SCHEMA = "fastload.diff/1"
GONE, CHANGED, NEW = "-", "~", "+"
COLUMNS = (
    Column("", styles={GONE: "red", CHANGED: "yellow", NEW: "green"}),
    Column("", gives="middle"),
    Column("", gives="lines"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `diff`."""
    flags.add_source(parser, plan=True, metavar="A")
    parser.add_argument("other", metavar="B", help="another")
    flags.add_json(parser, SCHEMA)
    flags.add_comparison(parser)


def run(arguments: argparse.Namespace) -> int:
    """Compare two checkpoints."""
    plan = plan_flags.plan_of(arguments)
    a = flags.open_source(arguments)
    b = opening.open(arguments.other, **(plan if arguments.both else {}))
    with a, b, nullcontext(None) if arguments.no_values else progress("comparing") as report:
        found = list(findings(a, b, report, values=not arguments.no_values))
        common = len(a.keys() & b.keys())
    if arguments.json:
        fields = {"a": arguments.path, "b": arguments.other, "equal": not found, "common": common}
        print(document(SCHEMA, fields, differences=map(_description, found)))
    else:
        print("\n".join(_text(found, common)))
    return 1 if found else 0


def _text(found: list[Finding], common: int) -> list[str]:
    paint, total = painter(), counted(common, "tensor")
    if not found:
        return prose(f"equal: {total}", paint, "bold")
    listed = layout(COLUMNS, map(_cells, found), paint, titles=False, limit=terminal_width())
    return [*listed, "", *prose(f"{total} in both, {counted(len(found), 'difference')}", paint, "bold")]


def _cells(finding: Finding) -> tuple[str, str, str]:
    name, a, b = printable(finding.name), finding.a, finding.b
    if b is None:
        return GONE, name, _facts(a)
    if a is None:
        return NEW, name, _facts(b)
    parts = []
    if finding.what in ("shape", "dtype"):
        parts.append(f"{_facts(a)} → {_facts(b)}")
    values = finding.values
    if values is not None and values.differing:
        parts.append(f"{values.differing:,} of {values.elements:,} differ{_extent(values)}")
    elif values is not None and finding.what == "dtype":
        parts.append("equal values")
    if finding.why is not None:
        parts.append(f"values not compared: {printable(finding.why)}")
    return CHANGED, name, ", ".join(parts)


def _extent(values: Differences) -> str:
    if values.max_abs is None:
        return ""
    return f", by at most {values.max_abs:.6g}, {values.max_rel:.6g} of the larger"


def _facts(entry: TensorEntry | None) -> str:
    return "" if entry is None else f"{entry.dtype} {entry.shape}"


def _description(finding: Finding) -> dict[str, Any]:
    sides = {
        side: None if entry is None else {"dtype": entry.dtype, "shape": entry.shape}
        for side, entry in (("a", finding.a), ("b", finding.b))
    }
    return {
        "name": finding.name,
        "what": finding.what,
        **sides,
        "values": jsonable(finding.values._asdict()) if finding.values is not None else None,
        "why": finding.why,
    }
