"""Checkpoint: a Mapping from name to array, a context manager, and a short table when shown."""

import collections.abc
import html

import numpy as np
import pytest

import fastload
from builders import SMALLEST, safetensors_file, smallest_file, tensor, torch_file

FORMATS = list(SMALLEST)


def three():
    return fastload.open(
        safetensors_file(
            {"a.weight": ("F32", (2, 3), bytes(24)), "a.bias": ("F32", (3,), bytes(12)), "n": ("I64", (), bytes(8))}
        )
    )


def test_it_is_a_mapping():
    checkpoint = three()

    assert isinstance(checkpoint, collections.abc.Mapping) and isinstance(checkpoint, fastload.Checkpoint)
    assert list(checkpoint) == list(checkpoint.keys()) == ["a.weight", "a.bias", "n"]
    assert len(checkpoint) == 3 and "a.bias" in checkpoint and "a" not in checkpoint
    assert [name for name, _ in checkpoint.items()] == list(checkpoint)
    assert [array.shape for array in checkpoint.values()] == [(2, 3), (3,), ()]
    assert checkpoint.get("nothing") is None


@pytest.mark.parametrize("odd", [None, 0, b"n", ("n",), 1.5])
def test_what_is_no_name_is_not_in_it(odd):
    checkpoint = three()

    assert odd not in checkpoint
    with pytest.raises((KeyError, TypeError)):
        checkpoint[odd]


def test_arrays_are_made_anew_over_the_same_memory():
    checkpoint = fastload.open(smallest_file("safetensors"))

    assert np.shares_memory(checkpoint["w"], checkpoint["w"])


@pytest.mark.parametrize("format_name", FORMATS)
def test_entries_and_entry_say_the_same(format_name):
    checkpoint = fastload.open(smallest_file(format_name))

    (listed,) = checkpoint.entries()
    single = checkpoint.entry("w")

    assert (listed.name, listed.dtype, listed.shape, listed.offset) == (
        single.name,
        single.dtype,
        single.shape,
        single.offset,
    )
    assert checkpoint.format == format_name


def test_a_tensor_that_is_not_there_is_a_key_error_with_near_names():
    for access in (three().__getitem__, three().entry):
        with pytest.raises(fastload.TensorNotFoundError, match=r"a\.weight") as caught:
            access("a.weigth")
        assert isinstance(caught.value, KeyError)
        assert "a.weigth" in str(caught.value)


def test_near_names_are_found_quickly_among_very_many():
    checkpoint = fastload.open(
        safetensors_file({f"layer.{number}.weight": ("U8", (0,), b"") for number in range(20_000)})
    )

    with pytest.raises(fastload.TensorNotFoundError, match=r"layer\.777\.weight"):
        checkpoint["layer.777.weigth"]


def test_names_stand_in_the_order_of_the_file_not_of_the_alphabet():
    root = {"z": tensor("int8", (1,), [1]), "a": [tensor("int8", (1,), [2])], "m": tensor("int8", (1,), [3])}

    assert list(fastload.open(torch_file(root))) == ["z", "a.0", "m"]


def test_repr_is_a_short_table():
    lines = repr(three()).splitlines()

    assert any("a.weight" in line and "float32" in line and "2" in line and "3" in line for line in lines)
    assert "safetensors" in lines[0] and any("a.bias" in line for line in lines)


def test_repr_of_very_many_tensors_stays_short():
    checkpoint = fastload.open(safetensors_file({f"t{number}": ("U8", (1,), b"\0") for number in range(5000)}))

    assert len(repr(checkpoint).splitlines()) < 60 and "5000" in repr(checkpoint).replace(",", "").replace("_", "")


def test_repr_in_a_notebook_is_html_that_escapes_names():
    text = fastload.open(safetensors_file({"<script>&": ("U8", (1,), b"\0")}))._repr_html_()

    assert "<table" in text and "<script>" not in text
    assert html.escape("<script>&") in text


HOSTILE_NAME = "evil\x1b[31m\n\u202egnp.exe\0\x07\u2066"


@pytest.mark.parametrize("show", [repr, lambda checkpoint: checkpoint._repr_html_()], ids=["repr", "html"])
def test_control_and_bidi_characters_are_escaped_when_shown(show):
    checkpoint = fastload.open(
        safetensors_file({HOSTILE_NAME: ("U8", (1,), b"\0")}, metadata={HOSTILE_NAME: HOSTILE_NAME})
    )

    shown = show(checkpoint)

    assert not set(shown) & set(HOSTILE_NAME) - set("evilgnp.exe[31m\n")
    assert "\\x1b" in shown and "\\u202e" in shown
    assert list(checkpoint) == [HOSTILE_NAME]  # the name itself is untouched


def test_a_lone_surrogate_in_a_name_can_be_shown_and_asked_for():
    checkpoint = fastload.open(torch_file({"x\ud800y": tensor("int8", (1,), [7])}))

    assert checkpoint["x\ud800y"].tolist() == [7]
    repr(checkpoint).encode()
    checkpoint._repr_html_().encode()


def test_metadata_and_objects_of_a_file_without_any_are_empty():
    checkpoint = fastload.open(smallest_file("safetensors"))

    assert not checkpoint.metadata and not checkpoint.objects


def test_a_closed_checkpoint_says_so_and_can_still_be_shown():
    checkpoint = three()
    with checkpoint:
        pass

    with pytest.raises(ValueError, match="closed"):
        checkpoint["n"]
    repr(checkpoint)


def test_with_gives_the_checkpoint_itself():
    checkpoint = three()

    with checkpoint as inside:
        assert inside is checkpoint


def test_arrays_can_be_used_as_numpy_arrays_are():
    with fastload.open(torch_file({"w": tensor("float32", (2, 3), range(6), strides=(1, 2))})) as checkpoint:
        view = checkpoint["w"]

    assert (view + 1).tolist() == [[1, 3, 5], [2, 4, 6]]
    assert view.T.tolist() == [[0, 1], [2, 3], [4, 5]] and view[1, ::2].tolist() == [1, 5]
    assert np.ascontiguousarray(view).flags.owndata and view.copy().flags.writeable
