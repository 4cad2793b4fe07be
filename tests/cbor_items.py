"""A writer of CBOR, item by item, so that a test can write what no library would."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any


def cbor(value: Any) -> bytes:
    """*value* as CBOR with definite lengths and the shortest numbers; bytes stand for CBOR that is already made."""
    if isinstance(value, bytes):
        return value
    if value is None or isinstance(value, bool):
        return {None: b"\xf6", False: b"\xf4", True: b"\xf5"}[value]
    if isinstance(value, int):
        return cbor_head(0, value) if value >= 0 else cbor_head(1, -1 - value)
    if isinstance(value, float):
        return b"\xfb" + struct.pack(">d", value)
    if isinstance(value, str):
        raw = value.encode("utf-8", "surrogatepass")
        return cbor_head(3, len(raw)) + raw
    if isinstance(value, Mapping):
        return cbor_head(5, len(value)) + b"".join(cbor(key) + cbor(held) for key, held in value.items())
    return cbor_head(4, len(value)) + b"".join(map(cbor, value))


def cbor_head(major: int, number: int, width: int | None = None) -> bytes:
    """The head of a CBOR item; *width* in bytes of its number (0: in the first byte), the least if not given."""
    if width is None:
        width = 0 if number < 24 else next(size for size in (1, 2, 4, 8) if number < 1 << 8 * size)
    if width == 0:
        return bytes([major << 5 | number])
    return bytes([major << 5 | 23 + width.bit_length()]) + number.to_bytes(width, "big")
