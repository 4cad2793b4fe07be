"""safetensors: every rule of the format, accepted at it and refused one step past it."""

import json
import struct

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as numpy_strategies

import fastload
from builders import safetensors_entry, safetensors_file, safetensors_raw
from fastload import FastloadError, FormatError, LimitError, TruncatedError

F32_PAIR = np.array([1.5, -2], "<f4").tobytes()


def header_of(**entries):
    """A header of these entries as text; "metadata" is short for "__metadata__"."""
    if "metadata" in entries:
        entries = {"__metadata__": entries.pop("metadata"), **entries}
    return json.dumps(entries)


def file_of(data=b"", **entries):
    return safetensors_raw(header_of(**entries), data)


def pair(begin=0, end=8, **extra):
    """An entry of two float32 values."""
    return safetensors_entry("F32", (2,), begin, end, **extra)


def test_a_file_gives_names_shapes_dtypes_and_values():
    file = safetensors_file({"w": ("F32", (2,), F32_PAIR), "b": ("I64", (), struct.pack("<q", -7))})

    with fastload.open(file) as checkpoint:
        assert checkpoint.format == "safetensors"
        assert list(checkpoint) == ["w", "b"]
        assert checkpoint["w"].tolist() == [1.5, -2] and checkpoint["w"].dtype == np.float32
        assert checkpoint["b"].shape == () and checkpoint["b"] == -7


def test_entries_say_where_the_bytes_lie():
    file = safetensors_file({"w": ("F32", (2,), F32_PAIR), "m": ("I16", (2, 3), bytes(12))})
    data = len(file) - 20

    w, m = fastload.open(file).entries()

    assert (w.offset, w.nbytes, w.shape, w.strides) == (data, 8, (2,), (4,))
    assert (m.offset, m.nbytes, m.shape, m.strides) == (data + 8, 12, (2, 3), (6, 2))
    assert (w.key_path, w.dtype, w.kind, w.zero_copy, w.file) == (("w",), "float32", "tensor", True, None)
    assert w.storage != m.storage


def test_names_are_one_key_whatever_dots_they_hold():
    checkpoint = fastload.open(safetensors_file({"a.0.b": ("U8", (1,), b"\7"), "": ("U8", (1,), b"\x08")}))

    assert [entry.key_path for entry in checkpoint.entries()] == [("a.0.b",), ("",)]
    assert checkpoint[""].tolist() == [8]


def test_order_is_by_data_offset_then_as_the_header_has_them():
    empty = safetensors_entry("F32", (0,), 8, 8)
    file = file_of(bytes(16), late=pair(8, 16), z=empty, first=pair(0, 8), a=empty)

    assert list(fastload.open(file)) == ["first", "late", "z", "a"]


def test_an_empty_dict_is_a_checkpoint_without_tensors():
    checkpoint = fastload.open(safetensors_raw("{}"))

    assert len(checkpoint) == 0 and list(checkpoint.entries()) == []


def test_spaces_may_pad_the_end_of_the_header():
    assert fastload.open(safetensors_raw(header_of(w=pair()) + " " * 77, F32_PAIR))["w"].tolist() == [1.5, -2]


@pytest.mark.parametrize("blank", ["\n", "\t", "\r", " ", "\n  \t"])
def test_json_white_space_between_tokens_is_accepted(blank):
    text = header_of(w=pair()).replace(":", f"{blank}:{blank}").replace(",", f"{blank},{blank}")

    assert fastload.open(safetensors_raw(text, F32_PAIR))["w"].tolist() == [1.5, -2]


@pytest.mark.parametrize("cut", range(8))
def test_a_file_shorter_than_its_length_field_is_refused(cut):
    with pytest.raises(FormatError):
        fastload.open(safetensors_raw("{}")[:cut])


def test_a_header_past_the_end_of_the_file_is_truncated():
    with pytest.raises(TruncatedError, match="header"):
        fastload.open(safetensors_raw(header_of(w=pair()), F32_PAIR, length=1000))


@pytest.mark.parametrize("length", [100_000_001, 2**40, 2**63 - 1, 2**63, 2**64 - 8, 2**64 - 1])
def test_a_header_length_above_the_cap_is_a_limit(length):
    with pytest.raises(LimitError):
        fastload.open(safetensors_raw(header_of(w=pair()), F32_PAIR, length=length))


def test_a_header_at_the_cap_is_read_and_one_byte_more_is_not(tmp_path):
    header = header_of(w=pair()).encode()
    for size in (100_000_000, 100_000_001):
        (tmp_path / f"{size}.safetensors").write_bytes(
            struct.pack("<Q", size) + header + b" " * (size - len(header)) + F32_PAIR
        )

    assert fastload.open(tmp_path / "100000000.safetensors")["w"].tolist() == [1.5, -2]
    with pytest.raises(LimitError):
        fastload.open(tmp_path / "100000001.safetensors")


@pytest.mark.parametrize("start", ["[]", '"w"', "1", "null", "true", " {}", "\n{}", "", "\ufeff{}"])
def test_a_header_that_does_not_begin_with_a_brace_is_refused(start):
    with pytest.raises(FormatError):
        fastload.open(safetensors_raw(start))


@pytest.mark.parametrize(
    "text",
    [
        '{"w":}', "{", '{"w"', '{"w" 1}', "{'w':1}", '{"a":{},}', "{}{}", "{} x", "{}\0", '{"__metadata__":{"a":"b",}}',
        '{"__metadata__":{"a":"\n"}}', '{"__metadata__":{"a":"\0"}}', '{"__metadata__":{"a":"\\x41"}}',
        '{"__metadata__":{"a":"\\u00g0"}}', '{"__metadata__":{"a":"\\u12"}}', '{"__metadata__":{"a":"b}}',
        '{"__metadata__":{a:"b"}}', '{"__metadata__":{"a":"b"}//\n}', '{"__metadata__":{"a":"b"};}',
    ],
)  # fmt: skip
def test_what_is_not_json_is_refused(text):
    with pytest.raises(FormatError):
        fastload.open(safetensors_raw(text))


@pytest.mark.parametrize(
    "raw",
    [b"\xff", b"\xc3", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82", b"\x80"],
    ids=["no lead byte", "cut", "overlong", "surrogate", "past U+10FFFF", "cut after two", "stray continuation"],
)
@pytest.mark.parametrize("where", ["name", "metadata"])
def test_what_is_not_utf8_is_refused(raw, where):
    header = (
        header_of(w=pair(), metadata={"k": "HERE"}).encode().replace(b'"w"' if where == "name" else b"HERE", b'"@"')
    )
    header = header.replace(b'""@""', b'"@"').replace(b"@", raw)

    with pytest.raises(FormatError):
        fastload.open(safetensors_raw(header, F32_PAIR))


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("caf\\u00e9", "café"), ("\\ud83d\\ude00", "😀"), ("a\\/b", "a/b"), ('a\\"b\\\\c', 'a"b\\c'),
        ("\\b\\f\\n\\r\\t", "\b\f\n\r\t"), ("\\u0000", "\0"), ("模型", "模型"), ("x\x7fy", "x\x7fy"),
    ],
)  # fmt: skip
def test_escapes_in_names_mean_what_json_says(spelling, name):
    checkpoint = fastload.open(safetensors_raw(header_of(w=pair()).replace('"w"', f'"{spelling}"'), F32_PAIR))

    assert list(checkpoint) == [name]
    assert checkpoint[name].tolist() == [1.5, -2]


@pytest.mark.parametrize("spelling", ["\\ud800", "\\udc00", "\\ud800\\ud800", "\\ud800x", "\\udc00\\ud800"])
def test_a_lone_surrogate_in_a_name_is_refused(spelling):
    with pytest.raises(FormatError):
        fastload.open(safetensors_raw(header_of(w=pair()).replace('"w"', f'"{spelling}"'), F32_PAIR))


def test_escapes_in_field_names_and_dtypes_are_still_those():
    text = (
        header_of(w=pair()).replace("dtype", "\\u0064type").replace("F32", "F3\\u0032").replace("shape", "sh\\u0061pe")
    )

    assert fastload.open(safetensors_raw(text, F32_PAIR))["w"].tolist() == [1.5, -2]


@pytest.mark.parametrize("second", ['"w"', '"\\u0077"'], ids=["same spelling", "escaped spelling"])
@pytest.mark.parametrize("offsets", [(0, 8), (8, 16)], ids=["same bytes", "other bytes"])
def test_a_name_given_twice_is_refused(second, offsets):
    text = f'{{"w":{json.dumps(pair())},{second}:{json.dumps(pair(*offsets))}}}'

    with pytest.raises(FormatError, match="'w'"):
        fastload.open(safetensors_raw(text, bytes(offsets[1])))


def test_two_long_names_that_differ_at_the_end_are_two_names():
    names = ["n" * 4000 + str(index) for index in range(3)]
    file = file_of(bytes(24), **{name: pair(8 * index, 8 * index + 8) for index, name in enumerate(names)})

    assert list(fastload.open(file)) == names


@pytest.mark.parametrize("field", ["dtype", "shape", "data_offsets"])
def test_a_missing_field_is_refused_by_name(field):
    entry = {key: value for key, value in pair().items() if key != field}

    with pytest.raises(FormatError, match=field):
        fastload.open(file_of(F32_PAIR, w=entry))


@pytest.mark.parametrize("field", ["dtype", "shape", "data_offsets"])
def test_a_known_field_given_twice_is_refused(field):
    text = header_of(w=pair())
    again = f"{json.dumps(field)}:{json.dumps(pair()[field])}"

    with pytest.raises(FormatError):
        fastload.open(safetensors_raw(text[:-2] + "," + again + "}}", F32_PAIR))


@pytest.mark.parametrize("value", ["1", "null", '"x"', "[1,[2,{}]]", '{"a":{"b":[]}}', "-1.5e-3", "true"])
def test_an_unknown_field_is_accepted_as_the_reference_does(value):
    text = header_of(w=pair())[:-2] + f',"extra":{value}}}}}'

    assert fastload.open(safetensors_raw(text, F32_PAIR))["w"].tolist() == [1.5, -2]
    assert safetensors.numpy.load(safetensors_raw(text, F32_PAIR))["w"].tolist() == [1.5, -2]


@pytest.mark.parametrize("value", ["01", "+1", ".5", "1.", "1e", "nul", "NaN", "Infinity", "[1,]", "{1:2}", "0x1", ""])
def test_an_unknown_field_must_still_be_json(value):
    with pytest.raises(FormatError):
        fastload.open(safetensors_raw(header_of(w=pair())[:-2] + f',"extra":{value}}}}}', F32_PAIR))


@pytest.mark.parametrize(
    ("opening", "closing"), [("[", "]"), ('{"a":', "}")], ids=["arrays", "objects"]
)  # serde stops at 128 levels; a stack overflow is what must not happen
def test_deep_nesting_in_an_unknown_field_is_a_limit(opening, closing):
    text = header_of(w=pair())[:-2] + f',"extra":{opening * 500_000}1{closing * 500_000}}}}}'

    with pytest.raises(FormatError):
        fastload.open(safetensors_raw(text, F32_PAIR))


@pytest.mark.parametrize("entry", ["1", "null", "true", '"F32"', "{}", "[]"])
def test_an_entry_that_is_no_description_is_refused(entry):
    with pytest.raises(FormatError, match="'w'"):
        fastload.open(safetensors_raw(f'{{"w":{entry}}}', F32_PAIR))


@pytest.mark.parametrize("dtype", ["F128", "f32", "", "F3", "F321", "INT4"])
def test_an_unknown_dtype_is_refused_by_name(dtype):
    with pytest.raises(FastloadError, match=f'"?{dtype}'):
        fastload.open(file_of(F32_PAIR, w=safetensors_entry(dtype, (2,), 0, 8)))


@pytest.mark.parametrize("dtype", ["11", "null", '["F32"]', "{}", "true"])
def test_a_dtype_that_is_no_text_is_refused(dtype):
    with pytest.raises(FormatError):
        fastload.open(safetensors_raw(header_of(w=pair()).replace('"F32"', dtype), F32_PAIR))


@pytest.mark.parametrize(
    "number",
    [
        "2.0",
        "2e0",
        "-2",
        "-0",
        "02",
        "+2",
        "0x2",
        "true",
        "null",
        '"2"',
        "[2]",
        "{}",
        "18446744073709551616",
        "1" * 5000,
    ],
)
def test_a_dimension_is_a_plain_count(number):
    with pytest.raises(FormatError):
        fastload.open(safetensors_raw(header_of(w=pair()).replace("[2]", f"[{number}]"), F32_PAIR))


@pytest.mark.parametrize("shape", ["null", "2", '"2"', "{}", "[2,]", "[,2]", "[2 1]", "true", "[2"])
def test_a_shape_is_a_list(shape):
    with pytest.raises(FormatError):
        fastload.open(safetensors_raw(header_of(w=pair()).replace("[2]", shape), F32_PAIR))


@pytest.mark.parametrize(
    "offsets",
    ["[0]", "[]", "[0,8,8]", "[0.0,8]", "[0,8.0]", "[-0,8]", "[0,1e1]", '["0","8"]', "[false,8]", "[0,null]", "null",
     "8", '{"0":0,"1":8}', "[0,18446744073709551616]", "[0,18446744073709551624]", "[00,8]"],
)  # fmt: skip
def test_data_offsets_are_two_counts(offsets):
    with pytest.raises(FormatError):
        fastload.open(safetensors_raw(header_of(w=pair()).replace("[0, 8]", offsets), F32_PAIR))


@pytest.mark.parametrize(
    ("spans", "size", "trouble"),
    [
        ([(1, 9)], 9, "a hole at the start"),
        ([(0, 8), (9, 17)], 17, "a hole between two"),
        ([(0, 8), (7, 15)], 15, "an overlap"),
        ([(0, 8), (0, 8)], 8, "one region twice"),
        ([(0, 8)], 9, "a byte left over"),
        ([(0, 8), (16, 24), (8, 16)], 32, "eight bytes left over"),
        ([(8, 0)], 8, "an end before its beginning"),
        ([], 1, "data without tensors"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_runs_must_tile_the_data(spans, size, trouble):
    entries = {f"t{number}": pair(*span) for number, span in enumerate(spans)}

    with pytest.raises(FormatError):
        fastload.open(file_of(bytes(size), **entries))


@pytest.mark.parametrize("size", [0, 1, 7])
def test_a_run_past_the_end_of_the_file_is_truncated(size):
    with pytest.raises(TruncatedError):
        fastload.open(file_of(bytes(size), w=pair()))


@pytest.mark.parametrize("position", [0, 8, 16])
def test_a_tensor_of_no_elements_may_sit_where_a_run_ends(position):
    entries = {"a": pair(0, 8), "z": safetensors_entry("F32", (2, 0, 3), position, position), "b": pair(8, 16)}
    checkpoint = fastload.open(file_of(bytes(16), **entries))

    assert set(checkpoint) == {"a", "z", "b"}
    assert checkpoint["z"].shape == (2, 0, 3) and checkpoint["z"].size == 0


@pytest.mark.parametrize("position", [4, 17, 2**40])
def test_a_tensor_of_no_elements_may_not_sit_elsewhere(position):
    entries = {"a": pair(0, 8), "b": pair(8, 16), "z": safetensors_entry("F32", (0,), position, position)}

    with pytest.raises(FormatError):
        fastload.open(file_of(bytes(16), **entries))


@pytest.mark.parametrize(
    ("dtype", "shape", "size"),
    [
        ("F32", (2,), 7), ("F32", (2,), 9), ("F32", (2,), 0), ("F32", (0,), 4), ("F32", (), 0), ("BF16", (3,), 12),
        ("C64", (1,), 4), ("F4", (3,), 2), ("F4", (1,), 1), ("F4", (2,), 2), ("F6_E2M3", (3,), 3), ("F6_E3M2", (1,), 1),
        ("F32", (2**62, 4), 16), ("F32", (2**32, 2**32), 0), ("F64", (2**61 + 2,), 16), ("U8", (2**33, 2**33), 2**2),
        ("F4", (2**63, 2), 0), ("F32", (1152921504606846977, 16), 64),
    ],
)  # fmt: skip
def test_extent_equals_the_product_of_the_shape(dtype, shape, size):
    with pytest.raises(FormatError):
        fastload.open(file_of(bytes(size), w=safetensors_entry(dtype, shape, 0, size)))


def test_a_zero_beside_a_huge_dimension_is_a_tensor_of_no_elements():
    checkpoint = fastload.open(file_of(w=safetensors_entry("F32", (0, 2**40), 0, 0)))

    assert checkpoint.entry("w").shape == (0, 2**40) and checkpoint["w"].shape == (0, 2**40)


def test_forty_dimensions_are_fine_and_more_than_numpy_holds_are_only_listed():
    entries = {"x": safetensors_entry("F32", (1,) * 40, 0, 4), "y": safetensors_entry("F32", (1,) * 65, 4, 8)}
    try:
        checkpoint = fastload.open(file_of(F32_PAIR, **entries))
    except LimitError:
        return  # a stated limit on dimensions is as good an answer

    assert checkpoint["x"].shape == (1,) * 40
    assert checkpoint.entry("y").shape == (1,) * 65
    with pytest.raises(fastload.UnsupportedError):
        checkpoint["y"]


def test_metadata_is_given_back_as_text():
    metadata = {"format": "pt", "ключ": "значение", "": "", "escaped": 'a"b\\c\n\0'}
    file = safetensors_file({"w": ("F32", (2,), F32_PAIR)}, metadata=metadata)

    assert dict(fastload.open(file).metadata) == metadata


def test_no_metadata_is_empty_metadata():
    assert not fastload.open(file_of(F32_PAIR, w=pair())).metadata
    assert not fastload.open(file_of(F32_PAIR, metadata={}, w=pair())).metadata


@pytest.mark.parametrize("metadata", [{"a": 1}, {"a": None}, {"a": ["b"]}, {"a": {"b": "c"}}, [], "text", 1, True])
def test_metadata_is_text_to_text_and_nothing_else(metadata):
    with pytest.raises(FormatError, match="metadata"):
        fastload.open(file_of(F32_PAIR, metadata=metadata, w=pair()))


def test_a_tensor_may_not_be_called_metadata():
    with pytest.raises(FormatError):
        fastload.open(file_of(F32_PAIR, metadata=pair()))


@pytest.mark.parametrize("remainder", range(8))
def test_data_may_begin_at_any_byte(remainder):
    header = header_of(w=pair())
    header += " " * ((remainder - len(header)) % 8)
    checkpoint = fastload.open(safetensors_raw(header, F32_PAIR))

    assert checkpoint.entry("w").offset % 8 == remainder
    assert checkpoint["w"].tolist() == [1.5, -2] and checkpoint.entry("w").zero_copy


arrays = numpy_strategies.arrays(
    dtype=st.sampled_from(["?", "u1", "i1", "<u2", "<i2", "<f2", "<u4", "<i4", "<f4", "<u8", "<i8", "<f8", "<c8"]),
    shape=numpy_strategies.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4),
)


@settings(max_examples=150)
@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=12), arrays, max_size=6))
def test_whatever_the_reference_writes_we_read_the_same(tensors):
    tensors.pop("__metadata__", None)
    file = safetensors.numpy.save(tensors)

    with fastload.open(file) as checkpoint:
        assert set(checkpoint) == set(tensors)
        for name, array in tensors.items():
            view = checkpoint[name]
            assert view.dtype == array.dtype and view.shape == array.shape
            assert view.tobytes() == array.tobytes()
