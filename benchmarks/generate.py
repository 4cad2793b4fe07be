"""Inputs of any size for the demo and the benchmarks: the formats, written with numpy alone and little memory.

The writers share no code with fastload, so that a reader which is wrong about a format cannot agree with itself.
`tests/test_generate.py` holds them against the reference libraries: the safetensors file, the pickle in the torch
archive and the legacy stream are, byte for byte, what safetensors and torch would have written.
"""

from __future__ import annotations

import json
import math
import pickle
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

Tensors = Mapping[str, np.ndarray]
Shapes = Mapping[str, tuple[str, tuple[int, ...]]]  # name → (numpy dtype, shape)

SPELLINGS = {
    # numpy       safetensors  torch storage
    "bool":       ("BOOL", "BoolStorage"),
    "uint8":      ("U8",   "ByteStorage"),
    "int8":       ("I8",   "CharStorage"),
    "int16":      ("I16",  "ShortStorage"),
    "int32":      ("I32",  "IntStorage"),
    "int64":      ("I64",  "LongStorage"),
    "float16":    ("F16",  "HalfStorage"),
    "bfloat16":   ("BF16", "BFloat16Storage"),
    "float32":    ("F32",  "FloatStorage"),
    "float64":    ("F64",  "DoubleStorage"),
}  # fmt: skip

TORCH_ALIGNMENT = 64  # torch's default since 2.7: every record of the archive begins at a multiple of it
PICKLE_BATCH = 1000  # CPython's pickler closes a SETITEMS after so many


def transformer(
    *, layers: int = 24, width: int = 1024, hidden: int = 2048, vocabulary: int = 50_000, dtype: str = "float16"
) -> dict[str, np.ndarray]:
    """The state dict of a small decoder, norms in float32; about 530 MB as it comes."""
    key_width = width // 4  # four query heads share a key
    shapes = {"model.embed_tokens.weight": (dtype, (vocabulary, width))}
    for layer in range(layers):
        for name, of, shape in (
            ("input_layernorm", "float32", (width,)),
            ("self_attn.q_proj", dtype, (width, width)),
            ("self_attn.k_proj", dtype, (key_width, width)),
            ("self_attn.v_proj", dtype, (key_width, width)),
            ("self_attn.o_proj", dtype, (width, width)),
            ("post_attention_layernorm", "float32", (width,)),
            ("mlp.gate_proj", dtype, (hidden, width)),
            ("mlp.up_proj", dtype, (hidden, width)),
            ("mlp.down_proj", dtype, (width, hidden)),
        ):
            shapes[f"model.layers.{layer}.{name}.weight"] = (of, shape)
    shapes["model.norm.weight"] = ("float32", (width,))
    return fill(shapes)


def uniform(count: int, *, shape: tuple[int, ...] = (4, 4), dtype: str = "float32") -> dict[str, np.ndarray]:
    """*count* tensors of one shape, four to a layer."""
    parts = ("attn.qkv", "attn.out", "mlp.up", "mlp.down")
    return fill({f"model.layers.{i // 4}.{parts[i % 4]}.weight": (dtype, shape) for i in range(count)})


def fill(shapes: Shapes) -> dict[str, np.ndarray]:
    """An array of normal numbers for every name.

    All arrays of a dtype are slices of one block, each from another start: the memory taken is that of the largest.
    """
    normals = np.random.default_rng(0).standard_normal(1 << 16, dtype=np.float32)
    longest: dict[str, int] = {}
    for dtype, shape in shapes.values():
        longest[dtype] = max(longest.get(dtype, 0), math.prod(shape))
    blocks = {dtype: np.resize((normals * 50).astype(dtype), size + normals.size) for dtype, size in longest.items()}

    tensors = {}
    for position, (name, (dtype, shape)) in enumerate(shapes.items()):
        start = position * 7919 % normals.size
        tensors[name] = blocks[dtype][start : start + math.prod(shape)].reshape(shape)
    return tensors


def write_safetensors(path: Path, tensors: Tensors, metadata: Mapping[str, str] | None = None) -> None:
    """Write *tensors* as the reference writer does: the widest dtype first, then by name."""
    order = sorted(tensors, key=lambda name: (-tensors[name].itemsize, name))
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name in order:
        array = tensors[name]
        begin, end = end, end + array.nbytes
        spelling = SPELLINGS[array.dtype.name][0]
        header[name] = {"dtype": spelling, "shape": array.shape, "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)

    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in order:
            file.write(raw(tensors[name]))


def write_torch_zip(path: Path, tensors: Tensors) -> None:
    """Write *tensors* as `torch.save` of a dict does since torch 2.7; up to 4 GiB."""
    with open(path, "wb") as file:
        archive = TorchArchive(file, prefix=path.stem)
        archive.add("data.pkl", b"".join(state_dict_pickle(tensors)))
        archive.add(".format_version", b"1")
        archive.add(".storage_alignment", str(TORCH_ALIGNMENT).encode())
        archive.add("byteorder", b"little")
        for key, array in enumerate(tensors.values()):
            archive.add(f"data/{key}", raw(array))
        archive.add("version", b"3\n")
        archive.add(".data/serialization_id", b"0" * 40)
        archive.finish()


def write_torch_legacy(path: Path, tensors: Tensors, keys: Sequence[str] = ()) -> None:
    """Write *tensors* as `torch.save` of a dict does with `_use_new_zipfile_serialization=False`.

    *keys* are what torch calls the storages: where they lie in its memory, as it happens.
    """
    keys = keys or [str(94_000_000_000_000 + 64 * number) for number in range(len(tensors))]
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    storages = dict(zip(keys, tensors.values(), strict=True))
    with open(path, "wb") as file:
        for value in (0x1950A86A20F9469CFC6C, 1001, system):
            file.write(pickle.dumps(value, protocol=2))
        file.writelines(state_dict_pickle(tensors, keys, b"N"))
        file.write(pickle.dumps(sorted(storages), protocol=2))
        for key in sorted(storages):
            file.write(struct.pack("<q", storages[key].size))
            file.write(raw(storages[key]))


def raw(array: np.ndarray) -> memoryview:
    """The bytes of *array* in row-major order, without a copy where it is contiguous."""
    return memoryview(np.ascontiguousarray(array).reshape(-1).view(np.uint8))


class TorchArchive:
    """A zip as torch writes it: all records stored and aligned, their sizes in the central directory only."""

    def __init__(self, file: BinaryIO, prefix: str) -> None:
        self.file = file
        self.prefix = prefix
        self.directory: list[bytes] = []

    def add(self, name: str, data: bytes | memoryview) -> None:
        """Append one record."""
        path = f"{self.prefix}/{name}".encode()
        size = len(data)
        start = self.file.tell()
        if start + size >= 1 << 32:
            raise ValueError("this writer has no ZIP64 records: keep the archive below 4 GiB")
        flags = 0x0808 if size else 0x0800  # UTF-8 name, sizes after the data; an empty record needs no such sizes
        padding = -(start + 30 + len(path) + 4) % TORCH_ALIGNMENT
        extra = struct.pack("<2sH", b"FB", padding) + b"Z" * padding
        self.file.write(struct.pack("<4s5H3I2H", b"PK\3\4", 0, flags, 0, 0, 0, 0, 0, 0, len(path), len(extra)))
        self.file.write(path + extra)
        self.file.write(data)
        checksum = zlib.crc32(data)
        if size:
            self.file.write(struct.pack("<4s3I", b"PK\7\10", checksum, size, size))
        entry = ("<4s6H3I5H2I", b"PK\1\2", 0, 0, flags, 0, 0, 0, checksum, size, size, len(path), 0, 0, 0, 0, 0, start)
        self.directory.append(struct.pack(*entry) + path)

    def finish(self) -> None:
        """Append the central directory and its two ends; the ZIP64 one is always there."""
        start = self.file.tell()
        directory = b"".join(self.directory)
        count = len(self.directory)
        zip64_end = ("<4sQ2H2I4Q", b"PK\6\6", 44, 0x031E, 45, 0, 0, count, count, len(directory), start)
        locator = ("<4sIQI", b"PK\6\7", 0, start + len(directory), 1)
        short = min(count, 0xFFFF)
        end = ("<4s4H2IH", b"PK\5\6", 0, 0, short, short, len(directory), start, 0)
        self.file.write(directory + b"".join(struct.pack(*record) for record in (zip64_end, locator, end)))


def state_dict_pickle(tensors: Tensors, keys: Sequence[str] = (), view: bytes = b"") -> Iterator[bytes]:
    """The opcodes of protocol 2 that torch writes for a dict of contiguous tensors, each with a storage of its own.

    *keys* name the storages, else their numbers do; *view* is the sixth part of a storage's id, which old files have.
    """
    memo: dict[str, int] = {}
    places = 0

    def put() -> bytes:
        nonlocal places
        places += 1
        place = places - 1
        return b"q" + bytes([place]) if place < 256 else b"r" + struct.pack("<I", place)

    def once(key: str, opcodes: bytes) -> bytes:
        """The opcodes and a memo place the first time, a reference to the place from then on."""
        if key not in memo:
            memo[key] = places
            return opcodes + put()
        place = memo[key]
        return b"h" + bytes([place]) if place < 256 else b"j" + struct.pack("<I", place)

    def text(value: str) -> bytes:
        encoded = value.encode()
        return b"X" + struct.pack("<I", len(encoded)) + encoded

    def name_of_class(module: str, name: str) -> bytes:
        return once(f"{module} {name}", f"c{module}\n{name}\n".encode())

    def tuple_of(numbers: tuple[int, ...]) -> bytes:
        items = b"".join(map(integer, numbers))
        match len(numbers):
            case 0:
                return b")"  # the empty tuple takes no memo place
            case 1 | 2 | 3 as length:
                return items + b"\x85\x86\x87"[length - 1 : length] + put()
            case _:
                return b"(" + items + b"t" + put()

    def tensor(key: int, array: np.ndarray) -> Iterator[bytes]:
        strides = tuple(math.prod(array.shape[axis + 1 :]) for axis in range(array.ndim))
        yield name_of_class("torch._utils", "_rebuild_tensor_v2") + b"("
        yield b"(" + once("storage", text("storage")) + name_of_class("torch", SPELLINGS[array.dtype.name][1])
        yield text(keys[key] if keys else str(key)) + put() + once("cpu", text("cpu")) + integer(array.size) + view
        yield b"t" + put() + b"Q"
        yield integer(0) + tuple_of(array.shape) + tuple_of(strides) + b"\x89"
        yield name_of_class("collections", "OrderedDict") + b")R" + put()
        yield b"t" + put() + b"R" + put()

    yield b"\x80\x02}" + put()
    items = list(tensors.items())
    single = len(items) == 1
    # CPython's pickler writes one more batch, an empty one, after a full one.
    for start in range(0, len(items) + 1 if items else 0, PICKLE_BATCH) if not single else (0,):
        if not single:
            yield b"("
        for key, (name, array) in enumerate(items[start : start + PICKLE_BATCH], start):
            yield text(name) + put()
            yield from tensor(key, array)
        yield b"s" if single else b"u"
    yield b"."


def integer(value: int) -> bytes:
    """The shortest opcode for a number that is not negative."""
    if value < 1 << 8:
        return b"K" + bytes([value])
    if value < 1 << 16:
        return b"M" + struct.pack("<H", value)
    if value < 1 << 31:
        return b"J" + struct.pack("<i", value)
    length = value.bit_length() // 8 + 1
    return b"\x8a" + bytes([length]) + value.to_bytes(length, "little")
