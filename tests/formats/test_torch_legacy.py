"""The stream of torch before its archives: torch is the oracle of what it reads, bytes made by hand of the rest."""

import io
import os
import pickle
import struct
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch

import fastload
from fastload import FormatError, TruncatedError, UnsupportedError
from pickles import LATER_DTYPES, OLD_DTYPES, Call, Global, PersistentId, dumps

PROTOCOLS = range(6)
MAGIC = 0x1950A86A20F9469CFC6C
FACTS = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
HOOKS = Call(Global("collections", "OrderedDict"), ())


def saved(value, protocol=2, archive=False):
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save(value, file, pickle_protocol=protocol, _use_new_zipfile_serialization=archive)
    return file.getvalue()


def legacy(root, storages=None, keys=None, *, protocol=2, magic=MAGIC, version=1001, facts=FACTS, more=b""):
    """A stream made by hand, of an object or its pickle, and *storages* by key: (count, bytes)."""
    stream = root if isinstance(root, bytes) else dumps(root, protocol)
    storages = storages or {}
    keys = list(storages) if keys is None else keys
    out = b"".join(dumps(value, protocol) for value in (magic, version, facts))
    out += stream + dumps(keys, protocol)
    return out + b"".join(struct.pack("<q", count) + raw for count, raw in storages.values()) + more


def rebuilt(storage, shape, strides, offset=0):
    return Call(Global("torch._utils", "_rebuild_tensor_v2"), (storage, offset, shape, strides, False, HOOKS))


def identity(key="7", count=2, kind=("torch", "FloatStorage"), view=None, location="cpu"):
    return PersistentId(("storage", Global(*kind), key, location, count, view))


FLOATS = (2, struct.pack("<2f", 1, 2))


def read(file, **options):
    with fastload.open(file, **options) as checkpoint:
        return {name: checkpoint[name] for name in checkpoint}


def raw(tensor):
    """The bytes of a tensor, row-major."""
    tensor = tensor.detach().resolve_conj().resolve_neg().contiguous()
    return bytes(tensor.reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")


def check(file, expected):
    """Hold a file against the tensors that were saved in it."""
    with fastload.open(file) as checkpoint:
        assert list(checkpoint) == list(expected)
        for name, tensor in expected.items():
            entry = checkpoint.entry(name)
            assert (entry.dtype, entry.shape) == (str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape)), name
            assert checkpoint[name].tobytes() == raw(tensor), name


def samples():
    torch.manual_seed(0)
    noise = torch.randint(0, 256, (48,), dtype=torch.uint8)
    return {
        name: (noise % 2).bool() if name == "bool" else noise.clone().view(getattr(torch, name))
        for name in OLD_DTYPES + LATER_DTYPES
    }


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_dtype_that_torch_saves(protocol):
    expected = samples()

    file = saved(expected, protocol)

    check(file, expected)
    assert fastload.open(file).format == "pytorch-legacy"


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_dtype_in_an_archive_of_every_protocol(protocol):
    expected = samples()

    file = saved(expected, protocol, archive=True)

    check(file, expected)
    assert fastload.open(file).format == "pytorch-zip"


@pytest.mark.parametrize("archive", [False, True])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_geometry_of_every_sort(protocol, archive):
    base = torch.arange(24.0).reshape(2, 3, 4)
    expected = {
        "base": base,
        "transposed": base.transpose(0, 2),
        "slice": base[:, :2, 1::2],
        "broadcast": torch.tensor([5.0]).expand(3, 4),
        "scalar": torch.tensor(3.5),
        "element": base[1, 2, 3],
        "empty": torch.empty(0),
        "empty rows": torch.empty(0, 5),
        "forty": torch.arange(2.0).reshape((1,) * 39 + (2,)),
        "length one": torch.arange(6.0).as_strided((1, 6), (1 << 40, 1)),
    }

    file = saved(expected, protocol, archive)

    check(file, expected)
    with fastload.open(file) as checkpoint:
        assert len({checkpoint.entry(name).storage for name in ("base", "transposed", "slice", "element")}) == 1
        assert checkpoint.entry("base").storage != checkpoint.entry("scalar").storage
        assert checkpoint.entry("slice").strides == (48, 16, 8)
        assert all(entry.zero_copy for entry in checkpoint.entries())
        assert np.shares_memory(checkpoint["base"], checkpoint["transposed"])


@pytest.mark.parametrize("archive", [False, True])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_untyped_storages_and_those_that_stand_by_themselves(protocol, archive):
    tensor = torch.arange(4.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        typed = tensor.storage()
    file = saved(
        {"untyped": torch.arange(3, dtype=torch.uint8).untyped_storage(), "typed": typed, "t": tensor},
        protocol,
        archive,
    )

    with fastload.open(file) as checkpoint:
        entries = {entry.name: (entry.kind, entry.dtype, entry.shape) for entry in checkpoint.entries()}
        assert entries == {
            "untyped": ("storage", "uint8", (3,)),
            "typed": ("storage", "float32", (4,)),
            "t": ("tensor", "float32", (4,)),
        }
        assert checkpoint["untyped"].tolist() == [0, 1, 2] and checkpoint["typed"].tolist() == [0, 1, 2, 3]
        assert checkpoint.entry("typed").storage == checkpoint.entry("t").storage


@pytest.mark.parametrize("archive", [False, True])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_parameters_and_those_that_are_tied(protocol, archive):
    weight = torch.nn.Parameter(torch.ones(2, 2))
    frozen = torch.nn.Parameter(torch.zeros(3), requires_grad=False)
    file = saved({"a": weight, "b": weight, "c": frozen, "d": torch.ones(1, requires_grad=True)}, protocol, archive)

    with fastload.open(file) as checkpoint:
        assert [entry.kind for entry in checkpoint.entries()] == ["parameter"] * 3 + ["tensor"]
        assert checkpoint.entry("a").storage == checkpoint.entry("b").storage
        assert checkpoint["b"].tolist() == [[1, 1], [1, 1]] and checkpoint["c"].tolist() == [0, 0, 0]


@pytest.mark.parametrize("protocol", range(2, 6))
def test_what_torch_reads_is_what_we_read(protocol):
    torch.manual_seed(1)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.LSTM(4, 5, 2))
    file = saved(model.state_dict(), protocol)

    theirs = torch.load(io.BytesIO(file), weights_only=False)

    check(file, theirs)
    assert fastload.open(file).metadata["_metadata"] == dict(theirs._metadata)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_conjugates_negatives_and_meta_tensors(protocol):
    numbers = torch.tensor([1 + 2j, 3 - 4j])
    expected = {"conj": numbers.conj(), "neg": numbers.clone().conj().imag}
    file = saved({**expected, "meta": torch.ones(2, 3, device="meta")}, protocol)

    with fastload.open(file) as checkpoint:
        for name, tensor in expected.items():
            assert checkpoint[name].tolist() == tensor.tolist()
            assert not checkpoint.entry(name).zero_copy
        assert (checkpoint.entry("meta").kind, checkpoint.entry("meta").shape) == ("meta", (2, 3))
        with pytest.raises(UnsupportedError, match="meta"):
            checkpoint["meta"]


def test_more_dimensions_than_numpy_has_are_listed_and_refused():
    file = saved({"deep": torch.zeros((1,) * 70), "w": torch.ones(1)})

    with fastload.open(file) as checkpoint:
        assert checkpoint.entry("deep").shape == (1,) * 70 and checkpoint["w"].tolist() == [1]
        with pytest.raises(UnsupportedError, match="70 dimensions"):
            checkpoint["deep"]


@pytest.mark.parametrize("io_mode", ["mmap", "read"])
def test_unaligned_data_are_views_with_the_right_values(io_mode, tmp_path):
    path = tmp_path / "model.pt"
    expected = {f"w{number}": torch.arange(5.0, dtype=torch.float64) + number for number in range(3)}
    expected["odd"] = torch.arange(3, dtype=torch.uint8)
    path.write_bytes(saved({"odd0": torch.zeros(3, dtype=torch.uint8), **expected}))

    with fastload.open(path, io=io_mode, allow_copy=False) as checkpoint:
        file = path.read_bytes()
        for name, tensor in expected.items():
            entry = checkpoint.entry(name)
            assert checkpoint[name].tolist() == tensor.tolist()
            assert file[entry.offset : entry.offset + entry.nbytes] == raw(tensor)
        if io_mode == "mmap":
            assert any(not checkpoint[name].flags.aligned for name in expected)


def test_reading_and_mapping_and_a_buffer_give_the_same(tmp_path):
    file = saved({"a": torch.arange(1000.0), "t": torch.arange(1000.0).reshape(10, 100).t(), "x": [torch.ones(1)]})
    path = tmp_path / "model.pt"
    path.write_bytes(file)

    arrays = [read(path, io="mmap"), read(path, io="read"), read(file), read(memoryview(bytearray(file)))]

    for name in arrays[0]:
        assert len({(found[name].tobytes(), found[name].shape, found[name].strides) for found in arrays}) == 1


def test_pickles_that_are_longer_than_the_first_read(tmp_path):
    path = tmp_path / "model.pt"
    path.write_bytes(saved({"note": "x" * (3 << 20), "w": torch.arange(3.0)}))

    assert read(path, io="read")["w"].tolist() == [0, 1, 2]


def test_the_objects_and_the_globals():
    file = saved({"epoch": 3, "w": torch.ones(2), "lr": [0.5, None]})

    with fastload.open(file) as checkpoint:
        assert checkpoint.objects["epoch"] == 3 and checkpoint.objects["lr"] == [0.5, None]
        assert checkpoint.objects["w"].name == "w"
        assert set(checkpoint._tensors.list_globals()) == {
            ("torch._utils", "_rebuild_tensor_v2"),
            ("torch", "FloatStorage"),
            ("collections", "OrderedDict"),
        }


class Scaled(torch.nn.Module):
    """A class whose source stands in the stream."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(2))
        self.inner = torch.nn.Linear(2, 1)


def test_modules_whose_class_comes_with_its_source():
    model = Scaled()

    check(saved(model), model.state_dict())
    check(
        saved({"a": model, "b": model}),
        {f"{name}.{key}": tensor for name in "ab" for key, tensor in model.state_dict().items()},
    )


def test_bytes_behind_the_end_are_ignored():
    assert read(saved({"w": torch.ones(2)}) + b"PK\3\4 whatever")["w"].tolist() == [1, 1]


# Made by hand: what no torch of today writes.


def test_a_storage_that_is_a_part_of_another():
    root = {
        "whole": rebuilt(identity("7", 6), (6,), (1,)),
        "part": rebuilt(identity("7", 6, view=("70", 2, 3)), (2,), (1,), 1),
        "again": rebuilt(identity("7", 6, view=("70", 2, 3)), (3,), (1,)),
        "bare": identity("7", 6, view=("71", 1, 2)),
    }
    file = legacy(root, {"7": (6, struct.pack("<6f", *range(6)))})

    arrays = read(file)

    assert {name: array.tolist() for name, array in arrays.items()} == {
        "whole": [0, 1, 2, 3, 4, 5],
        "part": [3, 4],
        "again": [2, 3, 4],
        "bare": [1, 2],
    }
    theirs = torch.load(io.BytesIO(file), weights_only=False)
    assert {name: theirs[name].tolist() for name in theirs} == {name: array.tolist() for name, array in arrays.items()}


@pytest.mark.parametrize(
    "view", [("70", 2, 5), ("70", 7, 0), ("70", -1, 2), ("70", 2), (), "70", ("70", "2", 3), ("70", 2, 1 << 70), 5]
)
def test_a_part_that_is_none_is_refused(view):
    root = {"w": rebuilt(identity("7", 6, view=view), (1,), (1,))}

    with pytest.raises(FormatError, match="'w'"):
        fastload.open(legacy(root, {"7": (6, bytes(24))}))


def test_a_tensor_that_reaches_beyond_its_part_is_refused():
    root = {"w": rebuilt(identity("7", 6, view=("70", 2, 3)), (4,), (1,))}

    with pytest.raises(FormatError, match="'w'"):
        fastload.open(legacy(root, {"7": (6, bytes(24))}))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_storages_of_another_device_and_of_another_key_order(protocol):
    root = {
        "a": rebuilt(identity("9", 2, ("torch.cuda", "HalfStorage"), location="cuda:3"), (2,), (1,)),
        "b": rebuilt(identity("10", 1, ("torch.cuda", "LongStorage")), (1,), (1,)),
    }
    storages = {"10": (1, struct.pack("<q", -5)), "9": (2, np.array([1, 2], "<f2").tobytes())}

    arrays = read(legacy(root, storages, protocol=protocol))

    assert arrays["a"].tolist() == [1, 2] and arrays["b"].tolist() == [-5]
    assert arrays["a"].dtype == np.float16


def test_one_storage_under_two_classes_has_the_size_of_the_first():
    root = {
        "f": rebuilt(identity("7", 2), (2,), (1,)),
        "b": rebuilt(identity("7", 8, ("torch", "ByteStorage")), (8,), (1,)),
    }

    arrays = read(legacy(root, {"7": FLOATS}))

    assert arrays["f"].tolist() == [1, 2] and arrays["b"].tobytes() == FLOATS[1]


def test_python_two_keys_are_utf8_or_else_latin1():
    utf8, latin1 = "naïve".encode(), "naïve".encode("latin-1")
    pid = dumps(identity(), 2)[2:-1]
    value = dumps(rebuilt(0, (2,), (1,)), 2)[2:-1].replace(b"K\0K\0", pid + b"K\0", 1)
    items = [b"U" + bytes([len(key)]) + key + value + b"s" for key in (utf8, latin1 + b"2")]
    root = b"\x80\2}" + b"".join(items) + b"."

    assert {name: array.tolist() for name, array in read(legacy(root, {"7": FLOATS})).items()} == {
        "naïve": [1, 2],
        "naïve2": [1, 2],
    }


def test_the_oldest_function_that_makes_a_tensor():
    root = {"w": Call(Global("torch._utils", "_rebuild_tensor"), (identity(), 1, (1,), (1,)))}

    assert read(legacy(root, {"7": FLOATS}))["w"].tolist() == [2]


@pytest.mark.parametrize("module", ["torch", "torch.cuda"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_tensors_of_torch_before_0_1_10(module, protocol):
    root = {"w": Call(Global(module, "FloatTensor"), (), (identity(count=4), 1, (2,), (2,)))}

    assert read(legacy(root, {"7": (4, struct.pack("<4f", 1, 2, 3, 4))}, protocol=protocol))["w"].tolist() == [2, 4]


@pytest.mark.parametrize(
    "state",
    [
        (identity(), 0, (2,)), (identity(), 0, (3,), (1,)), (identity(), 0, (2,), (1, 1)), (identity(), -1, (2,), (1,)),
        (identity(), 0, 2, 1), [identity(), 0, (2,), (1,)], {"storage": identity()},
    ],
)  # fmt: skip
def test_old_tensors_that_make_no_sense_are_refused(state):
    root = {"w": Call(Global("torch", "FloatTensor"), (), state)}

    with pytest.raises(fastload.FastloadError, match="'w'"):
        fastload.open(legacy(root, {"7": FLOATS}))


def old_parameter(spelling, data):
    """A Parameter as torch 0.1 to 0.3 wrote it."""
    cls = Global("torch.nn.parameter", "Parameter")
    if spelling == "arguments and three":
        return Call(cls, (data,), (True, False, None))
    if spelling == "arguments and hooks":
        return Call(cls, (data, True), (False, False, Call(Global("collections", "OrderedDict"), ())))
    if spelling == "five":
        return Call(cls, (), (data, None, None, True, False))
    return Call(Global("copy_reg" if "2" in spelling else "copyreg", "__newobj__"), (cls, data), (True, False, None))


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    "spelling", ["arguments and three", "arguments and hooks", "five", "__newobj__", "__newobj__ of Python 2"]
)
def test_old_parameters(spelling, protocol):
    data = Call(Global("torch", "FloatTensor"), (), (identity(), 0, (2,), (1,)))
    file = legacy({"m": {"w": old_parameter(spelling, data)}}, {"7": FLOATS}, protocol=protocol)

    with fastload.open(file) as checkpoint:
        assert list(checkpoint) == ["m.w"] and checkpoint["m.w"].tolist() == [1, 2]
        assert checkpoint.entry("m.w").kind == "parameter"


@pytest.mark.parametrize("spelling", ["arguments", "five"])
def test_old_variables(spelling):
    data = rebuilt(identity(), (2,), (1,))
    cls = Global("torch.autograd.variable", "Variable")
    root = (
        Call(cls, (data,), (True, False, None))
        if spelling == "arguments"
        else Call(cls, (), (data, None, None, True, False))
    )

    with fastload.open(legacy({"w": root}, {"7": FLOATS})) as checkpoint:
        assert list(checkpoint) == ["w"] and checkpoint["w"].tolist() == [1, 2]


# Damaged, or made to harm.


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_file_that_was_cut_anywhere_is_refused(protocol):
    file = saved({"w": torch.arange(3.0), "v": torch.ones(2, dtype=torch.int8)}, protocol)

    for length in range(len(file)):
        with pytest.raises(fastload.FastloadError):
            read(file[:length])


def test_a_file_that_was_cut_in_its_storages_is_said_to_be_incomplete(tmp_path):
    path = tmp_path / "model.pt"
    file = saved({"w": torch.arange(3.0)})
    path.write_bytes(file[:-1])

    for source, options in ((file[:-1], {}), (path, {"io": "read"}), (path, {"io": "mmap"})):
        with pytest.raises(TruncatedError, match="incomplete"):
            fastload.open(source, **options)


@pytest.mark.parametrize("count", [1, 3, -1, 1 << 62])
def test_a_wrong_number_before_a_storage_is_found_when_it_is_read_and_by_verify(count, tmp_path):
    file = legacy(
        {"w": rebuilt(identity(), (2,), (1,)), "v": rebuilt(identity("8"), (2,), (1,))},
        {"8": FLOATS, "7": (count, FLOATS[1])},
    )
    path = tmp_path / "model.pt"
    path.write_bytes(file)

    for source, options in ((file, {}), (path, {"io": "read"}), (path, {"io": "mmap"})):
        with fastload.open(source, **options) as checkpoint:
            assert checkpoint["v"].tolist() == [1, 2]
            with pytest.raises(FormatError):
                checkpoint["w"]
            with pytest.raises(FormatError):
                checkpoint.verify()


def test_verify_finds_nothing_wrong_with_a_sound_file():
    with fastload.open(saved({"w": torch.ones(2), "e": torch.empty(0)})) as checkpoint:
        checkpoint.verify()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"version": 1002}, "1002"),
        ({"version": "1001"}, "protocol"),
        ({"facts": 3}, "system"),
        ({"keys": ["7", "7"]}, "twice"),
        ({"keys": ["7", "8"]}, "no tensor names"),
        ({"keys": []}, "'7'"),
        ({"keys": [7]}, "key"),
        ({"keys": ("7",)}, "list"),
        ({"keys": {"7": 1}}, "list"),
    ],
)
def test_sections_that_contradict_each_other_are_refused(change, words):
    with pytest.raises(fastload.FastloadError, match=words):
        fastload.open(legacy({"w": rebuilt(identity(), (2,), (1,))}, {"7": FLOATS}, **change))


@pytest.mark.parametrize(
    "pid",
    [
        (), ("storage",), ("storage", Global("torch", "FloatStorage"), "7", "cpu"), ("thing", 1, 2, 3, 4), 7, None,
        ("storage", "FloatStorage", "7", "cpu", 2, None),
        ("storage", Global("torch", "FloatStorage"), 7, "cpu", 2, None),
        ("storage", Global("torch", "FloatStorage"), "7", "cpu", -2, None),
        ("storage", Global("torch", "FloatStorage"), "7", "cpu", 1 << 62, None),
        ("storage", Global("torch", "FloatStorage"), "7", "cpu", 1 << 80, None),
        ("storage", Global("torch", "FutureStorage"), "7", "cpu", 2, None), "7",
        "('storage', <class 'os.system'>, '7', 'cpu', 2)",
    ],
    ids=repr,
)  # fmt: skip
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_persistent_ids_that_make_no_sense_are_refused(pid, protocol):
    with pytest.raises(fastload.FastloadError):
        fastload.open(legacy({"w": rebuilt(PersistentId(pid), (2,), (1,))}, {"7": FLOATS}, protocol=protocol))


def test_a_stream_without_tensors_is_a_checkpoint():
    with fastload.open(saved({"epoch": 3})) as checkpoint:
        assert len(checkpoint) == 0 and checkpoint.objects == {"epoch": 3}


def test_a_stream_of_another_magic_number_is_none():
    file = dumps(MAGIC + 1, 2) + pickle.dumps(1001, 2)

    with pytest.raises(fastload.FastloadError):
        fastload.open(file)


MEMORY_TO_OPEN = """if True:
    import resource, sys
    import fastload
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    checkpoint = fastload.open(sys.argv[1])
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10, list(checkpoint))
"""


def test_opening_takes_memory_for_the_pickles_and_not_for_the_storages(tmp_path):
    count = 1 << 31
    large = rebuilt(identity("0", count, ("torch", "ByteStorage")), (count,), (1,))
    path = tmp_path / "large.pt"
    path.write_bytes(legacy({"w": large}, {"0": (count, b"")}))
    os.truncate(path, path.stat().st_size + count)  # a hole in the file, and no block of the disk

    command = [sys.executable, "-c", MEMORY_TO_OPEN, str(path)]
    mebibytes, names = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split(maxsplit=1)

    assert names.strip() == "['w']"
    assert int(mebibytes) < 32
