"""The JSON scanner against two oracles: a reader of the same rules over `json.loads`, and the reference library."""

import itertools
import json

import safetensors
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

import fastload
from builders import safetensors_entry, safetensors_raw

BITS = {"F32": 32, "U8": 8, "BOOL": 8, "F64": 64, "F4": 4, "F6_E2M3": 6}
DATA_BYTES = 16


class Refused(Exception):
    """The header breaks a rule."""


class Unsettled(Exception):
    """The format page leaves this open, so no answer is wrong."""


def oracle_accepts(header: bytes) -> bool:
    """Whether a file of this header and DATA_BYTES bytes of data keeps every rule of the format."""
    try:
        check_header(header)
    except (Refused, UnicodeDecodeError, ValueError, RecursionError):
        return False
    return True


def check_header(header: bytes) -> None:
    text = header.decode("utf-8")
    if not text.startswith("{"):
        raise Refused("start")
    pairs = json.loads(text, object_pairs_hook=Pairs, parse_int=count, parse_float=float, parse_constant=refuse)
    runs = []
    for name, value in pairs.unique():
        if any(0xD800 <= ord(letter) <= 0xDFFF for letter in name):
            raise Refused("surrogate")
        if name == "__metadata__":
            check_metadata(value)
        else:
            runs.append(check_entry(value))
    position = 0
    for begin, end in sorted(runs):
        if begin != position:
            raise Refused("hole or overlap")
        position = end
    if position != DATA_BYTES:
        raise Refused("left over")


class Pairs(list):
    """The items of a JSON object as they stand, so that a repeated key can be seen."""

    def unique(self, among=None):
        keys = [key for key, _ in self if among is None or key in among]
        if len(set(keys)) != len(keys):
            raise Refused("key twice")
        return self


def check_metadata(value):
    if not isinstance(value, Pairs) or not all(isinstance(text, str) for _, text in value):
        raise Refused("metadata")
    if len({key for key, _ in value}) != len(value):
        raise Unsettled("a metadata key twice")
    if any(0xD800 <= ord(letter) <= 0xDFFF for pair in value for text in pair for letter in text):
        raise Refused("surrogate")


def check_entry(value):
    fields = {"dtype", "shape", "data_offsets"}
    if not isinstance(value, Pairs):
        raise Unsettled("serde reads a list as a struct") if isinstance(value, list) and value else Refused("entry")
    entry = dict(value.unique(among=fields))
    if not fields <= entry.keys():
        raise Refused("field")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BITS:
        raise Refused("dtype")
    for numbers in (shape, offsets):
        if type(numbers) is not list or not all(type(number) is int and number < 2**64 for number in numbers):
            raise Refused("numbers")
    if len(offsets) != 2 or offsets[0] > offsets[1]:
        raise Refused("offsets")
    elements = 1
    for dimension in shape:
        elements *= dimension
        if elements >= 2**64:
            raise Refused("overflow")
    if elements * BITS[dtype] >= 2**64 or elements * BITS[dtype] != 8 * (offsets[1] - offsets[0]):
        raise Refused("extent")
    return offsets


def count(text):
    """A JSON integer; one with a sign is no count, and "-0" is a float to serde."""
    return float(text[:20]) if text.startswith("-") else int(text)


def refuse(text):
    raise Refused(text)


def fastload_accepts(file: bytes) -> bool:
    try:
        with fastload.open(file) as checkpoint:
            for name in checkpoint:
                assert checkpoint[name].nbytes == checkpoint.entry(name).nbytes
    except fastload.FastloadError:
        return False
    return True


def reference_accepts(file: bytes) -> bool:
    try:
        safetensors.deserialize(file)
    except safetensors.SafetensorError:
        return False
    return True


names = st.sampled_from(
    ["a", "b", "é", "a.b", "__metadata__", "dtype", "\\u0061", "\\n", '\\"', "\\ud83d\\ude00", "\\ud800"]
)
blanks = st.sampled_from(["", "", "", " ", "\n", "\t\r "])
small = st.sampled_from(
    ["0", "1", "2", "4", "8", "16", "-0", "-1", "1.0", "1e1", "01", "18446744073709551616", "true", "[]"]
)


@st.composite
def entry_texts(draw, begin=0, end=DATA_BYTES):
    """An entry that is right, or that is wrong in one place."""
    dtype, shape = draw(
        st.sampled_from([("F32", [end - begin >> 2]), ("U8", [end - begin, 1]), ("F4", [2, end - begin])])
    )
    fields = [
        ["dtype", json.dumps(dtype)],
        ["shape", json.dumps(shape)],
        ["data_offsets", json.dumps([begin, end])],
    ]
    for _ in range(draw(st.sampled_from([0, 0, 0, 1]))):
        field = draw(st.sampled_from(fields))
        field[1] = draw(
            st.one_of(small, st.lists(small, max_size=3).map(lambda parts: f"[{','.join(parts)}]"), st.just("{}"))
        )
    if draw(st.integers(0, 9)) == 0:
        fields.append(["extra", draw(st.sampled_from(["null", "[{}]", "1e5", '"x"', "[,]", "-", "tru"]))])
    if draw(st.integers(0, 9)) == 0:
        fields.remove(draw(st.sampled_from(fields)))
    draw(st.randoms(use_true_random=False)).shuffle(fields)
    return "{" + ",".join(f'{draw(blanks)}"{key}"{draw(blanks)}:{draw(blanks)}{value}' for key, value in fields) + "}"


@st.composite
def header_texts(draw):
    """A header of one to three entries whose runs tile the data, most of the time."""
    cuts = draw(st.sampled_from([[0, 16], [0, 8, 16], [0, 4, 4, 16], [0, 8, 12], [4, 16]]))
    items = [f'"{draw(names)}":{draw(entry_texts(*span))}' for span in itertools.pairwise(cuts)]
    if draw(st.booleans()):
        items.append(
            '"__metadata__":' + draw(st.sampled_from(['{"a":"b"}', "{}", '{"a":1}', '{"\\u0041":"\\t"}', "[]"]))
        )
    return "{" + f"{draw(blanks)},".join(items) + draw(blanks) + "}"


@settings(max_examples=1500)
@given(header_texts())
@example(json.dumps({"a": safetensors_entry("F32", (4,), 0, 16)}))
def test_the_scanner_accepts_just_what_the_rules_accept(text):
    file = safetensors_raw(text, bytes(DATA_BYTES))
    try:
        expected = oracle_accepts(text.encode())
    except Unsettled:
        assume(False)

    assert fastload_accepts(file) == expected
    if expected:
        assert reference_accepts(file)


VALID = json.dumps(
    {
        "__metadata__": {"k": "v\\n"},
        "a": safetensors_entry("F32", (2, 1), 0, 8),
        "é": safetensors_entry("U8", (8,), 8, 16),
    }
)


@settings(max_examples=1500)
@given(
    st.integers(0, len(VALID) - 1),
    st.integers(0, 3),
    st.sampled_from(list('{}[]",:\\0123456789-+.eEu tfn\n\0\x7f\xffé\ud800')),
)
def test_one_edit_of_a_valid_header_is_judged_as_json_judges_it(position, removed, letter):
    raw = (VALID[:position] + letter + VALID[position + removed :]).encode("utf-8", "surrogatepass")
    try:
        expected = oracle_accepts(raw)
    except Unsettled:
        assume(False)

    assert fastload_accepts(safetensors_raw(raw, bytes(DATA_BYTES))) == expected


@settings(max_examples=300)
@given(st.binary(max_size=40))
def test_bytes_that_only_begin_like_a_header_never_do_harm(raw):
    fastload_accepts(safetensors_raw(b"{" + raw, bytes(DATA_BYTES)))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=12,
)


@settings(max_examples=200)
@given(json_values, st.booleans())
def test_any_json_value_is_passed_over_in_an_unknown_field(value, ascii_only):
    header = json.dumps({"a": safetensors_entry("U8", (16,), 0, 16, extra=value)}, ensure_ascii=ascii_only)
    try:
        raw = header.encode()
    except UnicodeEncodeError:  # a lone surrogate, which UTF-8 cannot hold
        assume(False)

    assert fastload_accepts(safetensors_raw(raw, bytes(DATA_BYTES)))


@settings(max_examples=200)
@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"])), st.text(st.characters(exclude_categories=["Cs"]))
    )
)
def test_metadata_comes_back_as_json_wrote_it(metadata):
    for ascii_only in (True, False):
        header = json.dumps({"__metadata__": metadata}, ensure_ascii=ascii_only)
        assert dict(fastload.open(safetensors_raw(header)).metadata) == metadata
