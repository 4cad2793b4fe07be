"""Tensors that `pickle.dump` wrote: their storages are whole files in the pickle. pickle and torch are the oracle."""

import io
import pickle
import struct
import warnings

import numpy as np
import pytest
import torch

import fastload
from builders import torch_zip
from fastload import FormatError, UnsupportedError
from pickles import LATER_DTYPES, OLD_DTYPES, Call, Global, PersistentId, dumps

PROTOCOLS = range(6)
FLOATS = (2, struct.pack("<2f", 1, 2))
HOOKS = Call(Global("collections", "OrderedDict"), ())
LOAD = Global("torch.storage", "_load_from_bytes")


def raw(tensor):
    tensor = tensor.detach().resolve_conj().resolve_neg().contiguous()
    return tensor.reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


def check(file, expected, protocol, **options):
    with fastload.open(file, **options) as checkpoint:
        assert list(checkpoint) == list(expected)
        for name, tensor in expected.items():
            entry = checkpoint.entry(name)
            assert (entry.dtype, entry.shape) == (str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape)), name
            assert checkpoint[name].tobytes() == raw(tensor), name
            assert entry.zero_copy == (protocol >= 3)
            assert (entry.offset is None) == (protocol < 3)


def samples():
    noise = torch.arange(48, dtype=torch.uint8) * 5
    return {
        name: (noise % 2).bool() if name == "bool" else noise.clone().view(getattr(torch, name))
        for name in OLD_DTYPES + LATER_DTYPES
    }


def identity(key="7", count=2, kind=("torch", "FloatStorage"), view=None):
    return PersistentId(("storage", Global(*kind), key, "cpu", count, view))


def blob(root=None, keys=("7",), storages=(FLOATS,), protocol=2):
    """The file within a pickle, by hand."""
    root = identity() if root is None else root
    out = b"".join(dumps(value, protocol) for value in (0x1950A86A20F9469CFC6C, 1001, {}, root, list(keys)))
    return out + b"".join(struct.pack("<q", count) + data for count, data in storages)


def tensor(storage, shape=(2,), strides=(1,), offset=0):
    return Call(Global("torch._utils", "_rebuild_tensor_v2"), (storage, offset, shape, strides, False, HOOKS))


def loaded(data=None):
    return Call(LOAD, (blob() if data is None else data,))


def read(file, **options):
    with fastload.open(file, **options) as checkpoint:
        return {name: array.tolist() for name, array in checkpoint.items()}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_tensors_of_every_dtype(protocol):
    expected = samples()

    check(pickle.dumps(expected, protocol), expected, protocol)


@pytest.mark.parametrize("mode", ["mmap", "read"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_views_lie_where_the_entry_says(protocol, mode, tmp_path):
    base = torch.arange(300.0).reshape(20, 15)
    expected = {
        "base": base,
        "t": base.t(),
        "part": base[3:, ::2],
        "scalar": torch.tensor(2.5),
        "none": torch.empty(0, 3),
    }
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps(expected, protocol))

    check(path, expected, protocol, io=mode)
    with fastload.open(path, io=mode) as checkpoint:
        for name, theirs in pickle.loads(path.read_bytes()).items():
            entry = checkpoint.entry(name)
            assert checkpoint[name].tolist() == theirs.tolist()
            if protocol >= 3 and theirs.numel():
                assert path.read_bytes()[entry.offset :].startswith(raw(theirs.flatten()[:1]))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_tensors_that_must_be_decoded_are_refused_where_no_copy_is_allowed(protocol):
    file = pickle.dumps({"w": torch.ones(2)}, protocol)

    if protocol >= 3:
        assert read(file, allow_copy=False) == {"w": [1, 1]}
    else:
        with fastload.open(file, allow_copy=False) as checkpoint, pytest.raises(UnsupportedError, match="'w'"):
            checkpoint["w"]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_bytes_of_every_value_survive(protocol):
    every = torch.arange(256, dtype=torch.int16).to(torch.uint8).repeat(3)

    assert read(pickle.dumps([every], protocol)) == {"0": every.tolist()}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_one_storage_object_is_one_storage(protocol):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        storage = torch.arange(4.0).storage()
    file = dumps({"s": loaded(), "a": tensor(shared := loaded()), "b": tensor(shared, (1,), (1,), 1)}, protocol)
    theirs = pickle.dumps({"x": storage, "y": storage}, protocol)

    with fastload.open(file) as checkpoint:
        entries = {entry.name: entry for entry in checkpoint.entries()}
        assert entries["a"].storage == entries["b"].storage != entries["s"].storage
        assert np.shares_memory(checkpoint["a"], checkpoint["b"]) and checkpoint["b"].tolist() == [2]
        assert entries["s"].kind == "storage" and checkpoint["s"].tolist() == [1, 2]
    with fastload.open(theirs) as checkpoint:
        assert checkpoint.entry("x").storage == checkpoint.entry("y").storage
        assert checkpoint["y"].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_parameters_and_whole_state_dicts(protocol):
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    expected = {"p": torch.nn.Parameter(torch.ones(2))} | {
        f"m.{name}": held for name, held in model.state_dict().items()
    }

    file = pickle.dumps({"p": expected["p"], "m": model.state_dict(), "epoch": 3}, protocol)

    check(file, expected, protocol)
    with fastload.open(file) as checkpoint:
        assert checkpoint.entry("p").kind == "parameter" and checkpoint.objects["epoch"] == 3


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_module_by_itself_has_its_metadata(protocol):
    model = torch.nn.BatchNorm1d(2)

    with fastload.open(pickle.dumps(model.state_dict(), protocol)) as checkpoint:
        assert checkpoint.metadata["_metadata"][""] == {"version": 2}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_conjugates_and_parts_of_complex_numbers(protocol):
    numbers = torch.tensor([1 + 2j, 3 - 4j])

    assert read(pickle.dumps({"c": numbers.conj(), "n": numbers.conj().imag}, protocol)) == {
        "c": [1 - 2j, 3 + 4j],
        "n": [-2, 4],
    }


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_storages_in_a_pickle_that_is_itself_in_a_torch_archive(protocol):
    buffer = io.BytesIO()
    torch.save({"t": torch.zeros(1), "pickled": pickle.dumps(torch.ones(2))}, buffer, pickle_protocol=protocol)
    spelled = dumps({"w": tensor(loaded())}, protocol)

    assert read(torch_zip(spelled)) == {"w": [1, 2]}
    assert read(torch_zip(spelled, deflate=["data.pkl"])) == {"w": [1, 2]}
    with fastload.open(torch_zip(spelled)) as checkpoint:
        assert checkpoint.entry("w").zero_copy == (protocol >= 3)
    with fastload.open(torch_zip(spelled, deflate=["data.pkl"])) as checkpoint:
        assert not checkpoint.entry("w").zero_copy
    assert read(buffer.getvalue()) == {"t": [0]}  # bytes that happen to be a pickle are bytes


@pytest.mark.parametrize("inner", PROTOCOLS)
@pytest.mark.parametrize("outer", PROTOCOLS)
def test_files_within_of_every_protocol(outer, inner):
    assert read(dumps({"w": tensor(loaded(blob(protocol=inner)))}, outer)) == {"w": [1, 2]}


@pytest.mark.parametrize("protocol", [0, 1])
def test_a_pickle_without_a_mark_may_be_long(protocol, tmp_path):
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps({"w": np.zeros(3_000_000, np.float64), "b": np.ones(1)}, protocol))
    assert path.stat().st_size > 17 << 20

    for mode in ("mmap", "read"):
        with fastload.open(path, io=mode) as checkpoint:
            assert checkpoint["w"].shape == (3_000_000,) and checkpoint["b"].tolist() == [1]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_plain_value_is_no_checkpoint(protocol):
    for value in (3, "text", 2.5, None):
        with pytest.raises(fastload.FastloadError):
            fastload.open(pickle.dumps(value, protocol))


# Damaged, or made to harm.


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "within the pickle|empty"),
        (blob()[:-1], "within the pickle"),
        (blob()[:40], "within the pickle"),
        (blob(storages=((3, bytes(12)),)), "3"),
        (blob(storages=((-1, bytes(8)),)), "within the pickle"),
        (blob([identity(), identity("8")], ("7", "8"), ((2, bytes(8)), (2, bytes(8)))), "single storage"),
        (blob([identity()]), "single storage"),
        (blob(tensor(identity())), "single storage"),
        (blob(3, (), ()), "single storage"),
        (blob(identity(), ("7", "8"), ((2, bytes(8)), (2, bytes(8)))), "no tensor names"),
        (blob(identity(count=1 << 62)), "within the pickle"),
        (blob(identity(kind=("torch", "FutureStorage"))), "FutureStorage"),
        (blob(PersistentId(("module", Global("a", "B"), None, None)), (), ()), "within the pickle"),
        (blob(PersistentId("7")), "within the pickle"),
        (blob(loaded(), (), ()), "single storage"),
        (b"\x80\2K\1.", "within the pickle"),
        (pickle.dumps({"w": 1}), "within the pickle"),
        (b"PK\3\4", "within the pickle"),
    ],
)
def test_broken_files_within_are_refused_and_told(protocol, data, words):
    with pytest.raises(fastload.FastloadError, match=words) as caught:
        fastload.open(dumps({"w": tensor(loaded(data))}, protocol))

    assert "'w'" in str(caught.value)


@pytest.mark.parametrize("length", range(0, len(blob())))
def test_a_file_within_that_was_cut_anywhere_is_refused(length):
    with pytest.raises(fastload.FastloadError):
        fastload.open(dumps({"w": tensor(loaded(blob()[:length]))}, 4))


@pytest.mark.parametrize(
    "argument",
    ["слово", "text", 7, None, [b""], (b"",), Call(Global("_codecs", "encode"), ("слово", "latin1")),
     Call(Global("_codecs", "encode"), ()), Call(Global("os", "system"), ("true",)),
     Call(Global("builtins", "bytes"), ())],
    ids=repr,
)  # fmt: skip
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_what_is_no_file_within_is_refused(argument, protocol):
    with pytest.raises(fastload.FastloadError):
        fastload.open(dumps({"w": tensor(Call(LOAD, (argument,)))}, protocol))


@pytest.mark.parametrize("args", [(), (blob(), blob())])
def test_a_loader_called_with_too_few_or_too_many_arguments_is_refused(args):
    with pytest.raises(FormatError, match="arguments"):
        fastload.open(dumps({"w": tensor(Call(LOAD, args))}, 4))


def test_a_part_of_a_storage_in_a_file_within():
    file = blob(identity(count=6, view=("70", 2, 3)), storages=((6, struct.pack("<6f", *range(6))),))

    assert read(dumps({"w": tensor(loaded(file), (3,))}, 4)) == {"w": [2, 3, 4]}


def test_a_tensor_beyond_the_storage_of_its_file_is_refused():
    with pytest.raises(FormatError, match="'w'"):
        fastload.open(dumps({"w": tensor(loaded(), (3,))}, 4))


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_that_was_cut_anywhere_is_refused(protocol):
    file = pickle.dumps({"w": torch.ones(2), "a": np.ones(2)}, protocol)

    for length in range(len(file)):
        with pytest.raises(fastload.FastloadError):
            read(file[:length])


def test_thousands_of_tensors_are_read_in_no_time():
    expected = {f"w{number}": torch.full((3,), float(number)) for number in range(2000)}

    arrays = read(pickle.dumps(expected, 4))

    assert len(arrays) == 2000 and arrays["w1999"] == [1999, 1999, 1999]
