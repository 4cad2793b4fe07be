"""A small, rich file of each layout there is, for the fuzzer: by torch where it writes the layout, else by hand."""

import gzip
import io
import json
import pathlib
import pickle
import tempfile

import numpy as np

import dcp_folders
from builders import (
    FOLDERS,
    SMALLEST,
    Storage,
    Tensor,
    legacy_file,
    safetensors_file,
    smallest_file,
    tar_file,
    tensor,
    torch_file,
    torch_tar_members,
    torch_zip,
)
from pickles import PersistentId, dumps


def layouts():
    """Every layout by name: the bytes of a file, or a dict of the files of a folder."""
    found = {name: smallest_file(name) for name in SMALLEST}
    found |= {name: make() for name, make in FOLDERS.items()}
    found |= by_hand()
    found |= by_numpy()
    found |= by_torch()
    return found


def by_hand():
    """Layouts that no torch of today writes."""
    root = Storage("FloatStorage", 4, np.arange(6, dtype="<f4").tobytes())
    part = Storage("FloatStorage", 4, root.data[8:16], part=(root, 2))
    values = {
        "a": tensor("float32", (2, 3), root, strides=(1, 2)),
        "b": {"c": [Tensor(part, (2,), (1,)), tensor("int64", (), [7])]},
        "lr": 0.1,
    }
    shared = {"a": values["a"], "b": {"c": [tensor("int64", (), [7])]}, "lr": 0.1}
    tar = torch_tar_members(
        [(5, "FloatStorage", root.data), (6, "LongStorage", bytes(8))],
        [(7, 5, (2, 3), (1, 2), 0), (8, 9, (2,), (1,), 0), (10, 6, (), (), 0)],
        dumps({"w": PersistentId("7"), "v": [PersistentId("8"), PersistentId("10")]}, 2),
        [(9, 5, 2, 2)],
    )
    inner = torch_file(shared, align=1)
    nested = {"first": [np.frombuffer(inner, np.uint8)], "blob": inner, "w": tensor("float32", (2,), [1, 2])}
    halves = [dcp_folders.blob([0.0, 1.0]), dcp_folders.blob([2.0, 3.0])]
    with tempfile.TemporaryDirectory() as folder:
        made = dcp_folders.halves(pathlib.Path(folder) / "dcp", blobs=halves)
        dcp = {path.name: path.read_bytes() for path in made.iterdir()}
    return {
        "zip": torch_file(shared),
        "zip, protocol 4": torch_file(shared, 4, align=1),
        "zip, deflated": torch_file({"w": tensor("float32", (9,), range(9))}, deflate=["data.pkl", "data/0"]),
        "zip, zip64": torch_file({"w": tensor("float32", (2,), [1, 2])}, zip64="everywhere"),
        "zip, blobs": torch_file(nested, 3, align=1),
        "zip, big-endian": torch_file(shared, align=1, byteorder="big"),
        "legacy, views": legacy_file(values),
        "tar, views": tar_file(tar)[: 512 * 11],
        "tar.gz of a zip": gzip.compress(tar_file([("./model_weights.ckpt", inner)]), mtime=0),
        "safetensors, several": safetensors_file(
            {"w": ("F32", (2, 2), bytes(16)), "z": ("I8", (0,), b""), "f": ("F4", (4,), b"\1\2")}, metadata={"k": "v"}
        ),
        "gz of a zip": gzip.compress(inner, mtime=0),
        "sharded, torch": {
            "pytorch_model-00001-of-00002.bin": torch_file({"w": tensor("float32", (2,), [1, 2])}, align=1),
            "pytorch_model-00002-of-00002.bin": legacy_file(values),
            "pytorch_model.bin.index.json": json.dumps(
                {
                    "metadata": {"total_size": 8},
                    "weight_map": {
                        "w": "pytorch_model-00001-of-00002.bin",
                        "a": "pytorch_model-00002-of-00002.bin",
                        "b.c.0": "pytorch_model-00002-of-00002.bin",
                        "b.c.1": "pytorch_model-00002-of-00002.bin",
                    },
                }
            ).encode(),
        },
        "dcp, halves": dcp,
    }


def arrays():
    """Arrays of every sort that numpy pickles."""
    fields = np.zeros(2, [("x", "<i4"), ("y", "<f8", (2,))])
    shared = np.arange(4, dtype="<f4")
    return {
        "f": np.arange(6, dtype="<f4").reshape(2, 3),
        "t": np.asfortranarray(np.arange(6, dtype=">i2").reshape(2, 3)),
        "fields": fields,
        "text": np.array(["ab", "c"]),
        "when": np.array(["2020-01-01"], "M8[D]"),
        "objects": np.array([shared, None, "x"], object),
        "zero": np.array({"w": shared, "again": shared}, object),
        "scalar": np.float32(2),
        "count": np.int64(7),
        "complex": np.array(1j),
    }


def by_numpy():
    """Pickles of arrays, by numpy."""
    plain = {key: value for key, value in arrays().items() if key not in ("fields", "when")}
    found = {f"pickle of arrays, protocol {p}": pickle.dumps(arrays(), p) for p in (0, 1, 2, 3, 4, 5)}
    found |= {f"zip of arrays, protocol {p}": torch_zip(pickle.dumps(arrays(), p)) for p in (2, 5)}
    for name, array in {"floats": arrays()["t"].astype("<f4"), "objects": np.array(plain, object)}.items():
        out = io.BytesIO()
        np.save(out, array, allow_pickle=True)
        found[f"npy of {name}"] = out.getvalue()
    return found


def by_torch():
    """Layouts that torch writes, where it is installed."""
    try:
        import torch
    except ImportError:
        return {}
    torch.manual_seed(0)

    def saved(value, **options):
        out = io.BytesIO()
        torch.save(value, out, **options)
        return out.getvalue()

    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2), torch.nn.ModuleList([torch.nn.ReLU()]))
    eye = torch.eye(2)
    quantised = {
        "tensor": torch.quantize_per_tensor(eye, 0.5, 1, torch.quint8),
        "channel": torch.quantize_per_channel(eye, torch.tensor([0.1, 0.2]), torch.tensor([0, 1]), 0, torch.qint8),
    }
    sparse = {
        "coo": eye.to_sparse(),
        "csr": eye.to_sparse_csr(),
        "csc": eye.to_sparse_csc(),
        "bsr": torch.eye(4).to_sparse_bsr((2, 2)),
        "nested": torch.nested.nested_tensor([eye, eye[:1]]),
        "parameter": torch.nn.Parameter(eye),
        "meta": torch.empty(2, device="meta"),
        "conj": torch.tensor([1j]).conj(),
        "neg": torch.tensor([1 + 1j]).conj().imag,
    }
    tensors = {"w": eye, "half": eye.half(), "b": eye.bool(), "view": eye[1:], "n": [torch.tensor(3)]}
    optimizer = torch.optim.Adam(model.parameters())
    optimizer.step()
    trained = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "args": {"lr": 0.1, "epoch": 3}}
    found = {
        "zip of a trained model": saved(trained),
        "zip of a module": saved(model),
        "zip of quantised": saved(quantised),
        "zip of sparse": saved(sparse),
        "legacy of a module": saved(model, _use_new_zipfile_serialization=False),
        "legacy of tensors": saved(tensors, _use_new_zipfile_serialization=False, pickle_protocol=4),
        "legacy of quantised and sparse": saved(
            {**quantised, "coo": sparse["coo"]}, _use_new_zipfile_serialization=False
        ),
    }
    found |= {f"pickle of tensors, protocol {p}": pickle.dumps(tensors, p) for p in (0, 2, 4, 5)}
    found |= scripts(torch, model) | packages(torch)
    exported = io.BytesIO()
    torch.export.save(torch.export.export(torch.nn.Linear(2, 2), (torch.zeros(1, 2),)), exported)
    found["pt2 of a program"] = exported.getvalue()
    return found


def scripts(torch, model):
    """TorchScript, of a scripted module and a frozen one."""
    import warnings

    found = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(model[:2].eval(), torch.zeros(1, 2))
        for name, module in {"traced": traced, "frozen": torch.jit.freeze(traced)}.items():
            out = io.BytesIO()
            torch.jit.save(module, out)
            found[f"torchscript, {name}"] = without_debug_records(out.getvalue())
    return found


def packages(torch):
    """torch.package with two pickles, one of which refers to a TorchScript module."""
    import warnings

    found = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2))
        with torch.package.PackageExporter(found) as exporter:
            exporter.extern("**")
            exporter.save_pickle("models", "model.pkl", {"lr": 0.1, "names": ["a"]})
            exporter.save_pickle("models", "script.pkl", {"s": traced})
    return {"package": without_debug_records(found.getvalue())}


def without_debug_records(archive):
    """*archive* without the line numbers of its code, which are most of it and which nobody reads."""
    from builders import zip_file
    from mutations import members_of

    return zip_file([(name, data) for name, data in members_of(archive) if not name.endswith(".debug_pkl")])
