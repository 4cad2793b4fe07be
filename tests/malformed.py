"""Malformed files of our own, by name: each is refused, and none may leak, crash or take long."""

import json
import struct

from builders import (
    Storage,
    Tensor,
    safetensors_entry,
    safetensors_raw,
    smallest_file,
    tensor,
    torch_file,
    torch_file_with,
    torch_pickle,
    torch_zip,
    zip_file,
)
from pickles import OPCODES, Pickle

PAIR = safetensors_entry("F32", (2,), 0, 8)


def header(**entries):
    return json.dumps(entries)


def end_record(field, value):
    """A good archive whose end record has *value* at *field*."""
    file = bytearray(torch_file({"w": tensor("float32", (2,), [1, 2])}, zip64=""))
    struct.pack_into("<I", file, len(file) - 22 + field, value)
    return bytes(file)


def short_record(**options):
    stream, _ = torch_pickle({"w": tensor("float32", (2,), [1, 2])})
    return torch_zip(stream, {"0": b"\0"}, **options)


def geometry(shape, strides, offset=0):
    return torch_file({"w": Tensor(Storage("FloatStorage", 4, bytes(8)), shape, strides, offset)})


def garbled_deflate():
    file = bytearray(torch_file({"w": tensor("float32", (500,), range(500))}, deflate=["data/0"], align=1))
    start = file.find(b"archive/data/0") + len("archive/data/0")
    file[start : start + 40] = b"\xff" * 40
    return bytes(file)


def wrong_signature():
    file = bytearray(smallest_file("pytorch-zip"))
    file[file.find(b"archive/data/0") - 30] = 0
    return bytes(file)


MALFORMED = {
    "empty": b"",
    "zeros": bytes(4096),
    "html": b"<!doctype html><html></html>" + bytes(50),
    "header length": safetensors_raw("{}", length=2**63),
    "header past the end": safetensors_raw("{}", length=4096),
    "cut json": safetensors_raw('{"w":{"dtype":"F32","sha'),
    "bad utf-8": safetensors_raw(b'{"\xff":{}}'),
    "unknown dtype": safetensors_raw(header(w=safetensors_entry("F99", (2,), 0, 8)), bytes(8)),
    "name twice": safetensors_raw(f'{{"w":{json.dumps(PAIR)},"w":{json.dumps(PAIR)}}}', bytes(8)),
    "hole": safetensors_raw(header(w=safetensors_entry("F32", (2,), 8, 16)), bytes(16)),
    "overlap": safetensors_raw(header(w=PAIR, v=PAIR), bytes(8)),
    "wrong extent": safetensors_raw(header(w=safetensors_entry("F32", (3,), 0, 8)), bytes(8)),
    "overflow": safetensors_raw(header(w=safetensors_entry("F32", (2**62, 4), 0, 16)), bytes(16)),
    "late fault among many": safetensors_raw(
        header(**{f"t{n}": safetensors_entry("U8", (1,), n, n + 1) for n in range(200)}, bad=PAIR), bytes(200)
    ),
    "metadata": safetensors_raw(header(__metadata__={"a": 1})),
    "deep": safetensors_raw('{"w":{"extra":' + "[" * 5000),
    "cut archive": smallest_file("pytorch-zip")[:-1],
    "half an archive": smallest_file("pytorch-zip")[:200],
    "no pickle": zip_file([("archive/version", b"3\n")]),
    "directory offset": end_record(16, 2**32 - 2),
    "directory size": end_record(12, 1),
    "short record": short_record(),
    "short deflated record": short_record(deflate=["data/0"]),
    "missing record": torch_zip(torch_pickle({"w": tensor("float32", (2,), [1, 2])})[0]),
    "garbled deflate": garbled_deflate(),
    "wrong signature": wrong_signature(),
    "negative stride": geometry((2,), (-1,)),
    "negative offset": geometry((2,), (1,), -1),
    "past the storage": geometry((2,), (2,)),
    "overflowing shape": geometry((2**62, 2**62), (1, 1)),
    "unknown opcode": torch_file_with(b"\xff"),
    "no stop": torch_zip(torch_pickle({"w": tensor("float32", (2,), [1, 2])})[0][:-1]),
    "empty stack": torch_file_with(b"00"),
    "missing memo": torch_file_with(OPCODES["LONG_BINGET"] + b"\xff\xff\xff\x7f"),
    "huge memo": torch_file_with(b"K\1" + OPCODES["LONG_BINPUT"] + b"\xff\xff\xff\xff" + OPCODES["TUPLE2"]),
    "long length": torch_file_with(OPCODES["BINBYTES8"] + b"\xff" * 8),
    "extension": torch_file_with(OPCODES["EXT1"] + b"\1"),
    "out-of-band buffer": torch_file_with(OPCODES["NEXT_BUFFER"]),
    "unhashable key": torch_file_with(b"}]K\1s"),
    "nothing but a mark": torch_zip(Pickle(2).op("MARK").stop()),
    "odd persistent id": torch_file_with(b"K\1" + OPCODES["BINPERSID"]),
}
