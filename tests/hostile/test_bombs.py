"""Small files that would be huge, deep or endless if anyone expanded them: an answer within seconds and little memory.

Each is read in a process of its own with a limit on memory and time, since the failures are crashes and hangs.
"""

import pytest

from bombs import (
    CALLS,
    DEEP_CALL,
    DEEP_DICT,
    DEEP_LIST,
    DEEP_STATE,
    DEEP_TUPLE,
    DICTS,
    FROZENSETS,
    LISTS,
    TUPLES,
    answer,
)
from builders import Storage, Tensor, tensor, torch_file, torch_file_with, torch_pickle, torch_zip
from pickles import Pickle, assemble

W = tensor("float32", (2,), [1, 2])

BOMBS = {
    "tuples": TUPLES,
    "lists": LISTS,
    "dicts": DICTS,
    "frozensets": FROZENSETS,
    "calls": CALLS,
    "deep tuple": DEEP_TUPLE,
    "deep list": DEEP_LIST,
    "deep dict": DEEP_DICT,
    "deep call": DEEP_CALL,
    "deep state": DEEP_STATE,
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_beside_a_tensor(name, tmp_path):
    assert answer(torch_file_with(BOMBS[name]), tmp_path / "bomb") in ("True", "False")


@pytest.mark.parametrize("name", ["tuples", "frozensets", "calls", "deep tuple", "deep call"])
def test_a_bomb_as_the_key_of_a_tensor(name, tmp_path):
    stream, records = torch_pickle(W)
    file = torch_zip(Pickle(2).op("EMPTY_DICT").raw(BOMBS[name]).raw(stream[2:-1]).op("SETITEM").stop(), records)

    assert answer(file, tmp_path / "bomb") in ("True", "False")


@pytest.mark.parametrize("name", ["tuples", "frozensets", "deep tuple"])
def test_a_bomb_as_the_key_of_a_plain_value(name, tmp_path):
    fragment = assemble("EMPTY_DICT") + BOMBS[name] + assemble("1 SETITEM")

    assert answer(torch_file_with(fragment), tmp_path / "bomb") in ("True", "False")


@pytest.mark.parametrize("name", ["tuples", "frozensets", "deep tuple"])
def test_a_bomb_in_a_set(name, tmp_path):
    fragment = assemble("EMPTY_SET MARK") + BOMBS[name] + assemble("ADDITEMS")

    assert answer(torch_file_with(fragment), tmp_path / "bomb") in ("True", "False")


BOTTOMS = {"deep dict": b"N", "deep state": b"N", "deep list": b"N"}  # of the others, the first opcode


@pytest.mark.parametrize("name", [name for name in BOMBS if name != "deep call"])
def test_a_bomb_around_a_tensor(name, tmp_path):
    """The same with a tensor at the bottom, which is then under 2**60 names or 300,000 levels down."""
    stream, records = torch_pickle(W)
    bottom = BOTTOMS.get(name, BOMBS[name][:1])
    at = BOMBS[name].index(bottom)
    fragment = BOMBS[name][:at] + stream[2:-1] + BOMBS[name][at + len(bottom) :]

    assert answer(torch_zip(Pickle(2).raw(fragment).stop(), records), tmp_path / "bomb") in ("True", "False")


def test_one_long_key_above_very_many_tensors(tmp_path):
    rows = {f"t{number}": W for number in range(5_000)}

    assert answer(torch_file({"k" * 900_000: rows}), tmp_path / "bomb") == "False"


def test_very_many_ways_to_one_dotted_name(tmp_path):
    def nested(depth):
        """Tensors whose names are all x.x.x…: every way to cut a name of *depth* segments into keys."""
        root = {"x" + ".x" * (depth - 1): W}
        for cut in range(1, depth):
            root["x" + ".x" * (cut - 1)] = nested(depth - cut)
        return root

    assert answer(torch_file(nested(13)), tmp_path / "bomb") in ("True", "False")


def test_a_tensor_of_2_to_the_60_elements_is_only_a_view(tmp_path):
    held = Storage("ByteStorage", 1, b"\7")

    assert answer(torch_file({"w": Tensor(held, (2**30, 2**30), (0, 0))}), tmp_path / "bomb") == "True"


def test_a_deflated_bomb_of_zeros_is_read_as_large_as_it_says_and_no_larger(tmp_path):
    size = 64 << 20
    file = torch_file({"w": tensor("uint8", (size,), bytes(size))}, deflate=["data/0"])

    assert len(file) < 100_000
    assert answer(file, tmp_path / "bomb") == "True"


def test_pickles_that_inflate_enormously_are_refused_or_read(tmp_path):
    stream, records = torch_pickle({"w": W, "v": b"\0" * (32 << 20)}, protocol=3)

    assert answer(torch_zip(stream, records, deflate=["data.pkl"]), tmp_path / "bomb") in ("True", "False")
