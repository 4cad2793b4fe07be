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
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from hashlib import blake2b
from struct import pack
from typing import Any, BinaryIO, NamedTuple

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
    shared_groups,
    versions_of,
)
from fastload.formats.zip_writer import ZipWriter

__all__ = ["check_writable", "write"]

ROOT = "archive"
ALIGNMENT = 64  # of every record, in bytes; torch's own
BATCH = 1000  # items that one SETITEMS sets, as in Python's pickler
MAX_DEPTH = 50  # of metadata, so that nothing nests without end

# Opcodes of pickle's protocol 2.
PROTO, STOP, MARK, REDUCE, BUILD = b"\x80\x02", b".", b"(", b"R", b"b"
GLOBAL, BINPUT, LONG_BINPUT, BINGET, LONG_BINGET, BINPERSID = b"c", b"q", b"r", b"h", b"j", b"Q"
NONE, NEWTRUE, NEWFALSE, BININT, BININT1, BININT2, LONG1 = b"N", b"\x88", b"\x89", b"J", b"K", b"M", b"\x8a"
BINFLOAT, BINUNICODE = b"G", b"X"
EMPTY_TUPLE, TUPLE, EMPTY_LIST, APPENDS, EMPTY_DICT, SETITEM, SETITEMS = b")", b"t", b"]", b"e", b"}", b"s", b"u"
SHORT_TUPLES = {1: b"\x85", 2: b"\x86", 3: b"\x87"}


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
    chunks : callable
        Its bytes.
    """

    key: str
    kind: str | None
    length: int
    nbytes: int
    chunks: Callable[[], Iterable[memoryview]]


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
    return DTYPES[CODES[tensor.dtype if _is_quantized(tensor) else integers_of(tensor.dtype)]]


def _is_quantized(tensor: Outgoing) -> bool:
    """Whether a tensor is quantised, and in the way that can be written: one scale and zero point for all of it."""
    found = getattr(tensor.entry, "quantization", None)
    return (
        isinstance(found, Quantization)
        and found.scheme == "per_tensor_affine"
        and isinstance(found.scale, float)
        and isinstance(found.zero_point, int)
        and integers_of(tensor.dtype) != tensor.dtype
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
            kind, nbytes, chunks = row.torch_storage, tensor.nbytes, tensor.chunks
            if tensor.view is not None and tensor.storage_chunks is not None:
                nbytes, chunks = tensor.view[2], tensor.storage_chunks
                if len(kinds[tensor.storage]) > 1:
                    kind = None  # torch takes the dtype of a storage from the first tensor that names it
            storage = _Storage(str(count), kind, nbytes // (row.bits // 8) if kind else nbytes, nbytes, chunks)
            count += 1
            if tensor.view is not None:
                shared[tensor.storage] = storage
        found.append(storage)
    return found


def _strides(shape: Sequence[int]) -> tuple[int, ...]:
    """Of a contiguous tensor, in elements, as torch has them: a dimension without elements counts as one."""
    strides: list[int] = []
    step = 1
    for length in reversed(shape):
        strides.append(step)
        step *= max(length, 1)
    return tuple(reversed(strides))


def _pickle(tensors: Sequence[Outgoing], storages: Sequence[_Storage], metadata: Mapping[str, Any]) -> bytes:
    """The state dict: opcode for opcode what torch's own would be."""
    out = _Pickler()
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
        out.value(state)
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


def _tensor(out: _Pickler, tensor: Outgoing, storage: _Storage) -> None:
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
        out.value(tensor.entry.quantization.scale)
        out.value(tensor.entry.quantization.zero_point)
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


class _Pickler:
    """A pickle that is being written, with the memo of Python's own pickler."""

    def __init__(self) -> None:
        self._out = bytearray(PROTO)
        self._memo: dict[Hashable, int] = {}
        self._count = 0

    def finish(self) -> bytes:
        """The whole pickle."""
        return bytes(self._out + STOP)

    def raw(self, opcodes: bytes) -> None:
        """Opcodes as they are."""
        self._out += opcodes

    def put(self, key: Hashable = None) -> None:
        """Give what is on top of the stack the next number of the memo; under a *key*, it is found again."""
        number = self._count
        self._count += 1
        self._out += BINPUT + pack("<B", number) if number < 256 else LONG_BINPUT + pack("<I", number)
        if key is not None:
            self._memo[key] = number

    def _got(self, key: Hashable) -> bool:
        number = self._memo.get(key)
        if number is None:
            return False
        self._out += BINGET + pack("<B", number) if number < 256 else LONG_BINGET + pack("<I", number)
        return True

    def known(self, module: str, name: str) -> None:
        """A class or function."""
        if not self._got((module, name)):
            self._out += GLOBAL + f"{module}\n{name}\n".encode()
            self.put((module, name))

    def interned(self, text: str, of: str = "text") -> None:
        """A text that may come again; Python's pickler knows it by its identity, and we by what it is *of*."""
        if not self._got((of, text)):
            self.text(text, (of, text))

    def text(self, text: str, key: Hashable = None) -> None:
        """A text."""
        encoded = text.encode("utf-8", "surrogatepass")
        self._out += BINUNICODE + pack("<I", len(encoded)) + encoded
        self.put(key)

    def integer(self, number: int) -> None:
        """An int."""
        if 0 <= number < 1 << 8:
            self._out += BININT1 + pack("<B", number)
        elif 0 <= number < 1 << 16:
            self._out += BININT2 + pack("<H", number)
        elif -1 << 31 <= number < 1 << 31:
            self._out += BININT + pack("<i", number)
        else:
            encoded = number.to_bytes(number.bit_length() // 8 + 1, "little", signed=True)
            self._out += LONG1 + pack("<B", len(encoded)) + encoded

    def integers(self, numbers: Sequence[int]) -> None:
        """A tuple of ints."""
        if len(numbers) > 3:
            self.raw(MARK)
        for number in numbers:
            self.integer(number)
        if not numbers:
            self.raw(EMPTY_TUPLE)
        elif len(numbers) > 3:
            self.end_tuple()
        else:
            self.raw(SHORT_TUPLES[len(numbers)])
            self.put()

    def end_tuple(self) -> None:
        """Close a tuple that MARK has opened."""
        self.raw(TUPLE)
        self.put()

    def ordered_dict(self) -> None:
        """An empty OrderedDict."""
        self.known("collections", "OrderedDict")
        self.raw(EMPTY_TUPLE + REDUCE)
        self.put()

    def value(self, value: Any) -> None:
        """Any value that `_is_plain`."""
        if value is None or value is True or value is False:
            self.raw(NONE if value is None else NEWTRUE if value else NEWFALSE)
        elif isinstance(value, int):
            self.integer(value)
        elif isinstance(value, float):
            self.raw(BINFLOAT + pack(">d", value))
        elif isinstance(value, str):
            self.interned(value)
        elif isinstance(value, dict):
            if isinstance(value, OrderedDict):
                self.ordered_dict()
            else:
                self.raw(EMPTY_DICT)
                self.put()
            self.raw(MARK if len(value) > 1 else b"")
            for key, item in value.items():
                self.value(key)
                self.value(item)
            self.raw((b"", SETITEM)[len(value)] if len(value) < 2 else SETITEMS)
        elif isinstance(value, tuple):
            self.raw(MARK)
            for item in value:
                self.value(item)
            self.end_tuple()
        else:
            self.raw(EMPTY_LIST)
            self.put()
            if value:
                self.raw(MARK)
                for item in value:
                    self.value(item)
                self.raw(APPENDS)
