"""Handing over: frameworks write to what they get, and neither the process nor the file minds."""

import gc
import json
import os
import subprocess
import sys
import types
import warnings

import numpy as np
import pytest
import torch

import fastload
from builders import SMALLEST, WRAPPED, safetensors_file, smallest_file, storage, tensor, torch_file

FLOATS8 = ("F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ")
SIZES = {"BOOL": 1, "U8": 1, "I8": 1, "U16": 2, "I16": 2, "U32": 4, "I32": 4, "U64": 8, "I64": 8, "F16": 2, "BF16": 2,
         "F32": 4, "F64": 8, "C64": 8, **dict.fromkeys(FLOATS8, 1)}  # fmt: skip
MANY = safetensors_file(
    {dtype: (dtype, (2, 3), bytes([1, 0] * (3 * size))) for dtype, size in SIZES.items()}
    | {"0-d": ("F32", (), bytes(4)), "empty": ("F32", (0, 3), b""), "0-d bf16": ("BF16", (), bytes(2))}
)
FILES = {name: smallest_file(name) for name in [*SMALLEST, *WRAPPED]} | {"all dtypes": MANY}


def write_to(given):
    given.untyped_storage().fill_(0) if given.dtype.itemsize == 1 or given.dtype.is_complex else given.fill_(7)


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.mark.parametrize("io", ["mmap", "read"])
@pytest.mark.parametrize("name", FILES)
def test_what_is_handed_over_may_be_written_to_and_the_file_stays(name, io, tmp_path):
    path = tmp_path / "model"
    path.write_bytes(FILES[name])
    with fastload.open(path, io=io) as checkpoint:
        before = {key: checkpoint[key].tobytes() for key in checkpoint}
        for key in checkpoint:
            given = checkpoint.torch(key)
            assert (
                given.shape == checkpoint.entry(key).shape
                and str(given.dtype) == f"torch.{checkpoint.entry(key).dtype}"
            )
            assert bytes(given.contiguous().reshape(-1).view(torch.uint8)) == before[key]
            write_to(given)
            exported = torch.from_dlpack(checkpoint.dlpack(key))
            assert exported.dtype == given.dtype and exported.shape == given.shape
            write_to(exported)
        for given in checkpoint.torch().values():
            write_to(given)

        assert {key: checkpoint[key].tobytes() for key in checkpoint} == before
    assert path.read_bytes() == FILES[name]


def test_a_process_that_writes_to_everything_lives(tmp_path):
    (tmp_path / "model").write_bytes(MANY)
    script = (
        "import fastload, sys\nckpt = fastload.open(sys.argv[1])\nassert 'torch' not in sys.modules\n"
        "for given in ckpt.torch().values(): given.zero_()\n"
    )

    subprocess.run([sys.executable, "-W", "error", "-c", script, str(tmp_path / "model")], check=True)

    assert (tmp_path / "model").read_bytes() == MANY


def test_strides_and_shared_storages_stay(tmp_path):
    held = storage("float32", range(6))
    tensors = {"a": tensor("float32", (2, 3), held), "b": tensor("float32", (3, 2), held, strides=(1, 3))}
    (tmp_path / "model").write_bytes(torch_file(tensors))
    with fastload.open(tmp_path / "model") as checkpoint:
        given = checkpoint.torch()
        alone = checkpoint.torch("a")
    given["a"][0, 1] = 50

    assert given["b"].stride() == (1, 3) and given["b"][1, 0] == 50
    assert given["a"].untyped_storage().data_ptr() == given["b"].untyped_storage().data_ptr()
    assert alone[0, 1] == 1


def test_a_writable_buffer_is_shared_and_another_is_copied():
    buffer, fixed = bytearray(smallest_file("safetensors")), smallest_file("safetensors")
    before = bytes(fixed)

    fastload.open(buffer).torch("w").fill_(9)
    fastload.open(fixed).torch("w").fill_(9)

    assert fastload.open(buffer)["w"].tolist() == [9, 9] and fixed == before


def test_planned_tensors_are_handed_over_as_planned(tmp_path):
    path = tmp_path / "model"
    path.write_bytes(safetensors_file({"w": ("F32", (4, 2), np.arange(8, dtype="<f4").tobytes())}))
    before = path.read_bytes()
    checkpoint = fastload.open(path)

    halves = checkpoint.split(("w", ["a", "b"], 0)).torch()
    cast = checkpoint.cast("bfloat16").torch("w")
    halves["b"].fill_(0)
    cast.fill_(0)

    assert halves["a"].tolist() == [[0, 1], [2, 3]] and cast.dtype == torch.bfloat16
    assert checkpoint["w"].reshape(-1).tolist() == list(range(8)) and path.read_bytes() == before


def test_an_optimiser_steps_on_a_module_that_was_assigned_to(tmp_path):
    path = tmp_path / "model"
    raw = np.arange(4, dtype="<f4").tobytes()
    path.write_bytes(safetensors_file({"0.weight": ("F32", (2, 2), raw), "1.weight": ("F32", (2, 2), raw)}))
    before = path.read_bytes()
    module = torch.nn.Sequential(torch.nn.Linear(2, 2, bias=False), torch.nn.Linear(2, 2, bias=False))
    module[1].weight = module[0].weight
    module[0].weight.requires_grad_(True)
    fastload.open(path).load_into(module, assign=True)
    optimiser = torch.optim.SGD(module.parameters(), 0.1)

    module(torch.ones(2)).sum().backward()
    optimiser.step()

    assert module[0].weight is module[1].weight and module[0].weight.requires_grad
    assert module[0].weight.reshape(-1).tolist() != [0, 1, 2, 3] and path.read_bytes() == before


def test_assigning_keeps_frozen_parameters_frozen(tmp_path):
    (tmp_path / "model").write_bytes(
        safetensors_file({"weight": ("F32", (1, 1), bytes(4)), "bias": ("F32", (1,), bytes(4))})
    )
    with torch.device("meta"):
        module = torch.nn.Linear(1, 1)
    module.bias.requires_grad_(False)

    report = fastload.open(tmp_path / "model").load_into(module, assign=True)

    assert module.weight.requires_grad and not module.bias.requires_grad and report.applied == ["weight", "bias"]
    with pytest.raises(TypeError, match="torch Module"):
        fastload.open(tmp_path / "model").load_into({}, assign=True)


def private_bytes():
    with open("/proc/self/smaps_rollup") as file:
        return sum(int(line.split()[1]) << 10 for line in file if line.startswith(("Private_Dirty", "Anonymous")))


@pytest.mark.skipif(not os.path.exists("/proc/self/smaps_rollup"), reason="Linux tells")
@pytest.mark.parametrize("by_name", [True, False])
def test_memory_is_taken_only_by_what_is_written(by_name, tmp_path):
    size, count = 256 << 20, 200
    each = size // count // 4 * 4
    entries = {f"t{i}": {"dtype": "F32", "shape": [each // 4], "data_offsets": [i * each, (i + 1) * each]}
               for i in range(count)}  # fmt: skip
    header = json.dumps(entries).encode()
    header += b" " * (-len(header) % 8)
    with open(tmp_path / "model", "wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + count * each)
    checkpoint = fastload.open(tmp_path / "model")
    before = private_bytes()

    given = [checkpoint.torch(name) for name in checkpoint] if by_name else list(checkpoint.torch().values())
    unwritten = private_bytes() - before
    given[0].fill_(1)

    assert unwritten < 8 << 20
    assert each // 2 < private_bytes() - before < 8 << 20 | 4 * each


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="Linux tells")
def test_descriptors_do_not_grow_and_nothing_is_needed_later(tmp_path):
    (tmp_path / "model").write_bytes(smallest_file("safetensors"))
    checkpoint = fastload.open(tmp_path / "model")
    before = len(os.listdir("/proc/self/fd"))
    given = [checkpoint.torch("w") for _ in range(1000)]
    after = len(os.listdir("/proc/self/fd"))
    checkpoint.close()
    (tmp_path / "other").write_bytes(bytes(len(smallest_file("safetensors"))))
    os.replace(tmp_path / "other", tmp_path / "model")
    gc.collect()

    assert after == before
    given[0].fill_(5)
    assert given[0].tolist() == [5, 5] and all(one.tolist() == [1, 2] for one in given[1:])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_forked_process_writes_for_itself(tmp_path):
    (tmp_path / "model").write_bytes(smallest_file("safetensors"))
    array = fastload.open(tmp_path / "model").dlpack("w")
    child = os.fork()
    if child == 0:
        array[...] = 9
        os._exit(0)

    assert os.waitpid(child, 0)[1] == 0 and array.tolist() == [1, 2]


def test_a_tensor_without_data_is_a_meta_tensor():
    import io

    file = io.BytesIO()
    torch.save({"m": torch.empty(2, 3, device="meta")}, file)
    checkpoint = fastload.open(file.getvalue())

    assert checkpoint.torch("m").is_meta and checkpoint.torch("m").shape == (2, 3)
    with pytest.raises(fastload.UnsupportedError, match="meta"):
        checkpoint.dlpack("m")


def test_jax_gets_no_narrowed_numbers(monkeypatch):
    def asarray(array):
        return array.astype("f4") if array.dtype == "f8" else np.array(array)

    numpy = types.SimpleNamespace(from_dlpack=lambda array: asarray(np.from_dlpack(array)), asarray=asarray)
    monkeypatch.setitem(sys.modules, "jax", types.SimpleNamespace(numpy=numpy))
    monkeypatch.setitem(sys.modules, "jax.numpy", numpy)
    checkpoint = fastload.open(MANY)

    assert checkpoint.jax("BF16").dtype.name == "bfloat16" and checkpoint.jax("F32").shape == (2, 3)
    with pytest.raises(fastload.UnsupportedError, match="jax_enable_x64"):
        checkpoint.jax("F64")


def test_dlpack_without_torch_names_the_dtype(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)

    with pytest.raises(fastload.UnsupportedError, match="bfloat16"):
        fastload.open(MANY).dlpack("BF16")
