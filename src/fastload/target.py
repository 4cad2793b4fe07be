"""Targets: what a checkpoint can be poured into, and the pouring.

A target is a dict of arrays, also a nested one as JAX and Flax have it; a torch Module; or a description alone: a
mapping of names to what has a shape and a dtype. What can be checked is checked before the first write.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np

from fastload.dtypes import CODES, DTYPES, numpy_dtype
from fastload.errors import FastloadError, printable
from fastload.planned import PlannedTensors
from fastload.report import LoadError, LoadProblem, LoadReport
from fastload.tensors import Tensors

__all__ = ["Slot", "Strict", "load_into", "slots_of_arrays"]

Strict = bool | Literal["both"]

UNREPORTED = "num_batches_tracked"  # a counter that other frameworks have no use for
MAX_DEPTH = 1000  # of nested dicts


class Slot(NamedTuple):
    """A place in a target.

    Attributes
    ----------
    name : str
    shape : tuple of int
    dtype : str
        The canonical name; or, of a dtype that fastload lacks, whatever it calls itself.
    fill : function or None
        Writes an array there; None in a target that is only a description.
    memory : function
        The bytes of the place, if they lie side by side and in the order of this machine; else None.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    fill: Callable[[np.ndarray], None] | None
    memory: Callable[[], memoryview | None] = lambda: None


def load_into(
    tensors: Tensors, target: Any, *, strict: Strict = True, staged: bool = False, assign: bool = False
) -> LoadReport:
    """Pour tensors into a target.

    Parameters
    ----------
    strict : bool or "both"
        True fails on missing tensors and errors, "both" on unused ones too, False on errors alone.
    staged : bool
        Whether all tensors are read into memory before the first is written, so that an error of reading leaves the
        target as it was.
    assign : bool
        Whether the parameters and buffers of a Module are replaced by tensors in private memory, not written to. They
        are where those are, on the CPU; each parameter keeps its `requires_grad`.

    Raises
    ------
    LoadError
        Something is missing or does not fit, and nothing was written; or reading failed, and its report says what was.
    TypeError
        The target is none of those that are known.
    """
    if strict not in (True, False, "both"):
        raise ValueError(f"strict is True, False or 'both', not {strict!r}")
    torch = sys.modules.get("torch")
    if assign and (torch is None or not isinstance(target, torch.nn.Module)):
        raise TypeError(f"assign=True is for a torch Module, not {type(target).__name__}")
    slots = list(_slots(target, assign))
    report = LoadReport()
    dropped = set(tensors.table.dropped) if isinstance(tensors, PlannedTensors) else set()
    rows: list[tuple[Slot, int]] = []
    for slot in slots:
        row = tensors.find(slot.name)
        if row >= 0:
            rows.append((slot, row))
        elif slot.name in dropped:
            report.skipped.append(slot.name)
        else:
            report.missing.append(slot.name)
    asked = {slot.name for slot, _ in rows}
    report.unused = [
        name for name in tensors.list_names() if name not in asked and name.rpartition(".")[2] != UNREPORTED
    ]
    arrays = _check(tensors, rows, report, staged)
    _refuse(report, strict, tensors.path)
    if assign:
        _assign(tensors, target, [(slot.name, row) for slot, row in rows], report)
        return report
    for slot, row in rows:
        if slot.fill is None:
            report.applied.append(slot.name)
            continue
        try:
            slot.fill(arrays[row] if row in arrays else tensors.array(row))
        except (FastloadError, OSError) as error:
            report.errors.append(LoadProblem(slot.name, "its data", str(error)))
            raise LoadError(
                f"reading failed at {slot.name!r} when {len(report.applied):,} tensors were written: {error}",
                report,
                tensors.path,
            ) from error
        report.applied.append(slot.name)
    return report


def _check(tensors: Tensors, rows: list[tuple[Slot, int]], report: LoadReport, staged: bool) -> dict[int, np.ndarray]:
    """See that every tensor fits its slot, and can be had where that is in doubt; the arrays made on the way."""
    arrays: dict[int, np.ndarray] = {}
    for slot, row in rows:
        entry = tensors.entry(row)
        if entry.shape != slot.shape:
            report.errors.append(LoadProblem(slot.name, f"shape {slot.shape}", f"shape {entry.shape}"))
        elif entry.dtype != slot.dtype:
            report.errors.append(LoadProblem(slot.name, slot.dtype, entry.dtype))
        elif staged or not entry.zero_copy:
            try:
                if staged:
                    arrays[row] = np.array(tensors.array(row))
                else:
                    tensors.check(row)
            except (FastloadError, OSError) as error:
                report.errors.append(LoadProblem(slot.name, "its data", str(error)))
    return arrays


def _refuse(report: LoadReport, strict: Strict, path: str | None) -> None:
    if report.errors or (strict and report.missing) or (strict == "both" and report.unused):
        raise LoadError("nothing was written, since the tensors do not all fit", report, path)


def _assign(tensors: Tensors, module: Any, rows: list[tuple[str, int]], report: LoadReport) -> None:
    """Replace parameters and buffers of a Module; all tensors are made before the first is replaced."""
    from fastload import handover

    tied: dict[int, list[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        tied.setdefault(id(parameter), []).append(name)
    try:
        made = handover.to_torch_rows(tensors, rows)
    except (FastloadError, OSError) as error:
        report.errors.append(LoadProblem("", "its data", str(error)))
        raise LoadError(f"nothing was written, since reading failed: {error}", report, tensors.path) from error
    module.load_state_dict(made, strict=False, assign=True)
    for names in tied.values():
        # torch gives each name a parameter of its own; those that were one stay one, the last that was loaded.
        loaded = [name for name in names if name in made]
        if len(names) > 1 and loaded:
            parameter = module.get_parameter(loaded[-1])
            for name in names:
                path, _, leaf = name.rpartition(".")
                module.get_submodule(path).register_parameter(leaf, parameter)
    report.applied.extend(name for name, _ in rows)


def _slots(target: Any, assign: bool) -> Iterator[Slot]:
    """The places of a target, in its order."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(target, torch.nn.Module):
        return _module_slots(target, torch, assign)
    if isinstance(target, Mapping):
        return _mapping_slots(target)
    raise TypeError(f"a target is a torch Module or a mapping, not {type(target).__name__}")


def _module_slots(module: Any, torch: Any, assign: bool) -> Iterator[Slot]:
    for name, tensor in module.state_dict(keep_vars=True).items():
        if isinstance(tensor, torch.Tensor):
            yield _torch_slot(name, tensor, torch, assign)


def _torch_slot(name: str, tensor: Any, torch: Any, assign: bool = False) -> Slot:
    if tensor.is_meta and not assign:
        raise TypeError(f"{name!r} of the target has no memory (its device is meta): make some, as with to_empty()")
    if tensor.layout is not torch.strided or tensor.is_quantized:
        raise TypeError(
            f"{name!r} of the target is {'quantised' if tensor.is_quantized else 'sparse'}: only plain"
            " tensors can be filled"
        )

    def fill(array: np.ndarray) -> None:
        # By way of bytes, since torch does not know ml_dtypes; of a copy, since it has no read-only tensors.
        if array.size:
            copy = np.array(array, order="C").reshape(-1).view(np.uint8)
            with torch.no_grad():
                tensor.copy_(torch.from_numpy(copy).view(tensor.dtype).reshape(tensor.shape))

    def memory() -> memoryview | None:
        if tensor.device.type != "cpu" or not tensor.is_contiguous() or tensor.is_conj() or tensor.is_neg():
            return None
        found: memoryview = tensor.detach().reshape(-1).view(torch.uint8).numpy().data
        return found

    return Slot(name, tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."), fill, memory)


def _mapping_slots(target: Mapping[str, Any]) -> Iterator[Slot]:
    """The leaves of a nested mapping, by their dotted paths."""
    stack: list[tuple[str, Mapping[str, Any], Iterator[str]]] = [("", target, iter(list(target)))]
    while stack:
        path, level, keys = stack[-1]
        key = next(keys, None)
        if key is None:
            stack.pop()
            continue
        name, value = f"{path}{key}", level[key]
        if isinstance(value, Mapping):
            if len(stack) >= MAX_DEPTH:
                raise TypeError(f"the target is nested too deeply at {printable(name)!r:.80}")
            stack.append((f"{name}.", value, iter(list(value))))
            continue
        torch = sys.modules.get("torch")
        if torch is not None and isinstance(value, torch.Tensor):
            yield _torch_slot(name, value, torch)
            continue
        shape, dtype = _described(name, value)
        yield Slot(name, shape, dtype, _leaf_fill(level, key, value), partial(_leaf_memory, value))


def slots_of_arrays(target: Mapping[str, Any]) -> Iterator[Slot]:
    """The places of a mapping of names to arrays of numpy or tensors of torch, all of which can be filled.

    Raises
    ------
    TypeError
        It holds something else, or an array that cannot be written to.
    """
    torch = sys.modules.get("torch")
    for name, value in target.items():
        if not isinstance(value, np.ndarray) and (torch is None or not isinstance(value, torch.Tensor)):
            raise TypeError(f"{name!r} is a {type(value).__name__}, and neither a numpy array nor a torch tensor")
    return _mapping_slots(target)


def _described(name: str, value: Any) -> tuple[tuple[int, ...], str]:
    """Shape and dtype of an array, or of what describes one: (shape, dtype) or an object that has both."""
    if isinstance(value, tuple) and len(value) == 2:
        shape, dtype = value
    else:
        shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if shape is None or dtype is None:
        raise TypeError(f"{name!r} of the target is neither an array nor a (shape, dtype): {type(value).__name__}")
    return tuple(int(size) for size in shape), _dtype_name(dtype)


def _dtype_name(dtype: Any) -> str:
    text = str(getattr(dtype, "name", dtype)).removeprefix("torch.")
    if text in CODES:
        return text
    try:
        found = np.dtype(dtype)
    except TypeError:
        return text
    return next((row.name for code, row in enumerate(DTYPES) if numpy_dtype(code) == found), text)


def _leaf_memory(value: Any) -> memoryview | None:
    if not isinstance(value, np.ndarray) or not value.flags.c_contiguous or not value.dtype.isnative:
        return None
    found: memoryview = value.reshape(-1).view(np.uint8).data
    return found


def _leaf_fill(level: Mapping[str, Any], key: str, value: Any) -> Callable[[np.ndarray], None] | None:
    if isinstance(value, np.ndarray):
        if not value.flags.writeable:
            raise TypeError(f"{key!r} of the target is a read-only array")

        def fill(array: np.ndarray) -> None:
            value[...] = array

        return fill
    if isinstance(value, tuple) or not hasattr(value, "__array__"):
        return None
    if not isinstance(level, MutableMapping):
        raise TypeError(f"{key!r} of the target cannot be replaced: its mapping is read-only")

    def replace(array: np.ndarray) -> None:
        # An array of JAX never changes: another one takes its place, made as its own kind makes one of NumPy's.
        jax: Any = sys.modules.get("jax")
        is_jax = jax is not None and isinstance(value, jax.Array)
        level[key] = jax.numpy.asarray(array) if is_jax else np.array(array)

    return replace
