"""`safetensors.numpy`: dicts of NumPy arrays."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from fastload.safetensors.opening import opened_bytes, safe_open, to_numpy
from fastload.safetensors.writing import as_bytes, outgoing_of_arrays, to_file

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["load", "load_file", "save", "save_file"]


def load(data: Buffer) -> dict[str, np.ndarray]:
    """The arrays of a file that is in memory, as copies.

    Raises
    ------
    SafetensorError
        The bytes are no sound safetensors file.
    """
    tensors = opened_bytes(data)
    return {name: to_numpy(tensors, row) for row, name in enumerate(tensors.list_names())}


def load_file(filename: str | os.PathLike[str], *, backend: str = "mmap") -> dict[str, np.ndarray]:
    """The arrays of a file, which may be written to; the file never changes.

    They are views of one private mapping of the file, so that memory is only used for what is written to. Those of
    ``backend="pread"`` are in memory of their own.

    Raises
    ------
    SafetensorError
        The file is no sound safetensors file.
    OSError
        It cannot be opened.
    """
    with safe_open(filename, "np", backend=backend) as file:
        return file.get_tensors()


def save(tensor_dict: Mapping[str, np.ndarray], metadata: dict[str, str] | None = None) -> bytes:
    """The file that holds the arrays, as bytes.

    Raises
    ------
    SafetensorError
        An array is of a dtype that the format lacks.
    """
    return as_bytes(outgoing_of_arrays(tensor_dict), metadata)


def save_file(
    tensor_dict: Mapping[str, np.ndarray], filename: str | os.PathLike[str], metadata: dict[str, str] | None = None
) -> None:
    """Write the arrays to a file: for other processes there is the old one or the new one, whole.

    As with the package nobody waits for the disk. `fastload.save` does: its file outlives a failing of the power.

    Raises
    ------
    SafetensorError
        An array is of a dtype that the format lacks, or the file cannot be written.
    """
    to_file(outgoing_of_arrays(tensor_dict), filename, metadata)
