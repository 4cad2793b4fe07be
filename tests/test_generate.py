"""The benchmarks' own writers against the libraries whose formats they write."""

import pickle
import zipfile

import numpy as np
import pytest
import safetensors.numpy
import torch

import generate

SAMPLE = {
    "embed.weight": np.arange(300 * 4, dtype=np.float16).reshape(300, 4),
    "scale": np.array(2.5, dtype=np.float32),
    "empty": np.zeros((0, 3), dtype=np.float32),
    "conv.weight": np.arange(120, dtype=np.float32).reshape(2, 3, 4, 5),
    "ünïcode": np.arange(70_000, dtype=np.int64),
}


def as_torch(tensors):
    """Torch's own tensors of the same values; numpy's strides of an empty array are not those that torch gives one."""
    return {name: torch.tensor(array.ravel()).reshape(array.shape) for name, array in tensors.items()}


def storage_keys(path):
    """What torch called the storages of a legacy stream, in the order in which the tensors name them."""
    keys = []

    class Reader(pickle.Unpickler):
        def find_class(self, module, name):
            return dict if name == "OrderedDict" else lambda *arguments: None

        def persistent_load(self, identifier):
            keys.append(identifier[2])

    with open(path, "rb") as file:
        for _ in range(4):
            Reader(file).load()
    return keys


def test_safetensors_file_is_what_the_reference_writes(tmp_path):
    ours, reference = tmp_path / "ours.safetensors", tmp_path / "reference.safetensors"

    generate.write_safetensors(ours, SAMPLE, {"format": "np"})
    safetensors.numpy.save_file(SAMPLE, reference, {"format": "np"})

    assert ours.read_bytes() == reference.read_bytes()


@pytest.mark.parametrize("count", [0, 1, 2, 999, 1000, 1001])
def test_pickle_is_what_torch_writes(tmp_path, count):
    tensors = generate.uniform(count, shape=(2, 3))
    torch.save(as_torch(tensors), tmp_path / "model.pt")

    with zipfile.ZipFile(tmp_path / "model.pt") as archive:
        assert b"".join(generate.state_dict_pickle(tensors)) == archive.read("model/data.pkl")


def test_archive_differs_from_torch_in_its_serial_number_alone(tmp_path):
    (tmp_path / "torch").mkdir()
    theirs, ours = tmp_path / "torch" / "model.pt", tmp_path / "model.pt"
    torch.save(as_torch(SAMPLE), theirs)

    generate.write_torch_zip(ours, SAMPLE)

    expected, written = theirs.read_bytes(), ours.read_bytes()
    assert len(written) == len(expected)
    differing = [at for at, (left, right) in enumerate(zip(written, expected, strict=True)) if left != right]
    with zipfile.ZipFile(theirs) as archive:
        serial = archive.read("model/.data/serialization_id")
    assert len(differing) <= len(serial) + 4 + 4  # its digits, its checksum after them and in the directory


def test_torch_maps_the_archive_and_finds_the_values(tmp_path):
    generate.write_torch_zip(tmp_path / "model.pt", SAMPLE)

    loaded = torch.load(tmp_path / "model.pt", mmap=True, weights_only=True)

    assert list(loaded) == list(SAMPLE)
    for name, array in SAMPLE.items():
        assert loaded[name].shape == array.shape
        assert np.array_equal(loaded[name].numpy(), array)


def test_transformer_takes_the_memory_of_its_largest_tensor():
    tensors = generate.transformer(layers=3, width=64, hidden=128, vocabulary=1000)

    assert len(tensors) == 3 * 9 + 2
    assert len({array.base.ctypes.data for array in tensors.values()}) == 2  # a block of float16, one of float32
    assert not np.array_equal(
        tensors["model.layers.0.mlp.up_proj.weight"], tensors["model.layers.1.mlp.up_proj.weight"]
    )


@pytest.mark.parametrize("count", [0, 1, 1001])
def test_legacy_stream_is_what_torch_writes(tmp_path, count):
    tensors = generate.uniform(count, shape=(2, 3))
    torch.save(as_torch(tensors), tmp_path / "theirs.pt", _use_new_zipfile_serialization=False)
    keys = storage_keys(tmp_path / "theirs.pt")

    generate.write_torch_legacy(tmp_path / "ours.pt", tensors, keys)

    assert (tmp_path / "ours.pt").read_bytes() == (tmp_path / "theirs.pt").read_bytes()


def test_torch_reads_the_legacy_stream(tmp_path):
    generate.write_torch_legacy(tmp_path / "model.pt", SAMPLE)

    loaded = torch.load(tmp_path / "model.pt", weights_only=True)

    assert list(loaded) == list(SAMPLE)
    for name, array in SAMPLE.items():
        assert np.array_equal(loaded[name].numpy(), array)
