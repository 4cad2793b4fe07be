"""Writing safetensors, with the reference implementation as the judge."""

import json
import struct

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch

import fastload
from builders import safetensors_file, tensor, torch_file
from fastload import SaveError, UnsupportedError
from fastload.dtypes import DTYPES, numpy_dtype

TORCH_WARNS = pytest.mark.filterwarnings("ignore:(TypedStorage|torch.quantize|.*deprecated)")
PLAIN = [code for code, row in enumerate(DTYPES) if row.safetensors and row.bits >= 8]


def saved(tmp_path, tensors, **options):
    """(bytes, header, where the data begin) of a file that was just saved."""
    fastload.save(tensors, tmp_path / "w.safetensors", overwrite=True, **options)
    data = (tmp_path / "w.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    return data, json.loads(data[8 : 8 + length]), 8 + length


def array(code, shape=(2, 3)):
    dtype = numpy_dtype(code)
    return (np.arange(np.prod(shape) * dtype.itemsize) % 2).astype(np.uint8).view(dtype).reshape(shape)


@pytest.mark.parametrize("code", PLAIN, ids=lambda code: DTYPES[code].name)
def test_the_reference_reads_every_dtype_back(tmp_path, code):
    held = array(code)

    _, header, _ = saved(tmp_path, {"w": held})
    ours = fastload.open(tmp_path / "w.safetensors")

    assert header["w"]["dtype"] == DTYPES[code].safetensors
    assert ours["w"].tobytes() == held.tobytes() and ours.entry("w").dtype == DTYPES[code].name
    if DTYPES[code].name not in ("complex64",):  # which this torch reader lacks in some versions
        theirs = safetensors.torch.load_file(tmp_path / "w.safetensors")["w"]
        assert theirs.contiguous().view(torch.uint8).numpy().tobytes() == held.tobytes()
        assert str(theirs.dtype) == f"torch.{DTYPES[code].name}"


def test_order_and_offsets_are_the_reference_writers(tmp_path):
    rng = np.random.default_rng(1)
    dtypes = [numpy_dtype(code) for code in PLAIN if numpy_dtype(code).isbuiltin == 1 and numpy_dtype(code).kind != "c"]
    tensors = {
        f"{'zaéZ𐀀ﬀ'[i % 6]}{i}": np.zeros(tuple(rng.integers(0, 4, i % 4)), dtype) for i, dtype in enumerate(dtypes * 9)
    }
    tensors["bf"] = np.zeros(3, ml_dtypes.bfloat16)
    safetensors.torch.save_file(
        {
            name: torch.from_numpy(held.view(np.int16)).view(torch.bfloat16) if name == "bf" else torch.from_numpy(held)
            for name, held in tensors.items()
        },
        tmp_path / "theirs.safetensors",
    )
    theirs = (tmp_path / "theirs.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", theirs[:8])

    data, _, begin = saved(tmp_path, tensors)

    assert data[8:begin].rstrip(b" ") == theirs[8 : 8 + length].rstrip(b" ")
    assert data[begin:] == theirs[8 + length :] and begin % 64 == 0


def test_names_and_texts_are_escaped_as_the_reference_does(tmp_path):
    tensors = {'quote"back\\slash\n\t\x00\x1f\x7f\u2028\U0001f600/': np.zeros(1, np.uint8)}
    metadata = {"clé\x01": 'va"leur'}
    theirs = safetensors.numpy.save(tensors, metadata)
    (length,) = struct.unpack("<Q", theirs[:8])

    data, _, begin = saved(tmp_path, tensors, metadata=metadata)

    assert data[8:begin].rstrip(b" ") == theirs[8 : 8 + length].rstrip(b" ")


def test_the_same_tensors_make_the_same_bytes(tmp_path):
    tensors = {"b": np.arange(3), "a": np.arange(4)}

    first, second = saved(tmp_path, tensors), saved(tmp_path, dict(reversed(tensors.items())))

    assert first == second


@pytest.mark.parametrize("tensors", [{}, {"w": np.zeros((0, 3), np.float32)}, {"w": np.float32(3)}])
def test_small_things_can_be_written(tmp_path, tensors):
    saved(tmp_path, tensors)

    theirs = safetensors.numpy.load_file(tmp_path / "w.safetensors")
    assert {name: value.shape for name, value in theirs.items()} == {n: v.shape for n, v in tensors.items()}


def test_packed_dtypes_go_from_file_to_file(tmp_path):
    tensors = {
        "f4": ("F4", (2, 4), bytes(range(4))),
        "f6": ("F6_E2M3", (8,), bytes(range(6))),
        "g6": ("F6_E3M2", (4,), bytes(range(3))),
    }
    (tmp_path / "source.safetensors").write_bytes(safetensors_file(tensors, metadata={"format": "pt"}))
    source = fastload.open(tmp_path / "source.safetensors")

    data, header, begin = saved(tmp_path, source)

    for name, (dtype, shape, raw) in tensors.items():
        start, end = header[name]["data_offsets"]
        assert (header[name]["dtype"], tuple(header[name]["shape"])) == (dtype, shape)
        assert data[begin + start : begin + end] == raw
    assert header["__metadata__"] == {"format": "pt"}


def test_metadata_that_are_no_text_are_a_loss(tmp_path):
    tensors, metadata = {"w": np.zeros(1)}, {"epoch": 3, "format": "np", "half": "\ud800"}

    with pytest.raises(SaveError, match="'epoch' is of type int") as caught:
        saved(tmp_path, tensors, metadata=metadata)
    report = fastload.save(tensors, tmp_path / "w.safetensors", metadata=metadata, lossy=True)

    assert len(caught.value.lost) == 2 and report.lost == caught.value.lost
    assert fastload.open(tmp_path / "w.safetensors").metadata == {"format": "np"}


def test_sharing_is_a_loss(tmp_path):
    base = np.arange(10.0)

    with pytest.raises(SaveError, match="'a', 'b' share memory"):
        saved(tmp_path, {"a": base, "b": base[3:], "c": np.arange(3)})

    assert not list(tmp_path.iterdir())


def test_neighbours_in_one_buffer_share_nothing(tmp_path):
    base = np.arange(10.0)

    saved(tmp_path, {"a": base[:5], "b": base[5:], "c": base[:0]})

    assert safetensors.numpy.load_file(tmp_path / "w.safetensors")["b"].tolist() == [5, 6, 7, 8, 9]


@TORCH_WARNS
def test_quantisation_is_a_loss_and_the_integers_stay(tmp_path):
    torch.save({"q": torch.quantize_per_tensor(torch.tensor([1.0, 2.0]), 0.5, 3, torch.quint8)}, tmp_path / "q.pt")
    source = fastload.open(tmp_path / "q.pt")

    with pytest.raises(SaveError, match="scale and zero point of 'q'"):
        saved(tmp_path, source)
    saved(tmp_path, source, lossy=True)

    assert safetensors.numpy.load_file(tmp_path / "w.safetensors")["q"].tolist() == [5, 7]


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({"c": np.zeros(2, np.complex128)}, "'c' is complex128"),
        ({"__metadata__": np.zeros(2)}, "keeps for itself"),
        ({"\ud800": np.zeros(2)}, "surrogate"),
        ({"n" * 100_000_001: np.zeros(2)}, "header"),
    ],
)
def test_what_the_format_cannot_hold_is_said_before_a_byte_is_written(tmp_path, tensors, said):
    with pytest.raises(UnsupportedError, match=said):
        saved(tmp_path, {"ok": np.zeros(1000), **tensors})

    assert not list(tmp_path.iterdir())


def test_the_versions_of_modules_go_there_and_back(tmp_path):
    module = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    torch.save(module.state_dict(), tmp_path / "a.pt")

    fastload.save(fastload.open(tmp_path / "a.pt"), tmp_path / "b.safetensors")
    fastload.save(fastload.open(tmp_path / "b.safetensors"), tmp_path / "c.pt")

    state = torch.load(tmp_path / "c.pt", weights_only=True)
    assert state._metadata == module.state_dict()._metadata
    module.load_state_dict(state)


def test_strided_big_endian_and_expanded_arrays_are_written_as_their_values(tmp_path):
    tensors = {
        "transposed": np.arange(6).reshape(2, 3).T,
        "reversed": np.arange(6)[::-1],
        "big": np.arange(6, dtype=">f4"),
        "expanded": np.broadcast_to(np.float32(2), (3, 4)),
    }

    saved(tmp_path, tensors)

    theirs = safetensors.numpy.load_file(tmp_path / "w.safetensors")
    assert all(np.array_equal(theirs[name], value) for name, value in tensors.items())


def test_pytorch_tensors_of_any_layout_are_written_as_their_values(tmp_path):
    file = torch_file({"w": tensor("float32", (2, 3), range(12), strides=(1, 4), offset=1)})

    saved(tmp_path, fastload.open(file))

    assert safetensors.numpy.load_file(tmp_path / "w.safetensors")["w"].tolist() == [[1, 5, 9], [2, 6, 10]]
