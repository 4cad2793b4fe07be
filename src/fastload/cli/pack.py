"""`fastload pack`: a folder as a zip archive that Python runs, and whose models are mapped in place."""

from __future__ import annotations

import argparse
import os
import sys

from fastload.cli import flags
from fastload.cli.document import document
from fastload.cli.progress import progress
from fastload.cli.table import counted, human_size
from fastload.errors import printable
from fastload.packing import MAIN, check_main, pack

ABOUT = """\
Pack a folder into a zip archive that Python runs and imports from (.pyz), with every file
stored and aligned to 64 bytes, so that fastload.open_resource and open(…, member=…) map
models in place. The same files make the same archive; __pycache__ is left out.
Exit status: 0 fine, 2 wrong usage, or what is written is there already, 3 bad or unreadable
file, or one that cannot be written."""
EXAMPLE = "fastload pack app -o app.pyz --main app.cli:main --python '/usr/bin/env python3'"

SCHEMA = "fastload.pack/1"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `pack`."""
    parser.add_argument("path", metavar="FOLDER", help="what is in it comes to the top of the archive")
    flags.add_output(parser)
    parser.add_argument("--main", metavar="PKG:FUNC", help="what running the archive calls, if there is no __main__.py")
    parser.add_argument("--python", metavar="COMMAND", help="the interpreter to run it with; makes it executable")
    flags.add_overwrite(parser)
    flags.add_json(parser, SCHEMA)


def run(arguments: argparse.Namespace) -> int:
    """Pack a folder."""
    if arguments.main is not None:
        try:
            check_main(arguments.main)
        except ValueError as error:
            arguments.parser.error(str(error))
    _check_main(arguments)
    options = {"main": arguments.main, "python": arguments.python, "overwrite": arguments.overwrite}
    with progress("packing") as report:
        made = pack(arguments.path, arguments.output, **options, progress=report)
    if arguments.json:
        print(document(SCHEMA, made._asdict()))
    else:
        print(f"wrote {printable(made.path)}: {counted(made.files, 'file')}, {human_size(made.nbytes)}")
    for name in made.not_importable:
        print(f"fastload: {printable(name)} cannot be imported out of an archive: install it beside", file=sys.stderr)
    return 0


def _check_main(arguments: argparse.Namespace) -> None:
    """Refuse a program with nothing to run, or with two beginnings; `pack` does, too, of folders that change."""
    has_main = os.path.isfile(os.path.join(arguments.path, MAIN))
    is_program = arguments.python is not None or arguments.output.endswith(".pyz")
    if has_main and arguments.main is not None:
        arguments.parser.error(f"FOLDER has a {MAIN}, which --main would replace: leave one of them out")
    if is_program and os.path.isdir(arguments.path) and not has_main and arguments.main is None:
        arguments.parser.error(f"FOLDER has no {MAIN}, so that there is nothing to run: give --main PKG:FUNC")
