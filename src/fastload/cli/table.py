"""Text in columns that line up, sizes for people, and colour where a terminal has it."""

from __future__ import annotations

import os
import sys
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

__all__ = ["Column", "Paint", "counted", "human_size", "layout", "painter", "plain", "shorten", "width"]

Paint = Callable[[str, str], str]  # (text, style) → text

UNITS = ("KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
GAP = "  "

# Cells up to here decide how wide their column is, and longer ones stick out. Real names stay below it; without a
# bound, one name of a megabyte would pad 100,000 others to a megabyte each.
MAX_ALIGNED_WIDTH = 200
MIN_SHORTENED_WIDTH = 20  # below it too little of a name is left, and lines had better wrap


class Column(NamedTuple):
    """One column: its title, the side its cells keep to, and their style in rich's words."""

    title: str
    right: bool = False
    style: str = ""


def layout(columns: Sequence[Column], rows: Iterable[Sequence[str]], paint: Paint, *, titles: bool = True) -> list[str]:
    """The lines of a table of *rows*, whose cells are text fit to be shown."""
    cells = list(zip(*rows, strict=True)) or [()] * len(columns)
    columns_of_lines = [_column(column, texts, paint, titles) for column, texts in zip(columns, cells, strict=True)]
    return [GAP.join(line).rstrip() for line in zip(*columns_of_lines, strict=True)]


def _column(column: Column, texts: Sequence[str], paint: Paint, titled: bool) -> list[str]:
    """The texts of one column, painted, and padded to one width as far as that is sensible."""
    lines = [paint(text, column.style) for text in texts] if column.style else list(texts)
    widths = list(map(len if "".join(texts).isascii() else width, texts))
    if titled:
        lines.insert(0, paint(column.title, "bold"))
        widths.insert(0, width(column.title))
    widest = max((size for size in widths if size <= MAX_ALIGNED_WIDTH), default=0)
    pads = [" " * (widest - size) for size in widths]
    if column.right:
        lines, pads = pads, lines
    return list(map("".join, zip(lines, pads, strict=True)))


def width(text: str) -> int:
    """Columns of a terminal that *text* takes: East Asian wide characters two, combining ones none."""
    if text.isascii():
        return len(text)
    return sum(map(_character_width, text))


def _character_width(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def shorten(text: str, limit: int) -> str:
    """*text* in at most *limit* columns, what is too much taken from its middle."""
    if width(text) <= limit:
        return text
    tail = _fitting(reversed(text), (limit - 1) // 2)
    head = _fitting(text, limit - 1 - (limit - 1) // 2)
    return f"{text[:head]}…{text[len(text) - tail :]}"


def _fitting(characters: Iterable[str], limit: int) -> int:
    """How many of *characters* fit into *limit* columns."""
    count = used = 0
    for character in characters:
        used += _character_width(character)
        if used > limit:
            break
        count += 1
    return count


def human_size(count: int) -> str:
    """*count* bytes in the unit that suits them: 512 B, 4.00 MiB."""
    if count < 1024:
        return f"{count} B"
    size, unit = count / 1024, 0
    while size >= 1023.995 and unit < len(UNITS) - 1:  # what would round to 1024.00 belongs to the next unit
        size, unit = size / 1024, unit + 1
    return f"{size:.2f} {UNITS[unit]}"


def counted(count: int, noun: str) -> str:
    """*count* and its noun: 1 tensor, 2,000 tensors."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def plain(text: str, style: str) -> str:
    """*text* as it is, which is the way to paint where there is no colour."""
    return text


def painter() -> Paint:
    """How to colour standard output: through rich, if that is installed and a person is watching."""
    if sys.stdout is None or not sys.stdout.isatty() or os.environ.get("NO_COLOR"):
        return plain
    try:
        from rich.color import ColorSystem  # 50 ms, so only for a terminal
        from rich.console import Console
        from rich.style import Style
    except ImportError:
        return plain
    console = Console()
    if console.color_system is None or console.legacy_windows:
        return plain
    return lambda text, style: Style.parse(style).render(text, color_system=ColorSystem.STANDARD) if style else text
