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
from mutations import JSON, NUMBERS, PICKLE, damaged
from reading import read_all

ROUNDS = int(os.environ.get("FASTLOAD_FUZZ_ROUNDS", "3000"))  # a test, and about a second of each


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
    check(name, lambda chance: damaged(chance, whole))


def test_damaged_header_in_a_sound_safetensors_frame():
    whole = seeds()["several tensors"]
    (length,) = struct.unpack("<Q", whole[:8])
    header, data = whole[8 : 8 + length], whole[8 + length :]

    check("header", lambda chance: safetensors_raw(damaged(chance, header, JSON), data))


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
        lambda chance: zip_file([*members.items(), (record, damaged(chance, text, JSON))], align=1),
    )


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_damaged_pickle_in_a_sound_archive(protocol):
    root = {
        "a": tensor("float32", (2, 3), range(6)),
        "b": [tensor("uint16", (2,), [1, 2]), {"c": {1, 2}, "lr": 0.1}],
        3: b"bytes",
    }
    stream, records = torch_pickle(root, protocol)

    check(f"pickle {protocol}", lambda chance: torch_zip(damaged(chance, stream, PICKLE), records, align=1))


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
