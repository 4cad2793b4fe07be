"""What mkdocs cannot do by itself: the help of every verb, and native classes."""

from __future__ import annotations

import argparse
import inspect
import os
import re
from typing import Any

VERBS = "<!-- the help of every verb -->"
NATIVE = re.compile(r"<!-- the native class (\w+) -->")  # whose docstrings are not in any file of Python
PLAN = re.compile(r"^plan:\n.*?(?=^\S)", re.MULTILINE | re.DOTALL)  # the same for every verb: shown once


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put in what a page asks for."""
    if VERBS in markdown:
        markdown = markdown.replace(VERBS, helps())
    return NATIVE.sub(lambda found: described(found[1]), markdown)


def helps() -> str:
    """What each verb prints with ``--help``."""
    from fastload.cli import whole_parser

    os.environ["COLUMNS"] = "80"
    verbs = next(action for action in whole_parser()._actions if isinstance(action, argparse._SubParsersAction))
    texts = {name: parser.format_help() for name, parser in sorted(verbs.choices.items())}
    plan = next(found[0] for text in texts.values() if (found := PLAN.search(text)))
    parts = [f"## The flags of a plan\n\n```text\n{plan.strip()}\n```"]
    for name, text in texts.items():
        short = PLAN.sub("plan:\n  the flags of a plan, as above\n\n", text).strip()
        parts.append(f"## fastload {name}\n\n```text\n{short}\n```")
    return "\n\n".join(parts)


def described(name: str) -> str:
    """The docstrings of a native class and of its properties."""
    import fastload

    native = getattr(fastload, name)
    about, *sections = (inspect.getdoc(native) or "").split("\nAttributes\n")
    lines = [f"### {name} {{ #fastload.{name} }}", "", about.strip(), ""]
    if sections:
        return "\n".join([*lines, "```text", sections[0].partition("\n")[2], "```"])
    for attribute in dir(native):
        if not attribute.startswith("_"):
            text = " ".join((inspect.getdoc(getattr(native, attribute)) or "").split())
            lines.append(f"* `{attribute}`: {text}")
    return "\n".join(lines)
