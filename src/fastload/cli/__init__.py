"""The command line: one file a verb, and the only place that prints.

Standard output is data, standard error is talk. Exit status: 0 fine, 1 something was found or differs, 2 wrong usage, 3
bad or unreadable file, with one line that says why; 130 after Ctrl-C and 141 on a closed pipe, both without a word.
Usage is wrong, too, where another command or one more package would do: a plan that does not fit the checkpoint, a file
that is there already. Of 3, a file is to blame, or the disk.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import io
import os
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, NoReturn, Protocol, cast

from fastload import __version__
from fastload.errors import (
    FastloadError,
    NotInstalledError,
    PlanError,
    SaveError,
    TensorNotFoundError,
    located,
    printable,
)

__all__ = ["VERBS", "Verb", "main", "whole_parser"]

USAGE = 2  # also argparse's own
BAD_FILE = 3
INTERRUPTED = 130  # 128 + SIGINT, as a shell has it
SHELLS = ("bash", "zsh", "tcsh")
CLOSED_PIPE = 141  # 128 + SIGPIPE
REFUSALS = (FileExistsError, NotInstalledError, PlanError, TensorNotFoundError)  # that another command would mend
IN_THE_WAY = (errno.EEXIST, errno.EISDIR)  # of what cannot be saved

ABOUT = """\
Look into model checkpoints, and write them in other formats, without running anything in
them. Exit status: 0 fine, 1 something was found or differs, 2 wrong usage (of a plan, too, that
does not fit the checkpoint, and where something is there already, or a package is not), 3 bad
or unreadable file, or one that cannot be written."""
EXAMPLE = "fastload ls --collapse model.safetensors"


class Verb(Protocol):
    """What the module of a verb offers. Its parser names the file that is read `path`, if that is one.

    The arguments that it runs with have its `parser`, to refuse what does not go together.
    """

    ABOUT: str  # for its help, with the exit statuses
    EXAMPLE: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare its arguments."""

    def run(self, arguments: argparse.Namespace) -> int:
        """Do it, print, and return the exit status."""


# The verbs, for the list of them. Each is the module of its name, imported when it is asked for.
VERBS = {
    "bench": "measure how fast a checkpoint is read here, beside other libraries",
    "convert": "write a checkpoint in another format, or with other names and dtypes",
    "diff": "compare two checkpoints: names, shapes, dtypes, values",
    "doctor": "say how fastload fares on this machine, and with a file",
    "embed": "put a model into an executable or a C extension",
    "ls": "list the tensors in a checkpoint",
    "merge": "write several checkpoints as one file",
    "pack": "pack a folder into an archive whose models can be mapped",
    "report": "write a page to look at in a browser: of a checkpoint, or of what two differ in",
    "scan": "list what a file would run if it were unpickled",
    "show": "show one tensor: its facts and the statistics of its values",
    "split": "write a checkpoint as several safetensors files and an index",
    "stats": "say of all tensors their extremes, mean, deviation, zeros, NaN and infinity",
    "tree": "show the modules of a model, without its code",
    "verify": "check every structure and extent of a file, its values and checksums",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status.

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments after the program's name; those of the process if not given.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal that lacks a letter gets its number
    arguments = argparse.Namespace(parser=None, path=None)  # as far as they are known
    try:
        status = _run(argv, arguments)
        print(end="", flush=True)  # while an error can still be told
    except BrokenPipeError:
        status = CLOSED_PIPE
    except KeyboardInterrupt:
        status = INTERRUPTED
    except (FastloadError, OSError) as error:
        if isinstance(error, FastloadError):
            located(error, arguments.path)
        _tell(error, arguments.parser)
        status = USAGE if _is_refusal(error) else BAD_FILE
    _let_go_of_output()
    return status


def _run(argv: Sequence[str] | None, arguments: argparse.Namespace) -> int:
    """Do what the arguments say, which come into the namespace."""
    given = sys.argv[1:] if argv is None else argv
    # What comes before a verb are flags that take no value, but for one that ends here. Without a verb, there is
    # nothing to run.
    name = next((argument for argument in given if not argument.startswith("-")), None)
    verb = cast(Verb, import_module(f"{__name__}.{name}")) if name in VERBS else None
    parser = _parser({name: verb} if name is not None and verb is not None else {})
    try:
        parser.parse_args(given, arguments)
        if verb is None:
            parser.print_help(sys.stderr)
            return USAGE
        return verb.run(arguments)
    except SystemExit as exit:  # of argparse: help was printed, or usage was wrong, as the verb, too, may find
        return int(exit.code or 0)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Say it in one line, as all errors are said; a file's name is not always of the user's making."""
        self.exit(USAGE, f"fastload: {printable(message)}; see {self.prog} --help\n")


class _Completion(argparse.Action):
    """Prints the completion for a shell, and ends as --version does."""

    def __call__(self, parser: argparse.ArgumentParser, *arguments: Any, **options: Any) -> NoReturn:
        """Print it."""
        from fastload.cli.completion import completion

        print(completion(whole_parser(), arguments[1]))
        parser.exit()


def whole_parser() -> argparse.ArgumentParser:
    """The parser that knows the arguments of all verbs."""
    return _parser({name: cast(Verb, import_module(f"{__name__}.{name}")) for name in VERBS})


def _parser(known: Mapping[str, Verb]) -> argparse.ArgumentParser:
    """The parser that knows all verbs by name, and the arguments of some."""
    parser = _Parser(prog="fastload", **_help(ABOUT, EXAMPLE))
    parser.add_argument("--version", action="version", version=f"fastload {__version__}")
    parser.add_argument(
        "--print-completion", action=_Completion, choices=SHELLS, help="print what makes a shell complete these words"
    )
    verbs = parser.add_subparsers(dest="verb", title="verbs", metavar="VERB")
    for name, summary in VERBS.items():
        verb = known.get(name)
        if verb is not None:
            own = verbs.add_parser(name, help=summary, **_help(verb.ABOUT, verb.EXAMPLE))
            verb.add_arguments(own)
            own.set_defaults(parser=own)
        else:
            verbs.add_parser(name, help=summary)
    return parser


def _help(about: str, example: str) -> dict[str, Any]:
    return {
        "description": about,
        "epilog": f"example: {example}",
        "formatter_class": argparse.RawDescriptionHelpFormatter,
        "allow_abbrev": False,  # an abbreviation that works today is ambiguous tomorrow
    }


def _is_refusal(error: FastloadError | OSError) -> bool:
    """Whether another command would do: what is written is there already, or would lose something, or does not fit."""
    if isinstance(error, SaveError):
        return bool(error.lost) or error.errno in IN_THE_WAY
    return isinstance(error, REFUSALS)


def _tell(error: FastloadError | OSError, parser: argparse.ArgumentParser | None) -> None:
    """Print an error to standard error, if anybody listens."""
    from fastload.cli.error_line import error_line  # most commands need it not

    if sys.stderr is not None:
        with contextlib.suppress(OSError):
            print(f"fastload: {error_line(error, parser)}", file=sys.stderr, flush=True)


def _let_go_of_output() -> None:
    """Give what nobody can take any more to the null device, else the interpreter would complain of it at its end."""
    try:
        print(end="", flush=True)
    except OSError:
        with io.FileIO(os.devnull, "w") as sink:
            os.dup2(sink.fileno(), sys.stdout.fileno())
