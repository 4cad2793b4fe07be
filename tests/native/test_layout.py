"""Layouts: where tensors that are copied as they are come to lie, and their arrays there."""

import numpy as np
import pytest
import torch

import fastload
from builders import safetensors_file, tensor, torch_file
from fastload._native import Layout, Transfer, arrays_of, lay_out
from fastload.checkpoint import tensors_of
from fastload.dtypes import CODES, numpy_dtype
from fastload.loading import FLOAT_OF_CODE


def layout_of(data, rows=None, alignment=64, origin=0, targets=None, length=None):
    tensors = tensors_of(fastload.open(data))
    rows = range(len(tensors)) if rows is None else rows
    length = len(data) if length is None else length
    return lay_out(tensors.index, rows, targets, numpy_dtype, FLOAT_OF_CODE, origin, length, alignment)


@pytest.fixture
def data():
    """Of 8, 64, 3 and 128 bytes, side by side in this order."""
    return safetensors_file(
        {
            "a": ("F32", (2,), bytes(range(8))),
            "b": ("U8", (8, 8), bytes(range(64))),
            "c": ("BF16", (0,), b""),
            "d": ("I8", (3,), b"xyz"),
            "e": ("U8", (128,), bytes(128)),
        }
    )


def test_each_tensor_begins_at_a_multiple_of_the_alignment(data):
    layout = layout_of(data, [0, 1, 3, 4])

    assert layout.size == 64 + 64 + 64 + 128 and layout.nbytes == 8 + 64 + 3 + 128


def test_tensors_come_in_the_order_of_the_file_and_arrays_as_they_were_asked_for(data):
    layout = layout_of(data, [3, 1, 0])
    memory = np.zeros(layout.size, np.uint8)

    arrays = arrays_of(layout, memory)

    assert [(array.dtype.name, array.shape) for array in arrays] == [
        ("int8", (3,)),
        ("uint8", (8, 8)),
        ("float32", (2,)),
    ]
    assert [array.ctypes.data - memory.ctypes.data for array in arrays] == [128, 64, 0]
    assert all(array.base is memory and array.flags.writeable for array in arrays)


def test_the_same_bytes_have_one_place():
    data = torch_file({"w": tensor("float32", (2, 3), [1] * 6), "v": tensor("float32", (2, 3), [2] * 6)})

    layout = layout_of(data, [0, 1, 0])

    first, second, again = arrays_of(layout, np.zeros(layout.size, np.uint8))
    assert layout.size == 128 and layout.nbytes == 48
    assert np.shares_memory(first, again) and not np.shares_memory(first, second)


def test_neighbours_that_stay_neighbours_are_one_job(data):
    layout = layout_of(data, [1, 3, 4])
    memory = np.zeros(layout.size, np.uint8)
    transfer = Transfer()
    origin = transfer.add_memory(data, 4096, 0)

    transfer.add_layout(origin, 0, transfer.add_target(memory), layout)
    transfer.work()

    assert transfer.total == transfer.done == 64 + 3 + 128
    b, d, e = arrays_of(layout, memory)
    assert (b.tobytes(), d.tobytes(), e.tobytes()) == (bytes(range(64)), b"xyz", bytes(128))


def test_a_position_belongs_to_a_tensor(data):
    layout = layout_of(data, [0, 1, 4], origin=1000)
    first = layout.samples(1 << 20)[0]

    assert [layout.number_at(first + more) for more in (0, 7, 8, 71, 75)] == [0, 0, 1, 1, 2]
    with pytest.raises(IndexError):
        layout.number_at(first + 72)  # of the one that was not asked for


def test_samples_are_so_many_bytes_apart_and_of_the_tensors_alone(data):
    layout = layout_of(data, [0, 4])
    first = layout.samples(1000)[0]

    assert [position - first for position in layout.samples(50)] == [0, 117, 167]
    assert layout_of(data, []).samples(1) == []


@pytest.mark.parametrize(
    "made",
    [
        tensor("float32", (2, 3), [1] * 6, strides=(1, 2)),
        tensor("float32", (2, 3), [1], strides=(0, 0)),
    ],
)
def test_what_is_not_bytes_as_they_lie_there_has_no_layout(made):
    assert layout_of(torch_file({"plain": tensor("float32", (1,), [1]), "w": made})) is None


def test_packed_and_empty_tensors_have_no_layout(data):
    assert layout_of(data) is None
    assert layout_of(safetensors_file({"w": ("F4", (4,), b"ab")})) is None


@pytest.mark.filterwarnings("ignore:ComplexHalf")
def test_what_has_an_axis_more_as_an_array_has_no_layout(tmp_path):
    torch.save({"w": torch.zeros(3, dtype=torch.complex32)}, tmp_path / "model.pt")

    assert layout_of((tmp_path / "model.pt").read_bytes()) is None


def test_the_same_bytes_as_two_dtypes_have_two_places():
    data = torch_file({"w": tensor("float32", (2, 3), [1, 2, 3, 4, 5, 6])})
    half, double = CODES["float16"], CODES["float64"]

    layout = layout_of(data, [0, 0, 0, 0], targets=[-1, half, double, half])
    memory = np.zeros(layout.size, np.uint8)
    transfer = Transfer()
    transfer.add_layout(transfer.add_memory(data, 4096, 0), 0, transfer.add_target(memory), layout)
    transfer.work()

    arrays = arrays_of(layout, memory)
    assert [array.dtype.name for array in arrays] == ["float32", "float16", "float64", "float16"]
    assert all(array.tolist() == [[1, 2, 3], [4, 5, 6]] for array in arrays)
    assert layout.filled == transfer.done == 24 + 12 + 48 and np.shares_memory(arrays[1], arrays[3])


def test_neighbours_that_are_cast_alike_are_one_job(data):
    floats = {f"w{number}": ("F16", (256,), np.full(256, number, np.float16).tobytes()) for number in range(9)}
    data = safetensors_file(floats)
    layout = layout_of(data, targets=[CODES["float32"]] * 9)
    memory = np.zeros(layout.size, np.uint8)
    transfer = Transfer()

    transfer.add_layout(transfer.add_memory(data, 4096, 1024), 0, transfer.add_target(memory), layout)
    transfer.work()

    assert layout.filled == layout.size == transfer.done == 9 * 1024
    assert [float(array.mean()) for array in arrays_of(layout, memory)] == list(range(9))


@pytest.mark.parametrize(("row", "dtype"), [(1, "float32"), (0, "int8"), (0, "complex64"), (3, "float32")])
def test_only_floats_are_cast_to_floats(data, row, dtype):
    assert layout_of(data, [row], targets=[CODES[dtype]]) is None
    assert layout_of(data, [row], targets=[len(CODES)]) is None


def test_a_cast_to_what_it_is_already_is_none(data):
    layout = layout_of(data, [0], targets=[CODES["float32"]])

    assert arrays_of(layout, np.zeros(layout.size, np.uint8))[0].dtype == np.float32


def test_each_tensor_has_a_target_if_one_has(data):
    with pytest.raises(ValueError, match="1 dtypes for 2 tensors"):
        layout_of(data, [0, 1], targets=[-1])


def test_rows_and_places_are_checked(data):
    with pytest.raises(IndexError):
        layout_of(data, [5])
    for alignment, origin in [(0, 0), (8192, 0), (64, (1 << 63) - 1)]:
        with pytest.raises(ValueError, match="bytes at"):
            layout_of(data, [0], alignment, origin)
    with pytest.raises(TypeError):
        Layout()


def test_a_tensor_beyond_the_source_has_no_layout(data):
    assert layout_of(data, [0, 4], length=len(data) - 1) is None


@pytest.mark.parametrize("memory", [np.zeros(63, np.uint8), np.zeros(128, np.uint8)[::2]])
def test_arrays_lie_within_memory_that_can_be_written_to(data, memory):
    layout = layout_of(data, [0])
    for given in (memory, np.frombuffer(bytes(64), np.uint8)):
        with pytest.raises(ValueError, match="can be written to"):
            arrays_of(layout, given)


def test_jobs_of_a_layout_lie_within_origin_and_target(data):
    layout = layout_of(data, [0, 4])
    transfer = Transfer()
    short, origin = transfer.add_memory(data[:50], 4096, 0), transfer.add_memory(data, 4096, 0)
    target = transfer.add_target(bytearray(layout.size - 1))

    for number, begin in [(short, 0), (origin, len(data)), (origin, 0)]:
        with pytest.raises((ValueError, OverflowError)):
            transfer.add_layout(number, begin, target, layout)
