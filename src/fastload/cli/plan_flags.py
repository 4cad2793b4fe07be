"""The flags of a plan, which all verbs share that take one: the keywords of `fastload.open`."""

from __future__ import annotations

import argparse
import re
from typing import Any

from fastload.plan import adapt

__all__ = ["ADAPTERS", "add_arguments", "plan_of"]

ADAPTERS = {
    "burn-to-pytorch": adapt.BURN_TO_PYTORCH,
    "channels-first-to-last": adapt.CHANNELS_FIRST_TO_LAST,
    "channels-last-to-first": adapt.CHANNELS_LAST_TO_FIRST,
    "flax-to-pytorch": adapt.FLAX_TO_PYTORCH,
    "keras-to-pytorch": adapt.KERAS_TO_PYTORCH,
    "mmdnn-to-pytorch": adapt.MMDNN_TO_PYTORCH,
    "pytorch-to-burn": adapt.PYTORCH_TO_BURN,
    "pytorch-to-flax": adapt.PYTORCH_TO_FLAX,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of a plan."""
    group = parser.add_argument_group("plan", "steps that change what is seen of SOURCE, done in this order")
    group.add_argument("--subtree", metavar="PATH", help="only tensors below PATH, without it in their names")
    group.add_argument(
        "--include", metavar="PATTERN", action="append", help="only these: a name, or a glob whose * crosses dots"
    )
    group.add_argument("--exclude", metavar="PATTERN", action="append", help="all but these")
    group.add_argument("--regex", action="store_true", help="PATTERN is a regular expression, found anywhere in a name")
    group.add_argument(
        "--remap", metavar="FROM=TO", action="append", type=_pair, help="rename by regular expressions, one by one"
    )
    group.add_argument("--contiguous", action="store_true", help="close gaps in the numbers in names")
    group.add_argument(
        "--adapt", metavar="ADAPTER", action="append", choices=list(ADAPTERS), help=f"one of {', '.join(ADAPTERS)}"
    )
    group.add_argument(
        "--cast",
        metavar="[PATTERN=]DTYPE",
        action="append",
        type=_cast,
        help="floats in another dtype, such as bfloat16; of patterns the first that matches counts",
    )


def plan_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """The keywords that the flags say."""
    read = _regular if arguments.regex else str
    plan: dict[str, Any] = {
        "subtree": arguments.subtree,
        "include": arguments.include and list(map(read, arguments.include)),
        "exclude": arguments.exclude and list(map(read, arguments.exclude)),
        "remap": arguments.remap,
        "contiguous": arguments.contiguous,
        "adapt": arguments.adapt and [ADAPTERS[name] for name in arguments.adapt],
        "cast": arguments.cast and _first_rules(arguments.cast),
    }
    return {keyword: value for keyword, value in plan.items() if value}


def _regular(pattern: str) -> re.Pattern[str]:
    from fastload.errors import PlanError

    try:
        return re.compile(pattern)
    except re.error as error:
        raise PlanError(f"{pattern!r} is no regular expression: {error}") from None


def _first_rules(pairs: list[tuple[str, str]]) -> dict[str, str]:
    """The rules in their order; of two for one pattern the first."""
    rules: dict[str, str] = {}
    for pattern, dtype in pairs:
        rules.setdefault(pattern, dtype)
    return rules


def _pair(text: str) -> tuple[str, str]:
    """FROM and TO, at the last `=`, since regular expressions have that sign and names of tensors do not."""
    before, sign, after = text.rpartition("=")
    if not sign or not before:
        raise argparse.ArgumentTypeError(f"{text!r} is not FROM=TO")
    return before, after


def _cast(text: str) -> tuple[str, str]:
    pattern, sign, dtype = text.rpartition("=")
    if not dtype or (sign and not pattern):
        raise argparse.ArgumentTypeError(f"{text!r} is not DTYPE or PATTERN=DTYPE")
    return pattern or "*", dtype
