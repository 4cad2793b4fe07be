"""How many instructions do fastload's native modules execute on fixed inputs, and have they become more?

Time on a busy machine says little; a count of instructions says the same every time. Each case runs under callgrind
twice, with and without its act, and the difference is counted: only instructions of the native modules themselves, not
those of Python and libc. The figures stand in `instructions.json` beside the compiler that they were counted with.

    python benchmarks/instructions.py             # compare; the exit status is 1 where a count has moved too far
    python benchmarks/instructions.py --update    # store the counts as the new figures
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import fastload
from generate import uniform, write_safetensors, write_torch_legacy, write_torch_zip

FIGURES = Path(__file__).with_name("instructions.json")
TOLERANCE = 0.05  # of a count: the hash is keyed anew in each process, and so probes a little more or less
NATIVE = "/fastload/_native/"
FEW = 2  # tensors of the file that is opened first, so that everything is imported


class Case(NamedTuple):
    """Something to count.

    Attributes
    ----------
    count : int
        Tensors in the file.
    write : function
        Of a path and tensors: writes the file.
    act : function
        What is counted: of a path, after `prepare`; of what that returned, where there is one.
    prepare : function, optional
        Of a path: what comes before and is not counted. Without it, that is the act on a file of a few tensors.
    """

    count: int
    write: Callable[[Path, Any], None]
    act: Callable[[Any], object]
    prepare: Callable[[Path], object] | None = None


def write_npz(path: Path, tensors: Any) -> None:
    """What `numpy.savez` makes of *tensors*."""
    with open(path, "wb") as file:
        np.savez(file, **tensors)


CASES = {
    "open safetensors": Case(20_000, write_safetensors, fastload.open),
    "open .pt": Case(5_000, write_torch_zip, fastload.open),
    "open legacy .pt": Case(5_000, write_torch_legacy, fastload.open),
    "open .npz": Case(5_000, write_npz, fastload.open),
    "list safetensors": Case(20_000, write_safetensors, lambda ckpt: ckpt.entries(), fastload.open),
    "select by globs": Case(
        20_000, write_safetensors, lambda ckpt: ckpt.select("model.*.attn.*", exclude="*.bias"), fastload.open
    ),
    "contiguous_indices": Case(20_000, write_safetensors, lambda ckpt: ckpt.contiguous_indices(), fastload.open),
}


def run(case: Case, folder: Path, idle: bool) -> None:
    """What a child does under callgrind."""
    if case.prepare is None:
        case.act(folder / "few")
        prepared: object = folder / "many"
    else:
        prepared = case.prepare(folder / "many")
        case.act(case.prepare(folder / "few"))
    if not idle:
        case.act(prepared)


def count(name: str) -> int:
    """Instructions of a case."""
    case = CASES[name]
    with tempfile.TemporaryDirectory(prefix="fastload-instructions-") as temporary:
        folder = Path(temporary)
        for file, size in (("few", FEW), ("many", case.count)):
            case.write(folder / file, uniform(size))
        counts = []
        for idle in ("idle", "busy"):
            profile = folder / idle
            command = ["valgrind", "--tool=callgrind", "--compress-strings=no", "--dump-line=no"]
            command += [f"--callgrind-out-file={profile}", sys.executable, __file__, "--child", name, temporary, idle]
            done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONHASHSEED": "0"})
            if done.returncode:
                raise RuntimeError(f"{name}: valgrind came to grief\n{done.stderr}")
            with open(profile) as lines:
                counts.append(own_instructions(lines))
    return counts[1] - counts[0]


def own_instructions(lines: Iterator[str]) -> int:
    """Instructions that the native modules executed themselves, from a profile of callgrind's."""
    total, is_ours = 0, False
    for line in lines:
        if line.startswith("ob="):
            is_ours = NATIVE in line
        elif line.startswith("calls="):
            next(lines)  # what was called is counted where it stands by itself
        elif is_ours and line[:1] in "0123456789+-*":
            total += int(line.split()[1])
    return total


def build() -> dict[str, str]:
    """What the counts depend on, beside the source."""
    from fastload._native import safetensors

    found = re.search(rb"GCC: [^\0]+|clang version [^\0]+", Path(safetensors.__file__).read_bytes())
    compiler = found[0].decode() if found else "unknown"
    return {
        "compiler": compiler,
        "machine": platform.machine(),
        "python": ".".join(platform.python_version_tuple()[:2]),
    }


def compare(stored: dict[str, Any], counts: dict[str, int]) -> list[str]:
    """Print by how much each count has moved; what is wrong is returned."""
    wrong = []
    for name, now in counts.items():
        before = stored["instructions"].get(name)
        each = f"{now / CASES[name].count:,.0f} a tensor"
        if before is None:
            print(f"  {name:<22}{now:>14,}  {each:<18} new")
            wrong.append(f"{name}: there is no figure for it")
            continue
        moved = now / before - 1
        print(f"  {name:<22}{now:>14,}  {each:<18} {moved:+.1%}")
        if abs(moved) > TOLERANCE:
            wrong.append(f"{name}: {before:,} instructions became {now:,} ({moved:+.1%})")
    return wrong


def main() -> None:
    """Count, and compare or store."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--update", action="store_true", help="store the counts as the new figures")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        name, folder, idle = options.child
        run(CASES[name], Path(folder), idle == "idle")
        return
    if shutil.which("valgrind") is None:
        sys.exit("counting instructions needs valgrind: apt-get install valgrind (the package `valgrind` of Debian)")
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        counts = dict(zip(CASES, pool.map(count, CASES), strict=True))
    stored = json.loads(FIGURES.read_text()) if FIGURES.exists() else {"build": {}, "instructions": {}}
    wrong = compare(stored, counts)
    if options.update:
        FIGURES.write_text(json.dumps({"build": build(), "instructions": counts}, indent=2) + "\n")
        return
    if wrong:
        if stored["build"] != build():
            wrong.append(f"the figures are of another build: {stored['build']}, and this is {build()}")
        wrong.append("if that is as it should be: python benchmarks/instructions.py --update")
        sys.exit("\n".join(wrong))


if __name__ == "__main__":
    main()
