"""How does the time grow with the number of tensors, and with their size? One thread and two.

Opening, listing and selecting are measured over files of 10 to 200,000 small tensors: the time for one tensor should
not grow. Views and loading are measured over 1 MiB to 4 GiB, in tensors of 1 MiB: loading should come to a constant
speed, and views cost what their number costs.
"""

import fnmatch
import re

import pytest

import fastload
import inputs
from pairs import Side

COUNTS = (10, 100, 1_000) if inputs.QUICK else (10, 100, 1_000, 20_000, 200_000)
MIBS = (1, 16) if inputs.QUICK else (1, 16, 256, 1_024, 4_096)
UNWANTED = "*.attn.out.weight"
GROWTH = "at most 1.3 × as long for each tensor of the larger file"


def listed_by_safe_open(path):
    from safetensors import safe_open

    file = safe_open(path, framework="np")
    parts = [(name, file.get_slice(name)) for name in file.keys()]  # noqa: SIM118  # it is no mapping
    return [(name, part.get_shape(), part.get_dtype()) for name, part in parts]


def opened_by_safe_open(path):
    from safetensors import safe_open

    return safe_open(path, framework="np")


def listed(path):
    return [(entry.name, entry.shape, entry.dtype) for entry in fastload.open(path).entries()]


@pytest.mark.parametrize("count", COUNTS)
def test_open(in_turn, files, count):
    path = files.many(count, "safetensors")
    sides = [
        Side(
            "fastload", "reads or maps, parses and checks the header into a native table", lambda: fastload.open(path)
        ),
        Side(
            "safe_open",
            "maps, parses and checks the header into a hash table of Rust",
            lambda: opened_by_safe_open(path),
        ),
    ]
    assert len(fastload.open(path)) == count
    in_turn(f"open {count:,} tensors", sides, curve=("open", "tensors", count))


@pytest.mark.parametrize("count", COUNTS)
def test_list(in_turn, files, count):
    path = files.many(count, "safetensors")
    sides = [
        Side("fastload", "opens; name, shape and dtype of each as Python objects", lambda: listed(path)),
        Side("safe_open", "opens; get_slice of each, its shape and dtype", lambda: listed_by_safe_open(path)),
    ]
    assert sorted(name for name, _, _ in listed(path)) == inputs.names(inputs.many(count))
    in_turn(f"open and list {count:,} tensors", sides, curve=("open and list", "tensors", count))


@pytest.mark.parametrize("count", COUNTS)
def test_select(in_turn, files, count):
    checkpoint = fastload.open(files.many(count, "safetensors"))
    names = list(checkpoint)
    unwanted = re.compile(fnmatch.translate(UNWANTED))

    def loop():
        return [name for name in names if not unwanted.match(name)]

    sides = [
        Side("fastload", "select(exclude=…) of an open checkpoint", lambda: checkpoint.select(exclude=UNWANTED)),
        Side("re loop", "a compiled pattern over a list of names in hand", loop),
    ]
    assert sorted(checkpoint.select(exclude=UNWANTED)) == sorted(loop())
    in_turn(f"select among {count:,} tensors", sides, curve=("select by a glob", "tensors", count))


@pytest.mark.parametrize("mib", MIBS)
def test_views_and_load(in_turn, files, mib):
    from safetensors.numpy import load_file

    path, nbytes = files.sized(mib), mib << 20
    sides = [
        Side(
            "load, 2 threads", "load(threads=2): into one's own memory", lambda: fastload.load(path, threads=2), nbytes
        ),
        Side(
            "load, 1 thread", "load(threads=1): into one's own memory", lambda: fastload.load(path, threads=1), nbytes
        ),
        Side("safetensors.numpy", "load_file: copies each tensor into new memory", lambda: load_file(path), nbytes),
        Side("views", "a view of each, nothing copied or touched", lambda: dict(fastload.open(path))),
    ]
    assert sum(array.nbytes for array in fastload.load(path).values()) == nbytes
    in_turn(f"load {mib:,} MiB", sides, curve=("views and load", "MiB", mib))


@pytest.mark.parametrize("what", ["open", "list", "select"])
def test_time_of_one_tensor(in_turn, files, what):
    def side(count):
        path = files.many(count, "safetensors")
        checkpoint = fastload.open(path)
        run = {
            "open": lambda: fastload.open(path),
            "list": lambda: listed(path),
            "select": lambda: checkpoint.select(exclude=UNWANTED),
        }[what]
        return Side(f"{count:,} tensors", f"{what}, by the number of tensors", run, count=count)

    in_turn(f"{what}: one tensor of many", [side(COUNTS[-2]), side(COUNTS[-1])], bar=GROWTH)
