"""PyTorch zip against torch as the oracle: what torch.save writes, we read with the same names, views and bytes."""

import collections
import io
import itertools

import numpy as np
import pytest
import torch

import fastload

DTYPES = [
    "bool",
    "uint8",
    "int8",
    "uint16",
    "int16",
    "uint32",
    "int32",
    "uint64",
    "int64",
    "float16",
    "bfloat16",
    "float32",
    "float64",
    "complex32",
    "complex64",
    "complex128",
    "float8_e4m3fn",
    "float8_e5m2",
    "float8_e8m0fnu",
    "float8_e4m3fnuz",
    "float8_e5m2fnuz",
    "float4_e2m1fn_x2",
    "bits8",
    "bits16",
    "bits1x8",
    "bits2x4",
    "bits4x2",
]
ARRAY_DTYPES = {  # where an array's dtype is not the tensor's by name
    "complex32": "float16",
    "float4_e2m1fn_x2": "uint8",
    "bits8": "uint8",
    "bits16": "uint16",
    "bits1x8": "uint8",
    "bits2x4": "uint8",
    "bits4x2": "uint8",
}


def saved(value, **options):
    file = io.BytesIO()
    torch.save(value, file, **options)
    return file.getvalue()


def leaves(value, key_path=()):
    """(key path, tensor) of every tensor below *value*, in the order in which the pickler met them."""
    if isinstance(value, torch.Tensor):
        yield key_path, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, (*key_path, key))
    elif isinstance(value, (list, tuple)):
        for position, inner in enumerate(value):
            yield from leaves(inner, (*key_path, position))


def values_of(tensor):
    """The bytes of a tensor's values in row-major order, by numpy over its storage."""
    if tensor.numel() == 0:
        return b""
    size = tensor.element_size()
    strides = [step * size for step in tensor.stride()]
    raw = bytes(tensor.untyped_storage())
    return np.ndarray(tuple(tensor.shape), f"V{size}", raw, tensor.storage_offset() * size, strides).tobytes()


def assert_same(file, value):
    """What fastload reads from *file* is *value*, tensor for tensor."""
    with fastload.open(file) as checkpoint:
        expected = list(leaves(value))
        assert [entry.key_path for entry in checkpoint.entries()] == [key_path for key_path, _ in expected]
        storages = {}
        for entry, (_, tensor) in zip(checkpoint.entries(), expected, strict=True):
            name = str(tensor.dtype).removeprefix("torch.")
            size = tensor.element_size()
            array = checkpoint[entry.name]
            assert entry.dtype == name and entry.shape == tuple(tensor.shape)
            assert array.dtype.name == ARRAY_DTYPES.get(name, name)
            assert array.shape == tuple(tensor.shape) + ((2,) if name == "complex32" else ())
            assert array.tobytes() == values_of(tensor)
            assert not array.flags.writeable
            if tensor.numel():
                assert [step for step, length in zip(entry.strides, entry.shape, strict=True) if length > 1] == [
                    step * size for step, length in zip(tensor.stride(), tensor.shape, strict=True) if length > 1
                ]
                address = tensor.untyped_storage().data_ptr()
                assert storages.setdefault(address, entry.storage) == entry.storage
        assert len(set(storages.values())) == len(storages)


def sample(name="float32", shape=(3, -1)):
    return torch.frombuffer(bytearray(range(48)), dtype=torch.uint8).view(getattr(torch, name)).reshape(shape)


@pytest.mark.parametrize("name", DTYPES)
def test_every_dtype(name):
    tensor = sample(name) if name != "bool" else torch.arange(48).reshape(3, 16) % 3 == 0
    value = {"w": tensor, "transposed": tensor.T, "row": tensor[1], "scalar": tensor[2, 0]}

    assert_same(saved(value), value)


VIEWS = {
    "transposed": lambda base: base.T,
    "permuted": lambda base: base.reshape(2, 3, 4).permute(2, 0, 1),
    "sliced": lambda base: base[1:3],
    "column": lambda base: base[:, 2],
    "every other": lambda base: base[::2, 1::2],
    "diagonal": lambda base: base.diagonal(),
    "expanded": lambda base: base[0, 1].expand(3, 5),
    "overlapping": lambda base: base.reshape(-1).as_strided((5, 3), (2, 1), 4),
    "scalar": lambda base: base[3, 5],
    "one element": lambda base: base[3:, 5:],
    "odd stride of one": lambda base: base.as_strided((1, 6), (10**9, 1)),
    "empty": lambda base: base[2:2],
    "empty in the middle": lambda base: base[:, 3:3],
    "whole": lambda base: base,
}


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_views_keep_strides_and_offset(view):
    value = {"v": view(torch.arange(24, dtype=torch.float32).reshape(4, 6))}

    assert_same(saved(value), value)


def test_transposed_tensor_has_the_right_values():
    view = fastload.open(saved({"w": torch.tensor([[0, 1], [2, 3], [4, 5]]).T}))["w"]

    assert view.tolist() == [[0, 2, 4], [1, 3, 5]]
    assert not view.flags.c_contiguous and not view.flags.owndata


def test_shared_storages_are_views_of_the_same_memory():
    base = torch.arange(12, dtype=torch.float32)
    value = {"base": base, "tied": base, "part": base[4:8], "reshaped": base.reshape(3, 4), "other": base.clone()}
    checkpoint = fastload.open(saved(value))

    assert_same(saved(value), value)
    for name in ("tied", "part", "reshaped"):
        assert np.shares_memory(checkpoint["base"], checkpoint[name])
    assert not np.shares_memory(checkpoint["base"], checkpoint["other"])


STRUCTURES = {
    "nested dicts": {"a": {"b": {"c": torch.ones(1)}}, "d": torch.ones(2)},
    "lists and tuples": {"l": [torch.ones(1), (torch.ones(2), [torch.ones(3)])]},
    "int keys": {"state": {0: {"step": torch.tensor(3.0)}, 10: {"step": torch.tensor(4.0)}}},
    "ordered": collections.OrderedDict([("z", torch.ones(1)), ("a", torch.ones(2))]),
    "counter": {"c": collections.Counter("abca"), "w": torch.ones(1)},
    "defaultdict": collections.defaultdict(list, {"x": [torch.ones(1)]}),
    "scalars between": {"epoch": 3, "w": torch.ones(1), "lr": 0.1, "name": "x", "none": None, "b": torch.zeros(1)},
    "unicode": {"ключ": torch.ones(1), "重み.😀": torch.ones(2), "": torch.ones(3)},
    "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 1e-3, "params": [0]}]},
    "no tensors": {"epoch": 1},
    "empty": {},
    "a list at the root": [torch.ones(1), torch.ones(2)],
    "a tuple at the root": (torch.ones(1), {"w": torch.ones(2)}),
    "torch things": {
        "size": torch.Size([1, 2]),
        "device": torch.device("cpu"),
        "dtype": torch.float16,
        "w": torch.ones(1),
    },
}


@pytest.mark.parametrize("value", STRUCTURES.values(), ids=STRUCTURES)
@pytest.mark.parametrize("protocol", [2, 4])
def test_structures(value, protocol):
    assert_same(saved(value, pickle_protocol=protocol), value)


@pytest.mark.parametrize("protocol", [1, 2, 3, 4, 5])
def test_every_protocol_torch_can_write(protocol):
    base = torch.arange(6, dtype=torch.float32)
    value = collections.OrderedDict([("w", base.reshape(2, 3).T), ("n", [{"b": base[2:]}]), ("h", sample("bfloat16"))])

    assert_same(saved(value, pickle_protocol=protocol), value)


def test_parameters_are_tensors_of_that_kind():
    parameter = torch.nn.Parameter(torch.arange(4.0))
    value = {"p": parameter, "frozen": torch.nn.Parameter(torch.ones(2), requires_grad=False), "t": torch.ones(1)}
    checkpoint = fastload.open(saved(value))

    assert [checkpoint.entry(name).kind for name in value] == ["parameter", "parameter", "tensor"]
    assert_same(saved(value), value)


def test_a_parameter_with_attributes_is_still_a_parameter():
    parameter = torch.nn.Parameter(torch.arange(4.0))
    parameter.note = "kept in its state"
    checkpoint = fastload.open(saved({"p": parameter}))

    assert checkpoint["p"].tolist() == [0, 1, 2, 3] and checkpoint.entry("p").kind == "parameter"


def test_a_tensor_that_requires_grad_is_a_tensor():
    value = {"g": torch.ones(3, requires_grad=True), "t": torch.ones(2)}

    assert_same(saved(value), value)


def test_a_state_dict_has_its_own_names():
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3), torch.nn.Embedding(4, 3))
    checkpoint = fastload.open(saved(model.state_dict()))

    assert list(checkpoint) == list(model.state_dict())
    assert_same(saved(model.state_dict()), model.state_dict())


def test_a_tensor_at_the_root_has_the_empty_name():
    checkpoint = fastload.open(saved(torch.arange(3)))

    assert list(checkpoint) == [""] and checkpoint.entry("").key_path == ()
    assert checkpoint[""].tolist() == [0, 1, 2]


def test_two_tensors_of_one_dotted_name_are_told_apart():
    value = {
        "a.b": torch.ones(1),
        "a": {"b#2": torch.ones(2), "b": torch.ones(3)},
        1: torch.ones(4),
        "1": torch.ones(5),
    }
    checkpoint = fastload.open(saved(value))

    assert {name: checkpoint.entry(name).key_path for name in checkpoint} == {
        "a.b": ("a.b",),
        "a.b#2": ("a", "b#2"),
        "a.b#3": ("a", "b"),  # "a.b#2" is taken
        "1": (1,),
        "1#2": ("1",),
    }


def test_a_meta_tensor_is_listed_and_its_data_refused():
    checkpoint = fastload.open(saved({"m": torch.empty(3, 4, dtype=torch.bfloat16, device="meta"), "w": torch.ones(1)}))

    entry = checkpoint.entry("m")
    assert (entry.kind, entry.dtype, entry.shape, entry.zero_copy) == ("meta", "bfloat16", (3, 4), False)
    assert entry.offset is None
    with pytest.raises(fastload.UnsupportedError, match="meta"):
        checkpoint["m"]
    assert checkpoint["w"].tolist() == [1]


def test_conjugate_and_negative_views_are_resolved_into_copies():
    value = torch.tensor([1 + 2j, 3 - 4j])
    negative = value.clone().conj().imag
    assert negative.is_neg()
    conjugate_file, negative_file = saved({"w": value.conj()}), saved({"w": negative})

    for file, expected in ((conjugate_file, [1 - 2j, 3 + 4j]), (negative_file, [-2, 4])):
        checkpoint = fastload.open(file)
        assert checkpoint["w"].tolist() == expected and not checkpoint["w"].flags.writeable
        assert not checkpoint.entry("w").zero_copy and checkpoint.entry("w").offset is None
        with pytest.raises(fastload.UnsupportedError, match="allow_copy"):
            fastload.open(file, allow_copy=False)["w"]


def test_special_floats_keep_their_bits():
    value = {"w": torch.tensor([float("nan"), float("inf"), -0.0, 1e-45])}

    assert_same(saved(value), value)


def test_the_prefix_comes_from_the_archive_and_not_from_the_file_name(tmp_path):
    value = {"w": torch.arange(3)}
    for name in ("a.b.c.pt", "plain", "имя.pt", "with space.bin"):
        torch.save(value, tmp_path / name)
        (tmp_path / name).rename(tmp_path / "renamed.safetensors")

        assert_same(tmp_path / "renamed.safetensors", value)


@pytest.mark.parametrize("alignment", [1, 64, 4096])
def test_storage_alignment_as_torch_can_be_told(alignment):
    from torch.utils.serialization import config

    value = {"w": torch.arange(3), "b": torch.ones(7)}
    config.save.storage_alignment = alignment
    try:
        file = saved(value)
    finally:
        config.save.storage_alignment = 64

    assert_same(file, value)
    assert all(entry.offset % alignment == 0 for entry in fastload.open(file).entries())


def test_a_file_without_checksums_is_read():
    torch.serialization.set_crc32_options(False)
    try:
        file = saved({"w": torch.arange(3)})
    finally:
        torch.serialization.set_crc32_options(True)

    assert_same(file, {"w": torch.arange(3)})


def test_records_beyond_4_gib_are_found_through_zip64(tmp_path):
    huge, after = torch.empty(5 << 30, dtype=torch.uint8), torch.ones(4)
    with torch.serialization.skip_data():
        torch.save({"huge": huge, "part": huge[(5 << 30) - 3 :], "after": after}, tmp_path / "sparse.pt")

    checkpoint = fastload.open(tmp_path / "sparse.pt")

    assert checkpoint["huge"].nbytes == 5 << 30 and checkpoint.entry("after").offset > 5 << 30
    assert checkpoint["part"].tolist() == [0, 0, 0] and checkpoint["after"].tolist() == [0, 0, 0, 0]


def test_offsets_are_those_of_the_bytes_in_the_file():
    file = saved({"w": torch.arange(40, dtype=torch.int64)[5:], "b": torch.arange(7, dtype=torch.int16)})

    for entry in fastload.open(file).entries():
        first = int.from_bytes(file[entry.offset : entry.offset + 2], "little")
        assert first == {"w": 5, "b": 0}[entry.name]


def test_metadata_of_a_state_dict_does_not_become_a_tensor():
    state = torch.nn.Linear(2, 2).state_dict()
    assert state._metadata

    assert list(fastload.open(saved(state))) == ["weight", "bias"]


def test_many_shapes_and_offsets_of_one_storage():
    base = torch.arange(60, dtype=torch.int32)
    value = {
        f"{start}.{rows}.{step}": base[start:].as_strided((rows, 3), (step, 2), start)
        for start, rows, step in itertools.product([0, 1, 7], [1, 4], [0, 1, 9])
    }

    assert_same(saved(value), value)
