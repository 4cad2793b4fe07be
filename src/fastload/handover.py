"""Handing tensors over to those who write to what they get: torch, JAX, and whoever speaks DLPack.

torch has no read-only tensors, and an optimiser step on a mapping of the file would end the process. So what is handed
over lies in private memory: pages of the file until they are written to, and the writer's own from then on. Neither the
file nor another handing over ever sees it.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any

import numpy as np

from fastload._native import WritableRegion
from fastload.dtypes import CODES, DTYPES
from fastload.entry import TensorEntry
from fastload.errors import UnsupportedError
from fastload.plan.making import rows_of
from fastload.planned import PlannedTensors
from fastload.source import Handing
from fastload.tensors import PrivateRun, Tensors

__all__ = ["Storages", "to_dlpack", "to_jax", "to_torch", "to_torch_dict", "to_torch_rows", "to_torch_within"]

# What torch has no plain tensors of, as the integers or bytes that are stored.
STORED_AS = {
    "quint8": "uint8",
    "qint8": "int8",
    "qint32": "int32",
    "quint4x2": "uint8",
    "quint2x4": "uint8",
    "float4_e2m1fn": "uint8",
    "float6_e2m3fn": "uint8",
    "float6_e3m2fn": "uint8",
    "bool32": "uint32",
    "qfloat": "uint8",
}
DLPACK_KINDS = "biufc"  # of numpy's own dtypes; those of ml_dtypes are of kind "V" or "f", and of no char of numpy's
JAX_ALIGNMENT = 64  # of the memory that XLA takes on a CPU as it is

# Of one hand-over, tensors of torch that have all of a storage, by (address, size) of the memory that this is over.
Storages = dict[tuple[int, int], Any]


def to_torch(tensors: Tensors, row: int) -> Any:
    """One tensor as a torch tensor on the CPU, in private memory.

    Raises
    ------
    UnsupportedError
        torch has no such dtype, or the tensor's data cannot be had.
    """
    return to_torch_within(tensors, row, Handing(), {})


def to_torch_dict(tensors: Tensors) -> dict[str, Any]:
    """All tensors by name; those that share a storage share memory, and a storage of torch."""
    return to_torch_rows(tensors, [(name, row) for row, name in enumerate(tensors.list_names())])


def to_torch_rows(tensors: Tensors, rows: Iterable[tuple[str, int]]) -> dict[str, Any]:
    """Some tensors by the names that are given, sharing memory as those of `to_torch_dict`."""
    handing = Handing(whole=True)
    storages: Storages = {}
    return {name: to_torch_within(tensors, row, handing, storages) for name, row in rows}


def to_torch_within(tensors: Tensors, row: int, handing: Handing, storages: Storages) -> Any:
    """One tensor as `to_torch` gives it; those of one *handing* and *storages* share memory, as in the file."""
    import torch  # only for who asks for it

    run = tensors.private_run(row, handing)
    if run is not None:
        dtype = _dtype_of(run.code)
        if dtype is not None:
            return _over_run(run, dtype, storages)
    entry = tensors.entry(row)
    dtype = _dtype_of(CODES[entry.dtype]) if entry.dtype in CODES else None
    if dtype is None:
        raise UnsupportedError(f"tensor {entry.name!r} is {entry.dtype}, a dtype that torch {torch.__version__} lacks")
    if _is_meta(tensors, row, entry):
        return torch.empty(entry.shape, dtype=dtype, device="meta")  # as torch has it itself: shape, and no data
    array = tensors.private_array(row, handing)
    shape = array.shape[:-1] if entry.dtype == "complex32" else array.shape  # of which numpy shows the halves
    if array.size == 0:
        return torch.empty(shape, dtype=dtype, device="cpu")
    size = DTYPES[CODES[entry.dtype]].bits // 8 if entry.dtype not in STORED_AS else array.itemsize
    steps = array.strides[: len(shape)]
    if any(step < 0 or step % size for step in steps):
        array = np.array(array, order="C")  # elements that do not lie a whole number of elements apart
        steps = array.strides[: len(shape)]
    whole, address = _whole_storage(array, storages)
    offset = array.__array_interface__["data"][0] - address
    if offset % size:
        # torch counts in elements from the start of a storage: one that begins with the tensor.
        whole = torch.frombuffer(memoryview(_root(array)).cast("B")[offset:], dtype=torch.uint8)
        offset = 0
    return _strided(whole, dtype, offset // size, shape, tuple(step // size for step in steps))


def to_dlpack(tensors: Tensors, row: int) -> Any:
    """One tensor as an object with `__dlpack__` and `__dlpack_device__`: a numpy array, or a torch tensor.

    numpy exports its own dtypes alone; for bfloat16 and the float8 family torch does it, where it is installed.
    """
    array = tensors.private_array(row, Handing())
    if _is_plain(array) and tensors.entry(row).dtype != "complex32":
        return array
    entry = tensors.entry(row)
    if array.dtype.isbuiltin == 1 or entry.dtype not in CODES:
        raise UnsupportedError(f"tensor {entry.name!r} is {entry.dtype}, which DLPack cannot describe")
    try:
        return to_torch(tensors, row)
    except ImportError:
        raise UnsupportedError(
            f"tensor {entry.name!r} is {entry.dtype}, which numpy cannot give to DLPack: install torch, which can,"
            " or cast it"
        ) from None


def to_jax(tensors: Tensors, row: int) -> Any:
    """One tensor as a JAX array: without a copy where JAX takes the memory as it is."""
    from importlib import import_module

    jnp: Any = import_module("jax.numpy")  # only for who asks for it, and typed only where it is installed

    entry = tensors.entry(row)
    if entry.dtype not in CODES or entry.dtype == "complex32":
        raise UnsupportedError(f"tensor {entry.name!r} is {entry.dtype}, a dtype that JAX lacks: cast it")
    array = tensors.private_array(row, Handing())
    # JAX knows the dtypes of ml_dtypes, and copies what does not lie as XLA wants it.
    aligned = array.ctypes.data % JAX_ALIGNMENT == 0 and array.flags.c_contiguous and array.size > 0
    made = jnp.from_dlpack(array) if aligned and _is_plain(array) else jnp.asarray(array)
    if np.dtype(made.dtype) != array.dtype:
        raise UnsupportedError(
            f"tensor {entry.name!r} is {entry.dtype}, and JAX makes {made.dtype} of it: set jax_enable_x64, or cast it"
        )
    return made


def _is_plain(array: np.ndarray) -> bool:
    return array.dtype.kind in DLPACK_KINDS and array.dtype.isbuiltin == 1 and array.dtype.isnative


def _root(array: np.ndarray) -> Any:
    """What holds the memory of an array: a WritableRegion, or an array of numpy's own memory."""
    held: Any = array
    while isinstance(held, np.ndarray) and held.base is not None:
        held = held.base
    return held


def _over_run(run: PrivateRun, dtype: Any, storages: Storages) -> Any:
    """A tensor of torch where the file has it: nothing is made for it but itself and, the first time, its storage."""
    import torch

    key = (run.memory.address + run.begin, run.nbytes)
    whole = storages.get(key)
    if whole is not None:
        return _strided(whole, dtype, run.offset, run.shape, run.steps)
    count, rest = divmod(run.nbytes, dtype.itemsize)
    if rest:  # a storage of which these elements are not all
        whole = torch.frombuffer(run.memory, dtype=torch.uint8, count=run.nbytes, offset=run.begin)
        tensor = _strided(whole, dtype, run.offset, run.shape, run.steps)
    else:
        whole = tensor = torch.frombuffer(run.memory, dtype=dtype, count=count, offset=run.begin)
        # In place: a view would be one of torch's views, which neither detach nor forget what they are of.
        tensor.as_strided_(run.shape, run.steps, run.offset)
    storages[key] = whole
    return tensor


def _strided(whole: Any, dtype: Any, offset: int, shape: tuple[int, ...], steps: tuple[int, ...]) -> Any:
    """Another tensor over the storage of *whole*."""
    import torch

    # On the CPU, whatever the device that torch makes tensors on at the moment.
    return torch.empty(0, dtype=dtype, device="cpu").set_(whole.untyped_storage(), offset, shape, steps)


def _whole_storage(array: np.ndarray, storages: Storages) -> tuple[Any, int]:
    """A tensor of torch that has the storage of all the memory that an array is a view of, and where that begins."""
    import torch

    held = _root(array)
    if isinstance(held, WritableRegion):
        address, nbytes = held.address, len(held)
    else:
        address, nbytes = held.__array_interface__["data"][0], held.nbytes
    whole = storages.get((address, nbytes))
    if whole is None:
        # What is no region is memory of numpy's own, which is one run.
        data = held if isinstance(held, WritableRegion) else held.reshape(-1, order="A").view(np.uint8)
        whole = storages[address, nbytes] = torch.frombuffer(data, dtype=torch.uint8)
    return whole, address


@cache
def _dtype_of(code: int) -> Any:
    """Torch's dtype for one of ours; None where it has none."""
    import torch

    name = DTYPES[code].name if code < len(DTYPES) else ""
    dtype = getattr(torch, STORED_AS.get(name, name), None)
    return dtype if isinstance(dtype, torch.dtype) else None


def _is_meta(tensors: Tensors, row: int, entry: TensorEntry) -> bool:
    """Whether a tensor has no data: nothing that it is made of has."""
    if entry.kind != "meta":
        return False
    if not isinstance(tensors, PlannedTensors):
        return True
    return all(tensors.base.entry(part).kind == "meta" for part in rows_of(tensors.table.makings[row]))
