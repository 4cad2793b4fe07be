"""Writers of tiny checkpoint files, byte by byte and without torch, so that a test can write what no library would.

One function a format makes its smallest file (`SMALLEST`), which the tests of truncation, mutation and threads take.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pickles import Call, Global, PersistentId, Pickle, ValuePickler, dumps

SATURATED = 0xFFFFFFFF  # a 32-bit zip field whose value stands in the ZIP64 extra


def safetensors_file(
    tensors: Mapping[str, tuple[str, Sequence[int], bytes]], *, metadata: Mapping | None = None, pad: bool = True
) -> bytes:
    """A safetensors file of (dtype, shape, bytes) tensors, in the order given and one after the other."""
    entries: dict[str, Any] = {} if metadata is None else {"__metadata__": metadata}
    data = b""
    for name, (dtype, shape, raw) in tensors.items():
        entries[name] = safetensors_entry(dtype, shape, len(data), len(data) + len(raw))
        data += raw
    return safetensors_raw(json.dumps(entries, ensure_ascii=False, separators=(",", ":")), data, pad=pad)


def safetensors_entry(dtype: str, shape: Sequence[int], begin: int, end: int, **extra: Any) -> dict[str, Any]:
    """One entry of a safetensors header."""
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end], **extra}


def safetensors_raw(header: str | bytes, data: bytes = b"", *, pad: bool = False, length: int | None = None) -> bytes:
    """A safetensors file whose header is exactly *header*; *length* is what its first 8 bytes say, if not the truth."""
    raw = header.encode("utf-8", "surrogatepass") if isinstance(header, str) else header
    if pad:
        raw += b" " * (-len(raw) % 8)
    return struct.pack("<Q", len(raw) if length is None else length) + raw + data


@dataclass(frozen=True, eq=False)
class Storage:
    """A storage as torch pickles it: a class, and bytes that become one record of the archive."""

    kind: str  # the class, without its module: "FloatStorage"
    itemsize: int
    data: bytes
    location: str = "cpu"


@dataclass(frozen=True, eq=False)
class Tensor:
    """A tensor as torch pickles it: a view of a storage; offset and strides count elements."""

    storage: Storage
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int = 0
    v3_dtype: str | None = None


STORAGE_KINDS = {
    "bool": ("BoolStorage", "?"),
    "uint8": ("ByteStorage", "u1"),
    "int8": ("CharStorage", "i1"),
    "int16": ("ShortStorage", "<i2"),
    "int32": ("IntStorage", "<i4"),
    "int64": ("LongStorage", "<i8"),
    "float16": ("HalfStorage", "<f2"),
    "bfloat16": ("BFloat16Storage", "<u2"),
    "float32": ("FloatStorage", "<f4"),
    "float64": ("DoubleStorage", "<f8"),
    "complex64": ("ComplexFloatStorage", "<c8"),
    "complex128": ("ComplexDoubleStorage", "<c16"),
    "uint16": ("UntypedStorage", "<u2"),
    "uint32": ("UntypedStorage", "<u4"),
    "uint64": ("UntypedStorage", "<u8"),
    "float8_e4m3fn": ("UntypedStorage", "u1"),
}


def storage(dtype: str, data: bytes | Iterable) -> Storage:
    """A storage of *dtype* holding the numbers (or, given bytes, the bytes) of *data*."""
    kind, numpy_dtype = STORAGE_KINDS[dtype]
    raw = data if isinstance(data, bytes) else np.array(list(data), numpy_dtype).tobytes()
    return Storage(kind, 1 if kind == "UntypedStorage" else np.dtype(numpy_dtype).itemsize, raw)


def tensor(
    dtype: str,
    shape: Sequence[int],
    data: bytes | Iterable | Storage,
    *,
    strides: Sequence[int] | None = None,
    offset: int = 0,
) -> Tensor:
    """A tensor over *data*, row-major unless told its strides; give a `Storage` to share it."""
    if strides is None:
        strides = [int(np.prod(shape[axis + 1 :], dtype=object)) for axis in range(len(shape))]
    held = data if isinstance(data, Storage) else storage(dtype, data)
    v3 = dtype if STORAGE_KINDS[dtype][0] == "UntypedStorage" else None
    return Tensor(held, tuple(shape), tuple(strides), offset, v3)


class TorchPickler(ValuePickler):
    """Writes `Tensor` as torch does, and keeps the storages it met, by key."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.keys: dict[Storage, str] = {}

    def persistent_id(self, obj: Any) -> Any:
        if isinstance(obj, Storage):
            key = self.keys.setdefault(obj, str(len(self.keys)))
            kind = Global("torch.storage" if obj.kind == "UntypedStorage" else "torch", obj.kind)
            return PersistentId(("storage", kind, key, obj.location, len(obj.data) // obj.itemsize))
        return super().persistent_id(obj)

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, Tensor):
            version = "_rebuild_tensor_v3" if obj.v3_dtype else "_rebuild_tensor_v2"
            hooks = Call(Global("collections", "OrderedDict"), ())
            dtype = (Global("torch", obj.v3_dtype),) if obj.v3_dtype else ()
            return Global("torch._utils", version), (
                obj.storage,
                obj.offset,
                obj.shape,
                obj.strides,
                False,
                hooks,
                *dtype,
            )
        return super().reducer_override(obj)


def torch_pickle(root: Any, protocol: int = 2) -> tuple[bytes, dict[str, bytes]]:
    """The pickle of *root*, in which `Tensor` may stand anywhere, and the bytes of its storages by key."""
    seen: list[TorchPickler] = []

    def pickler(*args: Any) -> TorchPickler:
        seen.append(TorchPickler(*args))
        return seen[0]

    stream = dumps(root, protocol, pickler)
    return stream, {key: held.data for held, key in seen[0].keys.items()}


def torch_file(root: Any, protocol: int = 2, **archive: Any) -> bytes:
    """A PyTorch zip holding *root*; *archive* goes to `torch_zip`."""
    return torch_zip(*torch_pickle(root, protocol), **archive)


def torch_file_with(fragment: bytes, key: str = "v") -> bytes:
    """A PyTorch zip of {"w": a float32 tensor [1, 2], *key*: what the opcodes of *fragment* leave on the stack}."""
    stream, records = torch_pickle({"w": tensor("float32", (2,), [1, 2])})
    return torch_zip(Pickle(None).raw(stream[:-1]).entry(key, fragment).stop(), records)


def torch_zip(
    root_pickle: bytes,
    records: Mapping[str, bytes] | None = None,
    *,
    prefix: str = "archive",
    byteorder: str | None = "little",
    version: bool = True,
    more: Mapping[str, bytes] | None = None,
    deflate: Iterable[str] = (),
    **container: Any,
) -> bytes:
    """A PyTorch zip of a pickle and its storage records by key.

    *deflate* names records as they are called under *prefix* ("data.pkl", "data/0"); *more* adds records of any name
    under it; *container* goes to `zip_file`.
    """
    members = {"data.pkl": root_pickle}
    if byteorder is not None:
        members["byteorder"] = byteorder.encode()
    members |= {f"data/{key}": payload for key, payload in (records or {}).items()}
    if version:
        members["version"] = b"3\n"
    members |= more or {}
    named = [(f"{prefix}/{name}", payload) for name, payload in members.items()]
    return zip_file(named, deflate={f"{prefix}/{name}" for name in deflate}, **container)


def zip_file(
    members: Iterable[tuple[str, bytes]],
    *,
    deflate: Iterable[str] = (),
    align: int = 64,
    crc: bool = True,
    descriptors: bool = True,
    zip64: str = "end",
    comment: bytes = b"",
) -> bytes:
    """A zip archive as torch's writer lays it out.

    Sizes and checksums stand behind the data unless *descriptors* is false; *align* pads each record's local header
    with an extra field. *zip64*: "" for none, "end" for the end record alone (as torch writes always), "everywhere" for
    saturated fields in the directory and in the end record too.
    """
    deflate = set(deflate)
    out, directory, count = bytearray(), bytearray(), 0
    for name, payload in members:
        raw_name, method, stored = name.encode(), 0, payload
        if name in deflate:
            method, stored = 8, deflated(payload)
        descriptor = descriptors and bool(payload)
        flags = 0x0808 if descriptor else 0x0800
        checksum = zlib.crc32(payload) if crc else 0
        offset, extra = len(out), b""
        if align > 1:
            padding = -(offset + 30 + len(raw_name) + 4) % align
            extra = struct.pack("<2sH", b"FB", padding) + b"Z" * padding
        local = (0, 0, 0) if descriptor else (checksum, len(stored), len(payload))
        out += struct.pack("<4s5H3I2H", b"PK\3\4", 0, flags, method, 0, 0, *local, len(raw_name), len(extra))
        out += raw_name + extra + stored
        if descriptor:
            out += struct.pack("<4s3I", b"PK\7\x08", checksum, len(stored), len(payload))
        sizes, place, central_extra = (len(stored), len(payload)), offset, b""
        if zip64 == "everywhere":
            sizes, place = (SATURATED, SATURATED), SATURATED
            central_extra = struct.pack("<2H3Q", 1, 24, len(payload), len(stored), offset)
        directory += struct.pack(
            "<4s6H3I5H2I", b"PK\1\2", 0, 0, flags, method, 0, 0, checksum, *sizes, len(raw_name), len(central_extra),
            0, 0, 0, 0, place,
        )  # fmt: skip
        directory += raw_name + central_extra
        count += 1
    return bytes(out + directory) + zip_end(count, len(directory), len(out), zip64, comment)


def zip_end(count: int, directory_size: int, directory_offset: int, zip64: str = "", comment: bytes = b"") -> bytes:
    """The records after a zip's directory: ZIP64's two where asked for, and the end record."""
    end64 = b""
    if zip64:
        end64 = struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, 0, 0, 0, 0, count, count, directory_size, directory_offset)
        end64 += struct.pack("<4sIQI", b"PK\6\7", 0, directory_offset + directory_size, 1)
    if zip64 == "everywhere":
        count, directory_size, directory_offset = 0xFFFF, SATURATED, SATURATED
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, count, count, directory_size, directory_offset, len(comment))
    return end64 + end + comment


def deflated(payload: bytes) -> bytes:
    """*payload* as a raw deflate stream, which is what zip holds."""
    writer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return writer.compress(payload) + writer.flush()


def smallest_safetensors() -> bytes:
    """Two float32 values named "w"; no padding anywhere."""
    return safetensors_file({"w": ("F32", (2,), np.array([1, 2], "<f4").tobytes())}, pad=False)


def smallest_torch_zip() -> bytes:
    """Two float32 values named "w", in an unpadded archive that ends with its end record."""
    return torch_file({"w": tensor("float32", (2,), [1, 2])}, align=1, descriptors=False, zip64="", byteorder=None)


def tensor_meta(
    dtype: int, shape: Sequence[int], strides: Sequence[int] | None = None, offset: int = 0, **fields: Any
) -> dict[str, Any]:
    """What an exported program says of a tensor; *dtype* is a number of its `ScalarType`."""
    if strides is None:
        strides = tensor("int8", shape, b"").strides
    return {
        "dtype": dtype,
        "sizes": [{"as_int": size} for size in shape],
        "requires_grad": False,
        "device": {"type": "cpu", "index": None},
        "strides": [{"as_int": stride} for stride in strides],
        "storage_offset": {"as_int": offset},
        "layout": 7,
        **fields,
    }


def payload(record: str, meta: Any, *, is_param: Any = False, use_pickle: Any = False) -> dict[str, Any]:
    """One entry of a list of weights or constants."""
    return {"path_name": record, "is_param": is_param, "use_pickle": use_pickle, "tensor_meta": meta}


def pt2_file(
    weights: Mapping[str, Any],
    records: Mapping[str, bytes],
    *,
    constants: Mapping[str, Any] | None = None,
    program: str = "model",
    more: Mapping[str, bytes] | None = None,
    **archive: Any,
) -> bytes:
    """An exported program of those payloads; *records* by their names below `data/`, *more* by their whole names."""
    members = {
        f"data/weights/{program}_weights_config.json": json.dumps({"config": weights}).encode(),
        f"data/constants/{program}_constants_config.json": json.dumps({"config": constants or {}}).encode(),
        f"models/{program}.json": b"{}",
        **{f"data/{name}": data for name, data in records.items()},
        "archive_format": b"pt2",
        "archive_version": b"0",
        "byteorder": b"little",
        **(more or {}),
    }
    deflate = {f"package/{name}" for name in archive.pop("deflate", ())}
    return zip_file([(f"package/{name}", data) for name, data in members.items()], deflate=deflate, **archive)


def script_json_file(
    tensors: Sequence[Mapping[str, Any]], module: Mapping[str, Any], records: Mapping[str, bytes], **archive: Any
) -> bytes:
    """TorchScript of torch 1.1 and 1.2: the table of tensors, the main module, records by their whole names."""
    model = {"protoVersion": "5", "mainModule": module, "producerName": "pytorch", "tensors": tensors}
    members = {"version": b"1\n", "model.json": json.dumps(model).encode(), **records}
    deflate = {f"script/{name}" for name in archive.pop("deflate", ())}
    return zip_file([(f"script/{name}", data) for name, data in members.items()], deflate=deflate, **archive)


def script_tensor(data_type: Any, dims: Sequence[int], key: str = "tensors/0", **fields: Any) -> dict[str, Any]:
    """One row of that table, with its 64-bit numbers as texts."""
    strides = tensor("int8", dims, b"").strides
    return {
        "dims": [str(size) for size in dims],
        "offset": "0",
        "strides": [str(stride) for stride in strides],
        "requiresGrad": True,
        "dataType": data_type,
        "data": {"key": key},
        "device": "cpu",
        **fields,
    }


def npy_file(descr: Any, shape: Any, data: bytes, *, fortran: Any = False, version: int = 1) -> bytes:
    """A NumPy array file; *descr*, *shape* and *fortran* are written as Python shows them."""
    return npy_raw(f"{{'descr': {descr!r}, 'fortran_order': {fortran!r}, 'shape': {shape!r}, }}", data, version=version)


def npy_raw(header: str | bytes, data: bytes = b"", *, version: int = 1, length: int | None = None) -> bytes:
    """A NumPy array file of any header; *length* is what it claims to be."""
    if isinstance(header, str):
        header = header.encode("utf-8" if version == 3 else "latin-1")
    start = 10 if version == 1 else 12
    header += b" " * (-(start + len(header) + 1) % 64) + b"\n"
    count = len(header) if length is None else length
    return b"\x93NUMPY" + bytes([version, 0]) + count.to_bytes(start - 8, "little") + header + data


def smallest_npz() -> bytes:
    """One array, stored."""
    array = npy_file("<f4", (2,), np.array([1, 2], "<f4").tobytes())
    return zip_file([("w.npy", array)], align=1, descriptors=False, zip64="")


def smallest_pt2() -> bytes:
    """Two float32 values named "w", in an archive without padding."""
    data = np.array([1, 2], "<f4").tobytes()
    weights = {"w": payload("weight_0", tensor_meta(7, (2,)))}
    return pt2_file(weights, {"weights/weight_0": data}, align=1, descriptors=False, zip64="")


def smallest_old_pt2() -> bytes:
    """Two float32 values named "w", in one of two PyTorch zips within an archive."""
    nothing = torch_file({}, align=1, descriptors=False, zip64="", byteorder=None)
    members = [("serialized_state_dict.pt", smallest_torch_zip()), ("serialized_constants.pt", nothing)]
    return zip_file(members, align=1, descriptors=False, zip64="")


def smallest_script_json() -> bytes:
    """Two float32 values named "w", in an archive without padding."""
    module = {"parameters": [{"name": "w", "tensorId": "0"}]}
    data = np.array([1, 2], "<f4").tobytes()
    rows = [script_tensor("FLOAT", (2,))]
    return script_json_file(rows, module, {"tensors/0": data}, align=1, descriptors=False, zip64="")


SMALLEST: dict[str, Callable[[], bytes]] = {
    "safetensors": smallest_safetensors,
    "pytorch-zip": smallest_torch_zip,
    "pt2": smallest_pt2,
    "npz": smallest_npz,
    "pt2-old": smallest_old_pt2,
    "torchscript-json": smallest_script_json,
}


def smallest_file(format_name: str) -> bytes:
    """The smallest checkpoint of a format: one tensor "w" of float32 [1, 2]."""
    return SMALLEST[format_name]()
