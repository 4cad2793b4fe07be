"""Columns that line up, sizes for people."""

import hypothesis.strategies as st
import pytest
from hypothesis import given

from fastload.cli.table import MAX_ALIGNED_WIDTH, Column, counted, human_size, layout, plain, shorten, width

COLUMNS = (Column("name"), Column("size", right=True))


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"), (1023, "1023 B"), (1024, "1.00 KiB"), (4 << 20, "4.00 MiB"), (1536, "1.50 KiB"),
        ((1 << 20) - 1, "1.00 MiB"), ((1 << 20) - 6, "1023.99 KiB"), (13 << 30, "13.00 GiB"),
        (5 << 40, "5.00 TiB"), (1 << 60, "1.00 EiB"), (1 << 74, "16384.00 EiB"),
    ],
)  # fmt: skip
def test_sizes_are_in_the_unit_that_suits_them(count, text):
    assert human_size(count) == text


@pytest.mark.parametrize(("text", "columns"), [("abc", 3), ("层层", 4), ("e\u0301", 1), ("Ａ", 2), ("é×…", 3), ("", 0)])
def test_width_counts_columns_of_a_terminal(text, columns):
    assert width(text) == columns


def test_columns_line_up_whatever_the_script():
    lines = layout(COLUMNS, [("层.weight", "1 B"), ("e\u0301", "10.00 KiB"), ("weight", "2 B")], plain)

    assert lines == [
        "name            size",
        "层.weight        1 B",
        "e\u0301          10.00 KiB",
        "weight           2 B",
    ]
    assert {width(line) for line in lines} == {20}


def test_titles_can_be_left_out_and_no_line_ends_in_spaces():
    lines = layout((Column("a"), Column("b")), [("1", ""), ("22", "x")], plain, titles=False)

    assert lines == ["1", "22  x"]


def test_paint_does_not_move_columns():
    def paint(text, style):
        return f"<{text}>" if style else text

    lines = layout((Column("a", style="cyan"), Column("b")), [("1", "x"), ("22", "y")], paint, titles=False)

    assert lines == ["<1>   x", "<22>  y"]


@pytest.mark.parametrize(("length", "column"), [(MAX_ALIGNED_WIDTH, MAX_ALIGNED_WIDTH), (MAX_ALIGNED_WIDTH + 1, 4)])
def test_a_name_longer_than_any_real_one_does_not_pad_the_others(length, column):
    lines = layout(COLUMNS, [("w" * length, "1 B"), ("x", "1 B")], plain)

    assert len(lines[2]) == column + len("   1 B")
    assert lines[1].startswith("w" * length)


@given(st.text(), st.integers(1, 40))
def test_a_shortened_text_fits_and_keeps_both_ends(text, limit):
    short = shorten(text, limit)

    assert width(short) <= limit
    if short != text:
        head, _, tail = short.partition("…") if "…" not in text else (short[:0], "", "")
        assert text.startswith(head) and text.endswith(tail)


def test_shortening_leaves_what_fits_alone():
    assert shorten("layers.0.weight", 15) == "layers.0.weight"
    assert shorten("layers.0.weight", 9) == "laye…ight"


def test_nouns_are_counted():
    assert [counted(n, "tensor") for n in (0, 1, 2000)] == ["0 tensors", "1 tensor", "2,000 tensors"]
