"""How long to save 2 GiB in 300 tensors that are in memory, and to turn a .pt file of them into a .safetensors one?

And how long to save 20,000 small tensors, where describing them takes longer than writing them?

Those of 2 GiB twice each: until the system has the bytes in its page cache, and until the disk has them. fastload waits
for the disk unless told not to; the peers never do, so there their file is synced behind them, in their time. fastload
and safetensors write a temporary file and rename it, the others write in place.

All savers take turns, each to a file of its own. On a virtual machine, pages that have not been used for a while cost
more than all the rest, so memory is filled and let go before each turn: the pages that are then free are warm for all.
`write()` is the limit: bytes in memory, handed to the system.
"""

import os
import time

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch

import fastload
import inputs
from pairs import Side

ROUNDS = 3 if inputs.QUICK else 7
SMALL = 1_000 if inputs.QUICK else 20_000


def write(arrays, path):
    with open(path, "wb", buffering=0) as file:
        for array in arrays.values():
            left = memoryview(array).cast("B")
            while left:
                left = left[file.write(left) :]


def save(arrays, path, sync):
    fastload.save(arrays, path, sync=sync)


def save_torch(arrays, path):
    torch.save({name: torch.from_numpy(array) for name, array in arrays.items()}, path)


def convert(source, path, sync):
    fastload.convert(source, path, sync=sync)


def convert_safetensors(source, path):
    safetensors.torch.save_file(torch.load(source, mmap=True), path)


def synced(act):
    """The same for a saver that does not wait for the disk."""

    def run(source, path, sync):
        act(source, path)
        if sync:
            descriptor = os.open(path, os.O_RDWR)
            os.fsync(descriptor)
            os.close(descriptor)

    return run


SAVERS = {
    "save": {
        "fastload": (save, "m.safetensors", "writes each array from where it lies"),
        "fastload, .pt": (save, "m.pt", "the same; checksums meanwhile, on a second thread"),
        "safetensors": (
            synced(safetensors.numpy.save_file),
            "m.safetensors",
            "copies each array to bytes, and writes them",
        ),
        "torch": (synced(save_torch), "m.pt", "writes each storage, with its checksum"),
        "write()": (synced(write), "m.bin", "the arrays alone, one write each"),
    },
    "convert": {
        "fastload": (convert, "m.safetensors", "has the system copy from file to file"),
        "torch + safetensors": (synced(convert_safetensors), "m.safetensors", "maps the one, writes the other"),
    },
}


def settle(nbytes):
    """Have as many pages free as any saver needs, and warm, so that whoever is next finds the same."""
    np.ones(2 * nbytes + (1 << 30 if not inputs.QUICK else 0), np.uint8)


@pytest.fixture(scope="module")
def seconds(files):
    """A function that gives the times of each saver of a question, of rounds in which all take turns."""
    # In memory of their own: what inputs.large() gives shares one block.
    arrays = {name: np.array(array) for name, array in inputs.large().items()}
    found = {}

    def measure(question, sync):
        if (question, sync) not in found:
            savers = SAVERS[question]
            source = files.large("pt") if question == "convert" else arrays
            found[question, sync] = times = {name: [] for name in savers}
            for turn in range(ROUNDS):
                order = list(savers)[turn % len(savers) :] + list(savers)[: turn % len(savers)]
                for name in order:
                    act, file, _ = savers[name]
                    path = files.folder / f"saved-{file}"
                    settle(sum(array.nbytes for array in arrays.values()))
                    start = time.perf_counter()
                    act(source, path, sync)
                    times[name].append(time.perf_counter() - start)
                    if turn == 0 and name != "write()":
                        opened = fastload.open(path)
                        assert all(np.array_equal(opened[key], array) for key, array in arrays.items())
                        del opened
                    path.unlink()
        return found[question, sync]

    return measure


@pytest.mark.parametrize("sync", [False, True], ids=["cache", "disk"])
@pytest.mark.parametrize(
    ("question", "name"), [(question, name) for question, savers in SAVERS.items() for name in savers]
)
def test_save(replay, seconds, question, name, sync):
    what = {"save": "save 2 GiB from memory", "convert": "2 GiB from .pt to .safetensors"}[question]
    until = "until the disk has it" if sync else "until the page cache has it"
    replay(f"{what}, {until}", name, SAVERS[question][name][2], seconds(question, sync)[name])


SMALL_PEERS = {
    "safetensors": ("safetensors.numpy", "describes them to Rust, which writes each", safetensors.numpy.save_file),
    "pt": ("torch.save", "pickles them, and writes each storage with its checksum", save_torch),
    "npz": (
        "numpy.savez",
        "writes each array with its header and its checksum",
        lambda arrays, path: np.savez(path, **arrays),
    ),
}


@pytest.mark.parametrize("suffix", SMALL_PEERS)
def test_save_small(in_turn, files, suffix):
    arrays = {name: np.array(array) for name, array in inputs.many(SMALL).items()}
    name, work, act = SMALL_PEERS[suffix]
    ours, theirs = (files.folder / f"saved-by-{who}.{suffix}" for who in ("fastload", "peer"))
    sides = [
        Side("fastload", "describes them natively, and writes them together", lambda: save_over(arrays, ours)),
        Side(name, work, lambda: act(arrays, theirs)),
    ]
    save_over(arrays, ours)
    opened = fastload.open(ours)
    assert all(np.array_equal(opened[key], array) for key, array in arrays.items())
    in_turn(f"save {SMALL:,} small tensors as .{suffix}, until the page cache has them", sides)


def save_over(arrays, path):
    fastload.save(arrays, path, sync=False, overwrite=True)
