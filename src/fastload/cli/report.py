"""`fastload report`: a checkpoint, or the difference of two, as a page to look at in a browser."""

from __future__ import annotations

import argparse
import os
from typing import Any

from fastload import __version__, html, opening
from fastload.atomic import publish
from fastload.checkpoint import Checkpoint
from fastload.cli import flags, plan_flags
from fastload.cli.document import document, jsonable
from fastload.cli.progress import progress
from fastload.cli.table import counted, human_size
from fastload.comparing import findings
from fastload.errors import LimitError, UnsupportedError, printable
from fastload.histograms import BINS, SAMPLE_BYTES, Histogram, largest

DEFAULT_HISTOGRAMS = 512
MAX_HISTOGRAMS = 100_000  # each adds half a kilobyte to the page

ABOUT = f"""\
Write a page to look at in a browser: where the bytes are, the tree of names or modules, a
table of all tensors to search and sort, and how the values of the largest ones spread; of
two checkpoints, also in what they differ. The page is one file that needs no network, and
names in the checkpoint are text in it, whatever they hold. Histograms have {BINS} bins, of a
sample of at most {SAMPLE_BYTES >> 20} MiB of each tensor. The steps of a plan are done to SOURCE; with --both
to OTHER as well. --member is of SOURCE.
Exit status: 0 fine, 1 the page is written, and shows that the two differ, 2 wrong usage, or
what is written is there already, 3 bad or unreadable file, or one that cannot be written."""
EXAMPLE = "fastload report model.safetensors -o report.html"

SCHEMA = "fastload.report/1"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `report`."""
    flags.add_source(parser, plan=True)
    parser.add_argument("other", metavar="OTHER", nargs="?", help="another, to compare it with")
    flags.add_output(parser)
    flags.add_overwrite(parser)
    parser.add_argument("--title", help="what stands above the page, instead of the names of the files")
    parser.add_argument(
        "--histograms",
        metavar="N",
        type=_count,
        default=DEFAULT_HISTOGRAMS,
        help=f"of how many tensors, the largest first ({DEFAULT_HISTOGRAMS}); 0: none, and no values are read for them",
    )
    flags.add_comparison(parser)
    flags.add_json(parser, SCHEMA)


def run(arguments: argparse.Namespace) -> int:
    """Write a report."""
    plan = plan_flags.plan_of(arguments)
    with flags.open_source(arguments) as opened:
        flags.check_target(arguments.output, arguments.overwrite, opened, arguments.path)
        comparison = _comparison(arguments, opened, plan) if arguments.other is not None else None
        side = _side(arguments.path, opened, has_plan=bool(plan))
        with progress("sampling", counts="tensors") as tell:
            found = largest(opened, side.entries, arguments.histograms, tell)
    text = html.page(side, title=_title(arguments), version=__version__, histograms=found, comparison=comparison)
    with publish(arguments.output, overwrite=arguments.overwrite, size=len(text)) as file:
        file.write(text)
    drawn = sum(isinstance(one, Histogram) for one in found.values())
    differing = len(comparison.findings) if comparison is not None else None
    if arguments.json:
        fields = {
            "path": arguments.path,
            "other": arguments.other,
            "output": arguments.output,
            "nbytes": len(text),
            "tensors": len(side.entries),
            "histograms": drawn,
            "differences": differing,
        }
        print(document(SCHEMA, fields))
    else:
        parts = [counted(len(side.entries), "tensor"), counted(drawn, "histogram")]
        if differing is not None:
            parts.append(counted(differing, "difference"))
        print(f"wrote {printable(arguments.output)}: {', '.join(parts)}, {human_size(len(text))}")
    return 1 if differing else 0


def _comparison(arguments: argparse.Namespace, opened: Checkpoint, plan: dict[str, Any]) -> html.Comparison:
    values = not arguments.no_values
    plan = plan if arguments.both else {}
    with opening.open(arguments.other, **plan) as other, progress("comparing") as tell:
        flags.check_target(arguments.output, arguments.overwrite, other, arguments.other)
        found = list(findings(opened, other, tell, values=values))
        return html.Comparison(_side(arguments.other, other, has_plan=bool(plan)), found, values)


def _side(path: str, opened: Checkpoint, *, has_plan: bool) -> html.Side:
    try:
        metadata = jsonable(opened.metadata)
    except LimitError as error:
        metadata = error.message
    return html.Side(path, opened.format, opened.entries(), metadata, [] if has_plan else _modules(opened))


def _modules(opened: Checkpoint) -> list[tuple[str, str]]:
    """The modules of a model that was saved whole: a plan may give tensors names that are none of theirs."""
    try:
        root = opened.module_tree()
    except (UnsupportedError, LimitError):
        return []
    return [(node.name, node.type) for node in root if node.type]


def _title(arguments: argparse.Namespace) -> str:
    if arguments.title is not None:
        return str(arguments.title)
    names = [os.path.basename(os.path.abspath(path)) for path in (arguments.path, arguments.other) if path is not None]
    return " → ".join(names)


def _count(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or len(text) > 9 or int(text) > MAX_HISTOGRAMS:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to {MAX_HISTOGRAMS}")
    return int(text)
