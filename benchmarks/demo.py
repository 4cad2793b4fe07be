"""What does it cost to have every tensor of a checkpoint of half a gigabyte? (`make demo`)

Writes a small transformer as safetensors and as a PyTorch archive, and opens each in a fresh process, so that its
memory is that of fastload alone. The figures of memory are Linux's; elsewhere they are left out. The files have just
been written, so they lie in the page cache: what is timed is fastload, not the disk.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

import fastload
from generate import transformer, write_safetensors, write_torch_zip
from memory import MIB, copied, status

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
    before = status()
    start = time.perf_counter()
    checkpoint = fastload.open(path)
    opened = time.perf_counter()
    arrays = dict(checkpoint.items())
    taken = time.perf_counter()
    after = status()

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


def report(what: str, figure: str) -> None:
    """One line of the report."""
    print(f"  {what:<26}{figure}", flush=True)


if __name__ == "__main__":
    main()
