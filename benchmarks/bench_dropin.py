"""How long to load a whole file by `fastload.safetensors` and by the package whose place it takes?

Once as it is handed over, and once with every element read: who maps pays for the pages then, and who copies before.
All results may be written to.
"""

from importlib import import_module

import numpy as np
import pytest

import inputs

PACKAGES = {"fastload": "fastload.safetensors", "safetensors": "safetensors"}
WORK = {
    ("fastload", "np"): "views of private mappings; copies tensors below a page, and get_tensor those below 1 MiB",
    ("fastload", "pt"): "views of one private mapping",
    ("safetensors", "np"): "copies every tensor",
    ("safetensors", "pt"): "views of one private mapping",
}
FRAMEWORKS = {"np": "numpy", "pt": "torch"}
COUNT = 1_000 if inputs.QUICK else 20_000
ROUNDS = 7


def load_file(package, framework, path):
    return import_module(f"{PACKAGES[package]}.{FRAMEWORKS[framework]}").load_file(path)


def get_every_tensor(package, framework, path):
    with import_module(PACKAGES[package]).safe_open(path, framework) as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)


def read_every_page(loaded):
    """Read a byte of every page of every tensor."""
    return sum(int(np.asarray(tensor).reshape(-1).view(np.uint8)[::4096].sum()) for tensor in loaded.values())


@pytest.mark.parametrize("package", PACKAGES)
@pytest.mark.parametrize("is_read", [False, True], ids=["loaded", "read"])
@pytest.mark.parametrize("load", [load_file, get_every_tensor])
@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("size", ["many", "large"])
def test_load(benchmark, results, files, size, framework, load, is_read, package):
    path = files.many(COUNT, "safetensors") if size == "many" else files.large("safetensors")
    benchmark.group = f"{load.__name__}, {framework}, {size}{', every page read' if is_read else ''}"

    def run():
        loaded = load(package, framework, path)
        return loaded, read_every_page(loaded) if is_read else None

    loaded, read = benchmark.pedantic(run, rounds=ROUNDS, warmup_rounds=1)

    expected = load(next(name for name in PACKAGES if name != package), framework, path)
    assert loaded.keys() == expected.keys() and read in (None, read_every_page(expected))
    results.add_time(benchmark, package, WORK[package, framework])
