"""Columns that line up, sizes for people."""

from importlib import import_module

import hypothesis.strategies as st
import pytest
from hypothesis import given

from builders import safetensors_file, tensor, torch_file
from fastload.cli import main
from fastload.cli.table import (
    MAX_ALIGNED_WIDTH,
    Column,
    counted,
    human_size,
    layout,
    number,
    plain,
    shorten,
    width,
    wrap,
)
from pickles import Call, Global

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


# In a terminal.

WIDE = (
    Column("name", gives="middle"),
    Column("dtype", leave=2),
    Column("size", right=True),
    Column("why", gives="lines", leave=1),
)
ROWS = [
    ("模型." * 30 + "weight", "float8_e4m3fnuz", "1,023.99 KiB", "runs code or programs, or " * 3),
    ("e\u0301" * 50, "int8", "1 B", ""),
    ("w", "bool", "0 B", "x" * 300),
]


@pytest.mark.parametrize("limit", [40, 80, 200, 1000])
def test_no_line_is_wider_than_the_terminal(limit):
    assert max(map(width, layout(WIDE, ROWS, plain, limit=limit))) <= limit


def test_columns_are_left_out_in_their_order_and_named():
    rows = [("weight", "int8", "1 B", "why")]

    assert layout(WIDE, rows, plain, limit=17) == ["name    size  why", "weight   1 B  why", "(no room for", "dtype)"]
    assert layout(WIDE, rows, plain, limit=12) == ["name    size", "weight   1 B", "(no room for", "dtype, why)"]


def test_with_room_for_all_a_limit_changes_nothing():
    rows = [("w", "int8", "1 B", "why not")]

    assert layout(WIDE, rows, plain, limit=80) == layout(WIDE, rows, plain)


def test_a_cell_goes_on_in_the_next_line():
    lines = layout((Column("a"), Column("b", gives="lines")), [("1", "one two three four"), ("2", "")], plain, limit=16)

    assert lines == ["a  b", "1  one two three", "   four", "2"]


@given(st.text(), st.integers(2, 40), st.integers(2, 40))
def test_wrapping_keeps_every_letter(text, limit, further):
    lines = wrap(text, limit, further)

    assert width(lines[0]) <= limit and all(width(line) <= further for line in lines[1:])
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")


def test_a_style_of_a_cell_does_not_move_columns():
    columns = (Column("v", styles={"bad": "red"}), Column("w"))

    lines = layout(columns, [("bad", "1"), ("fine", "2")], lambda text, style: f"<{style}>{text}" if style else text)

    assert lines[1:] == ["<red>bad   1", "fine  2"]


LISTINGS = {  # with the module that lays each out
    "ls": "ls m.pt",
    "stats": "stats m.pt",
    "scan": "scan m.pt",
    "show": "show m.pt w",
    "diff": "diff m.pt other.safetensors",
    "tree": "tree m.pt",
    "doctor": "doctor m.pt",
    "writing": "convert m.pt new.safetensors --dry-run",
    "bench": "bench m.pt --against none --repeat 1",
}


@pytest.mark.parametrize("columns", [40, 80, 200])
@pytest.mark.parametrize("module", LISTINGS)
def test_every_table_fits_the_terminal(module, columns, tmp_path, monkeypatch, capsys):
    values = {"w": tensor("float32", (2,), [1, -1e30]), "模型" * 99: tensor("float64", (1,) * 30, [1 / 3])}
    (tmp_path / "m.pt").write_bytes(torch_file(values | {"o": Call(Global("a_module" * 9, "Thing"), ())}))
    (tmp_path / "other.safetensors").write_bytes(safetensors_file({"w": ("F32", (2,), bytes(8))}))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(import_module(f"fastload.cli.{module}"), "terminal_width", lambda: columns)

    assert main(LISTINGS[module].split()) in (0, 1)

    # What is no row of a table is prose, which the terminal wraps.
    lines = [line for line in capsys.readouterr().out.splitlines() if "  " in line]
    assert lines and max(map(width, lines)) <= columns


def test_numbers_are_for_people():
    assert [number(n) for n in (None, 1234567, True, 0.1 + 0.2, 1 + 2j)] == ["", "1,234,567", "True", "0.3", "1+2j"]
