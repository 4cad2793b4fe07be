"""The report page: a checkpoint, or two, as one HTML file that needs neither network nor server.

What a file says is data, and never markup: the page holds it as JSON in a script element that no browser runs, in which
`<`, `>` and `&` are escapes, so that no name can end the element; and the page's own script shows it as text alone. The
policy in its head allows that script and that style sheet, by their hashes, and nothing else.

The JSON has columns, not an object for each tensor: a report of 50,000 tensors is some 2 MB. Names are front-coded:
each as how many UTF-16 units it shares with the one before, and the rest of it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
import pkgutil
from collections.abc import Hashable, Iterable, Mapping, Sequence
from html import escape
from string import Template
from typing import Any, NamedTuple

from fastload.comparing import Finding
from fastload.entry import TensorEntry
from fastload.errors import printable
from fastload.histograms import BINS, SAMPLE_BYTES, Histogram

__all__ = ["SCHEMA", "Comparison", "Side", "data", "page"]

SCHEMA = "fastload.page/1"
SCRIPTS = ("data.js", "list.js", "treemap.js", "charts.js", "report.js", "detail.js", "start.js")  # one, in this order
MAX_EXACT = 1 << 53  # integers beyond it are text, since JavaScript would round them

_encode = json.JSONEncoder(ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode
ESCAPES = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"})  # the rest of the encoding is ASCII


class Side(NamedTuple):
    """One checkpoint.

    Attributes
    ----------
    path : str
        What it was opened by.
    format : str
        Its format.
    entries : sequence of TensorEntry
        Its tensors.
    metadata : object
        What it keeps beside them, in what JSON has.
    modules : sequence of (str, str)
        Its modules, by path, and their classes; empty where it has none.
    """

    path: str
    format: str
    entries: Sequence[TensorEntry]
    metadata: Any = None
    modules: Sequence[tuple[str, str]] = ()


class Comparison(NamedTuple):
    """What a checkpoint is compared with, and in what they differ.

    Attributes
    ----------
    other : Side
        The other one.
    findings : sequence of Finding
        What differs.
    values : bool
        Whether values were compared.
    """

    other: Side
    findings: Sequence[Finding]
    values: bool


def page(
    side: Side,
    *,
    title: str,
    version: str,
    histograms: Mapping[int, Histogram | str] | None = None,
    comparison: Comparison | None = None,
) -> bytes:
    """The page, as the bytes of a file.

    Parameters
    ----------
    side : Side
        The checkpoint.
    title : str
        What stands above it.
    version : str
        That of fastload.
    histograms : mapping of int to Histogram or str, optional
        By positions of entries; or why there is none of a tensor that was to have one.
    comparison : Comparison, optional
        What it is compared with.
    """
    style = _part("report.css")
    script = "".join(map(_part, SCRIPTS))
    policy = (
        f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    contents = data(side, title=title, version=version, histograms=histograms, comparison=comparison)
    text = Template(_part("report.html")).substitute(
        title=escape(printable(title)),
        policy=policy,
        style=style,
        script=script,
        data=_encode(contents).translate(ESCAPES),
    )
    return text.encode()


def data(
    side: Side,
    *,
    title: str,
    version: str,
    histograms: Mapping[int, Histogram | str] | None = None,
    comparison: Comparison | None = None,
) -> dict[str, Any]:
    """What the page shows, in what JSON has; for parameters see `page`."""
    entries = side.entries
    dtypes, shapes, kinds, files = _Table(), _Table(), _Table(), _Table()
    shared, rest = _front_coded(entry.name for entry in entries)
    groups = _shared_storages(entries)
    found = histograms or {}
    drawn = {row: value for row, value in found.items() if isinstance(value, Histogram)}
    columns: dict[str, list[Any]] = {
        "dtype": [dtypes.place(entry.dtype) for entry in entries],
        "shape": [shapes.place(entry.shape) for entry in entries],
        "kind": [kinds.place(entry.kind) for entry in entries],
        "file": [files.place(entry.file) for entry in entries],
        "nbytes": [_exact(entry.nbytes) for entry in entries],
        "offset": [_exact(entry.offset) for entry in entries],
        "zero_copy": [int(entry.zero_copy) for entry in entries],
        "storage": [groups.get((entry.file, entry.storage)) for entry in entries],
    }
    return {
        "schema": SCHEMA,
        "version": version,
        "title": title,
        "a": _summary(side),
        "b": _summary(comparison.other) if comparison is not None else None,
        "names": {"shared": shared, "rest": rest},
        "columns": {name: _packed(column) for name, column in columns.items()},
        "modules": {"path": [path for path, _ in side.modules], "type": [type for _, type in side.modules]},
        "sampling": {"tensors": len(found), "nbytes": SAMPLE_BYTES, "bins": BINS},
        "histograms": {
            "row": list(drawn),
            **{
                name: [_finite(getattr(value, name)) for value in drawn.values()]
                for name in Histogram._fields
            },
        },
        "unsampled": {
            "row": [row for row in found if row not in drawn],
            "why": [value for value in found.values() if isinstance(value, str)],
        },
        "differences": _differences(comparison, dtypes, shapes) if comparison is not None else None,
        "dtypes": dtypes.values,
        "shapes": [list(map(_exact, shape)) for shape in shapes.values],
        "kinds": kinds.values,
        "files": files.values,
    }  # fmt: skip


class _Table:
    """Values by number, each once."""

    def __init__(self) -> None:
        self._places: dict[Hashable, int] = {}

    def place(self, value: Hashable) -> int:
        """The number of a value."""
        return self._places.setdefault(value, len(self._places))

    @property
    def values(self) -> list[Any]:
        return list(self._places)


def _summary(side: Side) -> dict[str, Any]:
    entries = side.entries
    storages = {(entry.file, entry.storage): entry.storage_nbytes for entry in entries if entry.storage is not None}
    return {
        "path": side.path,
        "format": side.format,
        "tensors": len(entries),
        "parameters": _exact(sum(math.prod(entry.shape) for entry in entries)),
        "nbytes": _exact(sum(entry.nbytes for entry in entries)),
        "storage_nbytes": _exact(sum(storages.values())),
        "metadata": side.metadata,
    }


def _differences(comparison: Comparison, dtypes: _Table, shapes: _Table) -> dict[str, Any]:
    findings = comparison.findings

    def facts(entry: TensorEntry | None) -> list[int] | None:
        return None if entry is None else [dtypes.place(entry.dtype), shapes.place(entry.shape)]

    def values(name: str) -> list[Any]:
        return [_finite(getattr(finding.values, name, None)) for finding in findings]

    only_in_b = sum(finding.a is None for finding in findings)
    return {
        "values_compared": comparison.values,
        "common": len(comparison.other.entries) - only_in_b,
        "name": [finding.name for finding in findings],
        "what": [finding.what for finding in findings],
        "a": [facts(finding.a) for finding in findings],
        "b": [facts(finding.b) for finding in findings],
        "elements": values("elements"),
        "differing": values("differing"),
        "max_abs": values("max_abs"),
        "max_rel": values("max_rel"),
        "why": [finding.why for finding in findings],
    }


def _front_coded(names: Iterable[str]) -> tuple[list[int], list[str]]:
    """Of each name how many UTF-16 units it shares with the one before, and the rest of it."""
    counts, rests = [], []
    before = ""
    for name in names:
        same = os.path.commonprefix((before, name))  # noqa: RUF071 - letter by letter is what is meant
        counts.append(len(same.encode("utf-16-le", "surrogatepass")) // 2)
        rests.append(name[len(same) :])
        before = name
    return counts, rests


def _shared_storages(entries: Iterable[TensorEntry]) -> dict[tuple[str | None, int | None], int]:
    """The storages that several tensors lie in, numbered."""
    seen: dict[tuple[str | None, int | None], int] = {}
    for entry in entries:
        if entry.storage is not None:
            key = (entry.file, entry.storage)
            seen[key] = seen.get(key, 0) + 1
    return {key: number for number, key in enumerate(key for key, count in seen.items() if count > 1)}


def _packed(column: list[Any]) -> Any:
    """A column of one value as that value."""
    return column[0] if len(column) > 1 and column.count(column[0]) == len(column) else column


def _exact(number: int | None) -> int | str | None:
    return number if number is None or -MAX_EXACT <= number <= MAX_EXACT else str(number)


def _finite(value: Any) -> Any:
    """A number that JSON has; infinity and NaN as text."""
    if isinstance(value, float):
        return float(f"{value:.7g}") if math.isfinite(value) else str(value)
    return _exact(value) if isinstance(value, int) else value


def _part(name: str) -> str:
    """A part of the page that the package brings, with the line ends that a browser hashes."""
    found = pkgutil.get_data("fastload", f"page/{name}")
    assert found is not None, "whatever loads this module can load what lies beside it"
    return found.decode().replace("\r\n", "\n")


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
