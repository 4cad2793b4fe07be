"""Text in columns that line up, sizes for people, and colour where a terminal has it."""

from __future__ import annotations

import os
import shutil
import sys
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

__all__ = [
    "NAME_WIDTH",
    "Column",
    "Paint",
    "counted",
    "human_size",
    "layout",
    "number",
    "painter",
    "plain",
    "prose",
    "shorten",
    "terminal_width",
    "width",
    "wrap",
]

Paint = Callable[[str, str], str]  # (text, style) → text

UNITS = ("KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
GAP = "  "

# Cells up to here decide how wide their column is, and longer ones stick out. Real names stay below it; without a
# bound, one name of a megabyte would pad 100,000 others to a megabyte each.
MAX_ALIGNED_WIDTH = 200
MIN_WIDTH = 12  # to which a column that gives way is narrowed before others are left out
NAME_WIDTH = 28  # the same of names, which less would not tell from each other
NO_STYLES: Mapping[str, str] = {}


class Column(NamedTuple):
    """One column, and what becomes of it where a terminal is narrow.

    Attributes
    ----------
    title : str
    right : bool
        Whether its cells keep to the right.
    style : str
        In rich's words.
    styles : mapping of str to str
        The styles of cells that have one of their own, by their text.
    gives : str
        How it gives way: "" not at all, "middle" its cells lose their middle, "lines" they go on in the next line.
    leave : int
        Where there is no room, the column with the highest number is left out, and so on; never one with 0.
    least : int
        The columns of the terminal that one which gives way keeps, as long as there are others to leave out.
    """

    title: str
    right: bool = False
    style: str = ""
    styles: Mapping[str, str] = NO_STYLES
    gives: str = ""
    leave: int = 0
    least: int = MIN_WIDTH


def layout(
    columns: Sequence[Column],
    rows: Iterable[Sequence[str]],
    paint: Paint,
    *,
    titles: bool = True,
    limit: int | None = None,
) -> list[str]:
    """The lines of a table of *rows*, whose cells are text fit to be shown; none is wider than *limit*, if that is set.

    A last line says which columns were left out.
    """
    cells: list[Sequence[str]] = list(zip(*rows, strict=True)) or [()] * len(columns)
    left_out: list[str] = []
    if limit is not None:
        columns, cells, left_out = _fitted(columns, cells, titles, limit)
    columns_of_lines = [_column(column, texts, paint, titles) for column, texts in zip(columns, cells, strict=True)]
    lines = [GAP.join(line).rstrip() for line in zip(*columns_of_lines, strict=True)]
    if left_out and limit is not None:
        lines += [paint(line, "dim") for line in wrap(f"(no room for {', '.join(left_out)})", limit)]
    return lines


def _fitted(
    columns: Sequence[Column], cells: list[Sequence[str]], titled: bool, limit: int
) -> tuple[list[Column], list[Sequence[str]], list[str]]:
    """The columns that have room, their cells fit for it, and the titles of the other columns."""
    heads = [width(column.title) if titled else 0 for column in columns]
    natural = [max(head, *map(width, texts)) if texts else head for head, texts in zip(heads, cells, strict=True)]
    least = [
        max(head, min(size, column.least)) if column.gives else size
        for column, head, size in zip(columns, heads, natural, strict=True)
    ]
    kept = list(range(len(columns)))

    def spare() -> int:
        return limit - sum(least[place] for place in kept) - len(GAP) * (len(kept) - 1)

    while spare() < 0 and any(columns[place].leave for place in kept):
        kept.remove(max(kept, key=lambda place: columns[place].leave))
    if spare() < 0:
        least = [
            min(size, max(head, MIN_WIDTH)) if column.gives else size
            for column, head, size in zip(columns, heads, least, strict=True)
        ]
    left = max(spare(), 0)
    widths = dict(zip(kept, (least[place] for place in kept), strict=True))
    # Each column has an equal share, and those who need less than theirs leave the rest to the others.
    for done, place in enumerate(sorted(kept, key=lambda place: natural[place] - least[place])):
        more = min(natural[place] - widths[place], left // (len(kept) - done))
        widths[place] += more
        left -= more
    for place in kept:
        if columns[place].gives == "middle":
            cells[place] = [shorten(text, widths[place]) for text in cells[place]]
    left_out = [column.title for place, column in enumerate(columns) if place not in kept and column.title]
    chosen = [cells[place] for place in kept]
    for position, place in enumerate(kept):
        if columns[place].gives == "lines":
            chosen = _on_lines(chosen, position, widths[place])
    return [columns[place] for place in kept], chosen, left_out


def _on_lines(cells: list[Sequence[str]], position: int, limit: int) -> list[Sequence[str]]:
    """The cells, those of one column broken into lines: the rows in which they go on are empty elsewhere."""
    rows: list[Sequence[str]] = []
    for row in zip(*cells, strict=True):
        first, *more = wrap(row[position], limit)
        rows.append((*row[:position], first, *row[position + 1 :]))
        rows += [("",) * position + (line,) + ("",) * (len(row) - position - 1) for line in more]
    return list(zip(*rows, strict=True)) or [()] * len(cells)


def _column(column: Column, texts: Sequence[str], paint: Paint, titled: bool) -> list[str]:
    """The texts of one column, painted, and padded to one width as far as that is sensible."""
    styles, style = column.styles, column.style
    if styles:
        lines = [paint(text, styles.get(text, style)) for text in texts]
    else:
        lines = [paint(text, style) for text in texts] if style else list(texts)
    widths = list(map(len if "".join(texts).isascii() else width, texts))
    if titled:
        lines.insert(0, paint(column.title, "bold"))
        widths.insert(0, width(column.title))
    widest = max((size for size in widths if size <= MAX_ALIGNED_WIDTH), default=0)
    pads = [" " * (widest - size) for size in widths]
    if column.right:
        lines, pads = pads, lines
    return list(map("".join, zip(lines, pads, strict=True)))


def terminal_width() -> int | None:
    """The columns of the terminal that standard output is; None where it is none."""
    if sys.stdout is None or not sys.stdout.isatty():
        return None
    return shutil.get_terminal_size().columns


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


def prose(text: str, paint: Paint, style: str = "") -> list[str]:
    """*text* in lines that the terminal has room for; a single one where there is none."""
    limit = terminal_width()
    lines = [text] if limit is None else wrap(text, limit)
    return [paint(line, style) for line in lines]


def wrap(text: str, limit: int, further: int | None = None) -> list[str]:
    """*text* in lines of at most *limit* columns, broken at spaces, and within words that are longer than that.

    The second line and those below have *further* columns, if that is given.
    """
    lines: list[str] = []
    room, further = limit, limit if further is None else further
    line, used = "", 0
    for word in text.split(" "):
        size = width(word)
        if lines or line:
            if used + 1 + size <= room:
                line, used = f"{line} {word}", used + 1 + size
                continue
            lines.append(line)
            room = further
        while size > room:
            count = max(_fitting(word, room), 1)
            lines.append(word[:count])
            room = further
            word = word[count:]
            size = width(word)
        line, used = word, size
    return [*lines, line]


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


def number(value: Any) -> str:
    """A number as text; "" for what does not apply."""
    if value is None:
        return ""
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return f"{value:.6g}" if isinstance(value, (float, complex)) else str(value)


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
