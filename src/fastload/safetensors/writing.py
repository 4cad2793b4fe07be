"""Writing as the safetensors package does it, to the byte: `TensorSpec`, `serialize` and `serialize_file`."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from fastload.atomic import publish
from fastload.dtypes import CODES, DTYPES
from fastload.errors import SaveError
from fastload.formats import safetensors as format
from fastload.formats.writing import Outgoing
from fastload.outgoing import of_arrays
from fastload.safetensors.failure import SafetensorError, as_safetensor_error

__all__ = ["PACKED", "TensorSpec", "as_bytes", "outgoing_of_arrays", "serialize", "serialize_file", "to_file"]

PACKED = "float4_e2m1fn_x2"  # torch's name of two 4-bit floats in a byte, which the format counts singly
# The dtypes that can be saved, by the name that NumPy or torch has for them, as rows of DTYPES.
SPEC_DTYPES = {row.name: row for row in DTYPES if row.safetensors and row.bits >= 8}
SPEC_DTYPES[PACKED] = DTYPES[CODES["float4_e2m1fn"]]
SPELLED = {row.safetensors: row for row in DTYPES if row.safetensors}


class TensorSpec:
    """Where a tensor that is to be saved lies in memory; whoever makes one keeps that memory.

    Parameters
    ----------
    dtype : str
        As NumPy and torch call it, such as ``"float32"``.
    shape : sequence of int
        In elements, as they are counted there.
    data_ptr : int
        The address of the first byte; the elements lie in C order, little-endian.
    data_len : int
        In bytes.

    Raises
    ------
    SafetensorError
        The format has no such dtype.
    """

    __slots__ = ("_row", "data_len", "data_ptr", "shape")

    def __init__(self, *, dtype: str, shape: Sequence[int], data_ptr: int, data_len: int) -> None:
        self._row = _row_of(dtype, SPEC_DTYPES)
        self.shape = [int(length) for length in shape]
        if dtype == PACKED and self.shape:
            self.shape[-1] *= 2
        self.data_ptr = int(data_ptr)
        self.data_len = int(data_len)

    @property
    def dtype(self) -> str:
        """As the format spells it, such as ``"F32"``."""
        return str(self._row.safetensors)

    def __repr__(self) -> str:
        return (
            f"TensorSpec(dtype={self.dtype!r}, shape={self.shape}, data_ptr={self.data_ptr}, data_len={self.data_len})"
        )

    def memory(self) -> memoryview:
        """The bytes of the tensor, where they lie."""
        import ctypes  # only for who has addresses

        if self.data_len and not self.data_ptr:
            raise SafetensorError(f"{self!r} has no address")
        return memoryview((ctypes.c_ubyte * self.data_len).from_address(self.data_ptr)).cast("B")


def serialize(tensor_dict: Mapping[str, Any], metadata: dict[str, str] | None = None) -> bytes:
    """The file that holds the tensors, as bytes.

    Parameters
    ----------
    tensor_dict : dict
        Names to `TensorSpec`, or to dicts of ``dtype``, ``shape`` and ``data`` (bytes), as older programs have them.

    Raises
    ------
    SafetensorError
        A tensor is not of the size that its shape and dtype say, or of a dtype that the format lacks.
    """
    return as_bytes(_outgoing_of_specs(tensor_dict), metadata)


def serialize_file(
    tensor_dict: Mapping[str, Any], filename: str | os.PathLike[str], metadata: dict[str, str] | None = None
) -> None:
    """Write what `serialize` gives to a file: for other processes there is the old one or the new one, whole.

    As with the package nobody waits for the disk. `fastload.save` does: its file outlives a failing of the power.

    Raises
    ------
    SafetensorError
        As `serialize`; or the file cannot be written.
    """
    to_file(_outgoing_of_specs(tensor_dict), filename, metadata)


def as_bytes(tensors: Sequence[Outgoing], metadata: dict[str, str] | None) -> bytes:
    """The file that holds the tensors, to the byte as the package has it."""
    texts = _texts(metadata)
    with as_safetensor_error():
        format.check_writable(tensors, texts or {})
        file = io.BytesIO()
        format.write_aligned(file, tensors, texts, format.REFERENCE_ALIGNMENT)
        return file.getvalue()


def to_file(tensors: Sequence[Outgoing], filename: str | os.PathLike[str], metadata: dict[str, str] | None) -> None:
    """Write what `as_bytes` gives to a file, a piece at a time."""
    path = os.fspath(filename)
    if not isinstance(path, str):
        raise TypeError(f"filename is a str or an os.PathLike of one, not {type(path).__name__}")
    texts = _texts(metadata)
    with as_safetensor_error():
        format.check_writable(tensors, texts or {})
        try:
            # As the package does: another file that takes the place of the old one, and no waiting for the disk.
            with publish(path, overwrite=True, size=sum(tensor.nbytes for tensor in tensors), sync=False) as file:
                format.write_aligned(file, tensors, texts, format.REFERENCE_ALIGNMENT)
        except SaveError:
            raise
        except OSError as error:  # no such folder, or no permission
            raise SafetensorError(f"cannot be written: {error.strerror}", path=path) from error


def outgoing_of_arrays(tensor_dict: Mapping[str, Any]) -> list[Outgoing]:
    """Arrays as what can be written.

    Raises
    ------
    SafetensorError
        One is none, or of a dtype that no format has.
    """
    with as_safetensor_error():
        return of_arrays(tensor_dict)


def _outgoing_of_specs(tensor_dict: Mapping[str, Any]) -> list[Outgoing]:
    found = []
    for name, spec in tensor_dict.items():
        if not isinstance(name, str):
            raise TypeError(f"the name of a tensor is a str, not {type(name).__name__}: {name!r}")
        if isinstance(spec, TensorSpec):
            row, shape, data = spec._row, spec.shape, spec.memory()
        elif isinstance(spec, dict) and spec.keys() >= {"dtype", "shape", "data"}:
            row = _row_of(spec["dtype"], {**SPEC_DTYPES, **SPELLED})
            shape = list(spec["shape"])
            data = memoryview(spec["data"]).cast("B")
        else:
            raise TypeError(f"tensor {name!r} is a TensorSpec, or a dict of dtype, shape and data, not {spec!r:.100}")
        bits = row.bits
        for length in shape:
            bits *= length
        if bits != 8 * data.nbytes or min(shape, default=0) < 0:
            raise SafetensorError(
                f"invalid shape, data type, or offset for tensor {name!r}: {row.safetensors} of shape {shape} is not"
                f" {data.nbytes:,} bytes"
            )
        found.append(Outgoing(name, row.name, tuple(shape), data.nbytes, partial(_itself, data)))
    return found


def _itself(data: memoryview) -> list[memoryview]:
    return [data]


def _row_of(dtype: str, known: Mapping[Any, Any]) -> Any:
    if not isinstance(dtype, str):
        raise TypeError(f"dtype is a str, not {type(dtype).__name__}")
    if dtype not in known:
        raise SafetensorError(f'Unknown dtype "{dtype}". Supported dtypes: {", ".join(SPEC_DTYPES)}')
    return known[dtype]


def _texts(metadata: dict[str, str] | None) -> dict[str, str] | None:
    """Metadata that are text to text, or none."""
    if metadata is None:
        return None
    if not isinstance(metadata, dict):
        raise TypeError(f"metadata is a dict of str to str, not {type(metadata).__name__}")
    for key, value in metadata.items():
        if not (isinstance(key, str) and isinstance(value, str)):
            raise TypeError(f"metadata is a dict of str to str, and has {key!r}: {value!r:.100}")
    return metadata
