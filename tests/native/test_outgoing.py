"""Tensors on their way into a file: what is found out about them, and the header and the bytes of small ones."""

import gc
import io
import json

import numpy as np
import pytest

import fastload
from fastload import atomic
from fastload._native import Outgoing, describe_arrays, gather, members_of_header
from fastload.formats import writing
from fastload.formats.safetensors import SPELLINGS
from fastload.formats.writing import GATHERED_BYTES, MIN_COPIED_BYTES, chunks_of, write_tensors
from fastload.outgoing import of_arrays, of_checkpoint


def refuse(name, value):
    raise AssertionError(name)


def described(arrays):
    return describe_arrays(arrays, refuse, lambda name, dtype: dtype.name, chunks_of)


def outgoing(name="w", dtype="uint8", shape=(3,), nbytes=3, chunks=list, **fields):
    return Outgoing(name, dtype, shape, nbytes, chunks, **fields)


def test_arrays_are_described_without_copying_them():
    array = np.arange(6, dtype=np.int16).reshape(2, 3)

    ((tensor,), overlapping) = described({"w": array})

    assert (tensor.name, tensor.dtype, tensor.shape, tensor.nbytes) == ("w", "int16", (2, 3), 12)
    assert tensor.array() is array and not overlapping
    assert tensor.data() == b"".join(tensor.chunks()) == array.tobytes()


def test_the_garbage_collector_knows_no_description():
    tensors = of_arrays({"w": np.zeros(3), "v": np.zeros((2, 2))})

    assert not any(map(gc.is_tracked, tensors))


def test_tensors_of_one_shape_have_one_tuple():
    tensors = of_arrays({str(number): np.zeros((2, number % 3)) for number in range(30)})

    assert len({id(tensor.shape) for tensor in tensors}) == 3


BLOCK = np.zeros(100, np.uint8)


@pytest.mark.parametrize(
    ("arrays", "expected"),
    [
        ([BLOCK[:10], BLOCK[10:20], BLOCK[20:]], []),
        ([BLOCK[50:], BLOCK[:51]], [1, 0]),
        ([BLOCK[:60], BLOCK[70:80], BLOCK[20:50], BLOCK[40:65]], [0, 2, 3]),
        ([BLOCK, BLOCK], [0, 1]),
        ([BLOCK[:0], BLOCK[:0]], []),
        ([np.broadcast_to(np.float32(1), (5,))], [0]),
        ([BLOCK[60::-2], BLOCK[61:]], []),
        ([BLOCK[60::-2], BLOCK[60:]], [0, 1]),
        ([BLOCK[::2], BLOCK[1::2]], [0, 1]),
        ([BLOCK[10:20], BLOCK[20:30], BLOCK[29:31], BLOCK[90:]], [1, 2]),
    ],
)
def test_arrays_that_overlap_or_repeat_their_memory_are_found(arrays, expected):
    _, overlapping = described({str(row): array for row, array in enumerate(arrays)})

    assert overlapping == expected


def test_a_changed_tensor_differs_in_that_alone():
    (tensor,) = of_arrays({"w": np.arange(3)})

    changed = tensor.changed(name="v", storage=7)

    assert (changed.name, changed.storage, changed.array() is tensor.array()) == ("v", 7, True)
    assert (tensor.name, tensor.storage) == ("w", None)
    with pytest.raises(TypeError, match="colour"):
        tensor.changed(colour="red")


def test_chunks_that_are_given_count_and_not_those_of_the_array():
    (tensor,) = of_arrays({"w": np.arange(3)})

    changed = tensor.changed(chunks=lambda: [memoryview(b"given")])

    assert b"".join(changed.chunks()) == b"given" and changed.data() is None


@pytest.mark.parametrize(
    "array", [np.arange(6).reshape(2, 3).T, np.arange(4)[::2], np.arange(4, dtype=">i4"), np.arange(4)[::-1]]
)
def test_what_does_not_lie_as_it_is_to_be_written_has_no_data(array):
    (tensor,) = of_arrays({"w": array})

    assert tensor.data() is None
    assert b"".join(tensor.chunks()) == array.astype(array.dtype.newbyteorder("<")).tobytes()
    assert gather([tensor], 0, bytearray(100), 100) == (0, 0)


@pytest.mark.parametrize(
    ("name", "dtype", "shape", "nbytes"),
    [
        ("w", "float32", (2, 3), 24),
        ("", "bool", (), 1),
        ("é/…/𝄞", "bfloat16", (0, 5), 0),
        ("n", "int64", (1 << 40,), 1 << 43),
    ],
)
def test_the_members_of_a_header_are_what_json_says(name, dtype, shape, nbytes):
    tensors = [outgoing("before", nbytes=5), outgoing(name, dtype, shape, nbytes)]

    found = json.loads(b"{%s}" % members_of_header(tensors, SPELLINGS))

    assert found[name] == {"dtype": SPELLINGS[dtype], "shape": list(shape), "data_offsets": [5, 5 + nbytes]}


@pytest.mark.parametrize("character", [*map(chr, range(0x21)), '"', "\\", "/", "\x7f", "\x80", "\u2028", "𝄞"])
def test_names_are_escaped_as_json_does_it(character):
    name = f"a{character}b{character}"

    found = members_of_header([outgoing(name)], SPELLINGS)

    assert found.startswith(json.dumps(name, ensure_ascii=False).encode() + b":{")


def test_a_header_that_cannot_be_is_refused():
    with pytest.raises(UnicodeEncodeError):
        members_of_header([outgoing("\ud800")], SPELLINGS)
    with pytest.raises(OverflowError):
        members_of_header([outgoing(nbytes=2**63), outgoing(nbytes=2**63)], SPELLINGS)
    with pytest.raises(OverflowError):
        members_of_header([outgoing(shape=(-1,))], SPELLINGS)
    with pytest.raises(KeyError):
        members_of_header([outgoing(dtype="complex128")], SPELLINGS)


@pytest.mark.parametrize(("alignment", "expected"), [(1, b"aaabbc"), (4, b"aaa\0bb\0\0c"), (8, b"aaa\0\0\0\0\0bb")])
def test_small_tensors_are_gathered_as_far_as_they_fit(alignment, expected):
    texts = [b"aaa", b"bb", b"c"]
    tensors = of_arrays({str(row): np.frombuffer(text, np.uint8) for row, text in enumerate(texts)})
    room = bytearray(b"#" * 12)

    place, count = gather(tensors, 0, room, 100, alignment)

    assert bytes(room[:count]) == expected and place == (2 if alignment == 8 else 3)
    assert room[count:] == b"#" * (12 - count)


def test_gathering_ends_at_what_is_not_small():
    tensors = of_arrays({str(size): np.ones(size, np.uint8) for size in (3, 10, 2)})

    assert gather(tensors, 0, bytearray(100), 10) == (1, 3)
    assert gather(tensors, 1, bytearray(100), 10) == (1, 0)
    assert gather(tensors, 2, bytearray(1), 10) == (2, 0)
    assert gather(tensors, 3, bytearray(1), 10) == (3, 0)
    with pytest.raises(IndexError):
        gather(tensors, -1, bytearray(1), 10)


def test_an_array_that_has_another_size_than_was_said_is_not_gathered():
    (tensor,) = of_arrays({"w": np.arange(3, dtype=np.uint8)})

    assert gather([tensor.changed(nbytes=2)], 0, bytearray(9), 9) == (0, 0)
    with pytest.raises(fastload.FormatError, match="'w'"):
        write_tensors(io.BytesIO(), [tensor.changed(nbytes=2)])


class Writes(io.BytesIO):
    """A file that counts how often it is written to, of more than padding."""

    count = 0

    def write(self, data):
        self.count += len(data) > 0
        return super().write(data)


@pytest.mark.parametrize("alignment", [1, 256])
def test_thousands_of_small_tensors_are_few_writes(alignment):
    arrays = {str(row): np.full(row % 500, row % 251, np.uint8) for row in range(20_000)}
    file = Writes()

    write_tensors(file, of_arrays(arrays), alignment)

    expected = bytearray()
    for array in arrays.values():
        expected += bytes(-len(expected) % alignment) + array.tobytes()
    assert file.getvalue() == expected
    assert file.count <= 2 * (len(expected) // (GATHERED_BYTES - 1000) + 1)


def test_small_and_large_and_odd_tensors_keep_their_order(monkeypatch):
    monkeypatch.setattr(writing, "CHUNK_BYTES", MIN_COPIED_BYTES)
    sizes = [5, MIN_COPIED_BYTES, 7, MIN_COPIED_BYTES - 1, 3 * MIN_COPIED_BYTES + 1, 0, 9]
    arrays = {str(row): np.full(size, row, np.uint8) for row, size in enumerate(sizes)}
    arrays["odd"] = np.arange(20, dtype=np.uint8).reshape(4, 5).T
    file = io.BytesIO()

    write_tensors(file, of_arrays(arrays))

    assert file.getvalue() == b"".join(array.tobytes() for array in arrays.values())


@pytest.mark.parametrize("suffix", ["safetensors", "bpk"])
def test_a_file_of_small_tensors_is_saved_with_few_writes(tmp_path, monkeypatch, suffix):
    arrays = {f"layers.{row}.weight": np.full(30, row, np.float32) for row in range(5_000)}
    sizes = []
    write = atomic._Temporary.write
    monkeypatch.setattr(atomic._Temporary, "write", lambda file, data: sizes.append(len(data)) or write(file, data))

    fastload.save(arrays, tmp_path / f"m.{suffix}")
    fastload.convert(tmp_path / f"m.{suffix}", tmp_path / f"n.{suffix}")

    size = (tmp_path / f"m.{suffix}").stat().st_size
    assert sum(sizes) == 2 * size and len(sizes) <= 2 * (size // GATHERED_BYTES + 5)
    assert (tmp_path / f"m.{suffix}").read_bytes() == (tmp_path / f"n.{suffix}").read_bytes()


def test_tensors_of_a_checkpoint_are_made_when_they_are_asked_for(tmp_path):
    fastload.save({"w": np.arange(3), "v": np.arange(4)}, tmp_path / "m.safetensors")

    tensors = of_checkpoint(fastload.open(tmp_path / "m.safetensors"))

    arrays = {tensor.name: tensor.array() for tensor in tensors}
    assert {name: list(array) for name, array in arrays.items()} == {"w": [0, 1, 2], "v": [0, 1, 2, 3]}
    assert not any(tensor.array() is arrays[tensor.name] for tensor in tensors)
