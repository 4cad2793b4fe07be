"""What mkdocs cannot do by itself: the help of every verb, and the page of figures where there is one."""

from __future__ import annotations

import argparse
import os
import re
from pathlib import Path
from typing import Any

MARK = "<!-- the help of every verb -->"
PLAN = re.compile(r"^plan:\n.*?(?=^\S)", re.MULTILINE | re.DOTALL)  # the same for every verb: shown once
FIGURES = "benchmarks.md"  # `make bench-report` makes it


def on_config(config: Any) -> Any:
    """List the page of figures, if it was made."""
    if (Path(config.docs_dir) / FIGURES).exists():
        section = next(item["Benchmarks"] for item in config.nav if "Benchmarks" in item)
        section.append({"All figures": FIGURES})
    return config


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put the help of the command line where the page asks for it."""
    return markdown.replace(MARK, helps()) if MARK in markdown else markdown


def helps() -> str:
    """What each verb prints with ``--help``."""
    from fastload.cli import whole_parser

    os.environ["COLUMNS"] = "100"
    verbs = next(action for action in whole_parser()._actions if isinstance(action, argparse._SubParsersAction))
    texts = {name: parser.format_help() for name, parser in sorted(verbs.choices.items())}
    plan = next(found[0] for text in texts.values() if (found := PLAN.search(text)))
    parts = [f"## The flags of a plan\n\n```text\n{plan.strip()}\n```"]
    for name, text in texts.items():
        short = PLAN.sub("plan:\n  the flags of a plan, as above\n\n", text).strip()
        parts.append(f"## fastload {name}\n\n```text\n{short}\n```")
    return "\n\n".join(parts)
