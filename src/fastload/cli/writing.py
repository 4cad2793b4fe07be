"""What the verbs that write have in common: their flags, and what they say of a file that is or would be written."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable
from typing import Any

from fastload.atomic import already_there
from fastload.cli import flags, plan_flags
from fastload.cli.document import document
from fastload.cli.error_line import error_line
from fastload.cli.progress import progress
from fastload.cli.table import NAME_WIDTH, Column, counted, human_size, layout, painter, terminal_width
from fastload.converting import watched
from fastload.errors import UnsupportedError, printable
from fastload.formats.writing import Outgoing
from fastload.saving import WRITERS, Draft, least_size, writer_of

__all__ = ["add_arguments", "add_format", "check_format", "list_tensors", "say_lost", "sum_up", "write"]

COLUMNS = (
    Column("name", gives="middle", least=NAME_WIDTH),
    Column("dtype", style="cyan", leave=1),
    Column("shape", gives="middle", leave=2),
    Column("size", right=True, style="green"),
)


def add_arguments(parser: argparse.ArgumentParser, schema: str) -> None:
    """Declare the flags of a verb that writes."""
    flags.add_json(parser, schema)
    flags.add_overwrite(parser)
    parser.add_argument("--lossy", action="store_true", help="write even what the format cannot keep all of")
    parser.add_argument("--dry-run", action="store_true", help="check everything, say what would be written, and stop")
    plan_flags.add_arguments(parser)


def add_format(parser: argparse.ArgumentParser) -> None:
    """Declare the flag that names the format to write."""
    names = [writer.name for writer in WRITERS]
    parser.add_argument("--format", choices=names, help="instead of what the suffix tells")


def check_format(destination: str, arguments: argparse.Namespace) -> None:
    """Refuse a destination whose suffix tells no format, where nothing else does."""
    try:
        writer_of(destination, arguments.format)
    except UnsupportedError as error:
        arguments.parser.error(error_line(error, arguments.parser))


def write(made: Draft, what: str, arguments: argparse.Namespace, schema: str) -> int:
    """Write a draft, or say what it would be, and return the exit status."""
    name, count = made.writer.name, len(made.tensors)
    if arguments.dry_run:
        if os.path.exists(made.path) and not arguments.overwrite:
            raise already_there(made.path)
        nbytes = least_size(made.tensors, made.writer)
        if not arguments.json:
            list_tensors(made.tensors)
    else:
        with progress(what) as report:
            nbytes = watched(made, report).write(overwrite=arguments.overwrite).nbytes
    if arguments.json:
        fields = {"path": made.path, "format": name, **sum_up(count, nbytes, made.lost, arguments)}
        print(document(schema, fields, tensors=map(_description, made.tensors)))
    else:
        done = "would write" if arguments.dry_run else "wrote"
        print(f"{done} {printable(made.path)}: {name}, {counted(count, 'tensor')}, {human_size(nbytes)}")
    say_lost(made.lost)
    return 0


def list_tensors(tensors: Iterable[Outgoing]) -> None:
    """Print what would be in a file."""
    cells = [
        (printable(tensor.name), tensor.dtype, str(tensor.shape), human_size(tensor.nbytes)) for tensor in tensors
    ]  # fmt: skip
    if cells:
        print("\n".join([*layout(COLUMNS, cells, painter(), limit=terminal_width()), ""]))


def say_lost(lost: Iterable[str]) -> None:
    """Say on standard error what a file does not keep."""
    for line in lost:
        print(f"fastload: lost {printable(line)}", file=sys.stderr)


def sum_up(tensors: int, nbytes: int, lost: Iterable[str], arguments: argparse.Namespace) -> dict[str, Any]:
    """What JSON says of all that is or would be written."""
    return {
        "written": not arguments.dry_run,
        "totals": {"tensors": tensors, "nbytes": nbytes},
        "lost": list(lost),
    }


def _description(tensor: Outgoing) -> dict[str, Any]:
    return {"name": tensor.name, "dtype": tensor.dtype, "shape": tensor.shape, "nbytes": tensor.nbytes}
