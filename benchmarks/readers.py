"""The peers: every way to read a file that a benchmark times, with what it does for its time.

A module is imported where it is used, so that a child process which measures one peer's memory holds that peer alone.
All pay for the look-up alike: less than a microsecond a call.
"""

from __future__ import annotations

import importlib.util
import io
import json
import pickle
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import inputs
from generate import SPELLINGS

CANONICAL = {spelling: name for name, spellings in SPELLINGS.items() for spelling in spellings}


@dataclass(frozen=True)
class Reader:
    """One way to read a file.

    Attributes
    ----------
    name : str
        As the tables show it; the one called "fastload" is what others are compared with.
    work : str
        Who copies, who validates, who makes Python objects.
    read : callable
        What is timed; takes what *prepare* gives.
    answer : callable
        Brings what *read* returned into the form of the right answer.
    imports : tuple of str
        Modules that it needs.
    prepare : callable
        Takes the path; not timed.
    """

    name: str
    work: str
    read: Callable[[Any], Any]
    answer: Callable[[Any], Any]
    imports: tuple[str, ...]
    prepare: Callable[[Path], Any] = Path


def canonical(dtype: object) -> str:
    """The name that fastload and numpy have for a dtype of torch or safetensors."""
    text = str(dtype).removeprefix("torch.")
    return CANONICAL.get(text, text)


def sorted_listing(triples: Iterable[tuple[str, Iterable[int], object]]) -> inputs.Listing:
    """A listing in any library's words, in the form of the right answer."""
    return sorted((name, tuple(shape), canonical(dtype)) for name, shape, dtype in triples)


def checksums_of_torch(tensors: dict[str, Any]) -> dict[str, Any]:
    """The checksums of torch's tensors."""
    return inputs.checksums({name: tensor.numpy() for name, tensor in tensors.items()})


# fastload


def fastload_open(path: Path) -> Any:
    import fastload

    return fastload.open(path)


def fastload_entries(path: Path) -> Any:
    import fastload

    return fastload.open(path).entries()


def fastload_listing(path: Path) -> Any:
    import fastload

    return [(entry.name, entry.shape, entry.dtype) for entry in fastload.open(path).entries()]


def fastload_arrays(path: Path) -> Any:
    import fastload

    return dict(fastload.open(path))


# safetensors


def safe_open(path: Path, framework: str = "np") -> Any:
    import safetensors

    return safetensors.safe_open(path, framework=framework)


def safe_open_listing(path: Path) -> Any:
    file = safe_open(path)
    found = []
    for name in file.keys():  # noqa: SIM118  # it is no mapping, and cannot be iterated over
        part = file.get_slice(name)
        found.append((name, part.get_shape(), part.get_dtype()))
    return found


def safe_open_arrays(path: Path, framework: str = "np") -> Any:
    file = safe_open(path, framework)
    return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def safe_open_torch(path: Path) -> Any:
    return safe_open_arrays(path, "pt")


def load_file_numpy(path: Path) -> Any:
    from safetensors.numpy import load_file

    return load_file(path)


def load_file_torch(path: Path) -> Any:
    from safetensors.torch import load_file

    return load_file(path)


def header_of(path: Path) -> bytes:
    """The JSON header of a safetensors file."""
    with open(path, "rb") as file:
        return file.read(int.from_bytes(file.read(8), "little"))


def listing_of_header(header: dict[str, Any]) -> inputs.Listing:
    return sorted_listing((name, entry["shape"], entry["dtype"]) for name, entry in header.items())


# torch


def torch_mmap(path: Path) -> Any:
    import torch

    return torch.load(path, mmap=True, weights_only=True)


def torch_mmap_trusting(path: Path) -> Any:
    import torch

    return torch.load(path, mmap=True, weights_only=False)


def torch_plain(path: Path) -> Any:
    import torch

    return torch.load(path, weights_only=True)


def torch_trusting(path: Path) -> Any:
    import torch

    return torch.load(path, weights_only=False)


def unpickle(path: Path) -> Any:
    with open(path, "rb") as file:
        return pickle.load(file)


def with_class(path: Path) -> Path:
    """Let this process import the class of the whole module."""
    sys.path.insert(0, str(inputs.ONLY_FOR_TORCH))
    import whole_model  # noqa: F401 - so that unpickling finds it

    return path


def without_class(path: Path) -> Path:
    """See that this process cannot import it."""
    assert importlib.util.find_spec("whole_model") is None
    return path


def state_of(load: Callable[[Path], Any]) -> Callable[[Path], Any]:
    """*load* of a whole module, then its tensors."""
    return lambda path: load(path).state_dict()


def model_of(load: Callable[[Path], Any]) -> Callable[[Path], Any]:
    """*load* of a checkpoint that has its state dict under "model"."""
    return lambda path: {f"model.{name}": tensor for name, tensor in load(path)["model"].items()}


def listed(load: Callable[[Path], Any]) -> Callable[[Path], Any]:
    """*load*, then name, shape and dtype of every tensor."""

    def read(path: Path) -> Any:
        return [(name, tensor.shape, tensor.dtype) for name, tensor in load(path).items()]

    return read


class StubTensor:
    """What the stub unpickler makes of a tensor."""

    __slots__ = ("shape", "storage")

    def __init__(self, storage: tuple[Any, ...], offset: int, shape: tuple[int, ...], *rest: Any) -> None:
        self.storage = storage
        self.shape = shape


class StubUnpickler(pickle.Unpickler):
    """CPython's own unpickler, written in C, with the least that can stand for torch's classes."""

    def find_class(self, module: str, name: str) -> Any:
        if name == "_rebuild_tensor_v2":
            return StubTensor
        return OrderedDict if name == "OrderedDict" else name

    def persistent_load(self, identifier: Any) -> Any:
        return identifier


def pickle_of(path: Path) -> bytes:
    """The pickle of a torch archive."""
    with zipfile.ZipFile(path) as archive:
        return archive.read(f"{path.stem}/data.pkl")


def unpickle_stubs(data: bytes) -> Any:
    return StubUnpickler(io.BytesIO(data)).load()


def listing_of_stubs(tensors: dict[str, StubTensor]) -> inputs.Listing:
    return sorted_listing((name, tensor.shape, tensor.storage[1]) for name, tensor in tensors.items())


NATIVE = ("fastload",)
SAFETENSORS = ("safetensors",)
TORCH = ("torch",)

CHECKS_ALL = "reads or maps; parses and checks header or directory and pickle, all of it, into a native table"
SAFE_OPEN = "maps; parses the header with serde and checks it, into a hash table of Rust"
JSON = Reader(
    "json.loads",
    "the bytes of the header in hand; makes a dict, a list and an int for everything; checks nothing, opens nothing",
    json.loads,
    listing_of_header,
    (),
    header_of,
)
UNPICKLER = Reader(
    "C unpickler, stubs",
    "the bytes of data.pkl in hand; makes a stub for each tensor; reads no zip, checks nothing, lists nothing",
    unpickle_stubs,
    listing_of_stubs,
    (),
    pickle_of,
)


OPEN_SAFETENSORS = (
    Reader("fastload", f"{CHECKS_ALL}; no Python object for a tensor", fastload_open, sorted, NATIVE),
    Reader(
        "safe_open",
        f"{SAFE_OPEN}; no Python object for a tensor",
        safe_open,
        lambda file: sorted(file.keys()),
        SAFETENSORS,
    ),
    Reader(JSON.name, JSON.work, JSON.read, sorted, (), header_of),
)

OPEN_TORCH = (
    Reader(
        "fastload",
        f"{CHECKS_ALL}; the names as a list of Python",
        lambda path: list(fastload_open(path).keys()),
        sorted,
        NATIVE,
    ),
    Reader(
        "torch.load mmap",
        "mmap=True, weights_only=True: maps; unpickles in Python with a list of what is allowed; a tensor each",
        lambda path: list(torch_mmap(path).keys()),
        sorted,
        TORCH,
    ),
    Reader(UNPICKLER.name, UNPICKLER.work, lambda data: list(unpickle_stubs(data)), sorted, (), pickle_of),
)

LISTING = (
    Reader(
        "fastload",
        f"{CHECKS_ALL}; an entry, its name, shape and dtype as Python objects for each tensor",
        fastload_listing,
        sorted_listing,
        NATIVE,
    ),
    Reader(
        "fastload entries()",
        f"{CHECKS_ALL}; an entry for each tensor, whose name, shape and dtype are made when asked for",
        fastload_entries,
        lambda entries: sorted_listing((entry.name, entry.shape, entry.dtype) for entry in entries),
        NATIVE,
    ),
)

LIST_SAFETENSORS = (
    *LISTING,
    Reader(
        "safe_open, get_slice",
        f"{SAFE_OPEN}; a slice, its name, shape and dtype as Python objects for each tensor",
        safe_open_listing,
        sorted_listing,
        SAFETENSORS,
    ),
    JSON,
)

LIST_TORCH = (
    *LISTING,
    Reader(
        "torch.load mmap",
        "mmap=True, weights_only=True: maps; unpickles in Python with a list of what is allowed; a tensor each",
        listed(torch_mmap),
        sorted_listing,
        TORCH,
    ),
    Reader(
        "torch.load mmap trusting",
        "mmap=True, weights_only=False: maps; CPython's C unpickler calls what the file names; a tensor each",
        listed(torch_mmap_trusting),
        sorted_listing,
        TORCH,
    ),
    Reader(
        "torch.load",
        "weights_only=True: unpickles in Python; reads every record into new memory; a tensor each",
        listed(torch_plain),
        sorted_listing,
        TORCH,
    ),
    UNPICKLER,
)

LIST_LEGACY = (
    *LISTING,
    Reader(
        "torch.load",
        "weights_only=True: unpickles in Python; reads every storage into new memory; a tensor each",
        listed(torch_plain),
        sorted_listing,
        TORCH,
    ),
    Reader(
        "torch.load trusting",
        "weights_only=False: CPython's C unpickler calls what the file names; reads every storage; a tensor each",
        listed(torch_trusting),
        sorted_listing,
        TORCH,
    ),
)

LIST_TORCH_PICKLE = (
    *LISTING,
    Reader(
        "pickle.load",
        "CPython's C unpickler; torch.load within it for each tensor",
        listed(unpickle),
        sorted_listing,
        TORCH,
    ),
)

LIST_NUMPY_PICKLE = (
    *LISTING,
    Reader(
        "pickle.load",
        "CPython's C unpickler; copies the bytes of each array",
        listed(unpickle),
        sorted_listing,
        ("numpy",),
    ),
)

# Readers of what few processes can load, so that each has one of its own: `child.Server`.
LIST_MODULE = (
    *(Reader(one.name, one.work, one.read, one.answer, one.imports, without_class) for one in LISTING),
    Reader(
        "torch.load trusting",
        "weights_only=False: calls what the file names, so its class must be there; a tensor and a module each",
        listed(state_of(torch_trusting)),
        sorted_listing,
        TORCH,
        with_class,
    ),
    Reader(
        "torch.load mmap trusting",
        "mmap=True, weights_only=False: the same over a mapping",
        listed(state_of(torch_mmap_trusting)),
        sorted_listing,
        TORCH,
        with_class,
    ),
)

LIST_SCALARS = (
    *LISTING,
    Reader(
        "torch.load mmap trusting",
        "mmap=True, weights_only=False: every scalar as a Python object",
        listed(model_of(torch_mmap_trusting)),
        sorted_listing,
        TORCH,
    ),
    Reader(
        "torch.load",
        "weights_only=True: unpickles in Python",
        listed(model_of(torch_plain)),
        sorted_listing,
        TORCH,
    ),
)

ARRAYS = Reader(
    "fastload",
    "maps and checks; an array each, a view of the mapping; copies nothing, touches no tensor byte",
    fastload_arrays,
    inputs.checksums,
    NATIVE,
)

ARRAYS_SAFETENSORS = (
    ARRAYS,
    Reader(
        "load_file torch",
        "safetensors.torch: maps and checks; a tensor each, a view of a second mapping; copies nothing",
        load_file_torch,
        checksums_of_torch,
        ("safetensors.torch",),
    ),
    Reader(
        "safe_open torch",
        "get_tensor each: maps and checks; a tensor each, a view of a second mapping; copies nothing",
        safe_open_torch,
        checksums_of_torch,
        ("safetensors.torch",),
    ),
    Reader(
        "load_file numpy",
        "safetensors.numpy: maps and checks; copies every tensor into new memory of its own",
        load_file_numpy,
        inputs.checksums,
        ("safetensors.numpy",),
    ),
    Reader(
        "safe_open numpy",
        "get_tensor each: maps and checks; copies every tensor into new memory of its own",
        safe_open_arrays,
        inputs.checksums,
        ("safetensors.numpy",),
    ),
)

ARRAYS_TORCH = (
    ARRAYS,
    Reader(
        "torch.load mmap",
        "mmap=True, weights_only=True: maps; a tensor each, a view of the mapping; copies nothing",
        torch_mmap,
        checksums_of_torch,
        TORCH,
    ),
    Reader(
        "torch.load",
        "weights_only=True: reads every record into new memory of its own",
        torch_plain,
        checksums_of_torch,
        TORCH,
    ),
)

TABLES = {
    "open safetensors": OPEN_SAFETENSORS,
    "list safetensors": LIST_SAFETENSORS,
    "list pt": LIST_TORCH,
    "list legacy": LIST_LEGACY,
    "list torch-pickle": LIST_TORCH_PICKLE,
    "list numpy-pickle": LIST_NUMPY_PICKLE,
    "arrays safetensors": ARRAYS_SAFETENSORS,
    "arrays pt": ARRAYS_TORCH,
}


# Of files that hold more than tensors, or tensors in other ways.
OTHER_TABLES = {"open pt": OPEN_TORCH, "list module": LIST_MODULE, "list scalars": LIST_SCALARS}


def reader(table: str, name: str) -> Reader:
    """One reader by its names."""
    return next(reader for reader in {**TABLES, **OTHER_TABLES}[table] if reader.name == name)
