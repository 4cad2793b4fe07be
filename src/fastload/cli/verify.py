"""`fastload verify`: whether every structure and extent of a file is sound."""

from __future__ import annotations

import argparse
from typing import Any

from fastload import opening
from fastload.cli import totals
from fastload.cli.document import document
from fastload.cli.table import counted, human_size
from fastload.errors import FastloadError, located

ABOUT = """\
Check every structure and extent of a checkpoint, without reading tensor data: a sound
file can still hold weights made to do harm, and bits that flipped in them. Of a model that
was embedded into an executable (--member), the checksum is compared, too.
Exit status: 0 sound, 2 wrong usage, 3 bad or unreadable file, and one line that says why."""
EXAMPLE = "fastload verify model.pt"

SCHEMA = "fastload.verify/1"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `verify`."""
    parser.add_argument("path", metavar="FILE", help="a checkpoint file")
    parser.add_argument("--member", metavar="NAME", help="of a file within FILE: an archive, or an executable")
    parser.add_argument("--json", action="store_true", help=f"one JSON object, for a bad file too: schema {SCHEMA}")


def run(arguments: argparse.Namespace) -> int:
    """Check a file."""
    try:
        with opening.open(arguments.path, member=arguments.member) as opened:
            opened.verify()
            if opened.source.kind == "embedded":
                from fastload.resource import open_embedded  # few files are programs

                open_embedded(arguments.member, path=arguments.path, verify=True).close()
            format, total = opened.format, totals.overall(totals.by_dtype(opened.entries()).values())
    except (FastloadError, OSError) as error:
        if arguments.json:
            print(document(SCHEMA, _refusal(arguments.path, error)))
        raise
    if arguments.json:
        print(document(SCHEMA, {"path": arguments.path, "ok": True, "format": format, **total._asdict()}))
    else:
        print(f"ok: {counted(total.tensors, 'tensor')}, {format}, {human_size(total.nbytes)}")
    return 0


def _refusal(path: str, error: FastloadError | OSError) -> dict[str, Any]:
    known = located(error, path) if isinstance(error, FastloadError) else None
    return {
        "path": path,
        "ok": False,
        "format": known.format if known else None,
        "error": {
            "type": type(error).__name__,
            "message": known.message if known else str(error),
            "offset": known.offset if known else None,
        },
    }
