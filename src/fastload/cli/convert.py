"""`fastload convert`: a checkpoint as a file of another format, with the steps of a plan on the way."""

from __future__ import annotations

import argparse

from fastload.cli import flags, plan_flags, writing
from fastload.converting import draft_conversion

ABOUT = """\
Write a checkpoint as a file whose suffix tells the format: safetensors, pt, bpk, npz, npy.
It is streamed, and DESTINATION holds the old file or the new one at every moment. What the
format cannot keep is told before anything is written, and refused without --lossy.
Exit status: 0 fine, 2 wrong usage, or what is written is there already, 3 bad or unreadable
file, or one that cannot be written."""
EXAMPLE = "fastload convert model.pt model.safetensors --cast bfloat16"

SCHEMA = "fastload.convert/1"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `convert`."""
    flags.add_source(parser)
    parser.add_argument("destination", metavar="DESTINATION", help="the file to write")
    writing.add_format(parser)
    writing.add_arguments(parser, SCHEMA)


def run(arguments: argparse.Namespace) -> int:
    """Convert a checkpoint."""
    writing.check_format(arguments.destination, arguments)
    made = draft_conversion(
        arguments.path,
        arguments.destination,
        format=arguments.format,
        lossy=arguments.lossy,
        member=arguments.member,
        **plan_flags.plan_of(arguments),
    )
    return writing.write(made, "converting", arguments, SCHEMA)
