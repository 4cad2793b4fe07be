"""How long does it take to open and to list a checkpoint of 1,000 shards and 100,000 names?

Listing names needs the index alone; listing entries opens every shard. The peers parse the index with `json`, as those
do who load sharded checkpoints, and open each shard with safetensors' own reader for the shapes and dtypes. The files
lie in the page cache.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastload
import inputs
from generate import write_safetensors
from readers import Reader

SHARDS, NAMES = (20, 400) if inputs.QUICK else (1_000, 100_000)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The index of a checkpoint of SHARDS files, written beside it."""
    folder = tmp_path_factory.mktemp("sharded")
    weight_map = {}
    for shard in range(SHARDS):
        file = f"model-{shard + 1:05}-of-{SHARDS:05}.safetensors"
        names = [f"model.layers.{shard}.experts.{n}.weight" for n in range(NAMES // SHARDS)]
        write_safetensors(folder / file, dict.fromkeys(names, np.zeros((2, 2), np.float32)))
        weight_map.update(dict.fromkeys(names, file))
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps({"metadata": {"total_size": 16 * NAMES}, "weight_map": weight_map}, indent=2))
    return path


def open_and_name(path: Path) -> Any:
    """Names by fastload."""
    checkpoint = fastload.open(path)
    return checkpoint, list(checkpoint)


def json_names(path: Path) -> Any:
    """Names by json alone."""
    return None, list(json.loads(path.read_bytes())["weight_map"])


def open_and_describe(path: Path) -> Any:
    """Names, shapes and dtypes by fastload."""
    checkpoint = fastload.open(path)
    return checkpoint, [(entry.name, entry.shape, entry.dtype) for entry in checkpoint.entries()]


def safetensors_describe(path: Path) -> Any:
    """Names, shapes and dtypes by safetensors, shard by shard."""
    from safetensors import safe_open

    weight_map = json.loads(path.read_bytes())["weight_map"]
    opened = {file: safe_open(path.parent / file, "np") for file in dict.fromkeys(weight_map.values())}
    slices = ((name, opened[file].get_slice(name)) for name, file in weight_map.items())
    words = {"F32": "float32"}
    return opened, [(name, tuple(one.get_shape()), words[one.get_dtype()]) for name, one in slices]


def reader(name: str, work: str, read: Any, *imports: str) -> Reader:
    """A reader whose answer is the second part of what it returns."""
    return Reader(name, work, read, lambda kept: sorted(kept[1]), imports=imports)


OPEN = [
    reader("fastload", "the index, and that each shard is there", open_and_name),
    reader("json", "the index, unchecked", json_names),
]
LIST = [
    reader("fastload", "the index and the header of each shard", open_and_describe),
    reader("safetensors", "json, then safe_open of each shard", safetensors_describe, "safetensors"),
]


@pytest.mark.parametrize("reader", OPEN, ids=lambda reader: reader.name)
def test_open_and_list_names(compare, index, reader):
    expected = sorted(json.loads(index.read_text())["weight_map"])

    compare(f"names of {SHARDS:,} shards, {NAMES:,} tensors", reader, index, expected)


@pytest.mark.parametrize("reader", LIST, ids=lambda reader: reader.name)
def test_open_and_list_entries(compare, index, reader):
    expected = sorted((name, (2, 2), "float32") for name in json.loads(index.read_text())["weight_map"])

    compare(f"names, shapes and dtypes of {SHARDS:,} shards, {NAMES:,} tensors", reader, index, expected)
