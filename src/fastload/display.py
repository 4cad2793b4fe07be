"""What a checkpoint shows of itself at a prompt and in a notebook."""

from __future__ import annotations

import os

from fastload.entry import TensorEntry
from fastload.errors import printable
from fastload.tensors import Tensors

__all__ = ["as_html", "as_text"]

SHOWN_TENSORS = 10


def as_text(tensors: Tensors) -> str:
    """The format, the number of tensors, and the first of them, a line each."""
    rows = [(printable(entry.name), entry.dtype, str(entry.shape)) for entry in _first(tensors)]
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(2)]
    lines = [f"  {name:<{widths[0]}}  {dtype:<{widths[1]}}  {shape}" for name, dtype, shape in rows]
    return "\n".join([f"<fastload.Checkpoint {_title(tensors)}>", *lines, *_rest(tensors)])


def as_html(tensors: Tensors) -> str:
    """The same as a table."""
    import html  # only in a notebook

    rows = "".join(
        f"<tr><td>{html.escape(printable(entry.name))}</td><td>{html.escape(entry.dtype)}</td><td>{entry.shape}</td></tr>"
        for entry in _first(tensors)
    )
    foot = "".join(f"<tr><td colspan=3>{line.strip()}</td></tr>" for line in _rest(tensors))
    return (
        f"<table><caption>{html.escape(_title(tensors))}</caption>"
        f"<tr><th>name</th><th>dtype</th><th>shape</th></tr>{rows}{foot}</table>"
    )


def _first(tensors: Tensors) -> list[TensorEntry]:
    return [tensors.entry(row) for row in range(min(len(tensors), SHOWN_TENSORS))]


def _title(tensors: Tensors) -> str:
    where = printable(os.path.basename(tensors.path)) if tensors.path else "in memory"
    return f"{where}: {tensors.format}, {len(tensors):,} tensor{'' if len(tensors) == 1 else 's'}"


def _rest(tensors: Tensors) -> list[str]:
    more = len(tensors) - SHOWN_TENSORS
    return [f"  … {more:,} more"] if more > 0 else []
