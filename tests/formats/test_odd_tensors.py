"""Tensors that are more, or less, than a view of a storage; torch is the oracle."""

import io
import pickle

import numpy as np
import pytest
import torch
from torch import nn

import fastload
from builders import tensor, torch_file
from pickles import Call, Global

LAYOUTS = {
    "zip": lambda value: saved(value),
    "zip, protocol 4": lambda value: saved(value, pickle_protocol=4),
    "legacy": lambda value: saved(value, _use_new_zipfile_serialization=False),
    **{f"pickle {protocol}": lambda value, protocol=protocol: pickle.dumps(value, protocol) for protocol in range(6)},
}
layouts = pytest.mark.parametrize("write", LAYOUTS.values(), ids=LAYOUTS)

pytestmark = pytest.mark.filterwarnings("ignore")  # of torch: what is a prototype or deprecated


def saved(value, **options):
    file = io.BytesIO()
    torch.save(value, file, **options)
    return file.getvalue()


def read(file):
    """Names, in order, with (dtype, shape, bytes)."""
    with fastload.open(file) as ckpt:
        return {name: (ckpt.entry(name).dtype, ckpt.entry(name).shape, ckpt[name].tobytes()) for name in ckpt}


def expected(tensors):
    return {name: described(value) for name, value in tensors.items()}


def described(value):
    value = value.detach()
    return str(value.dtype).removeprefix("torch."), tuple(value.shape), data_of(value)


def data_of(value):
    raw = value.detach()
    if raw.is_quantized:
        raw = raw.int_repr()
    return raw.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


# Quantised tensors.

VALUES = torch.linspace(-2, 7, 24).reshape(4, 6)
SCALES = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
ZEROS = torch.tensor([3, 0, 1, 2])


def per_channel(dtype, *, axis=0, floating=False):
    if floating:
        return torch.quantize_per_channel(VALUES, SCALES.float(), ZEROS + 0.5, axis, dtype)
    count = VALUES.shape[axis]
    return torch.quantize_per_channel(VALUES, SCALES.repeat(2)[:count], ZEROS.repeat(2)[:count], axis, dtype)


QUANTISED = {
    "qint8": lambda: torch.quantize_per_tensor(VALUES, 0.05, 3, torch.qint8),
    "quint8": lambda: torch.quantize_per_tensor(VALUES, 0.05, 3, torch.quint8),
    "qint32": lambda: torch.quantize_per_tensor(VALUES, 1e-5, -7, torch.qint32),
    "channels of qint8": lambda: per_channel(torch.qint8),
    "channels of quint8": lambda: per_channel(torch.quint8, axis=1),
    "channels of qint32": lambda: per_channel(torch.qint32),
    "float zero points": lambda: per_channel(torch.quint8, floating=True),
    "a scalar": lambda: torch.quantize_per_tensor(torch.tensor(1.0), 0.5, 1, torch.qint8),
    "empty": lambda: torch.quantize_per_tensor(torch.zeros(0, 3), 0.5, 1, torch.qint8),
    "a slice": lambda: torch.quantize_per_tensor(VALUES, 0.05, 3, torch.qint8)[1:, 2],
}


@layouts
@pytest.mark.parametrize("name", QUANTISED)
def test_a_quantised_tensor_has_its_integers_and_how_they_stand_for_floats(name, write):
    live = QUANTISED[name]()

    with fastload.open(write({"w": live, "x": torch.ones(2)})) as ckpt:
        entry = ckpt.entry("w")
        found = entry.quantization
        assert (entry.kind, entry.dtype, entry.shape) == ("quantised", str(live.dtype)[6:], tuple(live.shape))
        check_quantization(found, live)
        assert ckpt["w"].tobytes() == data_of(live)
        assert ckpt["w"].dtype == data_dtype(live)
        assert ckpt.entry("x").quantization is None
        assert ckpt["x"].tolist() == [1, 1]


def check_quantization(found, live):
    assert f"torch.{found.scheme}" == str(live.qscheme())
    if "channel" not in found.scheme:
        assert (found.scale, found.zero_point, found.axis) == (live.q_scale(), live.q_zero_point(), None)
        return
    assert found.axis == live.q_per_channel_axis()
    np.testing.assert_array_equal(found.scale, live.q_per_channel_scales().numpy(), strict=True)
    np.testing.assert_array_equal(found.zero_point, live.q_per_channel_zero_points().numpy(), strict=True)


def data_dtype(live):
    return {"torch.qint8": "int8", "torch.quint8": "uint8", "torch.qint32": "int32"}[str(live.dtype)]


@layouts
@pytest.mark.parametrize(("dtype", "in_a_byte"), [(torch.quint4x2, 2), (torch.quint2x4, 4)])
def test_integers_of_four_and_two_bits_are_the_bytes_that_pack_them(dtype, in_a_byte, write):
    values = VALUES[:3, :5]
    live = torch.quantize_per_channel(values, SCALES[:3].float(), ZEROS[:3] + 0.5, 0, dtype)
    size = -(-15 // in_a_byte)

    with fastload.open(write({"w": live, "x": torch.ones(2)})) as ckpt:
        entry = ckpt.entry("w")
        assert (entry.dtype, entry.shape, entry.nbytes) == (str(dtype)[6:], (3, 5), size)
        check_quantization(entry.quantization, live)
        assert ckpt["w"].dtype == np.uint8
        assert ckpt["w"].tobytes() == bytes(live.untyped_storage())[:size]
        assert ckpt["x"].tolist() == [1, 1]


@layouts
def test_what_was_asked_for_first_does_not_matter(write):
    """Scales and zero points of protocols 0 to 2 are decoded, and must not be taken for each other."""
    live = {"a": per_channel(torch.qint8), "b": per_channel(torch.quint8, axis=1), "c": torch.rand(3)}

    with fastload.open(write(live)) as ckpt:
        arrays = [ckpt["c"], ckpt["a"]]
        quantizations = [ckpt.entry("a").quantization, ckpt.entry("b").quantization]
        again = [ckpt.entry("b").quantization, ckpt["b"], ckpt["c"], ckpt["a"]]
        check_quantization(quantizations[0], live["a"])
        check_quantization(quantizations[1], live["b"])
        check_quantization(again[0], live["b"])
        assert [array.tobytes() for array in (*arrays, *again[1:])] == [
            data_of(live[name]) for name in ("c", "a", "b", "c", "a")
        ]


@layouts
def test_quantised_parameters_and_buffers_of_modules(write):
    module = nn.Linear(2, 2)
    module.weight = nn.Parameter(QUANTISED["qint8"](), requires_grad=False)
    module.register_buffer("q", per_channel(torch.qint8))

    assert read(write(module)) == expected(module.state_dict())
    with fastload.open(write(module)) as ckpt:
        check_quantization(ckpt.entry("weight").quantization, module.weight)
        check_quantization(ckpt.entry("q").quantization, module.q)


@pytest.mark.parametrize("io", ["mmap", "read"])
def test_quantization_of_a_file_that_is_read_piece_by_piece(io, tmp_path):
    live = per_channel(torch.qint8)
    for name, write in LAYOUTS.items():
        (tmp_path / name).write_bytes(write({"w": live}))
        with fastload.open(tmp_path / name, io=io) as ckpt:
            check_quantization(ckpt.entry("w").quantization, live)
            assert ckpt["w"].tobytes() == data_of(live)


QTENSOR = Global("torch._utils", "_rebuild_qtensor")
SCHEME = Global("torch", "per_channel_affine")
W = tensor("float32", (2,), [1, 2])


@pytest.mark.parametrize(
    "quantizer",
    [
        None, (), 3, (SCHEME,), (SCHEME, 1.0), ("per_tensor_affine", 1.0, 0), ({}, {}, {}), [SCHEME, 1.0, 0],
    ],
    ids=str,
)  # fmt: skip
def test_a_quantizer_that_says_nothing_is_refused(quantizer):
    with pytest.raises(fastload.FormatError):
        fastload.open(torch_file({"w": quantised(quantizer)}))


@pytest.mark.parametrize(
    "quantizer",
    [
        (SCHEME, [0.5, 0.25], [0, 1], 0), (SCHEME, {}, None, "x"), (SCHEME, W, W, W), (SCHEME, None, None, None),
        (Global("os", "system"), 1.0, 0), (SCHEME, Call(Global("os", "system"), ("x",)), 0, 0),
        (SCHEME, 1.0, 0, 0, 0, 0), (SCHEME, [[[]]] * 3, 2**80, -1),
    ],
    ids=str,
)  # fmt: skip
def test_a_quantizer_of_odd_parts_is_shown_as_it_is(quantizer):
    with fastload.open(torch_file({"w": quantised(quantizer), "v": W})) as ckpt:
        assert isinstance(repr(ckpt.entry("w").quantization), str)
        assert ckpt["w"].tolist() == [1, 2] and ckpt["v"].tolist() == [1, 2]


def quantised(quantizer):
    held = tensor("int8", (2,), [1, 2]).storage
    return Call(QTENSOR, (type(held)("QInt8Storage", 1, held.data), 0, (2,), (1,), quantizer, False, None))


# Sparse tensors.


def components(name, value):
    """The tensors that make up a sparse one, as they are stored."""
    layout = value.layout
    if layout == torch.sparse_coo:
        return {f"{name}.indices": value._indices(), f"{name}.values": value._values()}
    if layout in (torch.sparse_csr, torch.sparse_bsr):
        outer, inner = {"crow_indices": value.crow_indices()}, {"col_indices": value.col_indices()}
    else:
        outer, inner = {"ccol_indices": value.ccol_indices()}, {"row_indices": value.row_indices()}
    return {f"{name}.{key}": part for key, part in {**outer, **inner, "values": value.values()}.items()}


DENSE = torch.tensor([[1.0, 0, 2, 0], [0, 3, 0, 4]])
SPARSE = {
    "coo": lambda: DENSE.to_sparse(),
    "uncoalesced": lambda: torch.sparse_coo_tensor([[0, 0, 1], [1, 1, 0]], [1.0, 2.0, 3.0], (2, 2)),
    "hybrid": lambda: torch.sparse_coo_tensor([[0, 1]], torch.rand(2, 3), (2, 3)),
    "integers": lambda: torch.sparse_coo_tensor([[0, 1]], [1, 2], (2,)),
    "empty": lambda: torch.sparse_coo_tensor(size=(2, 2)),
    "csr": lambda: DENSE.to_sparse_csr(),
    "csc": lambda: DENSE.to_sparse_csc(),
    "bsr": lambda: DENSE.to_sparse_bsr((1, 2)),
    "bsc": lambda: DENSE.to_sparse_bsc((1, 2)),
    "batched csr": lambda: torch.stack([DENSE, DENSE]).to_sparse_csr(),
    "hybrid csr": lambda: torch.sparse_csr_tensor([0, 1, 2], [0, 1], torch.rand(2, 3), (2, 2, 3)),
    "32 bits": lambda: torch.sparse_csr_tensor(
        torch.tensor([0, 1, 2], dtype=torch.int32), torch.tensor([0, 1], dtype=torch.int32), [1.0, 2.0], (2, 2)
    ),
}


@layouts
@pytest.mark.parametrize("name", SPARSE)
def test_a_sparse_tensor_is_its_components(name, write):
    live = SPARSE[name]()

    with fastload.open(write({"w": live, "p": nn.Parameter(live, requires_grad=False), "x": torch.ones(1)})) as ckpt:
        entries = ckpt.entries()

    found = read(write({"w": live, "p": nn.Parameter(live, requires_grad=False), "x": torch.ones(1)}))
    names = {**components("w", live), **components("p", live)}
    assert list(found) == [*names, "x"]
    assert found == expected({**names, "x": torch.ones(1)})
    assert [entry.kind for entry in entries] == ["component"] * len(names) + ["tensor"]
    assert entries[0].key_path == ("w", next(iter(names)).partition(".")[2])


@pytest.mark.parametrize("name", ["coo", "csr"])
def test_a_sparse_tensor_at_the_root(name):
    live = SPARSE[name]()

    assert list(read(saved(live))) == [key.removeprefix("x.") for key in components("x", live)]


@layouts
def test_sparse_parameters_and_buffers_of_modules(write):
    module = nn.Linear(4, 2)
    module.weight = nn.Parameter(DENSE.to_sparse())
    module.register_buffer("rows", DENSE.to_sparse_csr())
    module.register_buffer("passing", DENSE.to_sparse(), persistent=False)
    root = nn.Sequential(module, nn.Linear(1, 1))

    found = read(write(root))

    inner = {**components("0.weight", module.weight), "0.bias": module.bias, **components("0.rows", module.rows)}
    assert list(found) == [*inner, "1.weight", "1.bias"]
    assert found == expected({**inner, "1.weight": root[1].weight, "1.bias": root[1].bias})
    with fastload.open(write(root)) as ckpt:
        assert ckpt.entry("0.weight.values").key_path == ("0.weight", "values")


@pytest.mark.parametrize(
    "args",
    [
        (), (None,), (None, None), (Global("torch", "sparse_coo"), None), (Global("torch", "sparse_new"), (W, W)),
        ("sparse_coo", (W, W, (2, 2))), (7, (2, 2), False, W, W, None), (Global("torch", "sparse_coo"), [W, W]),
        (Global("torch", "sparse_coo"), (W, W, W, W)), (W, W), (1, (2, 2), False, W), (2, W, W, W, W),
    ],
    ids=str,
)  # fmt: skip
def test_a_sparse_tensor_that_is_not_described_rightly_loses_no_tensor(args):
    count = str(args).count("Tensor(")
    made = Call(Global("torch._utils", "_rebuild_sparse_tensor"), args)

    found = read(torch_file({"s": made, "w": W}))

    assert len(found) == count + 1


# Nested tensors.


@layouts
def test_a_nested_tensor_is_its_components(write):
    live = torch.nested.nested_tensor([torch.rand(2, 3), torch.rand(1, 3)])

    for value in (live, nn.Parameter(live)):
        assert read(write({"n": value})) == expected(
            {
                "n.values": live.values(),
                "n.sizes": live._nested_tensor_size(),
                "n.strides": live._nested_tensor_strides(),
                "n.offsets": live._nested_tensor_storage_offsets(),
            }
        )


@layouts
def test_a_jagged_tensor_is_its_components(write):
    live = torch.nested.nested_tensor([torch.rand(2, 3), torch.rand(1, 3)], layout=torch.jagged)

    found = read(write({"n": live, "x": torch.ones(1)}))

    named = {"n.values": live.values(), "n.offsets": live.offsets(), "x": torch.ones(1)}
    assert {name: value for name, value in found.items() if "cache" not in name} == expected(named)


# Attributes, subclasses, wrappers.


class Labelled(torch.Tensor):
    pass


def with_attributes(value, **attributes):
    for name, attribute in attributes.items():
        setattr(value, name, attribute)
    return value


@layouts
def test_tensors_among_the_attributes_of_tensors_are_behind_their_names(write):
    note, index, deep = torch.rand(1), torch.rand(2), torch.rand(3)
    value = {
        "t": with_attributes(torch.rand(2), note=note, text="x"),
        "p": with_attributes(nn.Parameter(torch.rand(2)), index=index),
        "s": with_attributes(torch.rand(2).as_subclass(Labelled), deep={"k": [deep]}),
        "plain": with_attributes(torch.rand(1), scale=3),
    }

    found = read(write(value))

    assert found == expected(
        {
            "t": value["t"], "t.note": note, "p": value["p"], "p.index": index, "s": value["s"], "s.deep.k.0": deep,
            "plain": value["plain"],
        }
    )  # fmt: skip


@layouts
def test_attributes_of_the_parameters_of_a_module(write):
    module = nn.Linear(2, 2)
    module.weight.index = torch.rand(3)

    assert read(write(module)) == expected(
        {"weight": module.weight, "weight.index": module.weight.index, "bias": module.bias}
    )


@layouts
def test_a_buffer_is_a_buffer_and_a_parameter_of_a_subclass_a_parameter(write):
    value = {
        "b": nn.Buffer(torch.rand(2)),
        "passing": nn.Buffer(torch.rand(2), persistent=False),
        "s": torch.rand(2).as_subclass(Labelled),
        "p": nn.Parameter(torch.rand(2).as_subclass(Labelled)),
    }

    with fastload.open(write(value)) as ckpt:
        assert [ckpt.entry(name).kind for name in ckpt] == ["buffer", "buffer", "tensor", "parameter"]
    assert read(write(value)) == expected(value)


@layouts
def test_buffers_of_a_module(write):
    module = nn.Linear(1, 1)
    module.kept = nn.Buffer(torch.rand(2))
    module.passing = nn.Buffer(torch.rand(2), persistent=False)

    assert read(write(module)) == expected(module.state_dict())


class Pair(torch.Tensor):
    """A tensor without data of its own, made of two others."""

    @staticmethod
    def __new__(cls, left, right):
        return torch.Tensor._make_wrapper_subclass(cls, left.shape, dtype=left.dtype)

    def __init__(self, left, right):
        self.left = left
        self.right = right

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return function(*args, **(kwargs or {}))


@layouts
def test_a_wrapper_is_the_tensors_within_it(write):
    left, right = torch.rand(2, 3), torch.rand(2, 3)

    assert read(write({"w": Pair(left, right), "x": left})) == expected({"w.left": left, "w.right": right, "x": left})


def test_a_wrapper_without_tensors_is_listed_without_data():
    wrapper = Pair(torch.rand(2, 3), torch.rand(2, 3))
    del wrapper.left, wrapper.right

    with fastload.open(saved({"w": wrapper})) as ckpt:
        assert (ckpt.entry("w").shape, ckpt.entry("w").dtype) == ((2, 3), "float32")
        with pytest.raises(fastload.UnsupportedError):
            ckpt["w"]


@layouts
def test_wrappers_as_parameters_of_modules(write):
    left, right = torch.rand(1, 1), torch.rand(1, 1)
    module = nn.Linear(1, 1)
    del module.weight
    module.register_buffer("weight", Pair(left, right))

    assert read(write(module)) == expected({"bias": module.bias, "weight.left": left, "weight.right": right})


@pytest.fixture
def mesh():
    """Of one process, this one."""
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield torch.distributed.init_device_mesh("cpu", (1,))
    torch.distributed.destroy_process_group()


def test_a_distributed_tensor_is_its_local_part(mesh):
    from torch.distributed.tensor import Shard, distribute_tensor

    local = torch.rand(4, 2)
    found = read(saved({"w": distribute_tensor(local, mesh, [Shard(0)]), "x": torch.ones(1)}))

    assert found["w._local_tensor"] == described(local) and found["x"] == described(torch.ones(1))


# No data, and too many dimensions.


@layouts
def test_a_meta_tensor_is_listed_and_has_no_data(write):
    value = {"m": torch.empty(2, 3, device="meta"), "p": nn.Parameter(torch.empty(3, device="meta").half())}

    with fastload.open(write(value)) as ckpt:
        assert [(entry.name, entry.dtype, entry.shape, entry.kind) for entry in ckpt.entries()] == [
            ("m", "float32", (2, 3), "meta"),
            ("p", "float16", (3,), "meta"),
        ]
        for name in ckpt:
            with pytest.raises(fastload.UnsupportedError, match="meta"):
                ckpt[name]


@layouts
def test_what_is_not_initialised_is_not_listed(write):
    value = {"u": nn.UninitializedParameter(), "b": nn.UninitializedBuffer(), "x": torch.ones(1)}

    assert list(read(write(value))) == ["x"]


@layouts
def test_more_dimensions_than_numpy_has_are_listed_and_refused(write):
    value = {"most": torch.rand(2).view(*(1,) * 63, 2), "more": torch.rand(2).view(*(1,) * 64, 2)}

    with fastload.open(write(value)) as ckpt:
        assert ckpt["most"].shape == tuple(value["most"].shape)
        assert ckpt.entry("more").shape == tuple(value["more"].shape)
        with pytest.raises(fastload.UnsupportedError, match="65 dimensions"):
            ckpt["more"]


@pytest.mark.parametrize("layout", ["zip", "zip, protocol 4", "legacy", "pickle 2", "pickle 5"])
def test_a_generator_holds_nobodys_weights(layout):
    value = {"g": torch.Generator(), "x": torch.ones(1)}

    assert list(read(LAYOUTS[layout](value))) == ["x"]
