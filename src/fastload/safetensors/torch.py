"""`safetensors.torch`: dicts of torch tensors, and models. Imports torch."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Set
from typing import TYPE_CHECKING, Any

import torch

from fastload.formats.writing import Outgoing
from fastload.safetensors.opening import opened_bytes, safe_open, to_torch
from fastload.safetensors.writing import PACKED, as_bytes, outgoing_of_arrays, to_file

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["load", "load_file", "load_model", "save", "save_file", "save_model", "storage_ptr", "storage_size"]


def load(data: Buffer) -> dict[str, torch.Tensor]:
    """The tensors of a file that is in memory, as copies.

    Raises
    ------
    SafetensorError
        The bytes are no sound safetensors file.
    """
    tensors = opened_bytes(data)
    return {name: to_torch(tensors, row, None) for row, name in enumerate(tensors.list_names())}


def load_file(
    filename: str | os.PathLike[str], device: Any = "cpu", *, backend: str = "mmap"
) -> dict[str, torch.Tensor]:
    """The tensors of a file, which may be written to; the file never changes.

    On the CPU they are views of one private mapping of the file, so that memory is only used for what is written to.
    Those of ``backend="pread"`` are in memory of their own.

    Raises
    ------
    SafetensorError
        The file is no sound safetensors file, or *device* is none.
    OSError
        It cannot be opened.
    """
    with safe_open(filename, "pt", device, backend=backend) as file:
        return file.get_tensors()


def save(tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None) -> bytes:
    """The file that holds the tensors, as bytes.

    Raises
    ------
    RuntimeError
        Tensors share memory: save them with `save_model`, or copies of them.
    ValueError
        They are no dict of tensors, or one is sparse or not contiguous.
    SafetensorError
        One is of a dtype that the format lacks.
    """
    return as_bytes(_outgoing(tensors), metadata)


def save_file(
    tensors: dict[str, torch.Tensor], filename: str | os.PathLike[str], metadata: dict[str, str] | None = None
) -> None:
    """Write the tensors to a file: for other processes there is the old one or the new one, whole.

    As with the package nobody waits for the disk. `fastload.save` does: its file outlives a failing of the power.

    Raises
    ------
    RuntimeError, ValueError, SafetensorError
        As `save`; or SafetensorError, if the file cannot be written.
    """
    to_file(_outgoing(tensors), filename, metadata)


def save_model(
    model: torch.nn.Module,
    filename: str | os.PathLike[str],
    metadata: dict[str, str] | None = None,
    force_contiguous: bool = True,
) -> None:
    """Write the tensors of a model to a file; of those that share memory, one.

    The metadata say of each name that is left out which one has its tensor.

    Raises
    ------
    RuntimeError
        None of the tensors that share memory covers all of it.
    ValueError, SafetensorError
        As `save_file`.
    """
    state = model.state_dict()
    texts = dict(metadata or {})
    for kept, dropped in _names_to_drop(state).items():
        for name in dropped:
            texts.setdefault(name, kept)
            del state[name]
    if force_contiguous:
        state = {name: tensor.contiguous() for name, tensor in state.items()}
    try:
        save_file(state, filename, metadata=texts or metadata)
    except ValueError as error:
        raise ValueError(f"{error} Or use save_model(..., force_contiguous=True).") from error


def load_model(
    model: torch.nn.Module,
    filename: str | os.PathLike[str],
    strict: bool = True,
    device: Any = "cpu",
    *,
    backend: str = "mmap",
) -> tuple[set[str], list[str]]:
    """Load a file that `save_model` wrote into a model.

    Returns
    -------
    missing : set of str
        Names of the model that nothing was loaded into.
    unexpected : list of str
        Names in the file that the model has not.

    Raises
    ------
    RuntimeError
        There are any, and *strict* is true; or a shape differs.
    SafetensorError
        The file is no sound safetensors file.
    """
    state = load_file(filename, device, backend=backend)
    dropped = _names_to_drop(model.state_dict(), preferred=state.keys())
    lacking, unexpected = model.load_state_dict(state, strict=False)
    missing, unexpected = set(lacking), list(unexpected)
    for names in dropped.values():
        for name in names:
            if name in missing:
                missing.remove(name)
            else:
                unexpected.append(name)  # it is in the file beside the one that it shares memory with
    if strict and (missing or unexpected):
        lines = [f"Error(s) in loading state_dict for {type(model).__name__}:"]
        lines += [f"    Missing key(s) in state_dict: {_quoted(missing)}"] if missing else []
        lines += [f"    Unexpected key(s) in state_dict: {_quoted(unexpected)}"] if unexpected else []
        raise RuntimeError("\n".join(lines))
    return missing, unexpected


def storage_ptr(tensor: torch.Tensor) -> int:
    """The address of the memory that a tensor is a view of."""
    return int(tensor.untyped_storage().data_ptr())


def storage_size(tensor: torch.Tensor) -> int:
    """The size of that memory, in bytes."""
    return int(tensor.untyped_storage().nbytes())


def _outgoing(tensors: dict[str, torch.Tensor]) -> list[Outgoing]:
    """Tensors as what can be written, if the package would write them."""
    if not isinstance(tensors, dict):
        raise ValueError(f"Expected a dict of [str, torch.Tensor] but received {type(tensors)}")
    for name, tensor in tensors.items():
        if not isinstance(tensor, torch.Tensor):
            raise ValueError(f"Key `{name}` is invalid, expected torch.Tensor but received {type(tensor)}")
    sparse = [name for name, tensor in tensors.items() if tensor.layout != torch.strided]
    if sparse:
        raise ValueError(f"You are trying to save sparse tensors: {sparse}, which safetensors has not: use .to_dense()")
    shared = [names for names in _shared_names(tensors) if len(names) > 1]
    if shared:
        raise RuntimeError(
            "Some tensors share memory, this will lead to duplicate memory on disk and potential differences when"
            f" loading them again: {shared}. Use save_model, or save a .clone() of them"
        )
    for name, tensor in tensors.items():
        if not tensor.is_contiguous():
            raise ValueError(
                f"You are trying to save a non contiguous tensor: `{name}` which is not allowed: save its"
                " .contiguous() or, if it is a part of another tensor, that one alone."
            )
    packed = {name for name, tensor in tensors.items() if str(tensor.dtype) == f"torch.{PACKED}"}
    plain = {name: tensor.view(torch.uint8) if name in packed else tensor for name, tensor in tensors.items()}
    return [_unpacked(tensor) if tensor.name in packed else tensor for tensor in outgoing_of_arrays(plain)]


def _unpacked(tensor: Outgoing) -> Outgoing:
    """The bytes of 4-bit floats, two in each, as the format counts them."""
    return tensor.changed(dtype="float4_e2m1fn", shape=(*tensor.shape[:-1], 2 * (tensor.shape or (1,))[-1]))


def _shared_names(tensors: Mapping[str, torch.Tensor]) -> list[set[str]]:
    """The names of the tensors that have memory, those together whose bytes overlap."""
    storages: dict[tuple[Any, int, int], list[str]] = {}
    for name, tensor in tensors.items():
        if not tensor.is_meta and storage_ptr(tensor) and storage_size(tensor):
            key = (tensor.device, storage_ptr(tensor), storage_size(tensor))
            storages.setdefault(key, []).append(name)
    found: list[set[str]] = []
    for names in storages.values():
        reach = 0
        for begin, end, name in sorted((*_span(tensors[name]), name) for name in names):
            if begin >= reach:
                found.append(set())
            found[-1].add(name)
            reach = max(reach, end)
    return found


def _span(tensor: torch.Tensor) -> tuple[int, int]:
    """The addresses of the first byte of a tensor, and of that behind its last."""
    begin = tensor.data_ptr()
    if not tensor.numel():
        return begin, begin
    last = sum((length - 1) * step for length, step in zip(tensor.shape, tensor.stride(), strict=True))
    return begin, begin + (last + 1) * tensor.element_size()


def _names_to_drop(tensors: Mapping[str, torch.Tensor], preferred: Set[str] = frozenset()) -> dict[str, list[str]]:
    """Of tensors that share memory, the name of one that is all of it, to the names of the others.

    Raises
    ------
    RuntimeError
        None of them is.
    """
    dropped = {}
    for names in _shared_names(tensors):
        whole = {name for name in names if _is_whole(tensors[name])}
        if not whole:
            raise RuntimeError(
                f"Error while trying to find names to remove to save state dict: of {sorted(names)}, which share"
                " memory, none is all of it, so that more would be saved than is needed: save a .clone() of them"
            )
        kept = min(whole & preferred or whole)
        if len(names) > 1:
            dropped[kept] = sorted(names - {kept})
    return dropped


def _is_whole(tensor: torch.Tensor) -> bool:
    is_first = tensor.data_ptr() == storage_ptr(tensor)
    return bool(is_first and tensor.numel() * tensor.element_size() == storage_size(tensor))


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f'"{name}"' for name in sorted(names))
