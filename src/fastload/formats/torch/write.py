"""Writing a state dict as `torch.save` does, without torch: a zip archive of a pickle and of storages.

    archive/data.pkl               OrderedDict of name to tensor, protocol 2, as Python's own pickler would write it
    archive/.storage_alignment     64: every record begins at a multiple of it, so that torch can map the file
    archive/byteorder              little
    archive/data/0, 1, …           one storage each, in the order of the tensors
    archive/version                3
    archive/.data/serialization_id 40 digits that depend on all the content

Tensors that share memory share a storage, with their offsets and strides; all others have one to themselves and are
contiguous. There is no `.format_version`: by it torch would compute where records are, as only its own writer puts
them, instead of looking.

Format: torch/serialization.py and torch/_utils.py of torch 2.13.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from functools import lru_cache
from hashlib import blake2b
from struct import pack
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from fastload._native import PickleWriter
from fastload.dtypes import CODES, DTYPES, Dtype
from fastload.entry import Quantization
from fastload.errors import UnsupportedError
from fastload.formats.torch.saved import KEPT_METADATA
from fastload.formats.writing import (
    MODULE_VERSIONS,
    QUANTIZATION,
    SHARING,
    Outgoing,
    find_losses,
    integers_of,
    runs_of,
    shared_groups,
    versions_of,
)
from fastload.formats.zip_writer import ZipWriter

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["check_writable", "write"]

ROOT = "archive"
ALIGNMENT = 64  # of every record, in bytes; torch's own
BATCH = 1000  # items that one SETITEMS sets, as in Python's pickler
MAX_DEPTH = 50  # of metadata, so that nothing nests without end

# Opcodes of pickle's protocol 2; those of texts, numbers and tuples are `PickleWriter`'s.
MARK, REDUCE, BUILD, BINPERSID = b"(", b"R", b"b", b"Q"
NONE, NEWTRUE, NEWFALSE, BINFLOAT = b"N", b"\x88", b"\x89", b"G"
EMPTY_LIST, APPENDS, EMPTY_DICT, SETITEM, SETITEMS = b"]", b"e", b"}", b"s", b"u"

# The dtype as which one is written that is not quantised.
PLAIN_ROWS = {row.name: DTYPES[CODES[integers_of(row.name)]] for row in DTYPES}


class _Storage(NamedTuple):
    """One record of bytes.

    Attributes
    ----------
    key : str
        Its number, which names its record.
    kind : str or None
        The class of torch that holds one dtype; None for the untyped one.
    length : int
        In elements, or in bytes where it is untyped.
    nbytes : int
        Its size.
    tensor : Outgoing
        The first that lies in it.
    """

    key: str
    kind: str | None
    length: int
    nbytes: int
    tensor: Outgoing

    def chunks(self) -> Iterable[Buffer]:
        """Its bytes."""
        if self.tensor.view is not None and self.tensor.storage_chunks is not None:
            return self.tensor.storage_chunks()
        return runs_of(self.tensor)


def check_writable(tensors: Sequence[Outgoing], metadata: Mapping[str, Any]) -> list[str]:
    """What would be lost, a line each: sharing that torch cannot say, param ids, odd quantisation and metadata.

    Raises
    ------
    UnsupportedError
        A tensor has a dtype that torch lacks.
    """
    for tensor in tensors:
        row = _row(tensor)
        if not row.in_torch or row.packed > 1:
            raise UnsupportedError(f"tensor {tensor.name!r} is {tensor.dtype}, which torch cannot hold: cast it first")
    quantized = [tensor for tensor in tensors if _is_quantized(tensor)]
    lost = find_losses([tensor for tensor in tensors if not _is_quantized(tensor)], frozenset({SHARING}))
    lost += find_losses(quantized, frozenset({SHARING, QUANTIZATION}))
    for group in shared_groups(tensors):
        for tensor in group:
            if tensor.view is None:
                lost.append(f"{SHARING}: {tensor.name!r} lies in shared memory as torch cannot say, and becomes a copy")
    for key in metadata:
        value = versions_of(metadata) if key == MODULE_VERSIONS else metadata[key]
        if not _is_plain(value) or (key == MODULE_VERSIONS and not isinstance(value, dict)):
            lost.append(f"metadata: {key!r} is no plain Python value that torch would load")
    return lost


def write(file: BinaryIO, tensors: Sequence[Outgoing], metadata: Mapping[str, Any]) -> None:
    """Write the whole archive, a chunk at a time."""
    storages = _storages(tensors)
    pickled = _pickle(tensors, storages, metadata)
    archive = ZipWriter(file, ALIGNMENT)

    def add(name: str, data: bytes) -> None:
        archive.add(f"{ROOT}/{name}", [data], len(data))

    add("data.pkl", pickled)
    add(".storage_alignment", str(ALIGNMENT).encode())
    add("byteorder", b"little")
    for storage in {storage.key: storage for storage in storages}.values():
        archive.add(f"{ROOT}/data/{storage.key}", storage.chunks(), storage.nbytes)
    add("version", b"3\n")
    # As many digits as torch's, and of the same things: the names, sizes and checksums of all records.
    number = int.from_bytes(blake2b(archive.listing(), digest_size=16).digest(), "little")
    add(".data/serialization_id", f"{number:040d}".encode())
    archive.close()


def _row(tensor: Outgoing) -> Dtype:
    """The dtype as which a tensor is written."""
    return DTYPES[CODES[tensor.dtype]] if _is_quantized(tensor) else PLAIN_ROWS[tensor.dtype]


def _is_quantized(tensor: Outgoing) -> bool:
    """Whether a tensor is quantised, and in the way that can be written: one scale and zero point for all of it."""
    if integers_of(tensor.dtype) == tensor.dtype:
        return False
    found = getattr(tensor.entry, "quantization", None)
    return (
        isinstance(found, Quantization)
        and found.scheme == "per_tensor_affine"
        and isinstance(found.scale, float)
        and isinstance(found.zero_point, int)
    )


def _storages(tensors: Sequence[Outgoing]) -> list[_Storage]:
    """The storage of each tensor."""
    kinds: dict[Hashable, set[str | None]] = {}
    for tensor in tensors:
        if tensor.view is not None:
            kinds.setdefault(tensor.storage, set()).add(_row(tensor).torch_storage)
    shared: dict[Hashable, _Storage] = {}
    found = []
    count = 0
    for tensor in tensors:
        storage = shared.get(tensor.storage) if tensor.view is not None else None
        if storage is None:
            row = _row(tensor)
            kind, nbytes = row.torch_storage, tensor.nbytes
            if tensor.view is not None and tensor.storage_chunks is not None:
                nbytes = tensor.view[2]
                if len(kinds[tensor.storage]) > 1:
                    kind = None  # torch takes the dtype of a storage from the first tensor that names it
            storage = _Storage(str(count), kind, nbytes // (row.bits // 8) if kind else nbytes, nbytes, tensor)
            count += 1
            if tensor.view is not None:
                shared[tensor.storage] = storage
        found.append(storage)
    return found


@lru_cache(maxsize=1024)  # since many tensors have few shapes
def _strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Of a contiguous tensor, in elements, as torch has them: a dimension without elements counts as one."""
    strides: list[int] = []
    step = 1
    for length in reversed(shape):
        strides.append(step)
        step *= max(length, 1)
    return tuple(reversed(strides))


def _pickle(tensors: Sequence[Outgoing], storages: Sequence[_Storage], metadata: Mapping[str, Any]) -> bytes:
    """The state dict: opcode for opcode what torch's own would be."""
    out = PickleWriter()
    out.ordered_dict()
    batches = [range(start, min(start + BATCH, len(tensors))) for start in range(0, len(tensors), BATCH)]
    for batch in batches:
        if len(batch) > 1:
            out.raw(MARK)
        for row in batch:
            out.text(tensors[row].name)
            _tensor(out, tensors[row], storages[row])
        out.raw(SETITEMS if len(batch) > 1 else SETITEM)
    state = _state(metadata)
    if state:
        _value(out, state)
        out.raw(BUILD)
    return out.finish()


def _state(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes of the state dict."""
    state: dict[str, Any] = {}
    kept = {key: value for key, value in metadata.items() if key != MODULE_VERSIONS and _is_plain(value)}
    if MODULE_VERSIONS in metadata:
        versions = versions_of(metadata)
        if isinstance(versions, dict) and _is_plain(versions):
            state[MODULE_VERSIONS] = OrderedDict(versions)  # a load_state_dict copies it
    return {**state, KEPT_METADATA: kept} if kept else state


def _tensor(out: PickleWriter, tensor: Outgoing, storage: _Storage) -> None:
    """Call what rebuilds a tensor."""
    row = _row(tensor)
    itemsize = row.bits // 8
    offset, strides = 0, _strides(tensor.shape)
    if tensor.view is not None:
        offset, strides = tensor.view[0] // itemsize, tuple(stride // itemsize for stride in tensor.view[1])
    quantized = _is_quantized(tensor)
    is_v3 = storage.kind is None and not quantized
    out.known("torch._utils", "_rebuild_qtensor" if quantized else f"_rebuild_tensor_v{3 if is_v3 else 2}")
    out.raw(MARK + MARK)
    out.interned("storage")
    out.known(*(("torch", storage.kind) if storage.kind else ("torch.storage", "UntypedStorage")))
    out.interned(storage.key, of="key")
    out.interned("cpu")
    out.integer(storage.length)
    out.end_tuple()
    out.raw(BINPERSID)
    out.integer(offset)
    out.integers(tensor.shape)
    out.integers(strides)
    if quantized and tensor.entry is not None:
        out.raw(MARK)
        out.known("torch", "per_tensor_affine")
        _value(out, tensor.entry.quantization.scale)
        _value(out, tensor.entry.quantization.zero_point)
        out.end_tuple()
    out.raw(NEWFALSE)  # requires_grad
    out.ordered_dict()  # its hooks
    if is_v3:
        out.known("torch", row.name)
    out.end_tuple()
    out.raw(REDUCE)
    out.put()


def _is_plain(value: Any, depth: int = 0) -> bool:
    """Whether a value is of types that torch loads with `weights_only`."""
    if value is None or type(value) in (bool, int, float, str):
        return type(value) is not int or value.bit_length() < 8 * 255
    if depth == MAX_DEPTH:
        return False
    if type(value) in (list, tuple):
        return all(_is_plain(item, depth + 1) for item in value)
    if isinstance(value, dict):
        return all(
            type(key) in (bool, int, str) and _is_plain(item, depth + 1) for key, item in value.items()
        )  # fmt: skip
    return False


def _value(out: PickleWriter, value: Any) -> None:
    """Write any value that `_is_plain`."""
    if value is None or value is True or value is False:
        out.raw(NONE if value is None else NEWTRUE if value else NEWFALSE)
    elif isinstance(value, int):
        out.integer(value)
    elif isinstance(value, float):
        out.raw(BINFLOAT + pack(">d", value))
    elif isinstance(value, str):
        out.interned(value)
    elif isinstance(value, dict):
        if isinstance(value, OrderedDict):
            out.ordered_dict()
        else:
            out.raw(EMPTY_DICT)
            out.put()
        out.raw(MARK if len(value) > 1 else b"")
        for key, item in value.items():
            _value(out, key)
            _value(out, item)
        out.raw((b"", SETITEM)[len(value)] if len(value) < 2 else SETITEMS)
    elif isinstance(value, tuple):
        out.raw(MARK)
        for item in value:
            _value(out, item)
        out.end_tuple()
    else:
        out.raw(EMPTY_LIST)
        out.put()
        if value:
            out.raw(MARK)
            for item in value:
                _value(out, item)
            out.raw(APPENDS)
