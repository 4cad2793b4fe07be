"""What makes a shell complete verbs and flags: a script that is made once, so that pressing Tab starts no Python."""

from __future__ import annotations

import argparse

from fastload.errors import NotInstalledError

__all__ = ["completion"]

# Arguments that are no files, of those that are no flags; flags name files by their metavar.
NOT_FILES = ("name",)
FILES = ("FILE", "DESTINATION", "FOLDER", "EXECUTABLE", "SOURCE")


def completion(parser: argparse.ArgumentParser, shell: str) -> str:
    """The script for a shell.

    Raises
    ------
    NotInstalledError
        The package that makes it is not installed.
    """
    try:
        import shtab
    except ImportError:
        raise NotInstalledError("completion needs the package shtab: pip install 'fastload-ckpt[completion]'") from None
    for one in (parser, *_parsers(parser)):
        for action in one._actions:
            if _is_of_files(action):
                action.complete = shtab.FILE  # type: ignore[attr-defined]
    script: str = shtab.complete(parser, shell)
    return script


def _parsers(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    """The parsers of the verbs."""
    found = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return [verb for action in found for verb in action.choices.values()]


def _is_of_files(action: argparse.Action) -> bool:
    if action.nargs == 0 or action.choices is not None:
        return False
    if not action.option_strings:
        return action.dest not in NOT_FILES
    return isinstance(action.metavar, str) and action.metavar.startswith(FILES)
