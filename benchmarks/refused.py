"""Which of the checkpoints in a folder does torch refuse, and which of those does fastload read?

For every file below the folder: whether `torch.load(weights_only=True)` takes it, and the line that says why not; which
modules `torch.load(weights_only=False)` would import and not find here; and how many tensors fastload lists, the first
byte of each being touched. Prints a table in Markdown.

No file is run: what it would import is told by the names in its pickle, and looked for without importing it. Each
reader has a process of its own for each file, with limits of memory and time, since a file may be damaged or worse.

    python benchmarks/refused.py FOLDER [--all] [--only LIST.json]
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import resource
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

SECONDS = 120
MAX_MEMORY_BYTES = 16 << 30
SHOWN = 110  # characters of a reason
IGNORED = {".json", ".txt", ".md", ".py", ".html", ".rst", ".toml", ".lock"}


def told(act: Any) -> dict[str, Any]:
    """What came of *act*."""
    try:
        return {"ok": True, "said": act()}
    except BaseException as error:  # whatever a file can make of a reader is a finding
        return {"ok": False, "said": f"{type(error).__name__}: {reason(str(error))}"}


def reason(message: str) -> str:
    """The line of a message that says why: torch puts some advice before it."""
    said = message.rpartition("WeightsUnpickler error:")[2] or message
    return next((line.strip() for line in said.splitlines() if line.strip()), "")


def by_torch(path: str) -> str:
    """What torch makes of a file."""
    import torch

    return type(torch.load(path, map_location="cpu", weights_only=True)).__name__


def missing_modules(path: str) -> str:
    """The packages that the pickles of a file name and that are not installed."""
    import fastload

    tensors = fastload.open(path)._tensors
    assert tensors is not None
    # `__main__` is the program that wrote the file, `__torch__` what TorchScript has in the file itself.
    packages = sorted({module.partition(".")[0] for module, _ in tensors.list_globals()} - {"__torch__", "__builtin__"})
    missing = [one for one in packages if one == "__main__" or importlib.util.find_spec(one) is None]
    return f"needs {', '.join(missing)}" if missing else "nothing missing"


def by_fastload(path: str) -> str:
    """How many tensors fastload lists in a file, once the first byte of each was read."""
    import fastload

    checkpoint = fastload.open(path)
    without_data = 0
    for entry in checkpoint.entries():
        if entry.storage is None:
            without_data += 1
            continue
        array = checkpoint[entry.name]
        if array.size:
            array.reshape(-1)[:1].tobytes()
    more = f", {without_data} without data" if without_data else ""
    return f"{checkpoint.format}: {len(checkpoint):,} tensors{more}"


def ask(path: Path, reader: str) -> dict[str, Any]:
    """What a reader, in a process of its own, makes of a file."""
    command = [sys.executable, __file__, "--child", reader, str(path)]
    try:
        finished = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
        return json.loads(finished.stdout.splitlines()[-1])
    except subprocess.TimeoutExpired:
        return {"ok": False, "said": f"no answer in {SECONDS} s"}
    except (IndexError, ValueError):
        return {"ok": False, "said": f"the process ended with {finished.returncode}"}


def cell(text: str) -> str:
    """A text that fits a cell of a table."""
    text = text.replace("|", "\\|")
    return text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"


def answer(reader: str, path: str) -> None:
    """The child's part."""
    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    acts = {
        "torch": lambda: by_torch(path),
        "modules": lambda: missing_modules(path),
        "fastload": lambda: by_fastload(path),
    }
    print("\n" + json.dumps(told(acts[reader])))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--all", action="store_true", help="show files that torch does not refuse, too")
    parser.add_argument("--only", type=Path, help="a JSON list of the files to look at, by their path in the folder")
    options = parser.parse_args()

    paths = sorted(path for path in options.folder.rglob("*") if path.is_file() and path.suffix not in IGNORED)
    if options.only:
        wanted = set(json.loads(options.only.read_text()))
        paths = [path for path in paths if str(path.relative_to(options.folder)) in wanted]
    counts = {"files": 0, "refused": 0, "refused and read": 0}
    print("| file | torch, weights_only=True | weights_only=False | fastload |\n|---|---|---|---|", flush=True)
    for path in paths:
        careful, ours = ask(path, "torch"), ask(path, "fastload")
        modules = ask(path, "modules") if ours["ok"] else {"ok": True, "said": ""}
        counts["files"] += 1
        counts["refused"] += not careful["ok"]
        counts["refused and read"] += not careful["ok"] and ours["ok"]
        if options.all or not careful["ok"]:
            said = [("" if one["ok"] else "refused: ") + one["said"] for one in (careful, modules, ours)]
            print(f"| {' | '.join(map(cell, [str(path.relative_to(options.folder)), *said]))} |", flush=True)
    print("\n" + ", ".join(f"{count} {what}" for what, count in counts.items()))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        answer(*sys.argv[2:4])
    else:
        main()
