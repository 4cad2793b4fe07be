"""`fastload doctor`: how fastload fares on this machine, and with a file."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any

from fastload.cli import flags
from fastload.cli.document import document
from fastload.cli.table import Column, Paint, counted, human_size, layout, painter, terminal_width
from fastload.doctor import Fact, examine
from fastload.errors import printable

ABOUT = """\
Say how fastload fares here: whether its native core does what it should, which vectors of the
processor it uses, the page size, and the packages beside it. Of a file or folder also the file
system, in which way that is read, and how the tensors are aligned.
Exit status: 0 fine, 1 something is wrong, 2 wrong usage, 3 bad or unreadable file."""
EXAMPLE = "fastload doctor model.safetensors"

SCHEMA = "fastload.doctor/1"
FOUND = 1
BYTES = ("memory", "free memory", "page size", "free room", "bytes of tensors")
SHARES = ("share in the page cache",)
COLUMNS = (Column("", gives="lines"), Column("", gives="lines"))
INDENT = "  "


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `doctor`."""
    parser.add_argument("path", metavar="PATH", nargs="?", help="a checkpoint, or any folder")
    flags.add_member(parser)
    flags.add_json(parser, SCHEMA)


def run(arguments: argparse.Namespace) -> int:
    """Look at everything."""
    if arguments.member is not None and arguments.path is None:
        arguments.parser.error("--member goes with PATH")
    facts = examine(arguments.path, arguments.member)
    wrong = [fact for fact in facts if fact.state == "wrong"]
    if arguments.json:
        fields = {"path": arguments.path, "ok": not wrong}
        print(document(SCHEMA, fields, facts=(fact._asdict() for fact in facts)))
    else:
        print("\n".join(_text(facts, painter())))
        print(f"{counted(len(wrong), 'thing')} wrong" if wrong else "ok")
    return FOUND if wrong else 0


def _text(facts: Iterable[Fact], paint: Paint) -> Iterator[str]:
    for section, found in groupby(facts, key=lambda fact: fact.section):
        yield paint(section, "bold")
        limit = terminal_width()
        lines = layout(
            COLUMNS,
            [(fact.name, _told(fact)) for fact in found],
            paint,
            titles=False,
            limit=None if limit is None else limit - len(INDENT),
        )
        yield from (f"{INDENT}{line}" for line in lines)
        yield ""


def _told(fact: Fact) -> str:
    shown = _shown(fact)
    return shown if fact.state == "fine" else f"{shown} ({fact.state}: {printable(fact.advice or '')})"


def _shown(fact: Fact) -> str:
    value: Any = fact.value
    if value is None:
        return "none" if fact.section == "packages" else "unknown"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if fact.name in BYTES:
        return human_size(value)
    if fact.name in SHARES:
        return f"{100 * value:.0f} %"
    return f"{value:,}" if isinstance(value, int) else printable(str(value))
