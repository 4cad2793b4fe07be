"""Writers of tiny checkpoint files, byte by byte and without torch, so that a test can write what no library would.

One function a format makes its smallest file (`SMALLEST`), which the tests of truncation, mutation and threads take.
"""

from __future__ import annotations

import gzip
import io
import json
import pickle
import struct
import tarfile
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cbor_items import cbor
from pickles import Call, Global, PersistentId, Pickle, ValuePickler, dumps

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of the stream before 1.6
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
    part: tuple[Storage, int] | None = None  # of the stream before 1.6: (the storage it is part of, its first element)


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


def smallest_legacy() -> bytes:
    """Two float32 values named "w", in the stream of torch before 1.6."""
    data = np.array([1, 2], "<f4").tobytes()
    return legacy_file({"w": tensor("float32", (2,), data)})


class LegacyPickler(TorchPickler):
    """Writes the persistent ids of the stream before 1.6, whose last part says what part of another a storage is."""

    def persistent_id(self, obj: Any) -> Any:
        found = super().persistent_id(obj)
        if isinstance(obj, Storage) and obj.part is not None:
            root, start = obj.part
            view = (self.keys[obj], start, len(obj.data) // obj.itemsize)
            key = self.keys.setdefault(root, str(len(self.keys)))
            return PersistentId((*found.value[:2], key, obj.location, len(root.data) // root.itemsize, view))
        return PersistentId((*found.value, None)) if isinstance(obj, Storage) else found


def legacy_file(root: Any, protocol: int = 2) -> bytes:
    """The five pickles of the stream before 1.6, and its storages."""
    seen: list[LegacyPickler] = []

    def pickler(*args: Any) -> LegacyPickler:
        seen.append(LegacyPickler(*args))
        return seen[0]

    stream = dumps(root, protocol, pickler)
    held = {key: owner for owner, key in seen[0].keys.items() if owner.part is None}
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    head = b"".join(dumps(value, protocol) for value in (LEGACY_MAGIC, 1001, system))
    storages = (struct.pack("<q", len(owner.data) // owner.itemsize) + owner.data for owner in held.values())
    return head + stream + dumps(list(held), protocol) + b"".join(storages)


def tar_file(members: Iterable[tuple[str, bytes]]) -> bytes:
    """A tar archive of plain files, in the blocks of 512 bytes of POSIX."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    whole = out.getvalue()
    return whole[: len(whole.rstrip(b"\0")) // 512 * 512 + 3 * 512]  # tarfile pads to 10,240 bytes


def torch_tar_members(
    storages: Sequence[tuple[int, str, bytes]],
    tensors: Sequence[tuple[int, int, Sequence[int], Sequence[int], int]],
    root: bytes,
    views: Any = (),
) -> list[tuple[str, bytes]]:
    """The members of the archive before 0.1.10.

    Storages are of (key, class, elements), tensors of (key, storage, sizes, strides, offset); *root* is the pickle.
    """
    itemsizes = {kind: np.dtype(numpy_dtype).itemsize for kind, numpy_dtype in STORAGE_KINDS.values()}
    first, second = dumps(len(storages), 2), dumps(len(tensors), 2)
    for key, kind, data in storages:
        first += dumps((key, "cpu", Global("torch", kind)), 2) + struct.pack("<q", len(data) // itemsizes[kind]) + data
    for key, held, sizes, strides, offset in tensors:
        geometry = struct.pack(f"<{2 * len(sizes) + 1}q", *sizes, *strides, offset)
        second += dumps((key, held, Global("torch", "FloatTensor")), 2) + struct.pack("<i4x", len(sizes)) + geometry
    return [("storages", first + dumps(list(views), 2)), ("tensors", second), ("pickle", root)]


def smallest_tar() -> bytes:
    """Two float32 values named "w", in the archive of torch before 0.1.10."""
    data = np.array([1, 2], "<f4").tobytes()
    root = dumps({"w": PersistentId("7")}, 2)
    return tar_file(torch_tar_members([(5, "FloatStorage", data)], [(7, 5, (2,), (1,), 0)], root))


def smallest_pickle() -> bytes:
    """Two float32 values named "w", as numpy pickles an array."""
    return pickle.dumps({"w": np.array([1, 2], "<f4")}, 4)


def smallest_npy() -> bytes:
    """Two float32 values named "w", in an array of one object."""
    out = io.BytesIO()
    np.save(out, np.array({"w": np.array([1, 2], "<f4")}, object), allow_pickle=True)
    return out.getvalue()


def torchscript_file(
    root: bytes, records: Mapping[str, bytes], code: Mapping[str, str], constants: bytes = b"\x80\x02).", **archive: Any
) -> bytes:
    """What `torch.jit.save` writes, of pickles and sources."""
    more = {"constants.pkl": constants} | {f"code/{name}": text.encode() for name, text in code.items()}
    return torch_zip(root, records, more=more, **archive)


def smallest_torchscript() -> bytes:
    """Two float32 values named "w", the only parameter of a scripted module."""
    value, records = torch_pickle(tensor("float32", (2,), [1, 2]))
    root = Pickle(2).raw(b"c__torch__\nM\n").op("EMPTY_TUPLE").op("NEWOBJ").op("EMPTY_DICT")
    stream = root.entry("w", value[2:-1]).op("BUILD").stop()
    code = {"__torch__.py": 'class M(Module):\n  __parameters__ = ["w", ]\n  __buffers__ = []\n  w : Tensor\n'}
    return torchscript_file(stream, records, code, align=1, descriptors=False, zip64="", byteorder=None)


def smallest_package() -> bytes:
    """Two float32 values named "w", in a package of one pickle."""
    stream, records = torch_pickle({"w": tensor("float32", (2,), [1, 2])}, 3)
    members = {"models/m.pkl": stream, ".data/extern_modules": b"torch\n", ".data/version": b"6\n"}
    members |= {f".data/{key}.storage": data for key, data in records.items()}
    return zip_file([(f"p/{name}", data) for name, data in members.items()], align=1, descriptors=False, zip64="")


def smallest_gzip() -> bytes:
    """Two float32 values named "w", in a safetensors file in a gzip file."""
    return gzip.compress(smallest_safetensors(), mtime=0)


def smallest_nemo() -> bytes:
    """Two float32 values named "w", in the weights of a NeMo archive."""
    return tar_file([("./model_config.yaml", b"a: 1\n"), ("./model_weights.ckpt", smallest_torch_zip())])


def smallest_sharded() -> dict[str, bytes]:
    """Two float32 values named "w" in one of two shards, and an index."""
    other = safetensors_file({"v": ("F32", (1,), bytes(4))}, pad=False)
    names = [f"model-{number:05}-of-00002.safetensors" for number in (1, 2)]
    listing = json.dumps({"metadata": {"total_size": 12}, "weight_map": {"w": names[0], "v": names[1]}})
    return {names[0]: smallest_safetensors(), names[1]: other, "model.safetensors.index.json": listing.encode()}


def smallest_dcp() -> dict[str, bytes]:
    """Two float32 values named "w" in one chunk of a distributed checkpoint."""
    import dcp_folders  # which is made of what is here

    data = dcp_folders.blob([1.0, 2.0])
    chunks = [([0], (2,))]
    storage = [(dcp_folders.key("w", [0]), dcp_folders.info("__0_0.distcp", 0, len(data)))]
    root = dcp_folders.metadata({"w": dcp_folders.stored((2,), chunks)}, storage)
    return {".metadata": dumps(root, 4), "__0_0.distcp": data}


def burnpack_raw(
    metadata: bytes, data: bytes = b"", *, align: bool = True, version: int = 1, length: int | None = None
) -> bytes:
    """A Burnpack file whose CBOR is exactly *metadata*; *length* is what its header says of it, if not the truth."""
    head = b"NRUB" + struct.pack("<HI", version, len(metadata) if length is None else length) + metadata
    return head + bytes(-len(head) % 256 if align else 0) + data


def burnpack_tensor(dtype: Any, shape: Sequence[int], begin: int, end: int, **fields: Any) -> dict[str, Any]:
    """What the metadata of a Burnpack file say of one tensor."""
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end], **fields}


def burnpack_file(tensors: Mapping[str, tuple[Any, Sequence[int], bytes]], *, align: bool = True, **more: Any) -> bytes:
    """A Burnpack file of (dtype, shape, bytes) tensors; not *align* is the layout of Burn 0.19."""
    described, data = {}, b""
    for name, (dtype, shape, raw) in tensors.items():
        data += bytes(-len(data) % 256 if align else 0)
        described[name] = burnpack_tensor(dtype, shape, len(data), len(data) + len(raw))
        data += raw
    return burnpack_raw(cbor({"tensors": described, **more}), data, align=align)


def smallest_burnpack() -> bytes:
    """Two float32 values named "w"."""
    return burnpack_file({"w": ("F32", (2,), np.array([1, 2], "<f4").tobytes())})


SMALLEST: dict[str, Callable[[], bytes]] = {
    "safetensors": smallest_safetensors,
    "burnpack": smallest_burnpack,
    "pytorch-zip": smallest_torch_zip,
    "pytorch-legacy": smallest_legacy,
    "pytorch-tar": smallest_tar,
    "pickle": smallest_pickle,
    "npy": smallest_npy,
    "torchscript": smallest_torchscript,
    "npz": smallest_npz,
    "torchscript-json": smallest_script_json,
    "torch-package": smallest_package,
    "pt2": smallest_pt2,
}

WRAPPED: dict[str, Callable[[], bytes]] = {
    "pt2-old": smallest_old_pt2,
    "gzip": smallest_gzip,
    "nemo": smallest_nemo,
}

FOLDERS: dict[str, Callable[[], dict[str, bytes]]] = {"sharded": smallest_sharded, "dcp": smallest_dcp}


def smallest_file(format_name: str) -> bytes:
    """The smallest checkpoint of a format: one tensor "w" of float32 [1, 2]."""
    return {**SMALLEST, **WRAPPED}[format_name]()
