"""What does it cost to have every tensor of a checkpoint of half a gigabyte? (`make demo`)

Writes a small transformer as safetensors and as a PyTorch archive, and opens each in a fresh process, so that its
memory is that of fastload alone. The figures of memory are Linux's; elsewhere they are left out. The files have just
been written, so they lie in the page cache: what is timed is fastload, not the disk.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np

import fastload
from generate import transformer, write_safetensors, write_torch_zip

MIB = 1 << 20
WRITERS = {"model.safetensors": write_safetensors, "model.pt": write_torch_zip}


def main() -> None:
    """Write both files and measure each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("demo"), help="where the files go (default: %(default)s)")
    parser.add_argument("--layers", type=int, default=24, help="more layers, larger files (default: %(default)s)")
    parser.add_argument("--measure", type=Path, metavar="FILE", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(options.measure, options.layers)
        return

    options.folder.mkdir(parents=True, exist_ok=True)
    tensors = transformer(layers=options.layers)
    for name, write in WRITERS.items():
        write(options.folder / name, tensors)
    del tensors
    for name in WRITERS:
        path = options.folder / name
        print(f"\n$ fastload ls --collapse {path}\n", flush=True)
        subprocess.run([sys.executable, "-m", "fastload", "ls", "--collapse", str(path)], check=True)
        print(flush=True)
        again = [sys.executable, __file__, "--measure", str(path), "--layers", str(options.layers)]
        subprocess.run(again, check=True)


def measure(path: Path, layers: int) -> None:
    """Open *path*, take every tensor, print the cost, and only then read the values and compare them."""
    before = memory()
    start = time.perf_counter()
    checkpoint = fastload.open(path)
    opened = time.perf_counter()
    arrays = dict(checkpoint.items())
    taken = time.perf_counter()
    after = memory()

    total = sum(array.nbytes for array in arrays.values())
    report("open", f"{(opened - start) * 1e3:.2f} ms")
    report("every tensor as an array", f"{(taken - opened) * 1e3:.2f} ms for {len(arrays)} arrays")
    report("tensor bytes copied", f"{copied(path, arrays.values()):,} of {total:,}")
    if after:
        grown = {field: after[field] - before[field] for field in after}
        report("private memory", f"{grown['RssAnon'] / MIB:+.2f} MiB: the index and the array objects")
        report("file pages touched", f"{grown['RssFile'] / MIB:+.2f} MiB of {path.stat().st_size / MIB:.0f} MiB")
        report("peak memory", f"{after['VmHWM'] / MIB:.1f} MiB, of which {before['VmHWM'] / MIB:.1f} before opening")

    expected = transformer(layers=layers)
    wrong = [name for name in expected if not np.array_equal(arrays[name], expected[name])]
    if wrong or arrays.keys() != expected.keys():
        sys.exit(f"{path}: values differ from what was written: {', '.join(wrong) or 'the names'}")
    report("values", "all equal to what was written")


def memory() -> dict[str, int]:
    """This process's memory in bytes, by the kernel's names; empty where the kernel does not tell."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        fields = dict(line.split(":", 1) for line in lines)
        return {field: int(fields[field].split()[0]) * 1024 for field in ("RssAnon", "RssFile", "VmHWM")}
    except (OSError, KeyError):
        return {}


def copied(path: Path, arrays: Iterable[np.ndarray]) -> int:
    """How many bytes of *arrays* lie outside the mapping of *path*; where there is no /proc, in memory of their own."""
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return sum(array.nbytes for array in arrays if array.flags.owndata)
    real = os.path.realpath(path)
    mappings = [
        [int(address, 16) for address in line.split(maxsplit=1)[0].split("-")]
        for line in lines
        if line.split(maxsplit=5)[5:] == [real]
    ]

    def mapped(array: np.ndarray) -> bool:
        start = array.ctypes.data
        return any(begin <= start and start + array.nbytes <= end for begin, end in mappings)

    return sum(array.nbytes for array in arrays if not mapped(array))


def report(what: str, figure: str) -> None:
    """One line of the report."""
    print(f"  {what:<26}{figure}", flush=True)


if __name__ == "__main__":
    main()
