"""JSON for programs: one object with a `schema` field, exact numbers, names as they are."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from fastload.errors import LimitError

__all__ = ["document", "in_parts", "jsonable"]

# What a file keeps beside its tensors is small; a pickle may repeat one list a billion times in a hundred bytes, and is
# only so small as long as nobody writes it out. The header of a safetensors file, 100 MB, fits.
MAX_SIZE = 100_000_000  # characters, to which each value adds
VALUE_SIZE = 64  # so that empty values count too
MAX_DEPTH = 100
MAX_INTEGER_BITS = 4096  # CPython will not write an int of more than 4,300 digits

_encode = json.JSONEncoder(ensure_ascii=True, allow_nan=False).encode  # a lone surrogate is \udc80, on any terminal


def document(schema: str, fields: Mapping[str, Any], **lists: Iterable[Mapping[str, Any]]) -> str:
    """A JSON object with *fields* one a line, then *lists* with one item a line, which suits grep, head and diff."""
    parts = [f'"schema": {_encode(schema)}', *(f"{_encode(key)}: {_encode(value)}" for key, value in fields.items())]
    for key, items in lists.items():
        lines = ",\n  ".join(map(_encode, items))
        parts.append(f"{_encode(key)}: [\n  {lines}\n]" if lines else f"{_encode(key)}: []")
    return "{" + ",\n".join(parts) + "}"


def jsonable(value: Any) -> Any:
    """*value* in what JSON has; what it lacks (bytes, records, infinities) as text.

    Raises
    ------
    LimitError
        Written out, it would be larger or deeper than anybody needs.
    """
    return _Writer().plain(value, MAX_DEPTH)


def in_parts(value: Any) -> Any:
    """*value* with each complex number in it as [real, imaginary]."""
    if isinstance(value, dict):
        return {key: in_parts(item) for key, item in value.items()}
    if isinstance(value, list):
        return list(map(in_parts, value))
    return [value.real, value.imag] if isinstance(value, complex) else value


class _Writer:
    """One walk over a value, which may refer to itself or to one part many times."""

    def __init__(self) -> None:
        self.left = MAX_SIZE

    def plain(self, value: Any, depth: int) -> Any:
        if not depth:
            raise LimitError(f"the metadata nests more than {MAX_DEPTH} deep")
        self.count(VALUE_SIZE)
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, int) and value.bit_length() <= MAX_INTEGER_BITS:
            return value
        if isinstance(value, float) and value - value == 0:  # neither infinite nor NaN
            return value
        if isinstance(value, Mapping):
            return self.mapping(value, depth - 1)
        if isinstance(value, (list, tuple, set, frozenset)):
            return [self.plain(item, depth - 1) for item in value]
        text = value if isinstance(value, str) else hex(value) if isinstance(value, int) else repr(value)
        self.count(len(text))
        return text

    def mapping(self, value: Mapping[Any, Any], depth: int) -> Any:
        """An object where all keys are text, else a list of pairs: an object cannot tell 1 from "1"."""
        if all(isinstance(key, str) for key in value):
            return {self.plain(key, depth): self.plain(item, depth) for key, item in value.items()}
        return [[self.plain(key, depth), self.plain(item, depth)] for key, item in value.items()]

    def count(self, size: int) -> None:
        self.left -= size
        if self.left < 0:
            raise LimitError(f"the metadata comes to more than {MAX_SIZE:,} characters when it is written out")
