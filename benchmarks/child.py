"""A process of its own for what must be measured in one: memory, imports, and reading where touching is fatal.

Prints one JSON object. `run` starts it.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# In a virtual machine, what takes 13 ms took 24 after a second of sleep, and 24 again right behind it.
SECONDS_TO_WAKE_UP = 0.1


def run(*arguments: object) -> dict[str, Any]:
    """What the child prints for these arguments."""
    command = [sys.executable, __file__, *map(str, arguments)]
    # An installed package has its byte code: a setting that forbids keeping any would have every import compile anew.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    finished = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True, env=environment)
    return json.loads(finished.stdout)


def import_module(module: str) -> dict[str, Any]:
    """How long the first import takes."""
    start = time.perf_counter()
    importlib.import_module(module)
    return {"seconds": time.perf_counter() - start}


def measure(table: str, name: str, path: str) -> dict[str, Any]:
    """The time and the memory that a reader takes for one file, its imports left out."""
    import inputs
    import memory
    import readers

    reader = readers.reader(table, name)
    for module in reader.imports:
        importlib.import_module(module)
    source = reader.prepare(Path(path))
    gc.collect()
    memory.forget_peak()
    before = memory.status()
    start = time.perf_counter()
    result = reader.read(source)
    seconds = time.perf_counter() - start
    return {
        "seconds": seconds,
        **memory.added(before),
        "fingerprint": inputs.fingerprint(reader.answer(result)),
    }


def serve(table: str, name: str, path: str) -> dict[str, Any]:
    """Read a file once for each line of the input, and print the seconds; first the fingerprint of the answer."""
    import inputs
    import readers

    reader = readers.reader(table, name)
    for module in reader.imports:
        importlib.import_module(module)
    source = reader.prepare(Path(path))
    result = reader.read(source)
    print(json.dumps(inputs.fingerprint(reader.answer(result))), flush=True)
    inputs.freeze()
    for _ in sys.stdin:
        result = None
        gc.collect()
        wake_up()
        start = time.perf_counter()
        result = reader.read(source)
        print(json.dumps(time.perf_counter() - start), flush=True)
    return {}


def wake_up() -> None:
    """Keep the core busy until it is at its speed: one that slept while another process was timed takes a while."""
    awake = time.perf_counter() + SECONDS_TO_WAKE_UP
    while time.perf_counter() < awake:
        pass


def serve_loads(name: str, path: str, nbytes: str, dtype: str = "") -> dict[str, Any]:
    """Load a file once for each line of the input, each time in a fork, and print the seconds; first the checksums.

    *nbytes* is what the tensors take in memory. The fork shares what was imported, and has loaded nothing before.
    """
    import loaders

    loader = loaders.LOADERS[name]
    for module in loader.imports:
        importlib.import_module(module)

    def first() -> tuple[dict[str, int], list[str]]:
        before = set(sys.modules)
        loaded = loader.load(path, dtype or None)
        found = loaders.sums(loaded) if loader.brings else {}  # a limit brings no tensors
        return found, [module for module in sys.modules if module not in before]

    def timed() -> float:
        loaders.touch_memory(int(nbytes))
        start = time.perf_counter()
        loaded = loader.load(path, dtype or None)
        seconds = time.perf_counter() - start
        del loaded
        return seconds

    found, imported = in_fork(first)
    for module in imported:  # when it was needed: nobody pays for imports
        with contextlib.suppress(ImportError):  # some are made, and not imported
            importlib.import_module(module)
    print(json.dumps(found), flush=True)
    gc.collect()
    gc.freeze()
    for _ in sys.stdin:
        print(json.dumps(in_fork(timed)), flush=True)
    return {}


def in_fork(work: Callable[[], Any]) -> Any:
    """What *work* gives in a copy of this process."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        status = 1
        try:
            with open(writing, "w") as file:
                json.dump(work(), file)
            status = 0
        finally:
            os._exit(status)
    os.close(writing)
    with open(reading) as file:
        told = file.read()
    os.waitpid(child, 0)
    return json.loads(told)


class Server:
    """A process of its own for one reader of one file, which reads as often as it is asked to.

    *arguments* are those of `serve`, or of another *verb* that tells a fingerprint and then seconds.
    """

    def __init__(self, *arguments: object, verb: str = "serve") -> None:
        command = [sys.executable, __file__, verb, *map(str, arguments)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.fingerprint = self._told()

    def _told(self) -> Any:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def seconds(self) -> float:
        """How long one more reading takes."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return float(self._told())

    def close(self) -> None:
        """End the process."""
        self.process.communicate()


def subset(name: str, path: str, step: str, state: str) -> dict[str, Any]:
    """The memory that a reader takes for one tensor in *step* of a file, and what it reads of the disk."""
    import fastload
    import memory
    from fastload.benching import kernel, limits
    from fastload.benching.readers import TINY, arrays_in, touch

    with fastload.open(path) as checkpoint:
        names = list(checkpoint)[:: int(step)]
    if name == "safe_open torch":
        importlib.import_module("torch")
    fastload.load(TINY)  # what is imported when it is first needed
    read = {
        "fastload views": lambda: tensors_of(fastload.open(path), names),
        "fastload load()": lambda: fastload.load(path, include=names),
        "safe_open numpy": lambda: safe_open_tensors(path, "np", names),
        "safe_open torch": lambda: safe_open_tensors(path, "pt", names),
    }[name]
    limits.read_through([path])
    not_cold = kernel.evict([path]) if state == "cold" else None
    gc.collect()
    memory.forget_peak()
    before, read_before = memory.status(), memory.read_bytes()
    start = time.perf_counter()
    result = read()
    touch(arrays_in(result))
    seconds = time.perf_counter() - start
    return {
        "seconds": seconds,
        **memory.added(before),
        "read_bytes": memory.read_bytes() - read_before,
        "nbytes": sum(array.nbytes for array in arrays_in(result)),
        "not_cold": not_cold,
    }


def tensors_of(file: Any, names: list[str]) -> list[Any]:
    """Tensors by name, of one open file."""
    return [file[name] for name in names]


def safe_open_tensors(path: str, framework: str, names: list[str]) -> list[Any]:
    """Tensors by name, through one safe_open."""
    import safetensors

    file = safetensors.safe_open(path, framework=framework)
    return [file.get_tensor(name) for name in names]


def count_pages(path: str) -> dict[str, Any]:
    """How much of a mapped file fastload touches while it makes every array, and how much lies outside of it."""
    import fastload
    import memory

    checkpoint = fastload.open(path)
    arrays = dict(checkpoint)
    outside = memory.copied(Path(path), arrays.values())
    del arrays
    return {"copied": outside, "touched_pages": memory.touched_pages(Path(path), lambda: dict(checkpoint))}


def read_guarded(path: str, touch: str = "") -> dict[str, Any]:
    """Open a file and make every array where reading a page of tensor data kills; with *touch*, read one."""
    import fastload
    import inputs
    import memory

    mapping, pages = memory.guard(Path(path), inputs.extents(Path(path)))
    arrays = dict(fastload.open(mapping))
    if touch:
        largest = max(arrays.values(), key=lambda array: array.nbytes)
        largest.reshape(-1)[largest.size // 2].item()
    return {"arrays": len(arrays), "guarded_pages": pages, "pages": -(-len(mapping) // memory.mmap.PAGESIZE)}


VERBS = {
    "import": import_module,
    "measure": measure,
    "serve": serve,
    "serve-loads": serve_loads,
    "count-pages": count_pages,
    "read-guarded": read_guarded,
    "subset": subset,
}

if __name__ == "__main__":
    json.dump(VERBS[sys.argv[1]](*sys.argv[2:]), sys.stdout)
