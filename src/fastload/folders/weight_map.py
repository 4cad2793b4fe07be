"""The index of a sharded checkpoint, `….index.json`: which tensor lies in which file.

    {"metadata": {"total_size": 36}, "weight_map": {"a.weight": "model-00001-of-00002.safetensors", …}}

Strict JSON: a name that stands twice is refused, since one of its two files would silently be lost. Other keys beside
these two are left alone.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from fastload.errors import FormatError, LimitError, UnknownFormatError
from fastload.formats.strict_json import without_repeats
from fastload.source import Source

__all__ = ["WeightMap", "read_weight_map"]

MAX_INDEX_BYTES = 1 << 26  # five times the largest known, of a model of a million million parameters
MAX_INDEX_VALUES = 2_000_000  # values make objects of 100 bytes from 2 bytes of text; real indexes have 100,000
MAX_METADATA_DEPTH = 100  # of the objects and lists in it, so that they can be copied


class WeightMap(NamedTuple):
    """What an index says.

    Attributes
    ----------
    metadata : dict
        As it stands there; most often the total size in bytes.
    files : dict of str to str
        The file of each tensor, by name, in order.
    """

    metadata: dict[str, Any]
    files: dict[str, str]


def read_weight_map(source: Source) -> WeightMap:
    """Read the index that *source* is.

    Raises
    ------
    UnknownFormatError
        JSON, and no index: it has no `weight_map`.
    LimitError
        It is larger or more deeply nested than any index would be.
    FormatError
        No strict JSON, or not of the shape of an index.
    """
    found = _parse(_text(source))
    if "weight_map" not in found:
        raise UnknownFormatError(
            "is JSON, and no index of a sharded checkpoint: it has no weight_map; a configuration perhaps"
        )
    metadata, files = found.get("metadata", {}), found["weight_map"]
    if not isinstance(metadata, dict):
        raise FormatError(f"metadata of the index is a {_word(metadata)}, and should be an object")
    if not isinstance(files, dict):
        raise FormatError(f"weight_map of the index is a {_word(files)}, and should be an object")
    if not set(map(type, files.values())) <= {str}:
        name, file = next((name, file) for name, file in files.items() if type(file) is not str)
        raise FormatError(f"weight_map gives {name!r} a {_word(file)}, and should give it the name of a file")
    _refuse_depth(metadata)
    return WeightMap(metadata, files)


def _text(source: Source) -> str:
    if source.size > MAX_INDEX_BYTES:
        raise LimitError(f"begins like JSON and has {source.size:,} bytes; an index has {MAX_INDEX_BYTES:,} at most")
    data = bytes(source.fetch(0, source.size))
    if sum(map(data.count, (b",", b"[", b"{"))) > MAX_INDEX_VALUES:
        raise LimitError(f"the index has more than {MAX_INDEX_VALUES:,} values")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise FormatError(f"is not the UTF-8 that JSON is written in: {error.reason}", offset=error.start) from None


def _parse(text: str) -> dict[str, Any]:
    import json  # few checkpoints have an index

    try:
        found = json.loads(text, parse_constant=_refuse_constant)
        # A key that stands twice loses a string. To count them takes a tenth of the time of a hook for each object.
        if "\\" in text or text.count('"') != 2 * _count_strings(found):
            found = json.loads(text, object_pairs_hook=without_repeats, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        offset = len(text[: error.pos].encode("utf-8"))
        raise FormatError(f"is no sound JSON ({error.msg}): the download may be incomplete", offset=offset) from None
    except RecursionError:
        raise LimitError("is JSON nested too deeply for an index") from None
    except FormatError:
        raise
    except ValueError as error:  # a number of very many digits
        raise FormatError(f"is JSON with a number that cannot be read: {error}") from None
    if not isinstance(found, dict):
        raise UnknownFormatError(f"is JSON, and no checkpoint: a {_word(found)}")
    return found


def _count_strings(found: Any) -> int:
    """How many strings there are in a JSON value, keys included."""
    count, waiting = 0, [found]
    while waiting:
        value = waiting.pop()
        if type(value) is dict:
            count += len(value)
            value = value.values()
        elif type(value) is not list:
            count += type(value) is str
            continue
        inner = [one for one in value if type(one) is not str]
        count += len(value) - len(inner)
        waiting.extend(inner)
    return count


def _refuse_constant(word: str) -> Any:
    raise FormatError(f"is no sound JSON: {word} is no JSON value")


def _refuse_depth(metadata: dict[str, Any]) -> None:
    level: list[Any] = [metadata]
    for _ in range(MAX_METADATA_DEPTH):
        inner = [value for one in level for value in (one.values() if isinstance(one, dict) else one)]
        level = [value for value in inner if isinstance(value, (dict, list))]
        if not level:
            return
    raise LimitError(f"metadata of the index is nested more than {MAX_METADATA_DEPTH} deep")


def _word(value: Any) -> str:
    """What JSON calls the type of *value*."""
    words = {dict: "object", list: "list", str: "text", bool: "truth value", type(None): "null"}
    return words.get(type(value), "number")
