"""`safe_open` and its slices, beside those of the safetensors package: the same results, or the same exceptions."""

import pickle
import threading

import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy
import torch

from builders import safetensors_file
from fastload import FastloadError
from fastload.safetensors import SafetensorError, safe_open

ARRAYS = {
    "w": np.arange(12, dtype=np.float32).reshape(3, 4),
    "ids": np.arange(5, dtype=np.int64),
    "scalar": np.array(3, np.float16),
    "empty": np.zeros((0, 3), np.float32),
    "flags": np.array([True, False]),
    "bf": np.arange(4, dtype=np.float32).astype(ml_dtypes.bfloat16),
}
FULL = slice(None)
INDICES = [
    (), FULL, (FULL, slice(1, 3)), 1, -1, (1, 2), (-1, -1), 3, -4, (0, 0, 0), ..., (..., 1), (1, ...), (..., ...),
    slice(None, None, 2), slice(None, None, 5), slice(1, 3, 2), (FULL, slice(None, None, 3)), slice(None, None, -1),
    slice(None, None, 0), slice(1, None), slice(2, 2), slice(3, 3), slice(3, None), slice(0, 4), slice(None, 0),
    slice(-2, None), slice(None, -1), slice(1.0, 2), slice(np.int64(1), 2), slice(0, 1 << 70), None, (None, 1), [],
    [0, 1], [True, False, True], np.array([0, 1]), np.array([True, False, True]), True, np.int64(1), 1.0, "w", {},
    1 << 70, (FULL, FULL), (FULL, [0, 2]),
]  # fmt: skip


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "model.safetensors"
    safetensors.numpy.save_file(ARRAYS, path, metadata={"format": "np"})
    return path


def outcome(act):
    """What *act* gives, in a form that can be compared: the value, or the name of the class of the exception."""
    try:
        value = act()
    except Exception as error:
        return type(error).__name__
    array = value.detach().float().numpy() if isinstance(value, torch.Tensor) else value
    return str(value.dtype), tuple(value.shape), array.tobytes()


@pytest.mark.parametrize("framework", ["np", "pt"])
@pytest.mark.parametrize("name", ["w", "scalar", "empty"])
@pytest.mark.parametrize("index", INDICES, ids=repr)
def test_a_slice_is_the_packages_or_fails_as_it_does(path, framework, name, index):
    theirs = safetensors.safe_open(path, framework).get_slice(name)
    ours = safe_open(path, framework).get_slice(name)

    assert outcome(lambda: ours[index]) == outcome(lambda: theirs[index])
    assert (ours.get_shape(), ours.get_dtype()) == (theirs.get_shape(), theirs.get_dtype())


def test_a_slice_that_ends_before_it_begins_is_refused_and_not_an_error_of_the_interpreter(path):
    with pytest.raises(SafetensorError, match="ends before"):
        safe_open(path, "np").get_slice("w")[2:1]


@pytest.mark.parametrize("framework", ["np", "numpy", "pt", "torch", "pytorch"])
@pytest.mark.parametrize("backend", ["mmap", "pread"])
def test_tensors_names_and_metadata_are_the_packages(path, framework, backend):
    theirs = safetensors.safe_open(path, framework, "cpu", backend=backend)
    with safe_open(path, framework, "cpu", backend=backend) as ours:
        assert ours.keys() == theirs.keys()
        assert ours.offset_keys() == theirs.offset_keys() == list(ours.get_tensors())
        assert ours.metadata() == theirs.metadata()
        for name in ARRAYS:
            assert outcome(lambda name=name: ours.get_tensor(name)) == outcome(
                lambda name=name: theirs.get_tensor(name)
            )
            assert outcome(lambda name=name: ours.get_tensors()[name]) == outcome(
                lambda name=name: theirs.get_tensor(name)
            )


@pytest.mark.parametrize("metadata", [None, {}, {"a": "b"}])
def test_no_metadata_and_empty_ones_are_told_apart(tmp_path, metadata):
    path = tmp_path / "w.safetensors"
    safetensors.numpy.save_file({"w": np.zeros(2)}, path, metadata=metadata)

    assert safe_open(path, "np").metadata() == metadata


@pytest.mark.parametrize("count", [10, 1_000_000])  # copied, and mapped
@pytest.mark.parametrize("backend", ["mmap", "pread"])
def test_an_array_is_ones_own_and_the_file_never_changes(tmp_path, backend, count):
    path = tmp_path / "w.safetensors"
    safetensors.numpy.save_file({"w": np.zeros(count, np.float32)}, path)
    before = path.read_bytes()
    file = safe_open(path, "np", backend=backend)

    first = file.get_tensor("w")
    first += 1

    assert first.flags.writeable and first.flags.aligned and (first == 1).all()
    assert not file.get_tensor("w").any() and not file.get_tensors()["w"].any() and not file.get_slice("w")[:].any()
    assert path.read_bytes() == before


def test_tensors_of_one_opening_share_memory_as_the_packages_do_and_the_file_never_changes(path):
    before = path.read_bytes()
    for open_file in (safe_open, safetensors.safe_open):
        file = open_file(path, "pt")
        file.get_tensor("w").fill_(7)
        assert file.get_slice("w")[0, 0] == 7
        assert open_file(path, "pt").get_tensor("w")[0, 0] == 0
    assert path.read_bytes() == before


def test_tensors_that_were_read_are_not_kept_for_those_who_ask_again(path):
    file = safe_open(path, "pt", backend="pread")
    file.get_tensor("w").fill_(7)

    assert file.get_tensor("w")[0, 0] == 0
    assert file._handing is None


def test_what_is_not_aligned_in_the_file_is_in_memory(tmp_path):
    path = tmp_path / "w.safetensors"
    path.write_bytes(safetensors_file({"a": ("U8", (1,), b"\1"), "w": ("F32", (2,), bytes(8))}))

    with safe_open(path, "np") as file:
        arrays = [file.get_tensor("w"), file.get_tensors()["w"]]

    assert all(array.flags.aligned and array.flags.writeable and array.shape == (2,) for array in arrays)


def test_a_closed_file_gives_nothing_and_its_slices_go_on(path):
    with safe_open(path, "np") as file:
        part, held = file.get_slice("w"), file.get_tensor("w")
    for act in (file.keys, file.offset_keys, file.metadata, file.get_tensors):
        with pytest.raises(SafetensorError, match="File is closed"):
            act()
    with pytest.raises(SafetensorError, match="File is closed"):
        file.get_tensor("w")
    assert part[1].tolist() == held[1].tolist() == [4, 5, 6, 7]


BAD = [
    b"", b"abc", bytes(8), b"\xff" * 8 + b"{}", b"\2" + bytes(7) + b"{}xx", b"\2" + bytes(7) + b"[]",
    b"\x09" + bytes(7) + b'{"\xff":3}', b"\x20" + bytes(7) + b"{}",
]  # fmt: skip


@pytest.mark.parametrize("data", BAD)
def test_a_file_that_the_package_refuses_is_a_SafetensorError_and_one_of_fastload(tmp_path, data):
    path = tmp_path / "bad.safetensors"
    path.write_bytes(data)
    for act in (lambda: safe_open(path, "np"), lambda: safe_open(path, "pt")):
        with pytest.raises(SafetensorError) as caught:
            act()
        assert isinstance(caught.value, FastloadError) and isinstance(caught.value.__cause__, FastloadError)
        assert str(path) in str(caught.value)
    with pytest.raises(safetensors.SafetensorError):
        safetensors.safe_open(path, "np")


CALLS = {
    "no such tensor": lambda open_file, path: open_file(path, "np").get_tensor("nope"),
    "no such slice": lambda open_file, path: open_file(path, "np").get_slice("nope"),
    "a name that is no text": lambda open_file, path: open_file(path, "np").get_tensor(3),
    "no such file": lambda open_file, path: open_file(path.with_name("nope"), "np"),
    "a path of bytes": lambda open_file, path: open_file(str(path).encode(), "np"),
    "a number for a path": lambda open_file, path: open_file(3, "np"),
    "no framework": lambda open_file, path: open_file(path),
    "an unknown framework": lambda open_file, path: open_file(path, "foo"),
    "a framework that is no text": lambda open_file, path: open_file(path, None),
    "an unknown backend": lambda open_file, path: open_file(path, "np", backend="foo"),
    "a backend that is no text": lambda open_file, path: open_file(path, "np", backend=3),
    "four by position": lambda open_file, path: open_file(path, "np", "cpu", "mmap"),
    "numpy on cuda": lambda open_file, path: open_file(path, "np", device="cuda"),
    "numpy on 0": lambda open_file, path: open_file(path, "np", device=0),
    "an unknown device": lambda open_file, path: open_file(path, "pt", device="foo"),
    "a device below zero": lambda open_file, path: open_file(path, "pt", device=-1),
    "the meta device": lambda open_file, path: open_file(path, "pt", device="meta"),
    "pickling": lambda open_file, path: pickle.dumps(open_file(path, "np")),
    "pickling a slice": lambda open_file, path: pickle.dumps(open_file(path, "np").get_slice("w")),
    "iterating": lambda open_file, path: list(open_file(path, "np")),
    "len": lambda open_file, path: len(open_file(path, "np")),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_what_the_package_refuses_is_refused_with_the_same_exception(path, call):
    with pytest.raises(Exception) as theirs:  # noqa: PT011
        call(safetensors.safe_open, path)
    with pytest.raises(Exception) as ours:  # noqa: PT011
        call(safe_open, path)

    assert ours.type.__name__ == theirs.type.__name__


def test_a_folder_is_an_OSError(tmp_path):
    with pytest.raises(OSError, match="directory"):
        safe_open(tmp_path, "np")


@pytest.mark.parametrize("framework", ["tf", "jax", "flax", "mlx", "paddle"])
def test_frameworks_that_are_not_served_say_what_to_do(path, framework):
    with pytest.raises(SafetensorError, match='open with "np"'):
        safe_open(path, framework)


@pytest.mark.parametrize("device", [None, "cpu", "cpu:0", torch.device("cpu")])
def test_the_cpu_is_a_device(path, device):
    assert safe_open(path, "pt", device=device).get_tensor("w").device.type == "cpu"


def test_packed_floats_are_those_of_torch_or_refused(tmp_path):
    path = tmp_path / "w.safetensors"
    path.write_bytes(safetensors_file({"four": ("F4", (2, 4), bytes(range(4)))}))

    theirs = safetensors.safe_open(path, "pt").get_tensor("four")
    ours = safe_open(path, "pt").get_tensor("four")

    assert ours.dtype == theirs.dtype and torch.equal(ours.view(torch.uint8), theirs.view(torch.uint8))
    for act in (lambda file: file.get_tensor("four"), lambda file: file.get_slice("four")[0]):
        with pytest.raises(SafetensorError, match="F4"):
            act(safe_open(path, "np"))


def test_floats_of_six_bits_are_refused_by_both(tmp_path):
    path = tmp_path / "w.safetensors"
    path.write_bytes(safetensors_file({"six": ("F6_E2M3", (2, 4), bytes(range(6)))}))
    for framework in ("np", "pt"):
        with pytest.raises(safetensors.SafetensorError):
            safetensors.safe_open(path, framework).get_tensor("six")
        with pytest.raises(SafetensorError, match="F6_E2M3"):
            safe_open(path, framework).get_tensor("six")


@pytest.mark.parametrize("framework", ["np", "pt"])
def test_threads_share_an_opening(tmp_path, framework):
    path = tmp_path / "model.safetensors"
    arrays = {f"t{i}": np.full(300_000 if i % 8 == 0 else 10, i, np.float32) for i in range(64)}
    safetensors.numpy.save_file(arrays, path)
    wrong = []
    with safe_open(path, framework) as file:

        def work():
            for name, array in arrays.items():
                if not (np.asarray(file.get_tensor(name)) == array).all() or file.get_slice(name)[1] != array[1]:
                    wrong.append(name)

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong
