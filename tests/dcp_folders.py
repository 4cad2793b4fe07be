"""Hand-made folders of torch.distributed.checkpoint, without torch: every field of the metadata can be made to lie."""

import numpy as np

from builders import tensor, torch_file
from pickles import Call, Global, dumps

METADATA = "torch.distributed.checkpoint.metadata"


def size(numbers):
    return Call(Global("torch", "Size"), (tuple(numbers),))


def made(name, state, module=METADATA):
    return Call(Global(module, name), (), state)


def properties(dtype="float32", layout="torch.strided"):
    layout = Call(Global("torch.serialization", "_get_layout"), (layout,))
    return made("TensorProperties", (Global("torch", dtype), layout, False, 0, False))


def chunk(offsets, sizes):
    return made("ChunkStorageMetadata", {"offsets": size(offsets), "sizes": size(sizes)})


def stored(shape, chunks, **kwargs):
    fields = {"properties": properties(**kwargs), "size": size(shape), "chunks": [chunk(*box) for box in chunks]}
    return made("TensorStorageMetadata", fields)


def key(name, offset=None):
    return made("MetadataIndex", {"fqn": name, "index": 0, **({} if offset is None else {"offset": size(offset)})})


def info(file, offset, length, **more):
    fields = {"relative_path": file, "offset": offset, "length": length, **more}
    return made("_StorageInfo", fields, "torch.distributed.checkpoint.filesystem")


def metadata(described, storage, **more):
    return made("Metadata", {"state_dict_metadata": described, "storage_data": dict(storage), **more})


def write(folder, root, files):
    folder.mkdir(exist_ok=True)
    (folder / ".metadata").write_bytes(dumps(root, 4))
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def blob(values, dtype="float32"):
    values = np.asarray(values)
    return torch_file(tensor(dtype, values.shape, values.ravel()), align=1)


def halves(folder, *, shape=(4,), boxes=(((0,), (2,)), ((2,), (2,))), blobs=None, files=None, claims=None, **kwargs):
    """Tensor "w" of [0, 1, 2, 3] in two files; whatever is given replaces the truth."""
    blobs = blobs or [blob([0.0, 1.0]), blob([2.0, 3.0])]
    names = files or ["__0_0.distcp", "__1_0.distcp"]
    storage = [
        (key("w", offsets), info(*(claims or {}).get(number, (names[number], 0, len(blobs[number])))))
        for number, (offsets, _) in enumerate(boxes)
    ]
    root = metadata({"w": stored(shape, boxes, **kwargs)}, storage)
    return write(folder, root, dict(zip(["__0_0.distcp", "__1_0.distcp"], blobs, strict=False)))


def one(folder, *, shape=(2,), data=None, place=None, described=None, storage=None):
    """Tensor "w" of [1, 2] in one chunk; whatever is given replaces the truth."""
    data = blob([1.0, 2.0]) if data is None else data
    described = described or stored(shape, [([0] * len(shape), shape)])
    storage = storage or [(key("w", [0] * len(shape)), place or info("__0_0.distcp", 0, len(data)))]
    return write(folder, metadata({"w": described}, storage), {"__0_0.distcp": data})
