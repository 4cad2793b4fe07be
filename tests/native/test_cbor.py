"""The CBOR scanner: what RFC 8949 allows, what it forbids, and mutations of sound metadata."""

import os
import random
import struct

import pytest
from fastload._native.cbor import decode
from hypothesis import given
from hypothesis import strategies as st

import fastload
from builders import burnpack_file, burnpack_raw, burnpack_tensor
from cbor_items import cbor, cbor_head
from fastload import FormatError, LimitError, TruncatedError
from reading import read_all

ROUNDS = int(os.environ.get("FASTLOAD_FUZZ_ROUNDS", "3000"))
NESTING = 128

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**64), 2**64 - 1) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner, max_size=5),
    max_leaves=20,
)


def in_file(value, key="unknown"):
    """A file whose metadata hold the CBOR *value* where nobody looks for it."""
    return burnpack_raw(cbor({"tensors": {}, key: value}))


@given(values)
def test_what_is_encoded_is_decoded(value):
    assert decode(cbor(value)) == value and repr(decode(cbor(value))) == repr(value)
    assert len(fastload.open(in_file(value))) == 0


@given(values)
def test_every_cut_is_refused(value):
    encoded = cbor(value)
    for cut in range(len(encoded)):
        with pytest.raises(TruncatedError):
            decode(encoded[:cut])


@given(st.binary(min_size=1, max_size=40))
def test_what_can_be_decoded_can_be_skipped(raw):
    try:
        decode(raw)
    except FormatError:
        return

    assert len(fastload.open(in_file(raw))) == 0


@pytest.mark.parametrize("width", [0, 1, 2, 4, 8])
@pytest.mark.parametrize("major", [0, 1])
def test_a_number_may_have_any_width(major, width):
    assert decode(cbor_head(major, 5, width)) == (5 if major == 0 else -6)


@pytest.mark.parametrize(
    ("encoded", "value"),
    [
        ("f90001", 2.0**-24), ("f903ff", 1023 * 2.0**-24), ("f90400", 2.0**-14), ("f97bff", 65504.0), ("f9c000", -2.0),
        ("f98000", -0.0), ("f97c00", float("inf")), ("f9fc00", float("-inf")), ("fa3f800001", 1 + 2.0**-23),
        ("f7", None),
        ("7f61616162ff", "ab"), ("7fff", ""), ("5f4161420062ff", b"a\0b"), ("9f01ff", [1]), ("9fff", []),
        ("bf616101ff", {"a": 1}), ("bfff", {}), ("c1d9d9f701", 1), ("9f9fbfffffff", [[{}]]), ("8180", [[]]),
    ],
)  # fmt: skip
def test_every_form_of_a_value_is_read(encoded, value):
    raw = bytes.fromhex(encoded)

    assert repr(decode(raw)) == repr(value)
    assert len(fastload.open(in_file(raw))) == 0


@pytest.mark.parametrize(
    "encoded",
    ["1c", "1d", "1e", "1f", "3f", "df", "ff", "fc", "fd", "fe", "f800", "f81f", "61ff", "62c328", "7f01ff", "7f4161ff",
     "7f7f6161ffff", "5f6161ff", "bf6161ff", "82ff", "a16161ff", "c1ff", "63e2", "9b0000010000000000",
     "bb0000010000000000", "7bffffffffffffffff", "a1616180ff", "7f61c361a9ff", "64eda08000"],
)  # fmt: skip
def test_what_is_no_cbor_is_refused(encoded):
    raw = bytes.fromhex(encoded)

    with pytest.raises(FormatError):
        decode(raw)
    with pytest.raises(FormatError):
        fastload.open(in_file(raw))


def test_a_nan_keeps_its_bits():
    for encoded, bits in (("f97e01", 0x7FF8040000000000), ("fb7ff8000000000007", 0x7FF8000000000007)):
        assert struct.pack(">d", decode(bytes.fromhex(encoded))) == bits.to_bytes(8, "big")


@pytest.mark.parametrize("opening", [b"\x81", b"\xa1\x61a", b"\x9f"])
def test_nesting_at_the_limit_is_read_and_one_more_is_not(opening):
    closing = b"\xff" if opening == b"\x9f" else b""
    at, past = (opening * depth + b"\0" + closing * depth for depth in (NESTING, NESTING + 1))

    decode(at)
    fastload.open(in_file(at))
    for refuse in (lambda: decode(past), lambda: fastload.open(in_file(past))):
        with pytest.raises(LimitError):
            refuse()


def test_a_million_tags_take_no_stack():
    assert decode(b"\xc1" * 1_000_000 + b"\0") == 0


def test_the_metadata_may_be_spelled_in_any_way():
    """Indefinite lengths, wide numbers, texts in pieces and tags, wherever Burn's reader takes them."""
    tensor = (
        b"\xd8\x20\xbf" + b"\x7f\x62dt\x63ype\xff" + cbor("F32") + cbor("shape")
        + b"\x9f" + cbor_head(0, 2, 8) + b"\xff" + cbor("data_offsets") + b"\xc1\x9f" + cbor_head(0, 0, 4)
        + cbor_head(0, 8, 2) + b"\xff" + cbor("param_id") + b"\xc9" + cbor_head(0, 7, 1) + b"\xff"
    )  # fmt: skip
    metadata = b"\xbf" + cbor("tensors") + b"\xbf\x7f\x61w\xff" + tensor + b"\xff\xff"

    checkpoint = fastload.open(burnpack_raw(metadata, struct.pack("<2f", 1, 2)))

    assert checkpoint["w"].tolist() == [1, 2] and checkpoint.entry("w").param_id == 7


def test_mutated_metadata_are_read_or_refused():
    """One byte or more of sound metadata replaced, dropped or doubled; the seed is fixed, so failures come back."""
    random_numbers = random.Random(4)
    tensors = {
        "a.b": burnpack_tensor("F32", (2, 2), 0, 16, param_id=2**40),
        "q": burnpack_tensor({"QFloat": {"v": [1, None]}}, (3,), 256, 261),
        "c": burnpack_tensor({"Bool": "U32"}, (2,), 512, 520),
    }  # fmt: skip
    metadata = cbor({"tensors": tensors, "metadata": {"k": "v"}, "scalars": {"n": {"Float": 0.5}}})
    seeds = [metadata, burnpack_file({"w": ("F32", (2,), bytes(8))}, align=False)[10:-8]]
    heads = [0x1B, 0x3B, 0x5F, 0x7B, 0x7F, 0x9B, 0x9F, 0xA0, 0xBB, 0xBF, 0xC2, 0xF6, 0xF9, 0xFB, 0xFF, 0x18, 0x80]
    read = 0
    for _ in range(ROUNDS):
        raw = bytearray(random_numbers.choice(seeds))
        for _ in range(random_numbers.choice([1, 1, 1, 2, 4])):
            at = random_numbers.randrange(len(raw))
            kind = random_numbers.randrange(5)
            if kind == 0:
                raw[at] = random_numbers.randrange(256)
            elif kind == 1:
                raw[at] = random_numbers.choice(heads)
            elif kind == 2:
                raw[at] ^= 1 << random_numbers.randrange(8)
            elif kind == 3:
                del raw[at : at + random_numbers.choice([1, 1, 8])]
            else:
                raw[at:at] = raw[at : at + random_numbers.randrange(16)]
        read += read_all(burnpack_raw(bytes(raw), bytes(520), align=random_numbers.random() < 0.8))
    assert 0 < read < ROUNDS
