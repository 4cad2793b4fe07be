"""An error as the one line that a terminal is told: what it advises is said in flags, where the verb has them."""

from __future__ import annotations

import argparse
import os
import shlex
from collections.abc import Mapping

from fastload.errors import Advice, FastloadError, printable

__all__ = ["error_line"]


def error_line(error: FastloadError | OSError, parser: argparse.ArgumentParser | None) -> str:
    """What went wrong, on one line.

    Parameters
    ----------
    error : FastloadError or OSError
    parser : ArgumentParser or None
        The verb's, whose flags can be advised; None where no verb is known.
    """
    text = str(error)
    if isinstance(error, OSError) and error.strerror and not isinstance(error, FastloadError):
        place = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, (str, bytes)) else ""
        text = f"{place}{error.strerror}"
    actions = [] if parser is None else parser._actions
    flags = {action.dest: action for action in actions if action.option_strings}
    for advice in getattr(error, "advice", ()):
        flag = flags.get(advice.parameter)
        text = text.replace(str(advice), "" if flag is None else advice.text.format(_given(flag, advice)))
    return printable(text)


def _given(flag: argparse.Action, advice: Advice) -> str:
    """The words of a command line that give what is advised."""
    name, value = flag.option_strings[-1], advice.value
    if flag.nargs == 0 or value is None:
        return name
    values = [f"{key}={said}" for key, said in value.items()] if isinstance(value, Mapping) else [str(value)]
    # What begins with a dash would be taken for a flag.
    return " ".join(f"{name}{'=' if said.startswith('-') else ' '}{shlex.quote(said)}" for said in values)
