"""`fastload embed`: a model inside a program, as a section of an executable or as the data of a C extension."""

from __future__ import annotations

import argparse

from fastload.cli import flags
from fastload.cli.document import document
from fastload.cli.progress import progress
from fastload.cli.table import human_size
from fastload.csource import module_name
from fastload.elf import check_name
from fastload.embed import embed_c, embed_into, remove_embedded
from fastload.errors import printable

ABOUT = """\
Put a model into a program, from where it is mapped and never unpacked.
--into EXECUTABLE adds a section to a finished 64-bit ELF program, which PyInstaller may
have made, also as one file; fastload.open_embedded(NAME) opens it in that program. The
program itself is not changed, and is whole at every moment.
--c writes the C source of an extension module (-o _weights.c), whose _weights.data
fastload.open views; --build compiles it, too. --output and --overwrite go with it.
Exit status: 0 fine, 2 wrong usage, or what is written is there already, 3 bad or unreadable
file, or one that cannot be written."""
EXAMPLE = "fastload embed model.safetensors --into dist/app"

SCHEMA = "fastload.embed/1"
NAME = "weights"
SOURCE = "_weights.c"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `embed`."""
    parser.add_argument("path", metavar="MODEL", nargs="?", help="a checkpoint of one file")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--into", metavar="EXECUTABLE", help="the program to put it into")
    where.add_argument("--c", action="store_true", help="write the C source of an extension module")
    parser.add_argument("--name", help="with --into: what open_embedded asks for (weights)")
    parser.add_argument("--remove", action="store_true", help="with --into: take the model of that name out again")
    flags.add_output(parser, required=False)
    parser.add_argument("--build", action="store_true", help="with --c: compile it, too, beside the source")
    flags.add_overwrite(parser)
    flags.add_json(parser, SCHEMA)


def run(arguments: argparse.Namespace) -> int:
    """Embed a model, or take one out."""
    _check(arguments)
    if arguments.remove:
        name = arguments.name or NAME
        remove_embedded(arguments.into, name)
        if arguments.json:
            print(document(SCHEMA, {"path": arguments.into, "name": name, "removed": True, "nbytes": None}))
        else:
            print(f"removed {printable(name)} from {printable(arguments.into)}")
        return 0
    if arguments.c:
        made = embed_c(arguments.path, arguments.output or SOURCE, build=arguments.build, overwrite=arguments.overwrite)
        hint = f"fastload.open({made.name}.data)"
    else:
        with progress("embedding") as report:
            made = embed_into(arguments.path, arguments.into, arguments.name or NAME, progress=report)
        hint = f'fastload.open_embedded("{made.name}")'
    if arguments.json:
        fields = {"path": made.path, "name": made.name, "removed": False, "nbytes": made.nbytes}
        print(document(SCHEMA, fields))
    else:
        print(f"wrote {printable(made.path)}: {human_size(made.nbytes)}, opened by {hint}")
    return 0


def _check(arguments: argparse.Namespace) -> None:
    """Refuse flags that do not go together."""
    c_flags, into_flags = (arguments.output, arguments.build, arguments.overwrite), (arguments.name, arguments.remove)
    if arguments.c and any(into_flags):
        arguments.parser.error("--name and --remove go with --into")
    if arguments.into is not None and any(c_flags):
        arguments.parser.error("-o, --build and --overwrite go with --c")
    if arguments.remove == (arguments.path is not None):
        arguments.parser.error("--remove takes no MODEL" if arguments.remove else "MODEL is missing")
    try:
        if arguments.c:
            module_name(arguments.output or SOURCE)
        else:
            check_name(arguments.name or NAME)
    except ValueError as error:
        arguments.parser.error(str(error))
