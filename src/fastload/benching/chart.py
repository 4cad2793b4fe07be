"""Bars and curves as SVG, in plain strings. They follow the reader's light or dark setting; names are escaped."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from html import escape
from typing import NamedTuple

from fastload.errors import printable

__all__ = ["Bar", "Bars", "Curve", "bar_chart", "curve_chart"]

WIDTH = 760
MARGIN = 20
LABEL_WIDTH = 250
VALUE_WIDTH = 150
ROW = 22
HEADING = 40
PLOT_HEIGHT = 300
MAX_LABEL = 38  # characters, which fit into LABEL_WIDTH
MAX_TEXT = 110  # characters, which fit into WIDTH

STYLE = """\
text { font: 13px system-ui, sans-serif; fill: #1f2328 } .title { font-size: 17px; font-weight: 600 }
.heading { font-weight: 600 } .small { font-size: 12px; fill: #59636e } .back { fill: #ffffff }
.ours { fill: #0969da } .peer { fill: #afb8c1 } .limit { fill: #dde3e8 } .whisker, .axis { stroke: #59636e }
.grid { stroke: #d8dee4 } .curve { fill: none; stroke-width: 2 } .end { text-anchor: end }
.middle { text-anchor: middle }
.c0 { stroke: #0969da; fill: #0969da } .c1 { stroke: #bc4c00; fill: #bc4c00 } .c2 { stroke: #1a7f37; fill: #1a7f37 }
.c3 { stroke: #8250df; fill: #8250df } .c4 { stroke: #57606a; fill: #57606a } .curve { fill: none }
text.key { stroke: none }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3 } .back { fill: #0d1117 } .small { fill: #9198a1 } .ours { fill: #4493f8 } .peer { fill: #5b636d }
.limit { fill: #30363d } .whisker, .axis { stroke: #9198a1 } .grid { stroke: #21262d }
.c0 { stroke: #4493f8; fill: #4493f8 } .c1 { stroke: #f0883e; fill: #f0883e } .c2 { stroke: #3fb950; fill: #3fb950 }
.c3 { stroke: #ab7df8; fill: #ab7df8 } .c4 { stroke: #9198a1; fill: #9198a1 } .curve { fill: none }
}"""
CURVE_CLASSES = 5


class Bar(NamedTuple):
    """One bar: its median, between the lowest and the highest.

    Attributes
    ----------
    label : str
    value, low, high : float
    kind : str
        Who it is: `ours`, `peer` or `limit`.
    text : str
        The value as it is shown.
    """

    label: str
    value: float
    low: float
    high: float
    kind: str
    text: str


class Bars(NamedTuple):
    """Bars on one scale, under one heading."""

    heading: str
    bars: Sequence[Bar]


class Curve(NamedTuple):
    """A line through (x, y) points, all positive."""

    label: str
    points: Sequence[tuple[float, float]]


def bar_chart(title: str, subtitle: str, groups: Sequence[Bars]) -> str:
    """Horizontal bars in groups, each on a scale of its own that begins at 0."""
    lines: list[str] = []
    top = MARGIN + 50
    for group in groups:
        lines.append(_text(MARGIN, top + 24, group.heading, "heading"))
        top += HEADING
        lines.extend(_bars(group.bars, top))
        top += ROW * len(group.bars) + 8
    return _page(title, subtitle, top + MARGIN, lines)


def curve_chart(title: str, subtitle: str, curves: Sequence[Curve], axes: tuple[str, str]) -> str:
    """Curves over two logarithmic axes, so that what grows in proportion is a straight line of one slope."""
    xs = [x for curve in curves for x, _ in curve.points]
    ys = [y for curve in curves for _, y in curve.points]
    across = _Scale(min(xs), max(xs), MARGIN + 70, WIDTH - MARGIN - VALUE_WIDTH)
    bottom = MARGIN + 70 + PLOT_HEIGHT
    up = _Scale(min(ys), max(ys), bottom, MARGIN + 70)
    lines = [_text(MARGIN, MARGIN + 58, axes[1], "small"), _text(across.end, bottom + 38, axes[0], "small end")]
    for power in across.powers():
        x = across(10.0**power)
        lines += [_line(x, bottom, x, up.end, "grid"), _text(x, bottom + 18, _number(10.0**power), "small middle")]
    for power in up.powers():
        y = up(10.0**power)
        lines += [
            _line(across.start, y, across.end, y, "grid"),
            _text(MARGIN + 60, y + 4, _number(10.0**power), "small end"),
        ]
    for number, curve in enumerate(curves):
        style = f"c{number % CURVE_CLASSES}"
        points = [(across(x), up(y)) for x, y in curve.points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        lines.append(f'<polyline class="curve {style}" points="{path}"/>')
        lines += [f'<circle class="{style}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in points]
        lines.append(_text(across.end + 12, up.end + 14 + 20 * number, curve.label, f"key {style}"))
    return _page(title, subtitle, bottom + 50, lines)


class _Scale:
    """Places on a logarithmic axis that spans whole powers of ten."""

    def __init__(self, low: float, high: float, start: float, end: float) -> None:
        self.start, self.end = start, end
        self._low = math.floor(math.log10(low) + 1e-9)
        self._high = max(math.ceil(math.log10(high) - 1e-9), self._low + 1)

    def __call__(self, value: float) -> float:
        share = (math.log10(value) - self._low) / (self._high - self._low)
        return self.start + share * (self.end - self.start)

    def powers(self) -> range:
        return range(self._low, self._high + 1)


def _bars(bars: Sequence[Bar], top: float) -> Iterator[str]:
    left, room = MARGIN + LABEL_WIDTH, WIDTH - 2 * MARGIN - LABEL_WIDTH - VALUE_WIDTH
    most = max((bar.high for bar in bars), default=0) or 1
    for number, bar in enumerate(bars):
        y = top + ROW * number
        length, low, high = (room * value / most for value in (bar.value, bar.low, bar.high))
        yield _text(left - 8, y + 14, bar.label, "end")
        yield f'<rect class="{bar.kind}" x="{left}" y="{y + 2}" width="{length:.1f}" height="{ROW - 6}" rx="2"/>'
        if bar.high > bar.low:
            yield _line(left + low, y + ROW / 2 - 1, left + high, y + ROW / 2 - 1, "whisker")
        yield _text(left + max(length, high) + 8, y + 14, bar.text, "small")


def _page(title: str, subtitle: str, height: float, lines: Sequence[str]) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" width="{WIDTH}" '
        f'height="{height:.0f}" role="img">'
    )
    shown = [
        head,
        f"<title>{escape(printable(title))}</title>",
        f"<style>{STYLE}</style>",
        f'<rect class="back" width="{WIDTH}" height="{height:.0f}"/>',
        _text(MARGIN, MARGIN + 16, title, "title"),
        _text(MARGIN, MARGIN + 38, subtitle, "small"),
        *lines,
        "</svg>",
    ]
    return "\n".join(shown) + "\n"


def _text(x: float, y: float, text: str, style: str) -> str:
    most = MAX_LABEL if style == "end" else MAX_TEXT
    shown = printable(text)
    if len(shown) > most:
        shown = f"{shown[: most - 1]}…"
    return f'<text class="{style}" x="{x:.1f}" y="{y:.1f}">{escape(shown)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, style: str) -> str:
    return f'<line class="{style}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1 else f"{value:g}"
