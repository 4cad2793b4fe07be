"""`fastload ls`: the tensors of a checkpoint, for a person or as JSON."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from fastload.checkpoint import Checkpoint
from fastload.cli import flags, rows, totals
from fastload.cli.document import document, jsonable
from fastload.cli.table import NAME_WIDTH, Column, Paint, counted, human_size, layout, painter, prose, terminal_width
from fastload.entry import TensorEntry
from fastload.errors import printable
from fastload.planned import Explanation

ABOUT = """\
List the tensors in a checkpoint: name, dtype, shape, size, and their totals.
A last column names what is no ordinary tensor (parameter, buffer, storage, meta: no
data), and says copy where an array cannot be a view of the file. Reads no tensor data.
Names too long for a terminal lose their middle there, and nowhere else.
With flags of a plan, lists what a conversion with them would write; --explain says how each
tensor came to be so, and which were left out by what.
Exit status: 0 fine, 2 wrong usage, 3 bad or unreadable file."""
EXAMPLE = "fastload ls --collapse --sort size model.safetensors"

COLUMNS = (
    Column("name", gives="middle", least=NAME_WIDTH),
    Column("dtype", style="cyan", leave=1),
    Column("shape", gives="middle", leave=3),
    Column("size", right=True, style="green"),
    Column("", style="yellow", leave=2),
)
SUM_COLUMNS = (
    Column("", style="cyan"),
    Column("", right=True),
    Column("", right=True, leave=1),
    Column("", right=True, style="green"),
)
INDENT = "  "
SCHEMA = "fastload.ls/1"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `ls`."""
    flags.add_json(parser, SCHEMA)
    flags.add_sort(parser, list(rows.SORTS))
    parser.add_argument(
        "--collapse", action="store_true", help="one row, and one size, for all layers: layers.{0..31}.weight × 32"
    )
    parser.add_argument(
        "--explain", action="store_true", help="how each tensor came to be what it is, after each step of the plan"
    )
    flags.add_source(parser, plan=True)


def run(arguments: argparse.Namespace) -> int:
    """List a checkpoint."""
    with flags.open_source(arguments) as opened:
        entries = opened.entries()
        if arguments.json:
            print(_json(arguments, opened, entries))
        elif arguments.explain:
            print("\n".join(map(str, opened.explain())))
        else:
            print("\n".join(_text(arguments, opened.format, entries)))
    return 0


def _rows(arguments: argparse.Namespace, entries: Sequence[TensorEntry], *, collapse: bool) -> list[rows.Row]:
    found = rows.fold(entries) if collapse else rows.single(entries)
    if arguments.sort:
        found.sort(key=rows.SORTS[arguments.sort])
    return found


def _text(arguments: argparse.Namespace, format: str, entries: Sequence[TensorEntry]) -> list[str]:
    paint = painter()
    cells = [_cells(row) for row in _rows(arguments, entries, collapse=arguments.collapse)]
    listed = [*layout(COLUMNS, cells, paint, limit=terminal_width()), ""] if cells else []
    return listed + _foot(f"{printable(arguments.path)}: {format}", entries, paint)


def _cells(row: rows.Row) -> tuple[str, ...]:
    entry = row.first
    name = printable(row.name) + (f" × {row.tensors:,}" if row.tensors > 1 else "")
    return name, entry.dtype, str(entry.shape), human_size(row.nbytes), _notes(entry)


def _notes(entry: TensorEntry) -> str:
    kind = entry.kind
    if kind == "tensor":
        return "" if entry.zero_copy else "copy"
    return kind if entry.zero_copy or kind == "meta" else f"{kind}, copy"


def _foot(title: str, entries: Sequence[TensorEntry], paint: Paint) -> list[str]:
    sums = totals.by_dtype(entries)
    total = totals.overall(sums.values())
    stored = totals.storage_nbytes(entries)
    size = human_size(total.nbytes)
    if stored != total.nbytes:
        size = f"{size} in tensors, {human_size(stored)} in storages"
    head = f"{title}, {counted(total.tensors, 'tensor')}, {counted(total.parameters, 'parameter')}, {size}"
    lines = [
        (dtype, counted(found.tensors, "tensor"), counted(found.parameters, "parameter"), human_size(found.nbytes))
        for dtype, found in sums.items()
    ]
    limit = terminal_width()
    listed = layout(SUM_COLUMNS, lines, paint, titles=False, limit=None if limit is None else limit - len(INDENT))
    return [*prose(head, paint, "bold"), *(f"{INDENT}{line}" for line in listed)]


def _json(arguments: argparse.Namespace, opened: Checkpoint, entries: Sequence[TensorEntry]) -> str:
    sums = totals.by_dtype(entries)
    fields = {
        "path": arguments.path,
        "format": opened.format,
        "metadata": jsonable(opened.metadata),
        "totals": {
            **totals.overall(sums.values())._asdict(),
            "storage_nbytes": totals.storage_nbytes(entries),
            "dtypes": {dtype: found._asdict() for dtype, found in sums.items()},
        },
    }
    lists = {"tensors": map(_description, _rows(arguments, entries, collapse=False))}
    if arguments.collapse:
        lists["rows"] = map(_row_description, _rows(arguments, entries, collapse=True))
    if arguments.explain:
        lists["explanations"] = map(_explanation, opened.explain())
    return document(SCHEMA, fields, **lists)


def _description(row: rows.Row) -> dict[str, Any]:
    entry = row.first
    return {
        "name": row.name,
        "key_path": entry.key_path,
        "dtype": entry.dtype,
        "shape": entry.shape,
        "strides": entry.strides,
        "offset": entry.offset,
        "nbytes": entry.nbytes,
        "storage": entry.storage,
        "zero_copy": entry.zero_copy,
        "kind": entry.kind,
    }


def _explanation(found: Explanation) -> dict[str, Any]:
    return {"stages": [stage._asdict() for stage in found.stages], "dropped_by": found.dropped_by}


def _row_description(row: rows.Row) -> dict[str, Any]:
    entry = row.first
    return {
        "name": row.name,
        "count": row.tensors,
        "dtype": entry.dtype,
        "shape": entry.shape,
        "nbytes": row.nbytes,
        "zero_copy": entry.zero_copy,
        "kind": entry.kind,
    }
