"""The opcode machine against CPython's pickle and pickletools: the same values, every opcode, nothing executed."""

import contextlib
import pickle
import pickletools
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastload
from builders import tensor, torch_file, torch_file_with, torch_pickle, torch_zip
from fastload import FormatError, TruncatedError, UnsupportedError
from pickles import OPCODES, Pickle, assemble

REFUSED = {"EXT1", "EXT2", "EXT4", "NEXT_BUFFER", "READONLY_BUFFER"}


def op(name, argument=b""):
    return OPCODES[name] + argument


def value_of(fragment):
    """`.objects["v"]` of a file in which the opcodes of *fragment* make it."""
    with fastload.open(torch_file_with(bytes(fragment))) as checkpoint:
        assert checkpoint["w"].tolist() == [1, 2]
        return checkpoint.objects["v"]


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False)
    | st.text(st.characters())
    | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=5).map(tuple)
        | st.dictionaries(
            st.text(max_size=4) | st.integers() | st.booleans() | st.none() | st.binary(max_size=3), inner, max_size=4
        )
    ),
    max_leaves=20,
)
sets = st.frozensets(st.integers() | st.text(max_size=4) | st.tuples(st.integers(), st.binary(max_size=3)), max_size=6)


def equal_with_types(left, right):
    """Equality that tells True from 1, 1 from 1.0 and a tuple from a list, and keeps the order of a dict."""
    if type(left) is not type(right):
        return False
    if isinstance(left, dict):
        return equal_with_types(list(left.items()), list(right.items()))
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(equal_with_types, left, right))
    return left == right


def objects_of(value, protocol):
    """`.objects` of a torch zip in which CPython wrote *value* beside a tensor."""
    file = torch_file({"v": value, "w": tensor("float32", (2,), [1, 2])}, protocol)
    with fastload.open(file) as checkpoint:
        assert checkpoint["w"].tolist() == [1, 2]
        return checkpoint.objects


@settings(max_examples=250)
@given(plain, st.integers(0, 5))
def test_plain_values_are_what_pickle_wrote(value, protocol):
    assert equal_with_types(objects_of(value, protocol)["v"], value)


@settings(max_examples=60)
@given(sets, st.integers(0, 5))
def test_sets_are_what_pickle_wrote(value, protocol):
    assert equal_with_types(objects_of(value, protocol)["v"], value)
    assert equal_with_types(objects_of(set(value), protocol)["v"], set(value))


@settings(max_examples=40)
@given(st.binary(max_size=300), st.integers(0, 5))
def test_bytearrays_are_what_pickle_wrote(value, protocol):
    assert equal_with_types(objects_of(bytearray(value), protocol)["v"], bytearray(value))


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    "value",
    [
        2**31, -(2**31), 2**31 - 1, 2**32, 2**63, -(2**63) - 1, 2**2000, -(2**2039), 255, 256, 65535, 65536,
        0.1, float("inf"), 5e-324, "", "\n", "\\", "\r\n\x1a\0", "é", "\ud800", "\U0001f600", "x" * 255, "x" * 256,
        "x" * 70_000, b"", b"\0\xff\n", b"x" * 256, b"\xff" * 70_000, (), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), [],
        list(range(2500)), {}, {k: k for k in range(2500)},
        {"a": {}}, ((),), [[]], complex(1, -2), set(), frozenset(), set(range(2500)), ...,
    ],
    ids=lambda value: repr(value)[:20],
)  # fmt: skip
def test_values_at_the_edges_of_the_opcodes(value, protocol):
    found = objects_of(value, protocol)["v"]

    if isinstance(found, fastload.Record):  # an inert record of the callable is an honest answer for what is not plain
        assert isinstance(value, (complex, type(...)))
    else:
        assert equal_with_types(found, value)


def test_not_a_number_stays_one():
    assert all(objects_of(float("nan"), protocol)["v"] != 0 for protocol in range(6))


@pytest.mark.parametrize("protocol", range(6))
def test_one_object_in_two_places_stays_equal(protocol):
    shared = [1, "x" * 300]

    assert objects_of({"a": shared, "b": (shared, shared)}, protocol)["v"] == {"a": shared, "b": (shared, shared)}


STREAMS = {
    "text integers": (r"INT=-12\n LONG=34L\n LONG=56\n TUPLE3", (-12, 34, 56)),
    "text booleans": (r"INT=00\n INT=01\n TUPLE2", (False, True)),
    "text float": (r"FLOAT=1.5e-3\n", 0.0015),
    "LONG1 of no bytes": (r"LONG1=\0", 0),
    "LONG1 of 255 bytes": ("LONG1=" + r"\xff" * 255 + r"\x7f", int.from_bytes(b"\xff" * 254 + b"\x7f", "little")),
    "LONG4": (r"LONG4=\3\0\0\0\0\0\x80", -(2**23)),
    "BINFLOAT": (r"BINFLOAT=\x40\x04\0\0\0\0\0\0", 2.5),
    "unicode escapes": (r"UNICODE=caf\\u00e9\\U0001f600\n", "café😀"),
    "BINUNICODE8": (r"BINUNICODE8=\2\0\0\0\0\0\0\0ab", "ab"),
    "BINBYTES8": (r"BINBYTES8=\2\0\0\0\0\0\0\0ab", b"ab"),
    "BYTEARRAY8": (r"BYTEARRAY8=\2\0\0\0\0\0\0\0ab", bytearray(b"ab")),
    "marked list and dict": ("MARK NONE LIST MARK 1 2 DICT TUPLE2", ([None], {1: 2})),
    "POP": ("1 2 POP", 1),
    "POP of a mark": ("1 MARK POP", 1),
    "POP_MARK": ("1 MARK 2 3 POP_MARK", 1),
    "DUP": ("7 DUP TUPLE2", (7, 7)),
    "PUT and GET": (r"7 PUT=100\n POP GET=100\n", 7),
    "BINPUT and BINGET": (r"7 BINPUT=\x64 POP BINGET=\x64", 7),
    "filled after it was memoised": (
        r"EMPTY_LIST BINPUT=\x64 BINGET=\x64 TUPLE2 BINGET=\x64 1 APPEND POP",
        ([1], [1]),
    ),
    "a key twice": ("EMPTY_DICT MARK 1 2 3 4 1 5 SETITEMS", {1: 5, 3: 4}),
    "empty APPENDS": ("EMPTY_LIST MARK APPENDS", []),
    "FROZENSET": ("MARK 1 2 FROZENSET", frozenset({1, 2})),
    "a frame inside": (r"FRAME=\2\0\0\0\0\0\0\0 7", 7),
    "a second PROTO": (r"PROTO=\4 7", 7),
}


@pytest.mark.parametrize(("stream", "value"), STREAMS.values(), ids=STREAMS)
def test_streams_that_pickle_accepts_and_does_not_write(stream, value):
    assert pickle.loads(assemble(stream) + b".") == value
    assert equal_with_types(value_of(assemble(stream)), value)


@pytest.mark.parametrize("opcode", pickletools.opcodes, ids=lambda opcode: opcode.name)
def test_every_opcode_of_pickletools_is_known(opcode):
    """Alone, an opcode may lack operands; it may not be unknown to the machine."""
    fragment = b"K\1K\2" + opcode.code.encode("latin-1") + b"\1" + bytes(30)
    with contextlib.suppress(FormatError if opcode.name not in REFUSED else UnsupportedError):
        fastload.open(torch_file_with(fragment))


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_extension_codes_and_buffers_outside_are_refused_by_name(name):
    with pytest.raises(UnsupportedError, match=name):
        fastload.open(
            torch_file_with(op("NONE") + op(name, bytes(4)[: {"EXT1": 1, "EXT2": 2, "EXT4": 4}.get(name, 0)]))
        )


@pytest.mark.parametrize("code", sorted(set(range(256)) - {ord(opcode.code) for opcode in pickletools.opcodes}))
def test_a_byte_that_is_no_opcode_is_refused(code):
    with pytest.raises(FormatError, match=f"(?i)0x{code:02x}"):
        fastload.open(torch_file_with(b"K\1" + bytes([code])))


@pytest.mark.parametrize("protocol", [6, 127, 255])
def test_a_protocol_from_the_future_is_refused(protocol):
    stream, records = torch_pickle({"w": tensor("float32", (2,), [1, 2])})

    with pytest.raises(fastload.FastloadError, match="protocol"):
        fastload.open(torch_zip(b"\x80" + bytes([protocol]) + stream[2:], records))


LONG_LENGTHS = [
    r"BINUNICODE=\xff\xff\xff\xff", r"BINUNICODE8=\xff\xff\xff\xff\xff\xff\xff\xff", r"BINBYTES=\xff\xff\xff\xff",
    r"BINBYTES8=\xff\xff\xff\xff\xff\xff\xff\x7f", r"BYTEARRAY8=\0\0\0\0\0\1\0\0", r"LONG4=\xff\xff\xff\x7f",
    r"LONG1=\xff", r"BINSTRING=\xff\xff\xff\x7f", r"SHORT_BINSTRING=\xff", r"SHORT_BINBYTES=\xff",
    r"SHORT_BINUNICODE=\xff",
    r"FRAME=\xff\xff\xff\xff\xff\xff\xff\xff",
]  # fmt: skip


@pytest.mark.parametrize("stream", LONG_LENGTHS)
def test_a_length_past_the_end_is_truncated_and_allocates_nothing(stream):
    with pytest.raises(TruncatedError):
        fastload.open(torch_file_with(assemble(stream)))


@pytest.mark.parametrize("name", ["LONG4", "BINSTRING"])
def test_a_negative_length_is_refused(name):
    with pytest.raises(FormatError):
        fastload.open(torch_file_with(op(name, struct.pack("<i", -1) + bytes(8))))


REFUSED_STREAMS = [
    # too little on the stack, or no mark
    "TUPLE2", "APPEND", "POP_MARK", "TUPLE", "LIST", "DICT", "APPENDS", "SETITEMS", "FROZENSET", "1 APPENDS",
    "MARK NEWOBJ", "MARK 1 DICT", "EMPTY_DICT MARK 1 SETITEMS", "MARK OBJ", "MARK",
    # operands of the wrong kind
    "1 2 APPEND", "EMPTY_TUPLE MARK 1 APPENDS", "EMPTY_TUPLE 1 2 SETITEM", "1 EMPTY_DICT BUILD", "1 EMPTY_TUPLE REDUCE",
    "1 2 STACK_GLOBAL", "NONE NONE STACK_GLOBAL", "EMPTY_LIST MARK 1 ADDITEMS", "MARK 1 OBJ", r"PERSID=0\n",
    "1 BINPERSID",
    # the memo
    r"BINGET=\xfd", r"GET=77777\n", r"GET=x\n", r"GET=\n", r"GET=-1\n", r"LONG_BINGET=\xff\xff\xff\xff",
    r"1 PUT=-1\n", r"1 PUT=one\n", r"1 PUT=999999999999999999999999999999\n",
    # keys that Python could not hash
    "EMPTY_DICT EMPTY_LIST 1 SETITEM", "EMPTY_DICT EMPTY_DICT 1 SETITEM", "EMPTY_SET MARK EMPTY_LIST ADDITEMS",
    "MARK EMPTY_LIST FROZENSET",
    # text arguments
    r"INT=x\n", r"INT=\n", r"INT=1L\n", r"LONG=L\n", r"FLOAT=one\n", r"FLOAT=\n", r"UNICODE=\\ud\n", r"STRING=bare\n",
    r"STRING='open\n", r"MARK INST=\n", r"GLOBAL=a\xff\nb\n",
    # what is not UTF-8
    r"BINUNICODE=\1\0\0\0\xff", r"BINUNICODE=\2\0\0\0\xc0\x80", r"SHORT_BINUNICODE=\1\xe2",
]  # fmt: skip


@pytest.mark.parametrize("stream", REFUSED_STREAMS)
def test_streams_that_pickle_would_not_load_are_refused(stream):
    with pytest.raises(FormatError):
        value_of(assemble(stream))


def test_a_stream_without_a_stop_is_truncated():
    stream, records = torch_pickle({"w": tensor("float32", (2,), [1, 2])})

    with pytest.raises(TruncatedError):
        fastload.open(torch_zip(stream[:-1], records))


def test_a_stop_with_nothing_on_the_stack_is_refused():
    with pytest.raises(FormatError):
        fastload.open(torch_zip(Pickle(2).stop()))


def test_every_cut_of_a_stream_is_refused():
    stream, records = torch_pickle({"w": tensor("float32", (2,), [1, 2]), "epoch": 2**70, "name": "x"})
    for cut in range(len(stream)):
        with pytest.raises(FormatError):
            fastload.open(torch_zip(stream[:cut], records))


def test_a_memo_index_far_beyond_the_stream_is_a_limit_or_costs_nothing():
    file = torch_file_with(b"K\1" + op("LONG_BINPUT", b"\xff\xff\xff\xff"))
    with contextlib.suppress(FormatError):
        assert fastload.open(file).objects["v"] == 1


def test_digits_of_a_text_integer_are_capped():
    assert value_of(op("LONG", b"1" * 1000 + b"L\n")) == int("1" * 1000)
    with pytest.raises(FormatError):
        value_of(op("LONG", b"1" * 1_000_000 + b"L\n"))


def test_strings_of_python_2_come_as_text_or_bytes():
    for stream in (op("STRING", b"'abc'\n"), op("BINSTRING", b"\3\0\0\0abc"), op("SHORT_BINSTRING", b"\3abc")):
        assert value_of(stream) in ("abc", b"abc")


@settings(max_examples=400)
@given(
    st.lists(
        st.sampled_from([opcode.code.encode("latin-1") for opcode in pickletools.opcodes]) | st.binary(max_size=6),
        max_size=30,
    )
)
def test_any_run_of_opcodes_gives_an_answer_or_an_error(parts):
    with contextlib.suppress(fastload.FastloadError):
        type(fastload.open(torch_file_with(b"".join(parts))).objects)
