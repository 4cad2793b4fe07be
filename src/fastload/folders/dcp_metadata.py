"""What the `.metadata` of a folder of torch.distributed.checkpoint says: every tensor, its chunks and where they lie.

    Metadata
      state_dict_metadata   {name: TensorStorageMetadata(properties, size, chunks) | BytesStorageMetadata()}
      storage_data          {MetadataIndex(name, offset): _StorageInfo(relative_path, offset, length)}
      planner_data          {name: path in the nested state dict}

Here the records of the pickle become numbers that are checked: types, bounds, and that the chunks of each tensor cover
it exactly. The files are not looked at.

Format: torch/distributed/checkpoint/metadata.py and filesystem.py of torch 2.13.
"""

from __future__ import annotations

import math
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from fastload import dtypes
from fastload._native import Record
from fastload.errors import FormatError, LimitError, UnsupportedError

__all__ = ["Chunk", "Layout", "Place", "Stored", "read_layout"]

MAX_COUNT = 2**63 - 1  # of elements or bytes: files and arrays are measured in signed 64-bit numbers
# Sizes and offsets of all tensors and chunks together, 8 million chunks of a matrix. A pickle can mention one long
# tuple again and again for two bytes each, so the numbers are not bounded by its own size.
MAX_NUMBERS = 1 << 25
PRIME = 2**61 - 1  # the field in which coverage is counted


class Place(NamedTuple):
    """Where a blob lies: bytes *offset* to *offset* + *length* of a file in the folder."""

    file: str
    offset: int
    length: int
    transforms: tuple[str, ...]  # what its bytes went through, such as compression; most often nothing


class Chunk(NamedTuple):
    """A box of a tensor, in elements, and the blob that holds it."""

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    place: Place


class Stored(NamedTuple):
    """A tensor: a row of the dtype table, its shape in elements, and the chunks that cover it exactly."""

    name: str
    dtype: int
    shape: tuple[int, ...]
    chunks: tuple[Chunk, ...]

    @property
    def nbytes(self) -> int:
        """The size of all elements in bytes."""
        row = dtypes.DTYPES[self.dtype]
        return -(-math.prod(self.shape) // row.packed) * row.bits // 8


class Layout(NamedTuple):
    """All that the metadata says of the files."""

    tensors: list[Stored]
    objects: dict[str, Place]
    orphans: list[str]  # names of blobs that no tensor or object claims

    def places(self) -> Iterator[Place]:
        """Every place, in order."""
        for stored in self.tensors:
            for chunk in stored.chunks:
                yield chunk.place
        yield from self.objects.values()


def read_layout(root: Any) -> Layout:
    """Check the root of the pickle, as `build` gives it, and take what it says.

    Raises
    ------
    FormatError
        Something is not of the type that torch writes, out of bounds, missing, or covers a tensor twice or not at all.
    UnsupportedError
        A tensor is of a dtype or layout that fastload does not know.
    """
    if not isinstance(root, Record) or root.name != "Metadata":
        raise FormatError("is not the metadata of torch.distributed.checkpoint: its pickle holds something else")
    fields = _fields(root, "Metadata", "the checkpoint")
    described, storage = fields.get("state_dict_metadata"), fields.get("storage_data")
    if not isinstance(described, dict) or not isinstance(storage, dict):
        raise FormatError("its state_dict_metadata or storage_data is no dict")
    return _Reader().layout(described, storage)


class _Reader:
    """One reading, and the numbers that it has met."""

    def __init__(self) -> None:
        self.numbers = 0

    def layout(self, described: dict[Any, Any], storage: dict[Any, Any]) -> Layout:
        places = self.places(storage)
        tensors: list[Stored] = []
        objects: dict[str, Place] = {}
        claimed: set[tuple[str, tuple[int, ...] | None]] = set()
        for name, record in described.items():
            if not isinstance(name, str):
                raise FormatError(f"the name of a tensor is no text: {type(name).__name__}")
            if isinstance(record, Record) and record.name == "BytesStorageMetadata":
                if (name, None) not in places:
                    raise FormatError(f"object {name!r} has no entry in storage_data: nothing says where it lies")
                objects[name] = places[name, None]
                claimed.add((name, None))
            else:
                stored = self.tensor(name, record, places)
                claimed.update((name, chunk.offsets) for chunk in stored.chunks)
                # Where there are more ranks than rows, the chunks of the others are empty: one is all, and a view.
                whole = [chunk for chunk in stored.chunks if chunk.sizes == stored.shape]
                tensors.append(stored._replace(chunks=tuple(whole[:1])) if whole else stored)
        orphans = list(dict.fromkeys(name for name, offsets in places if (name, offsets) not in claimed))
        return Layout(tensors, objects, orphans)

    def places(self, storage: dict[Any, Any]) -> dict[tuple[str, tuple[int, ...] | None], Place]:
        """Where each blob lies, by name and offset: as records the keys are told apart by identity alone."""
        places: dict[tuple[str, tuple[int, ...] | None], Place] = {}
        for key, info in storage.items():
            fields = _fields(key, "MetadataIndex", "a key of storage_data")
            name, offset = fields.get("fqn"), fields.get("offset")
            if not isinstance(name, str):
                raise FormatError(f"a key of storage_data names no tensor, but {type(name).__name__}")
            offsets = None if offset is None else self.counts(offset, name, "offset in storage_data")
            if (name, offsets) in places:
                raise FormatError(f"tensor {name!r} has two entries in storage_data for the chunk at {offsets}")
            places[name, offsets] = _place(name, info)
        return places

    def tensor(self, name: str, record: Any, places: dict[tuple[str, tuple[int, ...] | None], Place]) -> Stored:
        fields = _fields(record, "TensorStorageMetadata", f"tensor {name!r}")
        dtype = _dtype(name, fields.get("properties"))
        shape = self.counts(fields.get("size"), name, "size")
        listed = fields.get("chunks")
        if not isinstance(listed, list):
            raise FormatError(f"tensor {name!r} has no list of chunks, but {type(listed).__name__}")
        chunks = []
        for item in listed:
            box = _fields(item, "ChunkStorageMetadata", f"a chunk of tensor {name!r}")
            offsets = self.counts(box.get("offsets"), name, "chunk offset")
            sizes = self.counts(box.get("sizes"), name, "chunk size")
            if not len(offsets) == len(sizes) == len(shape):
                raise FormatError(f"tensor {name!r} has {len(shape)} dimensions, and its chunk at {offsets} others")
            if any(
                size > whole or offset > whole - size for offset, size, whole in zip(offsets, sizes, shape, strict=True)
            ):
                raise FormatError(f"tensor {name!r}, {shape}: its chunk of {sizes} at {offsets} lies outside of it")
            if (name, offsets) not in places:
                raise FormatError(f"tensor {name!r}: its chunk at {offsets} has no entry in storage_data")
            chunks.append(Chunk(offsets, sizes, places[name, offsets]))
        _check_coverage(name, shape, chunks)
        return Stored(name, dtype, shape, tuple(chunks))

    def counts(self, value: Any, name: str, what: str) -> tuple[int, ...]:
        """A torch.Size, which is a tuple of counts."""
        if not isinstance(value, (tuple, list)):
            raise FormatError(f"tensor {name!r}: its {what} is no torch.Size, but {type(value).__name__}")
        self.numbers += len(value) + 1
        if self.numbers > MAX_NUMBERS:
            raise LimitError(f"its sizes and offsets are more than {MAX_NUMBERS:,} numbers")
        return tuple([_count(number, f"tensor {name!r}: its {what}") for number in value])


def _fields(value: Any, kind: str, what: str) -> dict[Any, Any]:
    """The attributes of an instance of the class *kind*, whose module has moved between versions of torch."""
    if not isinstance(value, Record) or value.name != kind or not isinstance(value.state, dict):
        found = f"a {value.name}" if isinstance(value, Record) else type(value).__name__
        raise FormatError(f"{what} is not described by a {kind}, but by {found}")
    return value.state


def _count(value: Any, what: str) -> int:
    if type(value) is not int or not 0 <= value <= MAX_COUNT:
        raise FormatError(f"{what} is no count: {value if isinstance(value, int) else type(value).__name__}")
    return value


def _place(name: str, info: Any) -> Place:
    fields = _fields(info, "_StorageInfo", f"the place of {name!r}")
    file, transforms = fields.get("relative_path"), fields.get("transform_descriptors")
    if not isinstance(file, str):
        raise FormatError(f"the place of {name!r} names no file: its relative_path is {type(file).__name__}")
    if transforms is None:
        transforms = ()
    if not isinstance(transforms, (list, tuple)) or not all(isinstance(text, str) for text in transforms):
        raise FormatError(f"the place of {name!r} has transform_descriptors that are no texts")
    offset = _count(fields.get("offset"), f"the offset of {name!r}")
    return Place(file, offset, _count(fields.get("length"), f"the length of {name!r}"), tuple(transforms))


def _shown(value: object) -> str:
    """*value* for a message: what a list or the like holds may refer to itself again and again, and is left out."""
    return str(value)[:100] if isinstance(value, (str, Record)) else type(value).__name__


def _dtype(name: str, properties: Any) -> int:
    """The row of the dtype table, out of TensorProperties."""
    # Its state is a tuple: dtype, layout, requires_grad, memory format, pin_memory.
    if (
        not isinstance(properties, Record)
        or properties.name != "TensorProperties"
        or not isinstance(properties.state, tuple)
        or len(properties.state) < 2
    ):
        raise FormatError(f"tensor {name!r} has no TensorProperties that say its dtype")
    dtype, layout = properties.state[:2]
    if not isinstance(dtype, Record) or dtype.module != "torch" or dtype.args is not None:
        raise FormatError(f"tensor {name!r} has a dtype that is none: {_shown(dtype)}")
    if dtype.name not in dtypes.TORCH_DTYPES:
        raise UnsupportedError(f"tensor {name!r} is of torch.{dtype.name}, a dtype that fastload does not know")
    if layout != "torch.strided":
        raise UnsupportedError(f"tensor {name!r} is of the layout {_shown(layout)}, and not of torch.strided")
    return dtypes.TORCH_DTYPES[dtype.name]


def _check_coverage(name: str, shape: tuple[int, ...], chunks: Sequence[Chunk]) -> None:
    """Refuse chunks, each within the tensor, that do not cover every element exactly once."""
    if len(chunks) == 1 and chunks[0].sizes == shape:
        return
    whole, covered = math.prod(shape), sum(math.prod(chunk.sizes) for chunk in chunks)
    if covered < whole:
        raise FormatError(
            f"tensor {name!r}, {shape}: its {len(chunks):,} chunks leave {whole - covered:,} elements out"
        )
    if covered > whole or not _is_exact(shape, chunks):
        raise FormatError(f"tensor {name!r}, {shape}: two of its {len(chunks):,} chunks overlap")


def _is_exact(shape: tuple[int, ...], chunks: Sequence[Chunk]) -> bool:
    """Whether the chunks are a partition of the tensor, in time linear in their number.

    Give each coordinate c of each axis a random number h(c). A box weighs the product over the axes of
    h(begin) - h(end). Weights add up when boxes are joined, so a partition weighs what the whole does. Of any other set
    of boxes the difference is a polynomial in the random numbers that is not zero, and comes to 0 with a chance below
    2**-54. The numbers are the system's secret, so no file can be made for them. Comparing all pairs would take hours
    for as many chunks as a file can name.
    """
    axes: list[defaultdict[int, int]] = [
        defaultdict(lambda: int.from_bytes(os.urandom(8), "little") % PRIME) for _ in shape
    ]

    def weight(offsets: tuple[int, ...], sizes: tuple[int, ...]) -> int:
        product = 1
        for axis, begin, size in zip(axes, offsets, sizes, strict=True):
            product = product * (axis[begin] - axis[begin + size]) % PRIME
        return product

    total = sum(weight(chunk.offsets, chunk.sizes) for chunk in chunks)
    return total % PRIME == weight((0,) * len(shape), shape)
