"""Keys that look alike, parameters with attributes, and values that are resolved by a copy; torch is the oracle."""

import collections
import datetime
import enum
import io

import numpy as np
import pytest
import torch

import fastload


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


def saved(value, **options):
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("protocol", [0, 1, 2, 4])
@pytest.mark.parametrize(
    "keys",
    [
        (None, "None"),
        (1.5, "1.5"),
        ((1,), "(1,)"),
        (Colour.RED, Colour.BLUE),
        (datetime.date(2020, 1, 1), datetime.date(2021, 1, 1)),
        (b"k", "b'k'"),
    ],
    ids=repr,
)
@pytest.mark.parametrize("others", [0, 20])
def test_keys_that_only_look_alike_keep_their_tensors(keys, others, protocol):
    tensors = {key: torch.full((2,), float(i)) for i, key in enumerate((*keys, *range(others)))}

    ckpt = fastload.open(saved(tensors, pickle_protocol=protocol))

    assert [array.tolist() for array in ckpt.values()] == [tensor.tolist() for tensor in tensors.values()]


class SetOneAfterTheOther(dict):
    """A mapping that is pickled as the keys and values that are set in it, one after the other."""

    def __init__(self, pairs):
        super().__init__(pairs)
        self.pairs = pairs

    def __reduce__(self):
        return collections.OrderedDict, (), None, None, iter(self.pairs)


@pytest.mark.parametrize("last", [torch.zeros(2), None, {"in": torch.zeros(2)}], ids=["tensor", "None", "dict"])
@pytest.mark.parametrize("first", [torch.ones(2), {"in": torch.ones(2)}], ids=["tensor", "dict"])
@pytest.mark.parametrize("others", [0, 20])
def test_of_a_key_that_is_set_twice_the_last_value_counts_in_the_first_place(others, first, last):
    pairs = [("k", first), *((f"t{i}", torch.full((2,), float(i))) for i in range(others)), ("k", last)]
    stream = saved(SetOneAfterTheOther(pairs))
    expected = torch.load(io.BytesIO(stream))
    leaves = {}
    for key, value in expected.items():
        leaves |= {f"{key}.in": value["in"]} if isinstance(value, dict) else {key: value} if value is not None else {}

    ckpt = fastload.open(stream)

    assert list(ckpt) == list(leaves)
    assert [array.tolist() for array in ckpt.values()] == [tensor.tolist() for tensor in leaves.values()]


def test_keys_that_are_no_texts_are_called_by_what_they_are():
    keys = [b"k", torch.float32, 1j, frozenset([1]), (1, "a"), 10**30, None, 2.5]

    ckpt = fastload.open(saved({key: torch.ones(1) for key in keys}))

    assert list(ckpt) == [str(key) for key in keys]


def test_a_parameter_with_plain_attributes_is_read_under_each_of_its_names():
    parameter = torch.nn.Parameter(torch.ones(2))
    parameter.scale = 3

    ckpt = fastload.open(saved({"p": parameter, "tied": parameter}))

    assert list(ckpt) == ["p", "tied"] and ckpt.entry("p").kind == "parameter"


RESOLVED = {
    "conj": torch.tensor([[1 + 2j, 3 - 4j]]).t().conj(),
    "a scalar": torch.tensor(1 + 2j).conj(),
    "neg": torch.tensor([1 + 2j, 3j]).conj().imag,
    "both": torch._neg_view(torch.tensor([1 + 2j]).conj()),
    "broadcast": torch.tensor([[1 + 2j], [2j]]).expand(2, 5).conj(),
    "empty": torch.zeros(0, 3, dtype=torch.complex64).conj(),
}


@pytest.mark.parametrize("name", RESOLVED)
def test_conjugated_and_negated_values_are_resolved(name):
    array = fastload.open(saved({"x": RESOLVED[name]}))["x"]

    assert isinstance(array, np.ndarray)
    np.testing.assert_array_equal(array, RESOLVED[name].resolve_conj().resolve_neg().numpy())
    with pytest.raises(ValueError, match="WRITEABLE"):
        array.flags.writeable = True


@pytest.mark.filterwarnings("ignore:ComplexHalf support")
def test_half_complex_is_conjugated_in_its_second_half():
    x = torch.tensor([1 + 2j, 3 - 4j], dtype=torch.complex32).conj()

    assert fastload.open(saved({"x": x}))["x"].tolist() == [[1, -2], [3, 4]]


def test_a_huge_broadcast_conjugate_costs_nothing():
    x = torch.ones(1, dtype=torch.complex64).expand(2**20, 2**12).conj()

    array = fastload.open(saved({"x": x}))["x"]

    assert array.shape == (2**20, 2**12) and array[-1, -1] == 1


def test_a_conjugate_that_repeats_its_storage_by_overlap_is_a_limit():
    x = torch.zeros(4096, dtype=torch.complex64).as_strided((1024, 1024, 1024), (1, 1, 1)).conj()

    with pytest.raises(fastload.LimitError):
        fastload.open(saved({"x": x}))["x"]


def test_negated_bfloat16_is_resolved():
    x = torch._neg_view(torch.tensor([1.5, -2.0], dtype=torch.bfloat16))

    assert fastload.open(saved({"x": x}))["x"].astype("float32").tolist() == [-1.5, 2.0]


def test_thousands_of_keys_that_are_objects_are_told_apart_in_linear_work():
    days = [datetime.date.fromordinal(700_000 + i) for i in range(3000)]

    assert len(fastload.open(saved(dict.fromkeys(days, torch.ones(1))))) == 3000
