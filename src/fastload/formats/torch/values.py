"""What `ckpt.objects` shows as plain values: for each global, a function of ours that makes one.

They make such a value from the arguments in the file and refuse whatever a pickler would not have written; a global
without one becomes an inert Record. Nothing that a file names is imported or called.
"""

from __future__ import annotations

import codecs
import datetime
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from fastload.formats.torch.numpy_values import bytes_of_length, numpy_dtype_of, numpy_scalar

# decimal, fractions, pathlib and uuid are imported where a file has such a value: they take 5 ms.
if TYPE_CHECKING:
    import decimal
    import fractions
    import pathlib
    import uuid

__all__ = ["MAKERS", "mapping", "numpy_dtype_of"]

MAX_DIGITS = 4300  # of a number written out, as CPython has it: what is longer takes quadratic time to read
MAX_NUMBER_BITS = 16384  # of a fraction's parts, whose common divisor takes quadratic time too

Made = Callable[..., Any]


def mapping(*arguments: object) -> dict[Any, Any]:
    """Stands for a dict-like class; its items come from the file one by one."""
    return {}


# Bytes, containers and numbers.


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


def _sequence(make: Callable[[Iterable[Any]], Any]) -> Made:
    def maker(items: Any = (), maxlen: Any = None) -> Any:
        if not isinstance(items, (list, tuple)):
            raise TypeError("items that are no list")
        return make(items)

    return maker


def _complex(real: object, imaginary: object) -> complex:
    if not isinstance(real, (int, float)) or not isinstance(imaginary, (int, float)):
        raise TypeError("complex of something else than numbers")
    return complex(real, imaginary)


def _slice(start: object, stop: object, step: object) -> slice:
    """A slice of plain ends: slices within each other have no bound, and CPython takes them apart by recursion."""
    if not all(end is None or isinstance(end, (bool, int, float, str)) for end in (start, stop, step)):
        raise TypeError("slice of something else than numbers")
    return slice(start, stop, step)


def _range(start: object, stop: object, step: object = 1) -> range:
    return range(_integer(start), _integer(stop), _integer(step))


def _decimal(text: str) -> decimal.Decimal:
    if not isinstance(text, str) or len(text) > MAX_DIGITS:
        raise ValueError("a decimal of something else than digits")
    import decimal

    try:
        return decimal.Decimal(text)
    except decimal.InvalidOperation as error:
        raise ValueError(text) from error


def _fraction(numerator: object, denominator: object = 1) -> fractions.Fraction:
    """A fraction of two ints or, as older Pythons write it, of a text such as "1/3"."""
    if isinstance(numerator, str):
        if len(numerator) > MAX_DIGITS or denominator != 1:
            raise ValueError("a fraction of too many digits")
        numerator, _, text = numerator.partition("/")
        numerator, denominator = int(numerator), int(text or "1")
    one, other = _integer(numerator), _integer(denominator)
    if not other or max(one.bit_length(), other.bit_length()) > MAX_NUMBER_BITS:
        raise ValueError("a fraction of zero, or of too many digits")
    import fractions

    return fractions.Fraction(one, other)


def _integer(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError("something else than a whole number")
    return value


# Times: packed bytes, as `datetime` writes them; its own classes do not check all of what they are given so.


def _date(packed: object) -> datetime.date:
    year_high, year_low, month, day = bytes_of_length(packed, 4)
    return datetime.date(year_high * 256 + year_low, month, day)


def _time(packed: object, zone: object = None) -> datetime.time:
    hour, minute, second, *fraction = bytes_of_length(packed, 6)
    fold, hour = divmod(hour, 128)
    return datetime.time(hour, minute, second, int.from_bytes(fraction, "big"), _zone(zone), fold=fold)


def _datetime(packed: object, zone: object = None) -> datetime.datetime:
    year_high, year_low, month, day, hour, minute, second, *fraction = bytes_of_length(packed, 10)
    fold, month = divmod(month, 128)
    microsecond = int.from_bytes(fraction, "big")
    year = year_high * 256 + year_low
    return datetime.datetime(year, month, day, hour, minute, second, microsecond, _zone(zone), fold=fold)


def _zone(zone: object) -> datetime.timezone | None:
    """The offset of a time. Zones of other sorts have rules that only their program knows."""
    if zone is not None and not isinstance(zone, datetime.timezone):
        raise TypeError("a time zone of another sort")
    return zone


def _timedelta(days: object = 0, seconds: object = 0, microseconds: object = 0) -> datetime.timedelta:
    return datetime.timedelta(_integer(days), _integer(seconds), _integer(microseconds))


def _timezone(offset: datetime.timedelta, *name: str) -> datetime.timezone:
    return datetime.timezone(offset, *name)


def _utc(*arguments: object) -> datetime.timezone:
    return datetime.UTC


# Names of things.


def _path(kind: str) -> Made:
    """A path as a name only: one of another system cannot be opened here, and one of a file should not be at once."""

    def maker(*parts: object) -> pathlib.PurePath:
        if not all(isinstance(part, str) for part in parts):
            raise TypeError("a path of something else than texts")
        import pathlib

        return getattr(pathlib, kind)(*parts)  # type: ignore[no-any-return]

    return maker


def _uuid(args: tuple[Any, ...], state: Any) -> uuid.UUID:
    if args or not isinstance(state, dict):
        raise ValueError("a UUID without a number")
    import uuid

    return uuid.UUID(int=_integer(state["int"]))


def _device(kind: object, number: object = None) -> str:
    """`torch.device` by the text that makes it again: "cuda:0"."""
    if not isinstance(kind, str):
        raise TypeError("a device without a name")
    return kind if number is None else f"{kind}:{_integer(number)}"


def _name(name: object) -> str:
    if not isinstance(name, str):
        raise TypeError("a name that is no text")
    return name


def _dtype(args: tuple[Any, ...], state: Any) -> np.dtype[Any]:
    dtype = numpy_dtype_of(args, state)
    if dtype is None:
        raise ValueError("no dtype")
    return dtype


# Objects that a pickler spells by way of a function: what is left of the arguments without the class, and the items.


def _reconstructed(base: Any, value: Any) -> tuple[tuple[Any, ...], Any]:
    """`copyreg._reconstructor(class, base, value)`, as protocols 0 and 1 spell an object."""
    if isinstance(value, (dict, list)):
        return (), value
    return (() if value is None else (value,)), None


def _new(*arguments: Any) -> tuple[tuple[Any, ...], Any]:
    """`copyreg.__newobj__(class, *arguments)`."""
    return arguments, None


_BUILTINS: dict[str, Made] = {
    "dict": mapping,
    "list": _sequence(list),
    "set": _sequence(set),
    "frozenset": _sequence(frozenset),
    "bytes": _bytes,
    "bytearray": _bytearray,
    "complex": _complex,
    "slice": _slice,
    "range": _range,
    "xrange": _range,
}

_PATHS = {
    "Path": "PurePosixPath",
    "PurePath": "PurePosixPath",
    "PosixPath": "PurePosixPath",
    "PurePosixPath": "PurePosixPath",
    "WindowsPath": "PureWindowsPath",
    "PureWindowsPath": "PureWindowsPath",
}

# (module, name): what makes it, and how the core is to use that. "call" is a function of the arguments of the call,
# "state" one of (arguments, state); "namespace" has attributes and nothing else; "constant" is a value by itself;
# "new" is a function of the arguments behind a class, which returns the class's own and its items.
MAKERS: dict[tuple[str, str], tuple[str, Any]] = {
    ("collections", "OrderedDict"): ("call", mapping),
    ("collections", "defaultdict"): ("call", mapping),
    ("collections", "Counter"): ("call", mapping),
    ("collections", "deque"): ("call", _sequence(list)),
    ("_codecs", "encode"): ("call", _encode),
    ("datetime", "date"): ("call", _date),
    ("datetime", "time"): ("call", _time),
    ("datetime", "datetime"): ("call", _datetime),
    ("datetime", "timedelta"): ("call", _timedelta),
    ("datetime", "timezone"): ("call", _timezone),
    ("pytz", "_UTC"): ("call", _utc),
    ("dateutil.tz.tz", "tzutc"): ("call", _utc),
    ("decimal", "Decimal"): ("call", _decimal),
    ("fractions", "Fraction"): ("call", _fraction),
    ("uuid", "UUID"): ("state", _uuid),
    ("argparse", "Namespace"): ("namespace", None),
    ("types", "SimpleNamespace"): ("namespace", None),
    ("torch", "Size"): ("call", _sequence(tuple)),
    ("torch", "device"): ("call", _device),
    ("torch.serialization", "_get_layout"): ("call", _name),
    ("numpy", "dtype"): ("state", _dtype),
    ("numpy.core.multiarray", "scalar"): ("call", numpy_scalar),
    ("numpy._core.multiarray", "scalar"): ("call", numpy_scalar),
    ("copyreg", "_reconstructor"): ("new", _reconstructed),
    ("copy_reg", "_reconstructor"): ("new", _reconstructed),
    ("copyreg", "__newobj__"): ("new", _new),
    ("copy_reg", "__newobj__"): ("new", _new),
    **{
        (module, name): ("call", _path(kind))
        for module in ("pathlib", "pathlib._local")
        for name, kind in _PATHS.items()
    },
    **{(module, name): ("call", maker) for module in ("builtins", "__builtin__") for name, maker in _BUILTINS.items()},
    **{
        (module, repr(value)): ("constant", value)
        for module in ("builtins", "__builtin__")
        for value in (Ellipsis, NotImplemented)
    },
}
