"""PyTorch files that a later version will read: `open` refuses them and says what they are; nothing is half read."""

import io
import pickle
import tarfile

import numpy as np
import pytest
import torch

import fastload
from builders import storage, torch_pickle, torch_zip, zip_file
from pickles import Call, Global, dumps


def saved(value, **options):
    file = io.BytesIO()
    torch.save(value, file, **options)
    return file.getvalue()


def scripted():
    file = io.BytesIO()
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), file)
    return file.getvalue()


def tarred():
    """The layout of torch before 0.1.10: an uncompressed tar of `storages`, `tensors` and `pickle`."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name in ("storages", "tensors", "pickle"):
            member = tarfile.TarInfo(name)
            member.size = 4
            archive.addfile(member, io.BytesIO(pickle.dumps(0, 2)[:4]))
    return file.getvalue()


def with_attributes(tensor):
    tensor.note = "x"
    return tensor


def sparse_rows():
    return torch.eye(2).to_sparse_csr()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: saved({"w": torch.ones(2)}, _use_new_zipfile_serialization=False), "legacy"),
        (tarred, "tar"),
        (scripted, "TorchScript"),
        (lambda: saved(torch.nn.Linear(2, 2)), "module"),
        (lambda: saved({"model": torch.nn.Linear(2, 2), "epoch": 3}), "module"),
        (lambda: pickle.dumps({"w": 1}, 4), "pickle"),
        (lambda: pickle.dumps({"w": 1}, 2), "pickle"),
        (lambda: saved({"a": np.ones(2)}), "numpy"),
        (lambda: saved({"q": torch.quantize_per_tensor(torch.ones(2), 1.0, 0, torch.qint8)}), "quanti"),
        (lambda: saved({"s": torch.eye(2).to_sparse()}), "sparse"),
        (lambda: saved({"s": sparse_rows()}), "sparse"),
        (lambda: saved({"t": with_attributes(torch.ones(2))}), "attributes"),
        (lambda: saved({"n": torch.nested.nested_tensor([torch.ones(1), torch.ones(2)])}), "nested"),
    ],
    ids=[
        "legacy",
        "tar",
        "torchscript",
        "module",
        "module_in_dict",
        "pickle",
        "pickle_protocol_2",
        "numpy",
        "quantised",
        "sparse",
        "sparse_csr",
        "attributes",
        "nested",
    ],
)
def test_what_a_later_version_reads_is_refused_by_name(make, what):
    with pytest.raises(fastload.UnsupportedError, match=f"(?i){what}"):
        fastload.open(make())


@pytest.mark.parametrize("protocol", [0, 1])
def test_a_bare_pickle_without_a_protocol_byte_is_never_read_as_something_else(protocol):
    with pytest.raises((fastload.UnsupportedError, fastload.UnknownFormatError)):
        fastload.open(pickle.dumps({"w": 1}, protocol))


def test_an_ordinary_zip_is_not_a_checkpoint():
    with pytest.raises(fastload.FastloadError):
        fastload.open(zip_file([("readme.txt", b"hello"), ("data/0", b"1234")]))


def test_an_archive_without_its_pickle_is_refused_by_name():
    with pytest.raises(fastload.FastloadError, match=r"data.pkl"):
        fastload.open(zip_file([("archive/version", b"3\n"), ("archive/data/0", b"1234")]))


def test_a_tensor_rebuilt_by_an_unknown_function_is_refused_by_name():
    held = storage("float32", [1, 2])
    stream, records = torch_pickle({"w": Call(Global("torch._utils", "_rebuild_tensor_v99"), (held, 0, (2,), (1,)))})

    with pytest.raises(fastload.UnsupportedError, match="_rebuild_tensor_v99"):
        fastload.open(torch_zip(stream, records))


def test_the_preview_archive_of_2019_is_refused():
    with pytest.raises(fastload.FastloadError):
        fastload.open(b"PYTORCH1" + bytes(200))


def test_a_pickle_of_the_magic_number_alone_is_refused():
    with pytest.raises(fastload.FastloadError):
        fastload.open(dumps(0x1950A86A20F9469CFC6C))
