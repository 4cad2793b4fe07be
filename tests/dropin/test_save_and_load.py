"""`numpy` and `torch` of `fastload.safetensors`, beside the package: the same bytes, tensors, models and exceptions."""

import collections
import ctypes
import os
import stat
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch

import fastload.safetensors.numpy
import fastload.safetensors.torch
from fastload.dtypes import DTYPES, numpy_dtype
from fastload.safetensors import SafetensorError, TensorSpec, deserialize, serialize, serialize_file

WHOLE = [code for code, row in enumerate(DTYPES) if row.safetensors and row.bits >= 8]
W = torch.arange(6.0)


def arrays_of_every_dtype():
    rng = np.random.default_rng(1)
    found = {}
    for place, code in enumerate(WHOLE * 3):
        dtype = numpy_dtype(code)
        shape = tuple(int(length) for length in rng.integers(0, 4, place % 4))
        bits = np.arange(int(np.prod(shape)) * dtype.itemsize) % 2
        found[f"{'zaéZ𐀀ﬀ'[place % 6]}{place}"] = bits.astype(np.uint8).view(dtype).reshape(shape)
    return found


def tensors_of_every_dtype():
    names = [DTYPES[code].name for code in WHOLE] + ["float4_e2m1fn_x2"]
    return {
        f"{'za'[place % 2]}{place}": torch.arange(16, dtype=torch.uint8).view(getattr(torch, name))
        for place, name in enumerate(names)
    }


@pytest.mark.parametrize("metadata", [None, {}, {"clé\x01": 'va"l\u2028eur\x7f'}], ids=["none", "empty", "text"])
@pytest.mark.parametrize(
    "arrays",
    [
        arrays_of_every_dtype(),
        {"be": np.arange(6, dtype=">f4"), "deep": np.zeros((1,) * 9, ">i2"), 'n"\\\n\0': np.zeros(1, np.uint8)},
        {"scalar": np.array(1.5), "empty": np.zeros((0, 3), np.float16), "bf": np.zeros(3, ml_dtypes.bfloat16)},
    ],
    ids=["every dtype", "big-endian", "odd"],
)
def test_arrays_are_saved_to_the_byte_as_the_package_does(tmp_path, arrays, metadata):
    theirs = safetensors.numpy.save(arrays, metadata)

    fastload.safetensors.numpy.save_file(arrays, tmp_path / "w.safetensors", metadata)

    assert fastload.safetensors.numpy.save(arrays, metadata=metadata) == theirs
    assert (tmp_path / "w.safetensors").read_bytes() == theirs


@pytest.mark.parametrize("metadata", [None, {"a": "b"}])
def test_no_tensors_are_saved_as_the_package_does(metadata):
    assert fastload.safetensors.numpy.save({}, metadata) == safetensors.numpy.save({}, metadata)


def test_no_tensors_with_empty_metadata_are_json_where_the_package_writes_none():
    assert fastload.safetensors.numpy.load(fastload.safetensors.numpy.save({}, {})) == {}
    with pytest.raises(safetensors.SafetensorError):
        safetensors.numpy.load(safetensors.numpy.save({}, {}))


def test_torch_tensors_are_saved_to_the_byte_as_the_package_does(tmp_path):
    tensors = {
        **tensors_of_every_dtype(),
        "parameter": torch.nn.Parameter(W.clone()),
        "part": W[2:4],
        "scalar": torch.tensor(1.5),
        "empty": torch.empty(0, 3),
        "empty too": torch.empty(0),
    }
    theirs = safetensors.torch.save(tensors, {"format": "pt"})

    fastload.safetensors.torch.save_file(collections.OrderedDict(tensors), tmp_path / "w", metadata={"format": "pt"})

    assert fastload.safetensors.torch.save(tensors, {"format": "pt"}) == theirs
    assert (tmp_path / "w").read_bytes() == theirs


def test_arrays_are_loaded_as_the_package_loads_them(tmp_path):
    arrays = {name: array for name, array in arrays_of_every_dtype().items() if array.dtype.isbuiltin == 1}
    data = safetensors.numpy.save(arrays)
    (tmp_path / "w").write_bytes(data)

    for theirs, ours in [
        (safetensors.numpy.load(data), fastload.safetensors.numpy.load(data)),
        (safetensors.numpy.load_file(tmp_path / "w"), fastload.safetensors.numpy.load_file(tmp_path / "w")),
        (arrays, fastload.safetensors.numpy.load_file(str(tmp_path / "w"), backend="pread")),
    ]:
        assert ours.keys() == theirs.keys()
        for name, array in ours.items():
            assert (array.dtype, array.shape) == (theirs[name].dtype, theirs[name].shape)
            assert array.tobytes() == theirs[name].tobytes() and array.flags.writeable and array.flags.aligned
            array[...] = 1
    assert (tmp_path / "w").read_bytes() == data


def test_torch_tensors_are_loaded_as_the_package_loads_them(tmp_path):
    data = safetensors.torch.save({**tensors_of_every_dtype(), "empty": torch.empty(0, 3), "scalar": torch.tensor(2)})
    (tmp_path / "w").write_bytes(data)
    theirs = safetensors.torch.load_file(tmp_path / "w")

    for ours in [
        fastload.safetensors.torch.load_file(tmp_path / "w"),
        fastload.safetensors.torch.load_file(tmp_path / "w", "cpu", backend="pread"),
        fastload.safetensors.torch.load(data),
    ]:
        assert ours.keys() == theirs.keys()
        for name, tensor in ours.items():
            assert (tensor.dtype, tensor.shape) == (theirs[name].dtype, theirs[name].shape)
            assert tensor.untyped_storage().tolist() == theirs[name].untyped_storage().tolist()
            tensor.untyped_storage().fill_(1)
    assert (tmp_path / "w").read_bytes() == data


def test_dtypes_of_ml_dtypes_are_loaded_where_the_package_cannot():
    array = np.arange(4).astype(ml_dtypes.float8_e4m3fn)
    data = safetensors.numpy.save({"w": array})
    with pytest.raises(KeyError):
        safetensors.numpy.load(data)

    assert fastload.safetensors.numpy.load(data)["w"].dtype == array.dtype


@pytest.mark.parametrize("make", [bytearray, memoryview])
def test_what_is_loaded_from_a_buffer_is_a_copy(make):
    data = make(bytearray(safetensors.numpy.save({"w": np.zeros(3)})))

    fastload.safetensors.numpy.load(data)["w"][:] = 1
    fastload.safetensors.torch.load(data)["w"][:] = 1

    assert not fastload.safetensors.numpy.load(data)["w"].any()


@pytest.mark.parametrize("module", [fastload.safetensors.numpy, fastload.safetensors.torch])
@pytest.mark.parametrize("wrong", ["path", None, 3])
def test_only_bytes_are_loaded(module, wrong):
    with pytest.raises(TypeError):
        module.load(wrong)


@pytest.mark.parametrize("array", [np.arange(6.0).reshape(2, 3).T, np.arange(6.0)[::-1], np.broadcast_to(1.0, (2, 3))])
def test_arrays_that_do_not_lie_in_order_are_saved_by_their_values(array):
    assert (fastload.safetensors.numpy.load(fastload.safetensors.numpy.save({"w": array}))["w"] == array).all()


def test_conjugated_tensors_are_saved_by_their_values():
    tensor = torch.view_as_complex(torch.arange(4.0).reshape(2, 2)).conj()

    assert torch.equal(fastload.safetensors.torch.load(fastload.safetensors.torch.save({"w": tensor}))["w"], tensor)


REFUSED = {
    "shared": {"a": W, "b": W},
    "overlapping": {"a": W[:4], "b": W[3:]},
    "shared and transposed": {"a": W.reshape(2, 3).T, "b": W},
    "transposed": {"a": W.reshape(2, 3).T},
    "broadcast": {"a": torch.ones(1).expand(3)},
    "no dict": [W],
    "no tensor": {"a": np.ones(2)},
    "no name": {1: W},
    "sparse": {"a": W.to_sparse()},
}


@pytest.mark.parametrize("tensors", REFUSED.values(), ids=REFUSED)
def test_what_the_package_does_not_save_is_refused_with_the_same_exception(tmp_path, tensors):
    with pytest.raises(Exception) as theirs:  # noqa: PT011
        safetensors.torch.save(tensors)
    with pytest.raises(theirs.type):
        fastload.safetensors.torch.save(tensors)
    with pytest.raises(theirs.type):
        fastload.safetensors.torch.save_file(tensors, tmp_path / "w")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("array", [np.array([None]), np.array(["x"]), np.zeros(2, np.complex128), np.zeros(2, "i4,f4")])
def test_dtypes_that_the_format_lacks_are_a_SafetensorError(array):
    with pytest.raises(safetensors.SafetensorError):
        safetensors.numpy.save({"w": array})
    with pytest.raises(SafetensorError, match="w"):
        fastload.safetensors.numpy.save({"w": array})


@pytest.mark.parametrize("metadata", [{"a": 1}, {1: "a"}, ["a"]])
def test_metadata_are_text(metadata):
    for module in (safetensors.numpy, fastload.safetensors.numpy):
        with pytest.raises(TypeError):
            module.save({"w": np.zeros(1)}, metadata)


def test_a_name_that_would_make_a_file_that_nobody_reads_is_refused():
    with pytest.raises(SafetensorError, match="__metadata__"):
        fastload.safetensors.numpy.save({"__metadata__": np.zeros(1)})


def test_a_file_that_cannot_be_written_is_a_SafetensorError(tmp_path):
    for path in (tmp_path / "nowhere" / "w", tmp_path):
        with pytest.raises(safetensors.SafetensorError):
            safetensors.numpy.save_file({"w": np.zeros(1)}, path)
        with pytest.raises(SafetensorError):
            fastload.safetensors.numpy.save_file({"w": np.zeros(1)}, path)


def test_a_file_is_saved_over_itself_and_keeps_its_mode(tmp_path):
    path = tmp_path / "w"
    fastload.safetensors.numpy.save_file({"w": np.zeros(100_000)}, path)
    os.chmod(path, 0o640)
    loaded = fastload.safetensors.numpy.load_file(path)
    loaded["w"] += 1

    fastload.safetensors.numpy.save_file(loaded, path)

    assert (safetensors.numpy.load_file(path)["w"] == 1).all() and stat.S_IMODE(path.stat().st_mode) == 0o640


# The raw interface.


def spec(module, data, **changes):
    given = {"dtype": "float32", "shape": [2], "data_ptr": ctypes.addressof(data), "data_len": 8, **changes}
    return module.TensorSpec(**given)


def test_serialize_is_the_packages_to_the_byte(tmp_path):
    data = (ctypes.c_ubyte * 8)(*range(8))
    for changes in ({}, {"dtype": "bfloat16", "shape": (2, 2)}, {"dtype": "float4_e2m1fn_x2", "shape": [4, 2]}):
        theirs, ours = spec(safetensors, data, **changes), spec(fastload.safetensors, data, **changes)
        expected = bytes(safetensors.serialize({"w": theirs}, {"a": "b"}))
        assert serialize({"w": ours}, {"a": "b"}) == expected
        serialize_file({"w": ours}, tmp_path / "w", metadata={"a": "b"})
        assert (tmp_path / "w").read_bytes() == expected
        assert (ours.dtype, ours.shape, ours.data_len) == (theirs.dtype, theirs.shape, theirs.data_len)
        assert repr(ours) == repr(theirs)


def test_serialize_takes_the_dicts_of_older_programs():
    expected = safetensors.numpy.save({"w": np.zeros(2, np.float32)})
    for dtype in ("float32", "F32"):
        assert serialize({"w": {"dtype": dtype, "shape": [2], "data": bytes(8)}}) == expected


@pytest.mark.parametrize("changes", [{"shape": [3]}, {"dtype": "float64"}, {"shape": [-1, -2]}, {"data_ptr": 0}])
def test_a_spec_that_makes_no_sense_is_refused(changes):
    with pytest.raises(SafetensorError):
        serialize({"w": spec(fastload.safetensors, (ctypes.c_ubyte * 8)(), **changes)})


@pytest.mark.parametrize("dtype", ["F32", "complex128", "foo"])
def test_dtypes_of_a_spec_are_those_of_the_package(dtype):
    for module, error in ((safetensors, safetensors.SafetensorError), (fastload.safetensors, SafetensorError)):
        with pytest.raises(error, match="Unknown dtype"):
            module.TensorSpec(dtype=dtype, shape=[2], data_ptr=1, data_len=8)
    with pytest.raises(TypeError):
        TensorSpec("float32", [2], 1, 8)


def test_deserialize_is_the_packages():
    data = safetensors.numpy.save(arrays_of_every_dtype())

    assert sorted(deserialize(data), key=str) == sorted(deserialize(bytearray(data)), key=str)
    assert dict(deserialize(data)) == dict(safetensors.deserialize(data))
    assert all(type(found["data"]) is bytearray for _, found in deserialize(data))


# Models.


class Tied(torch.nn.Module):
    def __init__(self, seed=0):
        torch.manual_seed(seed)
        super().__init__()
        self.a = torch.nn.Linear(2, 2)
        self.b = torch.nn.Linear(2, 2)
        self.b.weight = self.a.weight
        self.register_buffer("c", torch.zeros(3))


class Other(Tied):
    def __init__(self):
        super().__init__(1)
        self.d = torch.nn.Linear(1, 1)
        del self.c


class Parts(torch.nn.Module):
    def __init__(self):
        super().__init__()
        whole = torch.arange(6.0)
        self.a, self.b = torch.nn.Parameter(whole[:4]), torch.nn.Parameter(whole[3:])


class Transposed(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.a = torch.nn.Parameter(torch.arange(6.0).reshape(2, 3).T)


@pytest.mark.parametrize("make", [Tied, Transposed])
def test_a_model_is_saved_as_the_package_does_and_loaded_by_either(tmp_path, make):
    model = make()
    safetensors.torch.save_model(model, tmp_path / "theirs")

    fastload.safetensors.torch.save_model(model, tmp_path / "ours")

    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()
    for load_model in (safetensors.torch.load_model, fastload.safetensors.torch.load_model):
        loaded = make() if make is Transposed else make(7)
        assert load_model(loaded, tmp_path / "ours") == (set(), [])
        assert all(torch.equal(held, loaded.state_dict()[name]) for name, held in model.state_dict().items())


def test_metadata_of_the_caller_stand_beside_the_names_that_were_left_out(tmp_path):
    for metadata in ({"k": "v"}, {"k": "v", "b.weight": "mine"}):
        given = dict(metadata)
        fastload.safetensors.torch.save_model(Tied(), tmp_path / "w", given)
        found = fastload.safetensors.safe_open(tmp_path / "w", "pt").metadata()
        assert found == {"b.weight": "a.weight", **metadata}
        assert given == metadata  # where the package writes into the dict that it was given


def test_a_model_that_does_not_fit_is_told_as_the_package_does(tmp_path):
    fastload.safetensors.torch.save_model(Tied(), tmp_path / "w")
    with pytest.raises(RuntimeError) as theirs:
        safetensors.torch.load_model(Other(), tmp_path / "w")
    with pytest.raises(RuntimeError) as ours:
        fastload.safetensors.torch.load_model(Other(), tmp_path / "w")

    assert str(ours.value) == str(theirs.value)
    for load_model in (safetensors.torch.load_model, fastload.safetensors.torch.load_model):
        assert load_model(Other(), tmp_path / "w", strict=False) == ({"d.bias", "d.weight"}, ["c"])


@pytest.mark.parametrize(("make", "options"), [(Parts, {}), (Transposed, {"force_contiguous": False})])
def test_a_model_that_the_package_does_not_save_is_refused_with_the_same_exception(tmp_path, make, options):
    with pytest.raises(Exception) as theirs:  # noqa: PT011
        safetensors.torch.save_model(make(), tmp_path / "w", **options)
    with pytest.raises(theirs.type):
        fastload.safetensors.torch.save_model(make(), tmp_path / "w", **options)


def test_storages_are_told_as_the_package_tells_them():
    for name in ("storage_ptr", "storage_size"):
        assert getattr(fastload.safetensors.torch, name)(W[2:]) == getattr(safetensors.torch, name)(W[2:])


def test_numpy_needs_neither_torch_nor_the_package(tmp_path):
    fastload.safetensors.numpy.save_file({"w": np.zeros(3)}, tmp_path / "w")
    program = (
        "import sys; from fastload.safetensors import safe_open; from fastload.safetensors.numpy import load_file;"
        "safe_open(sys.argv[1], 'np').get_tensor('w'); load_file(sys.argv[1]);"
        " print({'torch', 'safetensors'} & {*sys.modules})"
    )
    found = subprocess.run([sys.executable, "-c", program, tmp_path / "w"], capture_output=True, text=True, check=True)

    assert found.stdout.strip() == "set()"
