"""`fastload merge`: several checkpoints as one file."""

from __future__ import annotations

import argparse

from fastload.cli import flags, plan_flags, writing
from fastload.converting import draft_merge

ABOUT = """\
Write the tensors of several checkpoints as one file, in their order. A name that two of
them have is an error that names both, unless --prefer says which counts. --member is of
each of them, and the steps of a plan are done to each.
Exit status: 0 fine, 2 wrong usage, or what is written is there already, 3 bad or unreadable
file, or one that cannot be written."""
EXAMPLE = "fastload merge encoder.pt decoder.pt -o model.safetensors"

SCHEMA = "fastload.merge/1"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `merge`."""
    parser.add_argument("sources", metavar="SOURCE", nargs="+", help=flags.ANY_CHECKPOINT)
    flags.add_member(parser)
    flags.add_output(parser)
    parser.add_argument("--prefer", choices=["first", "last"], help="which counts of two tensors of one name")
    writing.add_format(parser)
    writing.add_arguments(parser, SCHEMA)


def run(arguments: argparse.Namespace) -> int:
    """Merge checkpoints."""
    writing.check_format(arguments.output, arguments)
    made = draft_merge(
        arguments.sources,
        arguments.output,
        prefer=arguments.prefer,
        format=arguments.format,
        lossy=arguments.lossy,
        member=arguments.member,
        **plan_flags.plan_of(arguments),
    )
    return writing.write(made, "merging", arguments, SCHEMA)
