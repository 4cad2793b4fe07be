"""What `ckpt.objects` shows as plain values: for each global, a function of ours that makes one.

They make such a value from the arguments in the file and refuse whatever a pickler would not have written; a global
without one becomes an inert Record. Nothing that a file names is imported or called.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterable
from typing import Any

from fastload.formats.torch.numpy_values import numpy_dtype_of

__all__ = ["MAKERS", "mapping", "numpy_dtype_of"]


def mapping(*arguments: object) -> dict[Any, Any]:
    """Stands for a dict-like class; its items come from the file one by one."""
    return {}


def _encode(text: str, encoding: str) -> bytes:
    """`_codecs.encode`, as protocols 0 to 2 spell bytes; no encoding but Latin-1 stands for bytes."""
    if encoding not in ("latin1", "latin-1"):
        raise ValueError(encoding)
    return codecs.latin_1_encode(text)[0]


def _bytes(*arguments: Any) -> bytes:
    """`bytes()`, which is all that a pickler writes; `bytes(2**36)` would be a bomb."""
    if arguments:
        raise ValueError("bytes with arguments")
    return b""


def _bytearray(data: bytes | str = b"", encoding: str = "latin-1") -> bytearray:
    if isinstance(data, str):
        data = _encode(data, encoding)
    if not isinstance(data, bytes):
        raise TypeError("bytearray of something else than bytes")
    return bytearray(data)


def _sequence(make: Callable[[Iterable[Any]], Any]) -> Callable[..., Any]:
    def maker(items: Any = (), maxlen: Any = None) -> Any:
        if not isinstance(items, (list, tuple)):
            raise TypeError("items that are no list")
        return make(items)

    return maker


def _complex(real: float, imaginary: float) -> complex:
    return complex(float(real), float(imaginary))


_BUILTINS: dict[str, Callable[..., Any]] = {
    "dict": mapping,
    "list": _sequence(list),
    "set": _sequence(set),
    "frozenset": _sequence(frozenset),
    "bytes": _bytes,
    "bytearray": _bytearray,
    "complex": _complex,
}

# What `ckpt.objects` shows as plain values instead of records: functions of ours, which make such a value from the
# arguments in the file and refuse whatever a pickler would not have written.
MAKERS: dict[tuple[str, str], Callable[..., Any]] = {
    ("collections", "OrderedDict"): mapping,
    ("collections", "defaultdict"): mapping,
    ("collections", "Counter"): mapping,
    ("collections", "deque"): _sequence(list),
    ("torch", "Size"): _sequence(tuple),
    ("_codecs", "encode"): _encode,
    **{(module, name): maker for module in ("builtins", "__builtin__") for name, maker in _BUILTINS.items()},
}
