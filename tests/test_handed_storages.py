"""What torch is handed: one mapping, storages that are each tensor's own where the file has them so, and lifetimes."""

import gc
import os
import sys

import numpy as np
import pytest
import safetensors
import torch

import fastload
import fastload.safetensors
from builders import safetensors_file, storage, tensor, torch_file

SMALL = safetensors_file({f"t{i}": ("F32", (2, 3), np.full(6, i, "<f4").tobytes()) for i in range(3000)})
DTYPES = "bool uint8 int8 uint16 int16 uint32 int32 uint64 int64 float16 bfloat16 float32 float64 complex32 complex64" \
    " complex128 float8_e4m3fn float8_e5m2 float8_e8m0fnu float8_e4m3fnuz float8_e5m2fnuz"  # fmt: skip
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="Linux tells its mappings")


@pytest.fixture
def path(tmp_path):
    (tmp_path / "model").write_bytes(SMALL)
    return tmp_path / "model"


def count_mappings(path):
    with open("/proc/self/maps", encoding="utf-8") as lines:
        return sum(line.endswith(f" {path}\n") for line in lines)


def storages_of(given):
    return {tensor.untyped_storage()._cdata for tensor in given.values()}


@LINUX
def test_all_tensors_need_one_mapping_and_have_a_storage_each(path):
    checkpoint = fastload.open(path)
    before = count_mappings(path)

    given = checkpoint.torch()

    assert count_mappings(path) == before + 1
    assert len(storages_of(given)) == len(given)
    assert {tensor.untyped_storage().nbytes() for tensor in given.values()} == {24}
    assert not any(tensor._is_view() or tensor.storage_offset() for tensor in given.values())
    assert [int(tensor[1, 2]) for tensor in given.values()] == list(range(3000))


@LINUX
def test_the_storages_are_those_of_the_package(path):
    with fastload.safetensors.safe_open(path, "pt") as ours, safetensors.safe_open(path, "pt") as theirs:
        for name in ("t0", "t7"):
            one, other = ours.get_tensor(name), theirs.get_tensor(name)
            assert one.untyped_storage().nbytes() == other.untyped_storage().nbytes() == 24
            assert ours.get_tensor(name).data_ptr() == one.data_ptr()
        assert count_mappings(path) <= 4


@LINUX
def test_small_tensors_by_name_need_no_mappings(path):
    checkpoint = fastload.open(path)
    before = count_mappings(path)

    given = [checkpoint.torch("t7") for _ in range(100)]
    given[0].fill_(3)

    assert count_mappings(path) == before
    assert all(tensor.unique().tolist() == [7] for tensor in given[1:])


@LINUX
def test_the_mapping_stays_for_one_tensor_and_goes_with_it(path):
    last = fastload.open(path).torch()["t7"]
    gc.collect()

    assert count_mappings(path) == 1 and last.unique().tolist() == [7]
    del last
    assert count_mappings(path) == 0


def test_saving_one_tensor_saves_no_other(path, tmp_path):
    torch.save({"t": fastload.open(path).torch()["t7"]}, tmp_path / "one")

    assert os.path.getsize(tmp_path / "one") < len(SMALL) // 10


@pytest.mark.parametrize("io", ["mmap", "read"])
def test_tensors_are_on_the_cpu_whatever_device_torch_makes_others_on(io, path):
    checkpoint = fastload.open(path, io=io).select("t7")

    with torch.device("meta"):
        given = [checkpoint.torch("t7"), *checkpoint.split(("t7", ["a", "b"], 0)).torch().values()]

    assert {tensor.device.type for tensor in given} == {"cpu"} and given[2].tolist() == [[7, 7, 7]]


@pytest.mark.filterwarnings("ignore:(.*ComplexHalf|TypedStorage)")
@pytest.mark.parametrize("name", DTYPES.split())
def test_every_dtype_is_handed_over_strided_and_whole(name, tmp_path):
    raw = torch.arange(48 * 16, dtype=torch.uint8).bitwise_and(1 if name == "bool" else 255)
    whole = raw.view(getattr(torch, name))[:48].reshape(4, 12)
    views = {"whole": whole, "t": whole.t(), "part": whole[1:3, 2::3], "broadcast": whole[0, :1].expand(3, 2),
             "scalar": whole[2, 2], "empty": whole[:0]}  # fmt: skip
    torch.save(views, tmp_path / "model")

    given = fastload.open(tmp_path / "model").torch()

    for key, view in views.items():
        assert (given[key].dtype, given[key].shape) == (view.dtype, view.shape)
        assert given[key].stride() == view.stride() or not view.numel()
        assert (
            given[key].contiguous().reshape(-1).view(torch.uint8).equal(view.contiguous().reshape(-1).view(torch.uint8))
        )
    assert len(storages_of(given)) == 2  # what is empty has one of its own


def test_tensors_of_several_dtypes_share_a_storage_of_torch(tmp_path):
    held = torch.arange(10, dtype=torch.uint8).untyped_storage()  # of no whole number of uint32
    views = {
        "words": torch.empty(0, dtype=torch.uint32).set_(held, 0, (2,), (1,)),
        "halves": torch.empty(0, dtype=torch.uint16).set_(held, 1, (2, 2), (2, 1)),
    }
    torch.save(views, tmp_path / "model")

    given = fastload.open(tmp_path / "model").torch()

    assert len(storages_of(given)) == 1
    assert given["words"].tolist() == [0x03020100, 0x07060504]
    assert given["halves"].tolist() == [[0x0302, 0x0504], [0x0706, 0x0908]]
    given["halves"][1, 0] = 0
    assert given["words"].tolist() == [0x03020100, 0x00000504]


def test_a_part_that_a_plan_makes_shares_the_storage_of_torch(tmp_path):
    held = storage("float32", range(8))
    tied = {"w": tensor("float32", (4, 2), held), "v": tensor("float32", (8,), held)}
    (tmp_path / "tied").write_bytes(torch_file(tied))

    given = fastload.open(tmp_path / "tied").split(("w", ["a", "b"], 0)).torch()
    given["a"].fill_(9)

    assert len(storages_of(given)) == 1 and given["v"].tolist() == [9, 9, 9, 9, 4, 5, 6, 7]


def test_what_lies_at_odd_places_is_handed_over(tmp_path):
    (tmp_path / "odd").write_bytes(
        safetensors_file({"a": ("U8", (1,), b"\1"), "w": ("F32", (2, 1), np.array([1, 2], "<f4").tobytes())})
    )
    np.save(tmp_path / "backwards.npy", np.arange(6, dtype=">f4"))

    odd = fastload.open(tmp_path / "odd").torch()
    odd["w"].mul_(2)

    assert odd["w"].tolist() == [[2], [4]] and odd["a"].tolist() == [1]
    assert [given.tolist() for given in fastload.open(tmp_path / "backwards.npy").torch().values()] == [list(range(6))]


def test_a_file_without_mappings_is_shared_within_one_hand_over(path, monkeypatch):
    def refused(*arguments):
        raise OSError("no mappings")

    checkpoint = fastload.open(path)
    monkeypatch.setattr("fastload.source.FileMapping", refused)

    given = checkpoint.rename({"t7": "u7"}).torch()
    given["u7"].fill_(0)

    assert given["t8"].unique().tolist() == [8] and checkpoint["t7"][0, 0] == 7
