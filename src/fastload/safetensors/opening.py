"""Reading as the safetensors package does it: `safe_open`, its slices, and `deserialize`."""

from __future__ import annotations

import errno
import operator
import os
import re
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from fastload import handover
from fastload._native import read_length
from fastload.dtypes import CODES, DTYPES
from fastload.errors import FastloadError, near_hint
from fastload.formats import safetensors as format
from fastload.options import Options
from fastload.safetensors.failure import SafetensorError, as_safetensor_error, converted
from fastload.source import Handing, Source
from fastload.tensors import FileTensors, Tensors

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Buffer

    from fastload.entry import TensorEntry
    from fastload.options import Io

__all__ = ["SafeSlice", "deserialize", "opened_bytes", "safe_open", "to_numpy", "to_torch"]

NUMPY_NAMES = frozenset({"np", "numpy"})
TORCH_NAMES = frozenset({"pt", "torch", "pytorch"})
OTHER_NAMES = frozenset({"tf", "tensorflow", "jax", "flax", "mlx", "paddle"})  # that the package knows, and we do not
BACKENDS: dict[str, Io] = {"mmap": "auto", "pread": "read"}
MAPPED_BYTES = 1 << 20  # of a tensor that is mapped by itself; smaller ones are sooner copied than mapped
MAX_STEP = (1 << 63) - 1  # of slices, and of what else is an index
MAX_BOUND = (1 << 64) - 1
VIEWED_BYTES = 1 << 12  # of a tensor that is a view of a mapping which is there; a page is sooner copied
DEVICE = re.compile(r"[a-z]+(:[0-9]+)?")


class safe_open:  # the name is the package's
    """A safetensors file whose tensors are loaded one by one.

    Parameters
    ----------
    filename : path
    framework : {"np", "numpy", "pt", "torch", "pytorch"}
        What the tensors are to be.
    device : str, int or torch.device, optional
        Where those of torch are to be; "cpu" if not given, which is all that NumPy has.
    backend : {"mmap", "pread"}
        Whether the file is mapped, where that is sensible, or read into memory of one's own.

    Raises
    ------
    SafetensorError
        The file is no sound safetensors file, or an argument is none of those above.
    OSError
        It cannot be opened.

    Notes
    -----
    Tensors of torch share the mapping of the file that was opened with those that it gives later, as the package has
    it: what is written to one is seen by the next of its name. An array of NumPy is always one's own, and so is what
    was read.
    """

    __slots__ = ("__weakref__", "_device", "_framework", "_handing", "_tensors")

    def __init__(
        self, filename: str | os.PathLike[str], framework: str, device: Any = "cpu", *, backend: str = "mmap"
    ) -> None:
        if not isinstance(framework, str):
            raise TypeError(f"framework is a str, not {type(framework).__name__}")
        if not isinstance(backend, str):
            raise TypeError(f"backend is a str, not {type(backend).__name__}")
        if backend not in BACKENDS:
            raise SafetensorError(f'backend "{backend}" is invalid (expected one of: "mmap", "pread")')
        if framework in OTHER_NAMES:
            raise SafetensorError(
                f'framework {framework} is one that fastload has no tensors for: open with "np" and convert the arrays'
            )
        if framework not in NUMPY_NAMES | TORCH_NAMES:
            raise SafetensorError(f"framework {framework} is invalid")
        self._framework = "numpy" if framework in NUMPY_NAMES else "torch"
        self._device = _checked_device(device, self._framework)
        source = _source_of(filename, BACKENDS[backend])
        with as_safetensor_error():
            self._tensors: Tensors | None = FileTensors(source, format, Options(BACKENDS[backend]))
        # What was read is not kept for those who ask again, as the pages of a mapping are.
        self._handing = Handing(whole=True) if source.is_in_memory else None

    def keys(self) -> list[str]:
        """The names of the tensors, sorted."""
        return sorted(self._opened().list_names())

    def offset_keys(self) -> list[str]:
        """The names of the tensors in the order of their bytes."""
        return self._opened().list_names()

    def metadata(self) -> dict[str, str] | None:
        """The texts beside the tensors; None where the file has no place for any."""
        tensors = self._opened()
        return tensors.metadata() or (dict[str, str]() if _has_metadata(tensors) else None)

    def get_tensor(self, name: str) -> Any:
        """One tensor.

        Raises
        ------
        SafetensorError
            There is none of that name, the framework has no such dtype, or the file is closed.
        """
        return self._made(*self._found(name))

    def get_tensors(self) -> dict[str, Any]:
        """All tensors by name, in the order of their bytes."""
        tensors = self._opened()
        names = tensors.list_names()
        if self._framework == "numpy":
            handing = Handing(whole=True)
            return {name: to_numpy(tensors, row, handing) for row, name in enumerate(names)}
        return {name: self._made(tensors, row) for row, name in enumerate(names)}

    def get_slice(self, name: str) -> SafeSlice:
        """One tensor of which only what is indexed is loaded.

        Raises
        ------
        SafetensorError
            There is none of that name, or the file is closed.
        """
        return SafeSlice(self, *self._found(name))

    def __enter__(self) -> safe_open:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tensors = None
        self._handing = None

    def __reduce__(self) -> NoReturn:
        raise TypeError("cannot pickle 'safe_open' object: send the path")

    def _opened(self) -> Tensors:
        if self._tensors is None:
            raise SafetensorError("File is closed")
        return self._tensors

    def _found(self, name: str) -> tuple[Tensors, int]:
        tensors = self._opened()
        row = tensors.find(name)
        if row < 0:
            if not isinstance(name, str):
                raise TypeError(f"the name of a tensor is a str, not {type(name).__name__}")
            hint = near_hint(name, tensors.list_names())
            raise SafetensorError(f"File does not contain tensor {name}{hint}", path=tensors.path)
        return tensors, row

    def _made(self, tensors: Tensors, row: int) -> Any:
        if self._framework == "numpy":
            return to_numpy(tensors, row)
        tensor = to_torch(tensors, row, self._handing)
        return tensor if self._device is None else tensor.to(self._device)


class SafeSlice:
    """A tensor of which parts are loaded by indexing; made by `safe_open.get_slice`.

    It goes on when the file is closed. For torch it takes any index of torch's. For NumPy it takes what the package
    takes: integers, slices whose bounds are not negative and lie within the tensor, with a positive step, and an
    ellipsis.
    """

    __slots__ = ("_entry", "_file", "_handing", "_row", "_tensors")

    def __init__(self, file: safe_open, tensors: Tensors, row: int) -> None:
        self._entry = tensors.entry(row)
        self._file = file
        self._handing = file._handing
        self._tensors = tensors
        self._row = row

    def get_shape(self) -> list[int]:
        """In elements."""
        return list(self._entry.shape)

    def get_dtype(self) -> str:
        """As the format spells it, such as ``"F32"``."""
        return _spelling(self._entry)

    def __getitem__(self, index: Any) -> Any:
        if self._file._framework == "torch":
            part = to_torch(self._tensors, self._row, self._handing)[index]
            device = self._file._device
            return part if device is None else part.to(device)
        _check_numpy(self._entry)
        checked = _checked_index(index, self._entry.shape)
        with as_safetensor_error():
            array = self._tensors.array(self._row)
        return np.array(array[(*checked, ...)], order="C")

    def __reduce__(self) -> NoReturn:
        raise TypeError("cannot pickle 'SafeSlice' object: send the path and the name")


def deserialize(data: Buffer) -> list[tuple[str, dict[str, Any]]]:
    """The (name, {"shape", "dtype", "data"}) of every tensor of a file that is in memory, in the order of their bytes.

    Raises
    ------
    SafetensorError
        The bytes are no sound safetensors file.
    """
    tensors = opened_bytes(data)
    held = memoryview(data).cast("B")
    return [
        (
            entry.name,
            {
                "shape": list(entry.shape),
                "dtype": _spelling(entry),
                "data": bytearray(held[entry.offset : (entry.offset or 0) + entry.nbytes]),
            },
        )
        for entry in tensors.entries()
    ]


def opened_bytes(data: Buffer) -> Tensors:
    """The tensors of a file that is in memory.

    Raises
    ------
    SafetensorError
        The bytes are no sound safetensors file.
    TypeError
        They are no bytes.
    """
    held = memoryview(data).toreadonly()  # a TypeError for a text, which would be taken for a path
    with as_safetensor_error():
        return FileTensors(Source.of(held), format, Options())


def to_numpy(tensors: Tensors, row: int, handing: Handing | None = None) -> np.ndarray:
    """One tensor as an array that is aligned, may be written to, and has its memory alone.

    A small one is a copy; a larger one a part of the mapping of its *handing*, or without that, a mapping of its own.

    Raises
    ------
    SafetensorError
        NumPy has no such dtype.
    """
    try:
        entry = tensors.entry(row)
        _check_numpy(entry)
        if entry.nbytes < (MAPPED_BYTES if handing is None else VIEWED_BYTES):
            return np.array(tensors.array(row))
        array = tensors.private_array(row, handing or Handing())
        return array if array.flags.aligned else np.array(array)
    except FastloadError as error:
        raise converted(error) from error


def to_torch(tensors: Tensors, row: int, handing: Handing | None) -> Any:
    """One tensor as one of torch on the CPU, sharing memory with those of the same *handing*.

    Without a *handing* it has its memory alone.

    Raises
    ------
    SafetensorError
        torch has no such dtype.
    """
    try:
        tensor = handover.to_torch_within(tensors, row, handing or Handing(), {})
    except FastloadError as error:
        raise converted(error) from error
    entry = tensors.entry(row)
    if DTYPES[CODES[entry.dtype]].bits < 8:
        return _packed_for_torch(tensor, entry)
    return tensor


def _packed_for_torch(tensor: Any, entry: TensorEntry) -> Any:
    """Bytes of packed elements as torch's dtype of them, which counts two 4-bit floats as one element."""
    import torch

    dtype = getattr(torch, f"{entry.dtype}_x2", None)
    if dtype is None or not entry.shape or entry.shape[-1] % 2:
        raise SafetensorError(f"Dtype not understood: {_spelling(entry)} of shape {entry.shape} in torch")
    return tensor.view(dtype)


def _check_numpy(entry: TensorEntry) -> None:
    if DTYPES[CODES[entry.dtype]].bits < 8:
        raise SafetensorError(
            f"Dtype not understood: NumPy has no {_spelling(entry)}; fastload.open gives its packed bytes"
        )


def _spelling(entry: TensorEntry) -> str:
    spelling = DTYPES[CODES[entry.dtype]].safetensors
    assert spelling is not None  # since it was read from such a file
    return spelling


def _source_of(filename: str | os.PathLike[str], io: Io) -> Source:
    path = os.fspath(filename)
    if not isinstance(path, str):
        raise TypeError(f"filename is a str or an os.PathLike of one, not {type(path).__name__}")
    if os.path.isdir(path):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    with as_safetensor_error():
        return Source.of(path, io)


def _has_metadata(tensors: Tensors) -> bool:
    """Whether the header of a file has metadata, were they empty."""
    source = tensors.source_of(0) if len(tensors) else None
    return source is not None and b'"__metadata__"' in bytes(source.fetch(8, read_length(source.fetch(0, 8))))


def _checked_device(device: Any, framework: str) -> Any:
    """What `Tensor.to` takes; None for the CPU."""
    if device is None or str(device) == "cpu":
        return None
    if framework == "numpy":
        known = not isinstance(device, str) or DEVICE.fullmatch(device)
        raise SafetensorError(
            f"Device {device} is not supported for framework numpy" if known else f"device {device} is invalid"
        )
    if isinstance(device, int):
        if device < 0:
            raise SafetensorError(f"device {device} is invalid")
        return int(device)  # also of a bool, as in the package: Tensor.to would take it for a dtype
    import torch

    try:
        found = torch.device(device)
    except (RuntimeError, TypeError):
        raise SafetensorError(f"device {device} is invalid") from None
    if found.type == "meta":
        raise SafetensorError("device meta is invalid: it holds no data")
    return found


# What the package takes as an index for NumPy.


def _checked_index(index: Any, shape: tuple[int, ...]) -> tuple[int | slice, ...]:
    """An index, found to be one that the package takes, and within the tensor.

    Raises
    ------
    SafetensorError
        It is of another sort, or reaches beyond the tensor.
    OverflowError
        A bound of a slice is negative.
    TypeError
        A bound of a slice is no integer.
    """
    if isinstance(index, list):
        if index:
            raise SafetensorError("Non empty lists are not implemented")
        index = slice(0, 0)
    given = index if isinstance(index, tuple) else (index,)
    items = [_checked_item(item, position) for position, item in enumerate(given)]
    places = [place for place, item in enumerate(items) if item is ...]
    if len(places) > 1:
        raise SafetensorError("Only one ellipsis (...) is allowed in slice index")
    missing = len(shape) - len(items) + len(places)
    if missing < 0:
        raise SafetensorError(f"more slicing indexes than dimensions in a tensor of shape {list(shape)}")
    if places:
        items[places[0] : places[0] + 1] = [slice(None)] * missing
    return tuple(_within(item, shape[axis], axis) for axis, item in enumerate(items))


def _checked_item(item: Any, position: int) -> Any:
    if item is ...:
        return item
    if isinstance(item, slice):
        step = 1 if item.step is None else operator.index(item.step)
        if abs(step) > MAX_STEP:
            raise OverflowError("Python int too large to convert to C long")
        if step < 1:
            raise SafetensorError(f"Slice step must be a positive integer, got {step}")
        return slice(_bound(item.start), _bound(item.stop), step)
    try:
        number = operator.index(item)
    except TypeError:
        number = None
    if number is None or not -MAX_STEP <= number <= MAX_STEP:
        raise SafetensorError(
            f"Unsupported slice index at position {position}: expected slice, int, or ellipsis"
        ) from None
    return number


def _bound(value: Any) -> int | None:
    if value is None:
        return None
    number = operator.index(value)
    if number < 0:
        raise OverflowError("can't convert negative int to unsigned: bounds of slices count from the start here")
    if number > MAX_BOUND:
        raise OverflowError("int too big to convert")
    return number


def _within(item: Any, size: int, axis: int) -> int | slice:
    if not isinstance(item, slice):
        if not -size <= item < size:
            raise SafetensorError(f"index {item} out of bounds for tensor dimension #{axis} of size {size}")
        return int(item)
    start = item.start or 0
    stop = size if item.stop is None else item.stop
    if start >= size or stop > size:
        past = start if start >= size else stop - 1
        raise SafetensorError(f"index {past} out of bounds for tensor dimension #{axis} of size {size}")
    if stop < start:
        raise SafetensorError(f"slice {start}:{stop} of tensor dimension #{axis} ends before it begins")
    return slice(start, stop, item.step)
