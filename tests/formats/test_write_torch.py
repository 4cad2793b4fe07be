"""Writing PyTorch archives, with torch as the judge."""

import io
import zipfile
from collections import OrderedDict

import ml_dtypes
import numpy as np
import pytest
import torch

import fastload
from builders import tensor, torch_file, torch_pickle, torch_zip
from fastload import SaveError, UnsupportedError
from fastload.dtypes import DTYPES, TORCH_DTYPES, numpy_dtype

TORCH_WARNS = pytest.mark.filterwarnings("ignore:(ComplexHalf|TypedStorage|torch.quantize|.*deprecated)")
PACKED = {"quint4x2", "quint2x4"}
QUANTIZED = {"quint8", "qint8", "qint32"}
DTYPES_OF_ARRAYS = [
    code for code, row in enumerate(DTYPES) if row.in_torch and numpy_dtype(code).name == row.name
]  # fmt: skip
ONLY_IN_FILES = [name for name in TORCH_DTYPES if TORCH_DTYPES[name] not in DTYPES_OF_ARRAYS and name not in PACKED]


def save(tmp_path, tensors, **options):
    """What torch loads of a file that was just saved, mapped and with nothing but weights allowed."""
    report = fastload.save(tensors, tmp_path / "w.pt", overwrite=True, **options)
    assert report.nbytes == (tmp_path / "w.pt").stat().st_size
    assert zipfile.ZipFile(tmp_path / "w.pt").testzip() is None
    whole = torch.load(tmp_path / "w.pt", weights_only=False)
    mapped = torch.load(tmp_path / "w.pt", mmap=True, weights_only=True)
    assert type(whole) is OrderedDict and list(whole) == list(mapped) == list(tensors)
    return mapped


def raw(value):
    return value.contiguous().view(torch.uint8).numpy().tobytes()


@pytest.mark.parametrize("code", DTYPES_OF_ARRAYS, ids=lambda code: DTYPES[code].name)
def test_torch_reads_every_dtype_back(tmp_path, code):
    dtype = numpy_dtype(code)
    held = (np.arange(6 * dtype.itemsize) % 2).astype(np.uint8).view(dtype).reshape(2, 3)

    loaded = save(tmp_path, {"w": held})["w"]

    assert str(loaded.dtype) == f"torch.{DTYPES[code].name}" and loaded.shape == (2, 3)
    assert raw(loaded) == held.tobytes()


@TORCH_WARNS
@pytest.mark.parametrize("name", sorted(set(ONLY_IN_FILES) - QUANTIZED))
def test_dtypes_that_numpy_lacks_go_from_file_to_file(tmp_path, name):
    size = 4 * DTYPES[TORCH_DTYPES[name]].bits // 8
    held = torch.arange(size, dtype=torch.uint8).view(getattr(torch, name))
    torch.save({"w": held}, tmp_path / "source.pt")

    loaded = save(tmp_path, fastload.open(tmp_path / "source.pt"))["w"]

    assert loaded.dtype == held.dtype and loaded.shape == held.shape
    assert bytes(loaded.untyped_storage()) == bytes(range(size))


def test_the_pickle_is_torchs_own_byte_for_byte(tmp_path):
    base = torch.arange(10.0)
    state = OrderedDict(
        a=torch.arange(6.0).reshape(2, 3),
        scalar=torch.tensor(3),
        empty=torch.zeros(0, 3),
        half=torch.zeros(2, dtype=torch.bfloat16),
        eight=torch.zeros(2).to(torch.float8_e4m3fn),
        unsigned=torch.zeros(2, dtype=torch.uint16),
        whole=base,
        part=base[1:4],
        deep=torch.zeros(1, 2, 1, 2, 1),
        long=torch.zeros(70_000, dtype=torch.uint8),
    )
    state |= {f"layers.{i}.weight": torch.zeros(300) for i in range(1001)}
    state._metadata = OrderedDict([("", {"version": 1})])
    theirs = io.BytesIO()
    torch.save(state, theirs)

    save(tmp_path, state)

    ours = zipfile.ZipFile(tmp_path / "w.pt").read("archive/data.pkl")
    assert ours == zipfile.ZipFile(theirs).read("archive/data.pkl")


@pytest.mark.parametrize("count", [0, 1, 2, 1000, 1001, 2000])
def test_any_number_of_tensors_is_a_sound_pickle(tmp_path, count):
    loaded = save(tmp_path, {str(i): np.full(1, i) for i in range(count)})

    assert [int(value) for value in loaded.values()] == list(range(count))


def test_every_record_is_aligned(tmp_path):
    save(tmp_path, {f"w{i}": np.zeros(i, np.uint8) for i in range(70)})

    for entry in fastload.open(tmp_path / "w.pt").entries():
        assert entry.offset % 64 == 0 and entry.zero_copy


def test_tied_arrays_stay_tied(tmp_path):
    base = np.arange(24.0).reshape(4, 6)
    tensors = {"base": base, "again": base, "row": base[1], "turned": base.T[1:, ::2], "own": np.arange(3)}

    loaded = save(tmp_path, tensors)

    assert len({value.untyped_storage().data_ptr() for value in loaded.values()}) == 2
    assert loaded["base"].data_ptr() == loaded["again"].data_ptr()
    assert loaded["row"].data_ptr() == loaded["base"].data_ptr() + 48 and loaded["turned"].stride() == (1, 12)
    assert all(np.array_equal(loaded[name].numpy(), value) for name, value in tensors.items())


def test_views_of_different_dtypes_over_the_same_bytes_stay_so(tmp_path):
    base = np.arange(8, dtype=np.float32)
    tensors = {
        "float": base[2:],
        "bits": base.view(np.int32),
        "bytes": base.view(np.uint8)[3:9],
        "half": base.view("u2"),
    }

    loaded = save(tmp_path, tensors)

    assert len({value.untyped_storage().data_ptr() for value in loaded.values()}) == 1
    assert all(np.array_equal(loaded[name].numpy(), value) for name, value in tensors.items())


def test_arrays_that_share_nothing_are_contiguous_and_alone(tmp_path):
    base = np.arange(24.0).reshape(4, 6)

    loaded = save(tmp_path, {"turned": base[:, :3].T, "rest": np.ascontiguousarray(base[:, 3:])})

    assert loaded["turned"].stride() == (4, 1) and loaded["turned"].untyped_storage().nbytes() == 96


@pytest.mark.parametrize(
    "odd",
    [
        lambda base: base[::-1],
        lambda base: base.view(np.uint8)[4:-4].view(np.int64),
        lambda base: base.view([("a", "f4"), ("b", "f8"), ("c", "f4")])["b"],
    ],
    ids=["reversed", "between elements", "field"],
)
def test_sharing_that_torch_cannot_say_is_a_loss(tmp_path, odd):
    base = np.arange(8.0)
    tensors = {"base": base, "odd": odd(base)}

    with pytest.raises(SaveError, match="'odd' lies in shared memory"):
        save(tmp_path, tensors)
    loaded = save(tmp_path, tensors, lossy=True)

    assert all(np.array_equal(loaded[name].numpy(), value) for name, value in tensors.items())


def test_a_broadcast_array_takes_no_more_room_than_its_memory(tmp_path):
    loaded = save(tmp_path, {"w": np.broadcast_to(np.arange(3.0), (1 << 40, 3))})

    assert loaded["w"].shape == (1 << 40, 3) and loaded["w"].stride() == (0, 1)
    assert (tmp_path / "w.pt").stat().st_size < 2000


@pytest.mark.parametrize("deflate", [(), ("data/0",)], ids=["stored", "deflated"])
@pytest.mark.parametrize("io", ["mmap", "read"])
def test_tied_tensors_of_a_checkpoint_stay_tied(tmp_path, deflate, io):
    held = tensor("float32", (12,), range(12))
    tied = {
        "a": held,
        "b": tensor("float32", (2, 3), held.storage, strides=(1, 4), offset=1),
        "c": tensor("float32", (3,), held.storage, offset=9),
        "alone": tensor("float32", (2,), [1, 2]),
    }
    (tmp_path / "source.pt").write_bytes(torch_zip(*torch_pickle(tied), deflate=deflate))

    loaded = save(tmp_path, fastload.open(tmp_path / "source.pt", io=io))

    assert (
        loaded["a"].data_ptr() + 4 == loaded["b"].data_ptr() and loaded["c"].data_ptr() == loaded["a"].data_ptr() + 36
    )
    assert loaded["b"].tolist() == [[1, 5, 9], [2, 6, 10]] and loaded["alone"].tolist() == [1, 2]


def test_a_checkpoints_expanded_tensor_is_not_blown_up(tmp_path):
    source = fastload.open(torch_file({"w": tensor("float32", (1 << 40, 2), [1, 2], strides=(0, 1))}))

    loaded = save(tmp_path, source)

    assert loaded["w"].stride() == (0, 1) and loaded["w"][-1].tolist() == [1, 2]


@TORCH_WARNS
@pytest.mark.parametrize("dtype", ["quint8", "qint8", "qint32"])
def test_tensors_quantised_as_a_whole_are_kept(tmp_path, dtype):
    held = torch.quantize_per_tensor(torch.tensor([[1.0, 2.0], [3.0, -4.0]]), 0.5, 9, getattr(torch, dtype))
    torch.save({"q": held}, tmp_path / "source.pt")

    loaded = save(tmp_path, fastload.open(tmp_path / "source.pt"))["q"]

    assert loaded.dtype == held.dtype and (loaded.q_scale(), loaded.q_zero_point()) == (0.5, 9)
    assert torch.equal(loaded.dequantize(), held.dequantize())


@TORCH_WARNS
def test_other_quantisation_is_a_loss(tmp_path):
    scales, zeros = torch.tensor([0.5, 0.25]), torch.tensor([0, 1])
    held = torch.quantize_per_channel(torch.tensor([[1.0], [2.0]]), scales, zeros, 0, torch.qint8)
    torch.save({"q": held}, tmp_path / "source.pt")

    with pytest.raises(SaveError, match="scale and zero point"):
        save(tmp_path, fastload.open(tmp_path / "source.pt"))
    loaded = save(tmp_path, fastload.open(tmp_path / "source.pt"), lossy=True)["q"]

    assert loaded.dtype == torch.int8 and torch.equal(loaded, held.int_repr())


@pytest.mark.parametrize("file_dtype", ["F4", "F6_E3M2"])
def test_what_torch_lacks_is_said_before_a_byte_is_written(tmp_path, file_dtype):
    from builders import safetensors_file

    size = 8 * (4 if file_dtype == "F4" else 6) // 8
    source = fastload.open(safetensors_file({"w": (file_dtype, (8,), bytes(size))}))

    with pytest.raises(UnsupportedError, match="'w' is float"):
        save(tmp_path, source)

    assert not list(tmp_path.iterdir())


def test_metadata_are_kept_and_read_back(tmp_path):
    metadata = {
        "format": "pt",
        "epoch": 3,
        "rate": 0.5,
        "big": -(1 << 70),
        "many": [1, -1, 1 << 16, 1 << 31, None, True, ()],
        "nested": {"a": {"b": (1, "x")}, "one": [1], "none": {}},
        "_metadata": OrderedDict([("", {"version": 1}), ("0", {"version": 2})]),
    }

    loaded = save(tmp_path, {"w": np.zeros(1)}, metadata=metadata)

    kept = fastload.open(tmp_path / "w.pt").metadata
    assert {key: kept[key] for key in metadata} == metadata
    assert loaded._metadata == metadata["_metadata"] and loaded.fastload_metadata["big"] == metadata["big"]


@pytest.mark.parametrize("value", [object(), np.zeros(2), {1.5: 2}, b"bytes", {"deep": [object()]}])
def test_metadata_that_torch_would_not_load_are_a_loss(tmp_path, value):
    with pytest.raises(SaveError, match="'odd'"):
        save(tmp_path, {"w": np.zeros(1)}, metadata={"odd": value})

    save(tmp_path, {"w": np.zeros(1)}, metadata={"odd": value, "even": "1"}, lossy=True)
    assert fastload.open(tmp_path / "w.pt").metadata["even"] == "1"


def test_metadata_of_endless_depth_are_a_loss_too(tmp_path):
    endless = []
    endless.append(endless)

    with pytest.raises(SaveError, match="'odd'"):
        save(tmp_path, {"w": np.zeros(1)}, metadata={"odd": endless})


def test_the_same_tensors_make_the_same_bytes_and_others_another_id(tmp_path):
    def written(value):
        save(tmp_path, {"w": np.full(3, value, ml_dtypes.bfloat16)})
        file = zipfile.ZipFile(tmp_path / "w.pt")
        return (tmp_path / "w.pt").read_bytes(), file.read("archive/.data/serialization_id")

    first, again, other = written(1), written(1), written(2)

    assert first == again and first[1] != other[1] and len(first[1]) == 40 and first[1].isdigit()


def test_records_are_looked_up_and_never_computed_by_torch(tmp_path):
    save(tmp_path, {"w": np.zeros(3)})

    assert "archive/.format_version" not in zipfile.ZipFile(tmp_path / "w.pt").namelist()


def test_names_may_be_any_text(tmp_path):
    names = ["", "a/b", "é", "a.b", "x" * 1000, "new\nline", "\0"]

    loaded = save(tmp_path, {name: np.zeros(1) for name in names})

    assert list(loaded) == names
