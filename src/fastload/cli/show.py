"""`fastload show`: all there is to know about one tensor, and the statistics of its values."""

from __future__ import annotations

import argparse
from typing import Any

from fastload.cli import flags
from fastload.cli.document import document, in_parts, jsonable
from fastload.cli.table import Column, counted, human_size, layout, number, painter, terminal_width
from fastload.entry import TensorEntry
from fastload.errors import LimitError, UnsupportedError, printable
from fastload.statistics import Statistics, first_values, statistics

ABOUT = """\
Show one tensor: where it lies and how, who shares its bytes, and the statistics of its
values, of which min, max, mean and std are those of the finite ones. Reads its data piece
by piece. Of a tensor that has no data (meta) or no numbers, the facts are all; of a
quantised one, the values are the integers in the file.
Exit status: 0 fine, 2 wrong usage, or no such tensor in it, 3 bad or unreadable file."""
EXAMPLE = "fastload show model.safetensors encoder.weight"

SCHEMA = "fastload.show/1"
MAX_SHARERS = 5  # that are named as text


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `show`."""
    flags.add_source(parser)
    parser.add_argument("name", metavar="NAME", help="the name of a tensor, as ls lists it")
    flags.add_threads(parser)
    flags.add_json(parser, SCHEMA)


def run(arguments: argparse.Namespace) -> int:
    """Show a tensor."""
    with flags.open_source(arguments) as opened:
        entry = opened.entry(arguments.name)
        sharers = [
            other.name
            for other in opened.entries()
            if entry.storage is not None
            and (other.storage, other.file) == (entry.storage, entry.file)
            and other.name != entry.name
        ]
        try:
            found, why_not = statistics(opened, arguments.name, arguments.threads), None
            first = first_values(opened[arguments.name], entry)
        except (UnsupportedError, LimitError) as error:  # its facts can be told all the same
            found, first, why_not = None, [], error.message
        if arguments.json:
            print(_json(arguments.path, opened.format, entry, sharers, found, first, why_not))
        else:
            print("\n".join(_text(entry, sharers, found, first, why_not)))
    return 0


def _text(
    entry: TensorEntry, sharers: list[str], found: Statistics | None, first: list[Any], why_not: str | None
) -> list[str]:
    rows: list[tuple[str, str]] = [
        ("name", printable(entry.name)),
        ("key path", printable(repr(entry.key_path))),
        ("kind", entry.kind),
        ("dtype", entry.dtype),
        ("shape", str(entry.shape)),
        ("strides", f"{entry.strides} bytes" if entry.strides is not None else "none"),
        ("size", f"{entry.nbytes:,} bytes" + (f", {human_size(entry.nbytes)}" if entry.nbytes >= 1024 else "")),
        ("offset", f"{entry.offset:,} ({entry.offset:#x})" if entry.offset is not None else "none"),
        ("file", printable(entry.file) if entry.file is not None else ""),
        ("storage", f"{entry.storage}, {entry.storage_nbytes:,} bytes" if entry.storage is not None else "none"),
        ("shared with", _names(sharers)),
        ("zero copy", "yes" if entry.zero_copy else "no"),
        ("quantization", printable(str(jsonable(_plain(entry.quantization)))) if entry.quantization else ""),
    ]
    if found is not None:
        rows += [(key, number(value)) for key, value in found._asdict().items()]
        rows.append(("first values", ", ".join(map(number, first)) or "none"))
    if why_not is not None:
        rows.append(("statistics", f"none: {printable(why_not)}"))
    columns = (Column("", style="cyan"), Column("", gives="lines"))
    return layout(columns, [row for row in rows if row[1]], painter(), titles=False, limit=terminal_width())


def _names(sharers: list[str]) -> str:
    more = len(sharers) - MAX_SHARERS
    shown = [printable(name) for name in sharers[:MAX_SHARERS]]
    return ", ".join([*shown, counted(more, "other")] if more > 0 else shown)


def _plain(quantization: Any) -> Any:
    """What an entry says of its quantisation, as a mapping where it has named fields."""
    return quantization._asdict() if hasattr(quantization, "_asdict") else quantization


def _json(
    path: str,
    format: str,
    entry: TensorEntry,
    sharers: list[str],
    found: Statistics | None,
    first: list[Any],
    why_not: str | None,
) -> str:
    fields = {
        "path": path,
        "format": format,
        "name": entry.name,
        "key_path": entry.key_path,
        "kind": entry.kind,
        "dtype": entry.dtype,
        "shape": entry.shape,
        "strides": entry.strides,
        "nbytes": entry.nbytes,
        "offset": entry.offset,
        "file": entry.file,
        "storage": entry.storage,
        "storage_nbytes": entry.storage_nbytes,
        "shared_with": sharers,
        "zero_copy": entry.zero_copy,
        "quantization": jsonable(_plain(entry.quantization)),
        "statistics": jsonable(in_parts({**found._asdict(), "first": first})) if found is not None else None,
        "no_statistics": why_not,
    }
    return document(SCHEMA, fields)
