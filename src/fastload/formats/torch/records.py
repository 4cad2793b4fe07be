"""Records of an archive that are no pickles of its own: JSON, small texts, and files within the file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

from fastload._native import check
from fastload.errors import FastloadError, FormatError, LimitError
from fastload.formats.strict_json import without_repeats
from fastload.formats.torch.archive import MAX_TEXT_BYTES, Archive
from fastload.source import Source

if TYPE_CHECKING:
    from json import JSONDecoder

__all__ = ["about", "expect", "find", "open_part", "read_json", "read_text"]

# A description takes about 600 bytes a tensor, so this is 100,000 of them. As Python objects JSON takes up to twenty
# times the room, and a hostile record inflates to a thousand times its size.
MAX_JSON_BYTES = 1 << 26

_KINDS: dict[type, str] = {
    dict: "an object",
    list: "a list",
    str: "a text",
    int: "a whole number",
    float: "a fraction",
    bool: "true or false",
    type(None): "null",
}

Value = TypeVar("Value")


def find(archive: Archive, name: str) -> int:
    """The number of the record *name* below P.

    Raises
    ------
    FormatError
        There is none. The name may come from the file: it is looked up among the records and nowhere else.
    """
    try:
        number = archive.find(name)
    except UnicodeEncodeError:  # half a surrogate pair, which JSON can spell and no name of a record can be
        number = -1
    if number < 0:
        raise FormatError(f"the archive lacks the record {archive.root + name!r}")
    return number


def read_json(source: Source, archive: Archive, name: str) -> Any:
    """The JSON in the record *name* below P, strictly: no name twice in an object, no NaN.

    Raises
    ------
    LimitError
        It is longer than `MAX_JSON_BYTES`.
    FormatError
        There is no such record, or it is not JSON.
    """
    number = find(archive, name)
    size = archive.records.size(number)
    if size > MAX_JSON_BYTES:
        raise LimitError(f"record {name!r} is {size:,} bytes of JSON, more than the {MAX_JSON_BYTES:,} that are read")
    try:
        text = bytes(source.read_record(archive.records, number)).decode()
        return _decoder().decode(text)
    except FastloadError as error:
        error.message = f"record {name!r}: {error.message}"
        raise
    except RecursionError:
        raise FormatError(f"record {name!r} is JSON that is nested too deeply") from None
    except ValueError as error:  # also of bytes that are not UTF-8, and of numbers of thousands of digits
        raise FormatError(f"record {name!r} is not JSON: {error}") from None


@cache
def _decoder() -> JSONDecoder:
    """Made once: with one for each text, memory went on growing for thousands of texts. Threads may share it."""
    import json  # 5 ms, and few files have any

    return json.JSONDecoder(object_pairs_hook=without_repeats, parse_constant=_refuse_constant)


def _refuse_constant(text: str) -> None:
    raise ValueError(f"{text} is no number of JSON")


def read_text(source: Source, archive: Archive, name: str, limit: int = MAX_TEXT_BYTES) -> str:
    """The text in the record *name* below P, of which at most *limit* bytes are read.

    Raises
    ------
    LimitError
        It is longer.
    """
    number = find(archive, name)
    size = archive.records.size(number)
    if size > limit:
        raise LimitError(f"record {name!r} is {size:,} bytes of text, more than the {limit:,} that are read")
    return bytes(source.read_record(archive.records, number)).decode("utf-8", "replace")


def open_part(source: Source, archive: Archive, number: int) -> Source:
    """The file that a record holds; it lies within *source* unless the record is compressed."""
    records = archive.records
    check(records, number)
    if records.is_view(number):
        return source.part(source.locate(records, number), records.size(number))
    return source.unpacked(source.read_record(records, number))


def expect(value: object, kind: type[Value], what: str) -> Value:
    """*value*, which must be of *kind* exactly: true is no number."""
    if type(value) is not kind:
        raise FormatError(f"{what} is {_KINDS.get(type(value), 'odd')} instead of {_KINDS[kind]}")
    return value


@contextmanager
def about(what: str) -> Iterator[None]:
    """Errors on the way begin with *what* they are about."""
    try:
        yield
    except FastloadError as error:
        error.message = f"{what}: {error.message}"
        raise
