"""TensorEntry: what each property says, in which unit."""

import numpy as np
import pytest

import fastload
from builders import Storage, Tensor, safetensors_file, smallest_file, storage, tensor, torch_file

PROPERTIES = [
    "name",
    "key_path",
    "dtype",
    "shape",
    "strides",
    "offset",
    "nbytes",
    "storage",
    "file",
    "zero_copy",
    "kind",
    "quantization",
]


def test_every_property_is_there_and_of_its_type():
    (entry,) = fastload.open(smallest_file("safetensors")).entries()

    types = {name: type(getattr(entry, name)) for name in PROPERTIES}

    assert types == {
        "name": str, "key_path": tuple, "dtype": str, "shape": tuple, "strides": tuple, "offset": int, "nbytes": int,
        "storage": int, "file": type(None), "zero_copy": bool, "kind": str, "quantization": type(None),
    }  # fmt: skip
    assert isinstance(entry, fastload.TensorEntry)


@pytest.mark.parametrize("name", PROPERTIES)
def test_an_entry_cannot_be_changed(name):
    (entry,) = fastload.open(smallest_file("safetensors")).entries()

    with pytest.raises((AttributeError, TypeError)):
        setattr(entry, name, None)


def test_offset_counts_bytes_from_the_start_of_the_file():
    held = storage("int64", range(10))
    file = torch_file({"w": tensor("int64", (3,), held, offset=7)})

    entry = fastload.open(file).entry("w")

    assert np.frombuffer(file, "<i8", 3, entry.offset).tolist() == [7, 8, 9]


def test_strides_count_bytes_and_shape_elements():
    entry = fastload.open(torch_file({"w": Tensor(storage("float64", range(6)), (2, 3), (1, 2))})).entry("w")

    assert (entry.shape, entry.strides, entry.nbytes) == ((2, 3), (8, 16), 48)


def test_nbytes_is_that_of_the_values_and_not_of_the_storage():
    held = storage("float32", range(100))
    root = {
        "part": tensor("float32", (2,), held, offset=50),
        "spread": Tensor(held, (1000, 2), (0, 1)),
        "none": tensor("float32", (0,), held),
    }
    checkpoint = fastload.open(torch_file(root))

    assert [entry.nbytes for entry in checkpoint.entries()] == [8, 8000, 0]
    assert len({entry.storage for entry in checkpoint.entries()}) == 1


def test_key_paths_keep_integers_and_text_apart():
    one = tensor("int8", (1,), [1])
    checkpoint = fastload.open(torch_file({"a": {1: one, "1": [one]}, "x.y": one}))

    assert [(entry.name, entry.key_path) for entry in checkpoint.entries()] == [
        ("a.1", ("a", 1)),
        ("a.1.0", ("a", "1", 0)),
        ("x.y", ("x.y",)),
    ]
    assert [type(key) for key in checkpoint.entry("a.1").key_path] == [str, int]


def test_the_file_is_the_path_it_came_from(tmp_path):
    (tmp_path / "m.pt").write_bytes(smallest_file("pytorch-zip"))

    assert fastload.open(tmp_path / "m.pt").entry("w").file == str(tmp_path / "m.pt")


def test_what_is_not_a_view_has_no_offset():
    checkpoint = fastload.open(torch_file({"w": tensor("float32", (2,), [1, 2])}, deflate=["data/0"]))

    assert checkpoint.entry("w").offset is None and not checkpoint.entry("w").zero_copy


def test_a_stride_of_zero_is_a_view_however_large_it_looks():
    held = Storage("ByteStorage", 1, b"\7")
    checkpoint = fastload.open(torch_file({"w": Tensor(held, (2**20, 2**20), (0, 0))}))

    assert checkpoint.entry("w").nbytes == 2**40 and checkpoint["w"].shape == (2**20, 2**20)
    assert checkpoint["w"][-1, -1] == 7


def test_entries_outlive_the_checkpoint():
    with fastload.open(safetensors_file({"w": ("F32", (2,), bytes(8))})) as checkpoint:
        entries = list(checkpoint.entries())
    del checkpoint

    assert [(entry.name, entry.shape, entry.dtype) for entry in entries] == [("w", (2,), "float32")]


def test_repr_names_the_tensor_with_controls_escaped():
    (entry,) = fastload.open(safetensors_file({"w\n\u202e": ("F32", (2,), bytes(8))})).entries()

    assert "w\\n" in repr(entry) and "\u202e" not in repr(entry) and "\n" not in repr(entry)
    assert "float32" in repr(entry) and "2" in repr(entry)


def test_two_hundred_thousand_entries_are_listed_within_seconds():
    count = 200_000
    header = ",".join(f'"t{n}":{{"dtype":"U8","shape":[1],"data_offsets":[{n},{n + 1}]}}' for n in range(count))
    from builders import safetensors_raw

    checkpoint = fastload.open(safetensors_raw("{" + header + "}", bytes(count)))

    assert sum(entry.nbytes for entry in checkpoint.entries()) == count
    assert checkpoint.entry(f"t{count - 1}").name == f"t{count - 1}"


def test_sizes_and_strides_beyond_the_small_integers_are_objects_of_their_own():
    held = storage("uint8", bytes(300_000))
    entry = fastload.open(torch_file({"w": Tensor(held, (300, 400), (1, 700))})).entry("w")

    shapes, strides = [entry.shape for _ in range(1000)], [entry.strides for _ in range(1000)]
    texts = {repr(entry) for _ in range(1000)}

    assert set(shapes) == {(300, 400)} and set(strides) == {(1, 700)} and len(texts) == 1
