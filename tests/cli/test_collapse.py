"""`--collapse`: rows for all layers never speak of a tensor that is not there, and leave none out."""

import itertools
import re
from collections import Counter

import hypothesis.strategies as st
import pytest
from hypothesis import given

import fastload
from builders import safetensors_file, tensor, torch_file
from fastload.cli.rows import MAX_NUMBERS, MAX_RUNS, fold

SEGMENTS = st.sampled_from(["0", "1", "2", "3", "10", "11", "007", "00", "x1", "²", "w", "layers", "", "#2"])
NAMES = st.lists(SEGMENTS, min_size=1, max_size=6).map(".".join)
TENSORS = {"U8": b"\0", "I8": b"\0", "F32": bytes(4)}


def folded(tensors):
    """Rows of tensors given as name → dtype."""
    file = safetensors_file({name: (dtype, (1,), TENSORS[dtype]) for name, dtype in tensors.items()})
    return fold(fastload.open(file).entries())


def rows_of(names):
    return [(row.name, row.tensors) for row in folded(dict.fromkeys(names, "U8"))]


def expanded(pattern):
    """The names that a row speaks of, read as a person would: each {…} is its runs."""
    parts = re.split(r"\{([^}]*)\}", pattern)
    choices = []
    for place, part in enumerate(parts):
        if place % 2:
            ends = [run.split("..") for run in part.split(",")]
            choices.append([str(n) for end in ends for n in range(int(end[0]), int(end[-1]) + 1)])
        else:
            choices.append([part])
    return ["".join(choice) for choice in itertools.product(*choices)]


@given(st.dictionaries(NAMES, st.sampled_from(list(TENSORS)), max_size=40))
def test_expanding_the_rows_gives_exactly_the_names(tensors):
    rows = folded(tensors)

    assert Counter(name for row in rows for name in expanded(row.name)) == Counter(list(tensors))


@given(st.sets(st.tuples(*[st.integers(0, 4)] * 3), max_size=60), st.randoms())
def test_a_grid_with_holes_is_told_exactly(grid, random):
    names = [f"layers.{i}.experts.{j}.{k}" for i, j, k in grid]
    random.shuffle(names)
    tensors = {name: random.choice(["U8", "U8", "F32"]) for name in names}

    rows = folded(tensors)

    for row in rows:
        assert len(expanded(row.name)) == row.tensors
        assert {tensors[name] for name in expanded(row.name)} == {"U8" if row.first.dtype == "uint8" else "F32"}
    assert Counter(name for row in rows for name in expanded(row.name)) == Counter(names)


def test_layers_become_one_row():
    assert rows_of([f"layers.{n}.attn.q.weight" for n in range(32)]) == [("layers.{0..31}.attn.q.weight", 32)]


def test_several_numbers_fold_where_every_combination_is_there():
    names = [f"layers.{layer}.experts.{expert}.w" for layer in range(4) for expert in range(8)]

    assert rows_of(names) == [("layers.{0..3}.experts.{0..7}.w", 32)]


def test_a_layer_that_lacks_one_has_a_row_of_its_own():
    names = [f"layers.{layer}.experts.{expert}.w" for layer in range(4) for expert in range(8)]
    names.remove("layers.2.experts.7.w")

    assert rows_of(names) == [
        ("layers.{0..1,3}.experts.{0..7}.w", 24),
        ("layers.2.experts.{0..6}.w", 7),
    ]


def test_numbers_with_gaps_are_told_by_their_runs():
    assert rows_of(["f.0.w", "f.1.w", "f.2.w", "f.5.w", "f.7.w", "f.8.w"]) == [("f.{0..2,5,7..8}.w", 6)]


@pytest.mark.parametrize(("runs", "rows"), [(MAX_RUNS, 1), (MAX_RUNS + 1, 2), (3 * MAX_RUNS, 3)])
def test_more_runs_than_anybody_reads_are_several_rows(runs, rows):
    found = rows_of([f"f.{2 * n}.w" for n in range(runs)])

    assert len(found) == rows and sum(tensors for _, tensors in found) == runs


@pytest.mark.parametrize(("numbers", "rows"), [(MAX_NUMBERS, 1), (MAX_NUMBERS + 1, 2)])
def test_so_many_numbers_of_a_name_fold_and_no_more(numbers, rows):
    before = "0." * (numbers - 1)

    assert len(rows_of([f"{before}0", f"{before}1"])) == rows


def test_a_name_of_a_million_numbers_costs_no_more_than_its_length():
    names = [f"{'0.' * 500_000}{n}" for n in range(2)]

    assert rows_of(names) == [(name, 1) for name in names]


@pytest.mark.parametrize("segment", ["00", "007", "²", "٣", "x1", "1x", "-1", "9" * 5000])
def test_what_is_no_plain_number_is_text(segment):
    assert rows_of([f"a.{segment}", "a.1"]) == [(f"a.{segment}", 1), ("a.1", 1)]


def test_other_dtypes_and_shapes_are_other_rows():
    file = safetensors_file(
        {
            "a.0": ("U8", (1,), b"\0"),
            "a.1": ("U8", (2,), b"\0\0"),
            "a.2": ("I8", (1,), b"\0"),
            "a.3": ("U8", (1,), b"\0"),
        }
    )

    rows = fold(fastload.open(file).entries())

    assert [(row.name, row.first.dtype, row.first.shape) for row in rows] == [
        ("a.{0,3}", "uint8", (1,)),
        ("a.1", "uint8", (2,)),
        ("a.2", "int8", (1,)),
    ]


def test_what_must_be_copied_is_another_row():
    root = {str(n): tensor("uint8", (1,), [n]) for n in range(4)}
    file = torch_file(root, deflate=["data/1"])

    rows = fold(fastload.open(file).entries())

    assert [(row.name, row.first.zero_copy) for row in rows] == [("{0,2..3}", True), ("1", False)]


def test_rows_stand_where_their_first_tensor_stood():
    assert rows_of(["b.1", "a", "b.0", "c.0", "c.1"]) == [("b.{0..1}", 2), ("a", 1), ("c.{0..1}", 2)]


def test_a_row_has_the_bytes_of_all_its_tensors():
    (row,) = folded({f"a.{n}": "F32" for n in range(5)})

    assert row.nbytes == 20
