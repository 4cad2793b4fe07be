"""`fastload diff`: in what two checkpoints differ: names, shapes, dtypes, then values."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any, NamedTuple

from fastload import opening
from fastload.checkpoint import Checkpoint
from fastload.cli import flags, plan_flags
from fastload.cli.differences import Differences, differences
from fastload.cli.document import document, jsonable
from fastload.cli.progress import Report, progress
from fastload.cli.table import counted
from fastload.dtypes import CODES
from fastload.entry import TensorEntry
from fastload.errors import LimitError, UnsupportedError, printable
from fastload.outgoing import of_tensor
from fastload.statistics import MAX_OVERLAP, PACKED

ABOUT = """\
Compare the tensors of two checkpoints, of any formats: names, shapes and dtypes, then the
values of those that agree in shape, piece by piece. Values are equal as numbers: NaN is
NaN, and -0 is 0. Order, metadata and shared memory do not count. The steps of a plan are
done to A, so that it is compared as what a conversion would make of it; with --both to B
as well.
Exit status: 0 equal, 1 they differ, 2 wrong usage, 3 bad or unreadable file."""
EXAMPLE = "fastload diff model.pt model.safetensors --cast bfloat16"

SCHEMA = "fastload.diff/1"


class Finding(NamedTuple):
    """One tensor in which two checkpoints differ.

    Attributes
    ----------
    name : str
        Its name in both.
    what : str
        "only in a", "only in b", "shape", "dtype", "values", or "not compared".
    a, b : TensorEntry or None
        What it is there.
    values : Differences or None
        How its values differ, where they can be compared.
    why : str or None
        Why they cannot.
    """

    name: str
    what: str
    a: TensorEntry | None
    b: TensorEntry | None
    values: Differences | None = None
    why: str | None = None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `diff`."""
    parser.add_argument("path", metavar="A", help=flags.ANY_CHECKPOINT)
    parser.add_argument("other", metavar="B", help="another")
    flags.add_json(parser, SCHEMA)
    parser.add_argument("--no-values", action="store_true", help="compare names, shapes and dtypes alone")
    parser.add_argument("--both", action="store_true", help="do the steps of the plan to B as well")
    plan_flags.add_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Compare two checkpoints."""
    plan = plan_flags.plan_of(arguments)
    a = opening.open(arguments.path, **plan)
    b = opening.open(arguments.other, **(plan if arguments.both else {}))
    with a, b, nullcontext(None) if arguments.no_values else progress("comparing") as report:
        found = list(_findings(a, b, report, values=not arguments.no_values))
        common = len(a.keys() & b.keys())
    if arguments.json:
        fields = {"a": arguments.path, "b": arguments.other, "equal": not found, "common": common}
        print(document(SCHEMA, fields, differences=map(_description, found)))
    else:
        for finding in found:
            print(_line(finding))
        total = counted(common, "tensor")
        print(f"{total} in both, {counted(len(found), 'difference')}" if found else f"equal: {total}")
    return 1 if found else 0


def _findings(a: Checkpoint, b: Checkpoint, report: Report | None, *, values: bool) -> Iterator[Finding]:
    """What differs, in the order of A, and then what B alone has."""
    others = {entry.name: entry for entry in b.entries()}
    entries = a.entries()
    total = sum(entry.nbytes for entry in entries)
    done = 0
    for entry in entries:
        other = others.pop(entry.name, None)
        finding = _compared(a, b, entry, other, values=values)
        if finding is not None:
            yield finding
        done += entry.nbytes
        if report is not None:
            report(done, total)
    for other in others.values():
        yield Finding(other.name, "only in b", None, other)


def _compared(
    a: Checkpoint, b: Checkpoint, entry: TensorEntry, other: TensorEntry | None, *, values: bool
) -> Finding | None:
    name = entry.name
    if other is None:
        return Finding(name, "only in a", entry, None)
    if entry.shape != other.shape:
        return Finding(name, "shape", entry, other)
    is_same = entry.dtype == other.dtype
    if not values or (entry.kind == other.kind == "meta"):
        return None if is_same else Finding(name, "dtype", entry, other)
    why = _why_not(entry, other)
    try:
        found = _values(a, b, name) if why is None else None
    except (UnsupportedError, LimitError) as error:
        found, why = None, error.message
    if not is_same:
        return Finding(name, "dtype", entry, other, found, why)
    if found is None:
        return Finding(name, "not compared", entry, other, None, why)
    return Finding(name, "values", entry, other, found) if found.differing else None


def _why_not(entry: TensorEntry, other: TensorEntry) -> str | None:
    """Why the values of two tensors cannot be compared."""
    for one in (entry, other):
        if one.kind == "meta":
            return "one has no data"
        if one.dtype not in CODES:
            return f"elements of {one.dtype} are no numbers"
        if one.dtype != other.dtype and one.dtype.startswith(PACKED):
            return f"elements of {one.dtype} are packed into bytes"
        if one.storage is not None and one.nbytes > MAX_OVERLAP * max(one.storage_nbytes, 1):
            return "it repeats its storage too often to be gone through"
    return None if other.dtype == entry.dtype or not other.dtype.startswith(PACKED) else "one is packed into bytes"


def _values(a: Checkpoint, b: Checkpoint, name: str) -> Differences:
    return differences(of_tensor(a, name), of_tensor(b, name))


def _line(finding: Finding) -> str:
    name, a, b = printable(finding.name), finding.a, finding.b
    if b is None:
        return f"- {name}: {_facts(a)}"
    if a is None:
        return f"+ {name}: {_facts(b)}"
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
    return f"~ {name}: {', '.join(parts)}"


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
