"""Mutated files: every one gives its tensors or a FastloadError, nothing else. FASTLOAD_FUZZ_ROUNDS sets the budget."""

import io
import os
import random
import struct
import zipfile

import pytest

from builders import (
    SMALLEST,
    safetensors_file,
    safetensors_raw,
    smallest_file,
    tensor,
    torch_file,
    torch_pickle,
    torch_zip,
    zip_file,
)
from pickles import OPCODES
from reading import read_all

ROUNDS = int(os.environ.get("FASTLOAD_FUZZ_ROUNDS", "3000"))  # a test, and about a second of each
NUMBERS = [
    0,
    1,
    2,
    7,
    8,
    63,
    64,
    127,
    128,
    255,
    256,
    65535,
    65536,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**32,
    2**62,
    2**63,
    2**64 - 8,
    2**64 - 1,
]
JSON = [
    b"0",
    b"-1",
    b"2.0",
    b"1e9",
    b"18446744073709551615",
    b"null",
    b'""',
    b"[]",
    b"{}",
    b'"F4"',
    b"[",
    b"]",
    b"{",
    b"}",
    b",",
    b":",
    b'"',
    b"\\",
]
PICKLE = [
    *OPCODES.values(),
    b"K\xff",
    b"J\xff\xff\xff\xff",
    b"X\xff\xff\xff\xff",
    b"\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f",
    b"cos\nsystem\n",
    b"h\0",
]


def mutated(chance, raw, tokens=()):
    """*raw* with one to four small damages."""
    raw = bytearray(raw)
    for _ in range(chance.choice([1, 1, 1, 2, 4])):
        at = chance.randrange(len(raw) + 1)
        length = min(len(raw) - at, chance.choice([1, 1, 2, 4, 8, 32]))
        kind = chance.randrange(8)
        if kind == 0 and length:
            raw[at] ^= 1 << chance.randrange(8)
        elif kind == 1:
            raw[at : at + 1] = bytes([chance.randrange(256)])
        elif kind == 2:
            code = chance.choice("HIQ")
            number = struct.pack("<" + code, chance.choice(NUMBERS) & (256 ** struct.calcsize("<" + code) - 1))
            raw[at : at + len(number)] = number
        elif kind == 3:
            del raw[at : at + length]
        elif kind == 4:
            raw[at:at] = raw[at : at + length]
        elif kind == 5:
            other = chance.randrange(len(raw) + 1)
            raw[other : other + length] = raw[at : at + length]
        elif kind == 6 and tokens:
            raw[at : at + chance.choice([0, 1, length])] = chance.choice(tokens)
        else:
            del raw[chance.randrange(at, len(raw) + 1) :]
    return bytes(raw)


def seeds():
    shared = torch_file(
        {"a": tensor("float32", (2, 3), range(6), strides=(1, 2)), "b": {"c": [tensor("int64", (), [7])]}, "lr": 0.1}
    )
    return {
        **{name: smallest_file(name) for name in SMALLEST},
        "several tensors": safetensors_file(
            {"w": ("F32", (2, 2), bytes(16)), "z": ("I8", (0,), b""), "f": ("F4", (4,), b"\1\2")}, metadata={"k": "v"}
        ),
        "as torch writes it": shared,
        "deflated": torch_file({"w": tensor("float32", (100,), range(100))}, deflate=["data.pkl", "data/0"]),
        "zip64": torch_file({"w": tensor("float32", (2,), [1, 2])}, zip64="everywhere"),
    }


def check(name, make):
    """ROUNDS mutations, each reproducible alone: its generator is seeded with the name and the round."""
    for round_number in range(ROUNDS):
        file = make(random.Random(f"{name} {round_number}"))
        try:
            read_all(file)
        except Exception as error:
            raise AssertionError(
                f"{name}, round {round_number}: {type(error).__name__}: {error}\n{file!r:.2000}"
            ) from error


@pytest.mark.parametrize("name", seeds())
def test_damaged_bytes_of_a_file(name):
    whole = seeds()[name]

    assert read_all(whole)
    check(name, lambda chance: mutated(chance, whole))


def test_damaged_header_in_a_sound_safetensors_frame():
    whole = seeds()["several tensors"]
    (length,) = struct.unpack("<Q", whole[:8])
    header, data = whole[8 : 8 + length], whole[8 + length :]

    check("header", lambda chance: safetensors_raw(mutated(chance, header, JSON), data))


@pytest.mark.parametrize(
    ("format_name", "record"),
    [
        ("pt2", "package/data/weights/model_weights_config.json"),
        ("torchscript-json", "script/model.json"),
    ],
)
def test_damaged_json_in_a_sound_archive(format_name, record):
    archive = zipfile.ZipFile(io.BytesIO(smallest_file(format_name)))
    members = {name: archive.read(name) for name in archive.namelist()}
    text = members.pop(record)

    check(
        f"{format_name} JSON",
        lambda chance: zip_file([*members.items(), (record, mutated(chance, text, JSON))], align=1),
    )


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_damaged_pickle_in_a_sound_archive(protocol):
    root = {
        "a": tensor("float32", (2, 3), range(6)),
        "b": [tensor("uint16", (2,), [1, 2]), {"c": {1, 2}, "lr": 0.1}],
        3: b"bytes",
    }
    stream, records = torch_pickle(root, protocol)

    check(f"pickle {protocol}", lambda chance: torch_zip(mutated(chance, stream, PICKLE), records, align=1))


def test_damaged_storage_numbers_in_a_sound_archive():
    """Only the integers of the stream change, so that geometry is what is attacked."""

    def make(chance):
        def number():
            return chance.choice([*NUMBERS, -1, -4, 3, 5, 6])

        ndim = chance.choice([0, 1, 2, 2, 3, 64, 65])
        value = tensor(
            "float32",
            [number() for _ in range(ndim)],
            bytes(24),
            strides=[number() for _ in range(ndim)],
            offset=number(),
        )
        return torch_file({"w": value}, align=1)

    check("geometry", make)
