"""Pickles are written as Python's own pickler would write them, and read by it as what was meant."""

import pickle
import pickletools

import pytest

from fastload._native import PickleWriter


def loaded(act):
    out = PickleWriter()
    act(out)
    return pickle.loads(out.finish())


@pytest.mark.parametrize(
    "number",
    [0, 1, 255, 256, 65535, 65536, 2**31 - 1, 2**31, -1, -(2**31), -(2**31) - 1, 2**63, -(2**63), 2**2030, -(2**2030)],
)
def test_numbers_are_those_of_pythons_pickler(number):
    out = PickleWriter()
    out.integer(number)

    written = out.finish()

    assert pickle.loads(written) == number
    assert [op.name for op, *_ in pickletools.genops(written)] == [
        op.name for op, *_ in pickletools.genops(pickle.dumps(number, protocol=2))
    ]


def test_a_number_that_protocol_2_would_write_at_length_is_refused():
    with pytest.raises(OverflowError):
        PickleWriter().integer(2**2048)


@pytest.mark.parametrize("count", range(6))
def test_tuples_are_those_of_pythons_pickler(count):
    numbers = tuple(range(250, 250 + count))
    out = PickleWriter()

    out.integers(numbers)

    assert out.finish() == pickle.dumps(numbers, protocol=2)


@pytest.mark.parametrize("text", ["", "a.b", "é…𝄞", "\ud800", "x" * 70_000])
def test_texts_are_those_of_pythons_pickler(text):
    out = PickleWriter()

    out.text(text)

    assert out.finish() == pickle.dumps(text, protocol=2)


def test_what_is_interned_is_found_again_past_256_numbers():
    def act(out):
        out.raw(b"]")
        out.put()
        out.raw(b"(")
        for number in range(300):
            out.interned(str(number % 280))
        out.raw(b"e")

    assert loaded(act) == [str(number % 280) for number in range(300)]


def test_kinds_of_interned_texts_are_apart():
    out = PickleWriter()
    out.raw(b"]")
    out.put()
    out.raw(b"(")
    for of in ("text", "key", "text"):
        out.interned("0", of=of)
    out.raw(b"e")

    names = [op.name for op, *_ in pickletools.genops(out.finish())]

    assert names.count("BINUNICODE") == 2 and names.count("BINGET") == 1


def test_classes_and_ordered_dicts():
    from collections import OrderedDict

    def act(out):
        out.raw(b"(")
        out.ordered_dict()
        out.known("collections", "OrderedDict")
        out.ordered_dict()
        out.end_tuple()

    first, kind, second = loaded(act)

    assert (first, kind, second) == (OrderedDict(), OrderedDict, OrderedDict()) and first is not second
