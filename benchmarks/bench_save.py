"""How long to save 2 GiB in 300 tensors that are in memory, and to turn a .pt file of them into a .safetensors one?

Twice each: until the system has the bytes in its page cache, and until the disk has them. fastload waits for the disk
unless told not to; the peers never do, so there their file is synced behind them, in their time. fastload writes a
temporary file and renames it, the peers write in place.

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

ROUNDS = 3 if inputs.QUICK else 7


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
