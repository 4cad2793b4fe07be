"""Pickle streams for tests: one opcode at a time, or whole values with stand-ins for torch's globals, without torch."""

from __future__ import annotations

import io
import pickle
import pickletools
import struct
from dataclasses import dataclass, field
from typing import Any

OPCODES = {opcode.name: opcode.code.encode("latin-1") for opcode in pickletools.opcodes}

# Dtypes that torch saves: first those that it reads back from every layout, then those that it reads from zips alone.
OLD_DTYPES = (
    "bool", "uint8", "int8", "int16", "int32", "int64", "float16", "bfloat16", "float32", "float64", "complex64",
    "complex128",
)  # fmt: skip
LATER_DTYPES = (
    "uint16", "uint32", "uint64", "complex32", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz",
    "float8_e8m0fnu",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Global:
    """A name that a pickle refers to; nothing of that name need exist."""

    module: str
    name: str

    def __call__(self) -> None:
        """Never called: pickle only asks whether it could be."""
        raise AssertionError("a stand-in was called")


@dataclass(frozen=True, eq=False)
class Call:
    """REDUCE of *function* and *args*, then BUILD with *state* if there is one."""

    function: Global
    args: tuple
    state: Any = None


@dataclass(frozen=True, eq=False)
class PersistentId:
    """A BINPERSID of any value at all."""

    value: Any


class ValuePickler(pickle._Pickler):
    """CPython's own pickler in Python, so that every protocol's own opcodes come out, for values with stand-ins."""

    dispatch = dict(pickle._Pickler.dispatch)

    def save_stand_in(self, obj: Global) -> None:
        if self.proto >= 4:
            self.save(obj.module)
            self.save(obj.name)
            self.write(pickle.STACK_GLOBAL)
        else:
            self.write(pickle.GLOBAL + f"{obj.module}\n{obj.name}\n".encode())
        self.memoize(obj)

    dispatch[Global] = save_stand_in

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, Call):
            return (obj.function, obj.args) if obj.state is None else (obj.function, obj.args, obj.state)
        return NotImplemented

    def persistent_id(self, obj: Any) -> Any:
        return obj if isinstance(obj, PersistentId) else None

    def save_pers(self, pid: PersistentId) -> None:
        self.save(pid.value, save_persistent_id=False)
        self.write(pickle.BINPERSID)  # in protocol 0 too, whose own PERSID can only hold a line of text


def dumps(value: Any, protocol: int = 2, pickler: type[ValuePickler] = ValuePickler, memo: bool = True) -> bytes:
    """The pickle of *value*, in which `Global`, `Call` and `PersistentId` become the opcodes they stand for."""
    out = io.BytesIO()
    writer = pickler(out, protocol)
    writer.fast = not memo
    writer.dump(value)
    return out.getvalue()


@dataclass
class Pickle:
    """A pickle stream put together opcode by opcode: `Pickle(2).value({}).text("w").value(1).op("SETITEM").stop()`."""

    protocol: int | None = 2
    stream: bytearray = field(default_factory=bytearray)

    def __post_init__(self) -> None:
        if self.protocol is not None and self.protocol >= 2:
            self.op("PROTO", bytes([self.protocol]))

    def op(self, name: str, argument: bytes = b"") -> Pickle:
        """One opcode by the name that `pickletools` gives it, and its argument's bytes as they stand."""
        self.stream += OPCODES[name] + argument
        return self

    def raw(self, stream: bytes) -> Pickle:
        self.stream += stream
        return self

    def value(self, value: Any) -> Pickle:
        """The opcodes that leave *value* on the stack, with no use of the memo."""
        return self.raw(dumps(value, 2, memo=False)[2:-1])

    def text(self, value: str) -> Pickle:
        raw = value.encode("utf-8", "surrogatepass")
        return self.op("BINUNICODE", struct.pack("<I", len(raw)) + raw)

    def entry(self, key: str, stream: bytes) -> Pickle:
        """One item of the dict below it; *stream* is the opcodes that make its value."""
        return self.text(key).raw(stream).op("SETITEM")

    def put(self, index: int) -> Pickle:
        return self.op("LONG_BINPUT", struct.pack("<I", index))

    def get(self, index: int) -> Pickle:
        return self.op("LONG_BINGET", struct.pack("<I", index))

    def stop(self) -> bytes:
        return bytes(self.stream + OPCODES["STOP"])


def assemble(text: str) -> bytes:
    r"""Opcodes written as words, as in "EMPTY_LIST 1 APPEND": a number is a BININT1, and r"GET=5\n" has an argument."""
    stream = b""
    for word in text.split():
        name, _, argument = word.partition("=")
        if word.isdigit():
            stream += OPCODES["BININT1"] + bytes([int(word)])
        else:
            stream += OPCODES[name] + argument.encode("ascii").decode("unicode_escape").encode("latin-1")
    return stream
