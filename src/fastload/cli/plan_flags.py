"""The flags of a plan, which all verbs share that take one: the keywords of `fastload.open`."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from typing import Any

__all__ = ["ADAPTERS", "add_arguments", "plan_of"]

ADAPTERS = (
    "burn-to-pytorch",
    "channels-first-to-last",
    "channels-last-to-first",
    "flax-to-pytorch",
    "keras-to-pytorch",
    "mmdnn-to-pytorch",
    "pytorch-to-burn",
    "pytorch-to-flax",
)
HALF_PRECISION = "@half-precision"  # `fastload.HALF_PRECISION`, where --cast has a pattern
PLACE = re.compile(r"(?s)(.*?)(?:@(-?\d+)(?::([\d,]+))?)?")  # names, and behind them @AXIS or @AXIS:SIZE,SIZE


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of a plan."""
    group = parser.add_argument_group(
        "plan",
        "Steps that change what is seen of SOURCE, done in this order.\nAll but --subtree may be given repeatedly.",
    )
    group.add_argument("--subtree", metavar="PATH", help="only tensors below PATH, without it in their names")
    group.add_argument(
        "--include", metavar="PATTERN", action="append", help="only these: a name, or a glob whose * crosses dots"
    )
    group.add_argument("--exclude", metavar="PATTERN", action="append", help="all but these")
    group.add_argument(
        "--regex",
        action="store_true",
        help="each PATTERN of --include and --exclude is a regular expression, found anywhere in a name",
    )
    group.add_argument(
        "--drop-segments",
        metavar="NAME,NAME",
        action="append",
        type=_texts,
        help="leave these pieces between dots out of names",
    )
    group.add_argument(
        "--rename",
        metavar="OLD=NEW",
        action="append",
        type=_pair,
        help="another name for the tensor called OLD",
    )
    group.add_argument(
        "--remap", metavar="FROM=TO", action="append", type=_pair, help="rename by regular expressions, one by one"
    )
    group.add_argument("--contiguous", action="store_true", help="close gaps in the numbers in names")
    group.add_argument(
        "--split",
        metavar="FROM=TO,TO[@AXIS[:SIZE,SIZE]]",
        action="append",
        type=_split,
        help="take fused tensors apart: names by a regular expression; equal parts along axis 0, if no more is said",
    )
    group.add_argument(
        "--concat",
        metavar="FROM,FROM=TO[@AXIS]",
        action="append",
        type=_concat,
        help="put tensors together: a regular expression for each part, in order, without commas",
    )
    group.add_argument("--adapt", metavar="ADAPTER", action="append", choices=ADAPTERS, help=", ".join(ADAPTERS))
    group.add_argument(
        "--types",
        metavar="MODULES=TYPE",
        action="append",
        type=_type,
        help="the classes of modules, for --adapt and --cast, as in 'fc*=Linear'; '*=' says that no other matters; of"
        " patterns the first that matches counts, and what none tells is looked up in the file",
    )
    group.add_argument(
        "--cast",
        metavar="[PATTERN=]DTYPE",
        action="append",
        type=_cast,
        help="floats in another dtype, such as bfloat16; of patterns the first that matches counts;"
        f" {HALF_PRECISION}=float16 is for the modules that bear it (no BatchNorm, no LSTM)",
    )


def plan_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """The keywords that the flags say."""
    read = _regular if arguments.regex else str
    plan: dict[str, Any] = {
        "subtree": arguments.subtree,
        "include": arguments.include and list(map(read, arguments.include)),
        "exclude": arguments.exclude and list(map(read, arguments.exclude)),
        "drop_segments": arguments.drop_segments and {name for names in arguments.drop_segments for name in names},
        "rename": arguments.rename and _renamings(arguments.rename),
        "remap": arguments.remap,
        "contiguous": arguments.contiguous,
        "split": arguments.split,
        "concat": arguments.concat,
        "adapt": arguments.adapt and _adapters(arguments.adapt),
        "types": arguments.types and _first_rules(arguments.types),
        "cast": arguments.cast and _castings(arguments.cast),
    }
    return {keyword: value for keyword, value in plan.items() if value}


# From texts to the values of keywords.


def _regular(pattern: str) -> re.Pattern[str]:
    from fastload.errors import PlanError

    try:
        return re.compile(pattern)
    except re.error as error:
        raise PlanError(f"{pattern!r} is no regular expression: {error}") from None


def _renamings(pairs: list[tuple[str, str]]) -> dict[str, str]:
    from fastload.errors import PlanError

    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        twice = next(old for old, new in pairs if mapping[old] != new or pairs.count((old, new)) > 1)
        raise PlanError(f"rename: {twice!r} is given twice")
    return mapping


def _adapters(names: list[str]) -> list[Any]:
    from fastload.plan import adapt

    return [getattr(adapt, name.upper().replace("-", "_")) for name in names]


def _castings(pairs: list[tuple[str, str]]) -> Mapping[Any, str]:
    from fastload.plan.module_types import HALF_PRECISION as MODULES

    rules = _first_rules(pairs)
    return {MODULES if pattern == HALF_PRECISION else pattern: dtype for pattern, dtype in rules.items()}


def _first_rules(pairs: list[tuple[str, str]]) -> dict[str, str]:
    """The rules in their order; of two for one pattern the first."""
    rules: dict[str, str] = {}
    for pattern, value in pairs:
        rules.setdefault(pattern, value)
    return rules


# What argparse asks of one flag; its errors are wrong usage.


def _pair(text: str, form: str = "FROM=TO") -> tuple[str, str]:
    """FROM and TO, at the last `=`, since regular expressions have that sign and names of tensors do not."""
    before, sign, after = text.rpartition("=")
    if not sign or not before:
        raise argparse.ArgumentTypeError(f"{text!r} is not {form}")
    return before, after


def _texts(text: str) -> list[str]:
    """Texts with commas between them."""
    return text.split(",")


def _split(text: str) -> tuple[Any, ...]:
    pattern, parts = _pair(text, "FROM=TO,TO")
    names, axis, sizes = _placed(parts)
    return pattern, _texts(names), axis, [int(size) for size in sizes.split(",") if size] if sizes else None


def _concat(text: str) -> tuple[Any, ...]:
    patterns, whole = _pair(text, "FROM,FROM=TO")
    name, axis, sizes = _placed(whole)
    if sizes:
        raise argparse.ArgumentTypeError(f"{text!r} has sizes, which the parts tell themselves")
    return _texts(patterns), name, axis


def _placed(text: str) -> tuple[str, int, str | None]:
    """Names, the axis that is said behind them, else 0, and sizes along it."""
    found = PLACE.fullmatch(text)
    assert found is not None, "its last group of all is optional"
    return found[1], int(found[2] or 0), found[3]


def _type(text: str) -> tuple[str, str]:
    modules, sign, name = text.rpartition("=")
    if not sign:
        raise argparse.ArgumentTypeError(f"{text!r} is not MODULES=TYPE")
    return modules, name  # no text before the sign is the outermost module


def _cast(text: str) -> tuple[str, str]:
    pattern, sign, dtype = text.rpartition("=")
    if not dtype or (sign and not pattern):
        raise argparse.ArgumentTypeError(f"{text!r} is not DTYPE or PATTERN=DTYPE")
    return pattern or "*", dtype
