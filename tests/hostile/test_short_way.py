"""The short way of reading a tensor's call against the way for the unusual ones, which is the oracle.

`_native.recipe` reads what nearly all tensors are in one function and leaves the rest to another that knows everything.
Over sound and damaged files both must find the same tensors, or say the same of what is wrong.
"""

import os
import random

import pytest

from builders import tensor, torch_file
from fastload import dtypes
from fastload._native import Part, harvest
from fastload.errors import FastloadError
from fastload.formats.torch import archive
from fastload.formats.torch.vocabulary import VOCABULARY
from fastload.source import Source
from mutations import damaged
from pickles import Call, Global

ROUNDS = int(os.environ.get("FASTLOAD_FUZZ_ROUNDS", "3000"))


def parameter(*arguments, function="_rebuild_parameter"):
    return Call(Global("torch._utils", function), arguments)


def seeds():
    """Archives with tensors of every sort that one of the conditions of the short way is about."""
    whole = tensor("float32", (2, 3), range(6))
    hooks = Call(Global("collections", "OrderedDict"), ())
    return {
        "parameters": torch_file({"p": parameter(whole, True, hooks), "q": parameter(whole, False, None)}),
        "parameters with more": torch_file(
            {
                "hooked": parameter(whole, True, {"tensor": whole}),
                "with state": parameter(whole, True, hooks, {"mask": whole}, function="_rebuild_parameter_with_state"),
                "twice": parameter(parameter(whole, True, hooks), True, hooks),
                "short of arguments": parameter(whole),
            }
        ),
        "plain": torch_file({"a": whole, "b": tensor("int64", (4,), range(4)), "again": whole}),
        "strided": torch_file({"t": tensor("float32", (3, 2), range(6), strides=(1, 3)), "c": whole}),
        "scalars": torch_file({"n": tensor("float64", (), [1.5]), "e": tensor("float32", (0, 2), [])}),
        "of length one": torch_file({"o": tensor("float32", (1, 3, 1), range(3), strides=(7, 1, 9))}),
        "many dimensions": torch_file({"m": tensor("float32", (1,) * 9, [1])}),
        "nested": torch_file({"a": {"b": [whole, (whole, tensor("uint8", (2,), [1, 2]))]}, "lr": 0.1}),
        "deflated": torch_file({"w": tensor("float32", (100,), range(100))}, deflate=["data/0"]),
        "newest protocol": torch_file({"a": whole, "b": whole}, 4),
    }


def found(file, thorough):
    """All that is known of the tensors of an archive, or what is wrong with it."""
    try:
        source = Source.of(file)
        opened = archive.open_archive(source)
        part = Part(archive.parse_record(source, opened, "data.pkl"), opened.prefix("data/"))
        index = harvest([part], VOCABULARY, source, dtypes.TABLE, opened.records, opened.swapped, thorough=thorough)
        return [
            (
                e.name,
                e.key_path,
                e.dtype,
                e.shape,
                e.strides,
                e.offset,
                e.nbytes,
                e.storage,
                e.storage_nbytes,
                e.kind,
                e.zero_copy,
            )
            for e in index.entries()
        ]
    except FastloadError as error:
        return type(error), str(error)


@pytest.mark.parametrize("name", seeds())
def test_a_sound_file_has_the_same_tensors_both_ways(name):
    file = seeds()[name]

    short = found(file, False)

    assert isinstance(short, list) and short
    assert short == found(file, True)


@pytest.mark.parametrize("name", seeds())
def test_a_damaged_file_is_the_same_both_ways(name):
    file = seeds()[name]
    for round_number in range(ROUNDS // 3):
        hurt = damaged(random.Random(f"short way {name} {round_number}"), file)

        short, thorough = found(hurt, False), found(hurt, True)

        assert short == thorough, f"round {round_number}"
