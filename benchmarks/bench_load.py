"""How long until all tensors of a 2 GiB file are in memory of one's own, as they are or cast, warm and cold?

Every way runs once a round, in turn, so that a busy moment of the machine falls on all, and each time in a process that
has loaded nothing before (`loaders.py`); the tables have medians, and the ratio of each pair with its spread. What
limits all of them is measured among them: a copy out of a mapping of the file into fresh huge pages, by two threads of
numpy, and of a cold file, reading around the page cache into memory that is there already. A file is cold when it was
evicted from the page cache and mincore finds none of it.

Most of the time goes to fresh memory. On a virtual machine its host may have to find it first, which costs whoever
comes first: hence the turns, and hence memory of the size of the result is touched and let go before each run.

And how long for small files, such as adapters? There all run in one process, over and over, and what they have let go
is used again.
"""

from __future__ import annotations

import contextlib
from functools import partial

import numpy as np
import pytest

import child
import fastload
import inputs
import pairs
from fastload.benching import kernel, limits
from loaders import LOADERS, sums
from pairs import Side

ROUNDS = 3 if inputs.QUICK else 9
CASTS = [("float16", "float32"), ("bfloat16", "float32"), ("float32", "bfloat16"), ("float8_e4m3fn", "float32")]
WARM = ["safetensors.numpy.load_file", "torch.load", "mlx", "runai", "tensorizer"]
CAST_LIMIT = "read, and fresh huge pages"
BARS = {
    "warm": "≥ 3 × safetensors.numpy.load_file, ≥ 2 × every other peer; ≥ 80 % of the copy's speed",
    "cold": "no slower than the disk alone or any peer",
    "cast": "≥ 3 × torch.load(mmap=True) and .to",
    "small": "no slower than the peer",
}
SMALL = [(1 << 16, 1), (1 << 16, 10), (1 << 20, 1), (1 << 20, 300), (1 << 24, 10), (1 << 26, 300)]


def evict(path):
    """Take a file out of the page cache, and see that it is."""
    why_not = kernel.evict([path])
    assert why_not is None, why_not


def read_through(path):
    """Bring a file into the page cache, in blocks as a copy or a download leaves it there."""
    limits.read_through([path])


@pytest.fixture
def compare(replay, results, benchmark):
    """Runs all in turn, each time in a process of its own; *ways* has, by name, a loader and the file that it loads."""

    def run(group, ways, expected, nbytes, prepare, bar, dtype=None):
        with contextlib.ExitStack() as stack:
            measures = []
            for name, (loader, path) in ways.items():
                server = child.Server(loader, path, nbytes, *([dtype] if dtype else []), verb="serve-loads")
                stack.callback(server.close)
                assert server.fingerprint == (expected if LOADERS[loader].brings else {}), f"{name} read something else"
                measures.append(partial(measure, server, prepare, path))
            seconds = pairs.in_turn(measures, ROUNDS)
        sides = [Side(name, LOADERS[loader].work, int, nbytes) for name, (loader, _) in ways.items()]
        rows = pairs.compared(sides, seconds)
        benchmark.extra_info.update(pairs=rows, bar=bar, curve=None)
        replay(group, sides[0].name, sides[0].work, seconds[0])
        for row in rows[1:]:
            results.times[group][row["name"]] = (row["seconds"]["median"], row["work"])

    return run


def measure(server, prepare, path):
    prepare(path)
    return server.seconds()


@pytest.mark.parametrize(
    ("state", "limit", "prepare"), [("warm", "copy into fresh huge pages", read_through), ("cold", "disk alone", evict)]
)
def test_load(compare, files, state, limit, prepare):
    path, archive, tensorized = files.large("safetensors"), files.large("pt"), files.large_tensorized()
    places = {"torch.load": archive, "tensorizer": tensorized}
    ways = {
        "fastload": ("fastload", path),
        "fastload .pt": ("fastload", archive),
        limit: (limit, path),
        **{name: (name, places.get(name, path)) for name in WARM},
    }
    nbytes = sum(array.nbytes for array in inputs.large().values())

    compare(f"load 2 GiB, {state}", ways, sums(inputs.large()), nbytes, prepare, BARS[state])


@pytest.mark.parametrize(("source", "target"), CASTS)
def test_cast(compare, tmp_path, source, target):
    import torch

    count, shape = (4, (256, 256)) if inputs.QUICK else (64, (2048, 2048))
    normal = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(getattr(torch, source))
    tensors = {f"layer.{number}.weight": normal.clone() for number in range(count)}
    path = tmp_path / "model.pt"
    torch.save(tensors, path)
    expected = dict.fromkeys(sorted(tensors), normal.to(getattr(torch, target)).view(torch.uint8).numpy())
    ways = {name: (name, path) for name in ("fastload", CAST_LIMIT, "torch.load mmap, .to")}
    nbytes = sum(array.nbytes for array in expected.values())

    compare(f"load {source} as {target}", ways, sums(expected), nbytes, read_through, BARS["cast"], target)


@pytest.mark.parametrize(("nbytes", "count"), SMALL)
@pytest.mark.parametrize(("suffix", "peer"), [("safetensors", "safetensors.numpy.load_file"), ("pt", "torch.load")])
def test_small(in_turn, tmp_path, nbytes, count, suffix, peer):
    path = str(tmp_path / f"model.{suffix}")
    tensors = {f"layer.{number}.weight": np.full(nbytes // count // 4, number, np.float32) for number in range(count)}
    fastload.save(tensors, path)
    loaders = {name: LOADERS[name] for name in ("fastload", peer)}
    for loader in loaders.values():
        assert sums(loader.load(path, None)) == sums(tensors)

    in_turn(
        f"load {nbytes >> 10:,} KiB, {count} tensor(s), .{suffix}",
        [Side(name, loader.work, partial(loader.load, path, None)) for name, loader in loaders.items()],
        rounds=15,
        bar=BARS["small"],
    )
