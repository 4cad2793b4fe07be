"""What the verbs that write have in common: their flags, and what they say of a file that is or would be written."""

from __future__ import annotations

import argparse
import errno
import os
import sys
from collections.abc import Iterable

from fastload.cli import plan_flags
from fastload.cli.progress import progress
from fastload.cli.table import Column, counted, human_size, layout, painter
from fastload.converting import watched
from fastload.errors import printable
from fastload.formats.writing import Outgoing
from fastload.saving import WRITERS, Draft, least_size

__all__ = ["add_arguments", "add_format", "list_tensors", "say_lost", "write"]

COLUMNS = (Column("name"), Column("dtype", style="cyan"), Column("shape"), Column("size", right=True, style="green"))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of a verb that writes."""
    parser.add_argument("--overwrite", action="store_true", help="replace what is there")
    parser.add_argument("--lossy", action="store_true", help="write even what the format cannot keep all of")
    parser.add_argument("--dry-run", action="store_true", help="check everything, say what would be written, and stop")
    plan_flags.add_arguments(parser)


def add_format(parser: argparse.ArgumentParser) -> None:
    """Declare the flag that names the format to write."""
    names = [writer.name for writer in WRITERS]
    parser.add_argument("--format", choices=names, help="instead of what the suffix tells")


def write(made: Draft, what: str, arguments: argparse.Namespace) -> int:
    """Write a draft, or say what it would be, and return the exit status."""
    if arguments.dry_run:
        if os.path.exists(made.path) and not arguments.overwrite:
            raise FileExistsError(errno.EEXIST, "is there already: give --overwrite to replace it", made.path)
        list_tensors(made.tensors)
        _say("would write", made.path, made.writer.name, len(made.tensors), least_size(made.tensors, made.writer))
    else:
        with progress(what) as report:
            done = watched(made, report).write(overwrite=arguments.overwrite)
        _say("wrote", done.path, done.format, done.tensors, done.nbytes)
    say_lost(made.lost)
    return 0


def list_tensors(tensors: Iterable[Outgoing]) -> None:
    """Print what would be in a file."""
    cells = [
        (printable(tensor.name), tensor.dtype, str(tensor.shape), human_size(tensor.nbytes)) for tensor in tensors
    ]  # fmt: skip
    if cells:
        print("\n".join([*layout(COLUMNS, cells, painter()), ""]))


def say_lost(lost: Iterable[str]) -> None:
    """Say on standard error what a file does not keep."""
    for line in lost:
        print(f"fastload: lost {printable(line)}", file=sys.stderr)


def _say(what: str, path: str, format: str, tensors: int, nbytes: int) -> None:
    print(f"{what} {printable(path)}: {format}, {counted(tensors, 'tensor')}, {human_size(nbytes)}")
