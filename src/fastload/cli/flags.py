"""The arguments that several verbs have, each said once, so that it is and means the same everywhere."""

from __future__ import annotations

import argparse
import errno
import os
from typing import Any

from fastload import opening
from fastload.checkpoint import Checkpoint
from fastload.cli import plan_flags

__all__ = [
    "ANY_CHECKPOINT",
    "add_comparison",
    "add_json",
    "add_member",
    "add_output",
    "add_overwrite",
    "add_sort",
    "add_source",
    "add_threads",
    "check_target",
    "count",
    "open_source",
]

MAX_COUNT = 1000  # of threads or rounds; more would be a typing error
ANY_CHECKPOINT = "a checkpoint: a file, a folder, an index of shards"


def add_source(parser: argparse.ArgumentParser, *, plan: bool = False, metavar: str = "SOURCE") -> None:
    """Declare the checkpoint that is read, and the flags that say what of it is seen."""
    parser.add_argument("path", metavar=metavar, help=ANY_CHECKPOINT)
    add_member(parser)
    if plan:
        plan_flags.add_arguments(parser)


def add_member(parser: argparse.ArgumentParser) -> None:
    """Declare the flag for what lies in the file that is read."""
    parser.add_argument(
        "--member", metavar="NAME", help="what to open of an archive or executable: a file or folder in it"
    )


def open_source(arguments: argparse.Namespace) -> Checkpoint:
    """The checkpoint that `add_source` has declared, after the steps of its plan."""
    plan: dict[str, Any] = plan_flags.plan_of(arguments) if hasattr(arguments, "subtree") else {}
    if arguments.member is not None:
        plan["member"] = arguments.member
    return opening.open(arguments.path, **plan)


def add_json(parser: argparse.ArgumentParser, schema: str) -> None:
    """Declare the flag for programs."""
    parser.add_argument("--json", action="store_true", help=f"print one JSON object: schema {schema}, sizes in bytes")


def add_comparison(parser: argparse.ArgumentParser) -> None:
    """Declare how two checkpoints are compared."""
    parser.add_argument("--no-values", action="store_true", help="compare names, shapes and dtypes alone")
    parser.add_argument("--both", action="store_true", help="do the steps of the plan to the second as well")


def add_sort(parser: argparse.ArgumentParser, orders: list[str]) -> None:
    """Declare the flag for the order of what is listed."""
    parser.add_argument(
        "--sort", choices=orders, help="instead of the file's order; sizes and statistics: the largest first"
    )


def add_output(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """Declare the flag for what is written, where a verb reads more than one file or need not write."""
    parser.add_argument("-o", "--output", metavar="DESTINATION", required=required, help="the file to write")


def add_overwrite(parser: argparse.ArgumentParser) -> None:
    """Declare the flag without which no file is replaced."""
    parser.add_argument("--overwrite", action="store_true", help="replace what is there")


def add_threads(parser: argparse.ArgumentParser) -> None:
    """Declare the flag for how many threads work."""
    parser.add_argument("--threads", metavar="N", type=count, help="how many may work; else as many as suit")


def check_target(path: str, overwrite: bool, opened: Checkpoint, given: str) -> None:
    """Raise where a file cannot be, or would take the place of one that is looked at; before the minutes of looking."""
    os.stat(os.path.dirname(path) or ".")
    if not os.path.exists(path):
        return
    from fastload.atomic import already_there
    from fastload.sums import files_of

    if not overwrite:
        raise already_there(path)

    for source in (given, *files_of(opened).values()):
        if os.path.exists(source) and os.path.samefile(path, source):
            raise FileExistsError(errno.EEXIST, "is of the checkpoint itself: give another name", path)


def count(text: str) -> int:
    """A number from 1 on, as argparse asks for it."""
    if not text.isascii() or not text.isdecimal() or not 1 <= int(text[:5]) <= MAX_COUNT:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to {MAX_COUNT}")
    return int(text)
