"""Burnpack: both layouts, every dtype, what is refused; and the writer, held against bytes that Burn wrote."""

import hashlib
import io
import math
import pathlib
import struct

import numpy as np
import pytest

import fastload
from builders import burnpack_file, burnpack_raw, burnpack_tensor, smallest_burnpack
from cbor_items import cbor
from fastload import FormatError, LimitError, TruncatedError, UnsupportedError
from fastload.formats import burnpack
from fastload.formats.writing import Outgoing

PAIR = np.array([1.5, -2], "<f4").tobytes()
REAL = pathlib.Path(__file__).parents[3] / "shared/cases/burn/examples-bpk/mnist-inference-web.model.bpk"
needs_real_file = pytest.mark.skipif(not REAL.is_file(), reason="the shared cases are not beside this repository")

# The example of Burn's documentation, whose 272 bytes were computed by its rules.
DOCUMENTED_METADATA = bytes.fromhex(
    "a26774656e736f7273a16177a4656474797065634633326573686170658202026c646174615f6f66667365747382001068706172616d5f6964"
    "182a686d65746164617461a16870726f64756365726e6275726e2d7061636b20646f6373"
)
DOCUMENTED = burnpack_raw(DOCUMENTED_METADATA, np.arange(4, dtype="<f4").tobytes())


def pair(begin=0, end=8, **fields):
    return {**burnpack_tensor("F32", (2,), begin, end), **fields}


def file_of(data=PAIR, *, align=True, more=None, **tensors):
    return burnpack_raw(cbor({"tensors": tensors, **(more or {})}), data, align=align)


def outgoing(name, array, dtype=None, **fields):
    raw = np.ascontiguousarray(array)
    data = memoryview(raw.reshape(-1).view(np.uint8))
    return Outgoing(name, dtype or raw.dtype.name, raw.shape, raw.nbytes, lambda: [data[:5], data[5:]], **fields)


def written(tensors, metadata=None):
    file = io.BytesIO()
    burnpack.check_writable(tensors, metadata or {})
    burnpack.write(file, tensors, metadata or {})
    return file.getvalue()


def rewritten(file):
    with fastload.open(file) as checkpoint:
        tensors = [
            outgoing(entry.name, checkpoint[entry.name], entry.dtype, entry=entry) for entry in checkpoint.entries()
        ]
        return written(tensors, checkpoint.metadata)


# Reading.


def test_the_documented_example_is_read():
    checkpoint = fastload.open(DOCUMENTED)

    entry = checkpoint.entry("w")
    assert len(DOCUMENTED) == 272 and checkpoint.format == "burnpack"
    assert checkpoint["w"].tolist() == [[0, 1], [2, 3]] and not checkpoint["w"].flags.writeable
    assert (entry.dtype, entry.shape, entry.offset, entry.param_id, entry.zero_copy) == (
        "float32",
        (2, 2),
        256,
        42,
        True,
    )
    assert checkpoint.metadata == {"producer": "burn-pack docs"} and checkpoint.objects == {}


@needs_real_file
def test_a_file_of_burn_is_read_in_the_order_of_its_data():
    checkpoint = fastload.open(REAL)

    names = list(checkpoint)
    assert hashlib.sha256(REAL.read_bytes()).hexdigest().startswith("b63e6601")
    assert len(names) == 18 and names[:3] == ["conv1.conv.weight", "conv1.conv.bias", "conv1.norm.gamma"]
    assert checkpoint.entry("conv1.conv.bias").param_id == 9505838338724798577
    assert checkpoint["fc3.bias"][:2].tolist() == pytest.approx([0.51002616, -0.19103652])
    assert checkpoint["fc1.weight"].shape == (1600, 128)
    checkpoint.verify()


@pytest.mark.parametrize("io", ["mmap", "read"])
@pytest.mark.parametrize("align", [True, False], ids=["aligned", "Burn 0.19"])
def test_both_layouts_give_the_same_tensors(align, io, tmp_path):
    path = tmp_path / "model.bpk"
    tensors = {"b": ("F32", (2,), PAIR), "a": ("U8", (3,), b"xyz"), "c": ("F64", (), struct.pack("<d", 0.5))}
    path.write_bytes(burnpack_file(tensors, align=align))

    with fastload.open(path, io=io) as checkpoint:
        assert list(checkpoint) == ["b", "a", "c"]
        assert checkpoint["b"].tolist() == [1.5, -2] and checkpoint["a"].tobytes() == b"xyz"
        assert checkpoint["c"].shape == () and checkpoint["c"] == 0.5
        checkpoint.verify()


@pytest.mark.parametrize("align", [True, False])
def test_a_file_without_tensors_is_a_checkpoint(align):
    assert len(fastload.open(burnpack_file({}, align=align))) == 0


@pytest.mark.parametrize(
    ("spelling", "name", "size"),
    [
        ("F64", "float64", 8), ("F32", "float32", 4), ("Flex32", "float32", 4), ("F16", "float16", 2),
        ("BF16", "bfloat16", 2), ("I64", "int64", 8), ("I32", "int32", 4), ("I16", "int16", 2), ("I8", "int8", 1),
        ("U64", "uint64", 8), ("U32", "uint32", 4), ("U16", "uint16", 2), ("U8", "uint8", 1), ("Bool", "bool", 1),
        ({"Bool": "Native"}, "bool", 1), ({"Bool": "U8"}, "bool", 1), ({"Bool": "U32"}, "bool32", 4),
    ],
)  # fmt: skip
def test_every_dtype_is_read_as_what_it_is(spelling, name, size):
    raw = bytes([1] + [0] * (size - 1)) * 3

    checkpoint = fastload.open(burnpack_file({"w": (spelling, (3,), raw)}))

    assert checkpoint.entry("w").dtype == name and checkpoint["w"].tobytes() == raw
    assert checkpoint["w"].dtype.name == {"bool32": "uint32"}.get(name, name)
    with pytest.raises(FormatError):
        fastload.open(burnpack_file({"w": (spelling, (3,), raw + b"\0")}))


SCHEME = {"value": "Q8S", "store": {"PackedU32": 0}, "tensor": "F32", "block": None, "more": [1, -2, 0.5, True]}


def test_a_quantised_tensor_is_its_bytes_and_its_scheme():
    checkpoint = fastload.open(burnpack_file({"q": ({"QFloat": SCHEME}, (4, 4), bytes(range(20)))}))

    entry = checkpoint.entry("q")
    assert (entry.dtype, entry.kind, entry.shape, entry.nbytes, entry.strides) == (
        "qfloat",
        "quantised",
        (4, 4),
        20,
        None,
    )
    assert entry.quantization == SCHEME and entry.quantization is not entry.quantization
    assert checkpoint["q"].dtype == np.uint8 and checkpoint["q"].tolist() == list(range(20))


def test_schemes_stay_with_their_tensors_when_these_are_put_into_order():
    tensors = {
        f"q{number}": burnpack_tensor({"QFloat": {"value": number}}, (1,), begin, begin + 5, param_id=number)
        for number, begin in enumerate([512, 0, 256])
    }
    tensors["w"] = pair(768, 776)

    checkpoint = fastload.open(file_of(bytes(776), **tensors))

    assert list(checkpoint) == ["q1", "q2", "q0", "w"]
    assert [checkpoint.entry(name).quantization["value"] for name in ("q0", "q1", "q2")] == [0, 1, 2]
    assert [entry.param_id for entry in checkpoint.entries()] == [1, 2, 0, None]


@pytest.mark.parametrize(
    "scheme",
    [5, "Q8S", None, [], {1: 2}, {"a": b"\xa2\x61\x62\x01\x61\x62\x02"}],
    ids=["int", "text", "null", "array", "int key", "key twice"],
)  # fmt: skip
def test_a_scheme_that_is_no_map_of_texts_is_refused(scheme):
    with pytest.raises(FormatError, match="'q'"):
        fastload.open(burnpack_file({"q": ({"QFloat": scheme}, (1,), b"\0")}))


def test_a_scheme_at_the_limit_is_read_and_one_byte_more_is_not():
    def file(size):
        return burnpack_file({"q": ({"QFloat": {"a": "x" * (size - len(cbor({"a": ""})) - 2)}}, (1,), b"\0")})

    assert len(fastload.open(file(65536)).entry("q").quantization["a"]) > 65000
    with pytest.raises(LimitError):
        fastload.open(file(65537))


def test_an_unknown_id_is_none_and_null_is_unknown():
    checkpoint = fastload.open(
        file_of(bytes(520), a=pair(param_id=None), b=pair(256, 264), c=pair(512, 520, param_id=2**64 - 1))
    )

    assert [entry.param_id for entry in checkpoint.entries()] == [None, None, 2**64 - 1]


def test_scalars_stand_in_the_metadata_with_their_types():
    scalars = {"i": {"Int": -3}, "u": {"UInt": 2**64 - 1}, "f": {"Float": 0.001}, "b": {"Bool": True}}

    metadata = fastload.open(file_of(w=pair(), more={"scalars": scalars, "metadata": {"k": "v"}})).metadata

    assert metadata == {"k": "v", "scalars": {"i": -3, "u": 2**64 - 1, "f": 0.001, "b": True}}
    assert [type(value) for value in metadata["scalars"].values()] == [int, burnpack.UInt, float, bool]


def test_a_text_named_scalars_does_not_hide_them():
    file = file_of(w=pair(), more={"metadata": {"scalars": "text"}, "scalars": {"n": {"Int": 1}}})

    assert fastload.open(file).metadata == {"scalars": "text", "scalars#2": {"n": 1}}
    assert fastload.open(rewritten(file)).metadata == {"scalars": "text", "scalars#2": {"n": 1}}


@pytest.mark.parametrize(
    "scalar",
    [1, {}, {"Int": 1, "UInt": 1}, {"Int": 2**63}, {"Int": -(2**63) - 1}, {"Int": 1.0}, {"Int": True}, {"UInt": -1},
     {"Float": 1}, {"Bool": 1}, {"Bool": None}, {"Int": "1"}, {"Int": []}],
)  # fmt: skip
def test_a_scalar_that_does_not_fit_its_kind_is_refused(scalar):
    with pytest.raises(FormatError):
        fastload.open(file_of(w=pair(), more={"scalars": {"n": scalar}}))


def test_more_metadata_than_the_limit_are_refused():
    texts = {str(number): "" for number in range(100_001)}

    with pytest.raises(LimitError):
        fastload.open(file_of(w=pair(), more={"metadata": texts}))
    del texts["0"]
    assert len(fastload.open(file_of(w=pair(), more={"metadata": texts})).metadata) == 100_000


def test_more_tensors_than_burn_reads_are_refused():
    tensors = {str(number): burnpack_tensor("U8", (0,), 0, 0) for number in range(100_001)}

    with pytest.raises(LimitError):
        fastload.open(file_of(b"", **tensors))
    del tensors["0"]
    assert len(fastload.open(file_of(b"", **tensors))) == 100_000


def test_metadata_longer_than_burn_reads_are_refused():
    with pytest.raises(LimitError):
        fastload.open(burnpack_raw(DOCUMENTED_METADATA, length=104_857_601))
    with pytest.raises(TruncatedError):
        fastload.open(burnpack_raw(DOCUMENTED_METADATA, length=104_857_600))


@pytest.mark.parametrize(("version", "read"), [(0, True), (1, True), (2, False), (256, False), (65535, False)])
def test_versions_to_one_are_read(version, read):
    file = burnpack_raw(DOCUMENTED_METADATA, bytes(16), version=version)
    if read:
        assert list(fastload.open(file)) == ["w"]
    else:
        with pytest.raises(UnsupportedError, match=str(version)):
            fastload.open(file)


# The layout.


def test_a_cut_file_is_not_taken_for_one_of_the_old_layout():
    """Cut by as many bytes as it has padding, it is as long as an old file would be, whose data were those zeros."""
    for file in (smallest_burnpack(), burnpack_file({name: ("U8", (256,), bytes(range(256))) for name in "ab"})):
        padding = 256 - 10 - struct.unpack_from("<I", file, 6)[0]

        with pytest.raises(TruncatedError):
            fastload.open(file[:-padding])


def test_an_old_file_of_tensors_that_fill_256_bytes_is_read():
    file = burnpack_file({name: ("U8", (256,), bytes(range(256))) for name in "ab"}, align=False)

    assert fastload.open(file)["b"].tolist() == list(range(256))


@pytest.mark.parametrize("align", [True, False])
def test_every_cut_of_a_file_is_refused(align):
    tensors = {"a": ("F32", (2,), PAIR), "b": ("U8", (3,), b"xyz"), "c": ("F32", (2,), PAIR)}
    file = burnpack_file(tensors, align=align, metadata={"k": "v"}, scalars={"n": {"Int": 1}})
    for cut in range(len(file)):
        with pytest.raises(FormatError):
            list(fastload.open(file[:cut]).values())


def test_bytes_behind_the_last_tensor_are_nobodys():
    assert fastload.open(DOCUMENTED + bytes(256))["w"].tolist() == [[0, 1], [2, 3]]


def test_padding_that_is_not_of_zeros_is_refused():
    file = bytearray(burnpack_file({"a": ("F32", (2,), PAIR), "b": ("F32", (2,), PAIR)}))
    before, between = file.copy(), file.copy()
    before[255], between[300] = 1, 1

    with pytest.raises(FormatError, match="padding"):
        fastload.open(before)
    with pytest.raises(FormatError, match="padding"):
        fastload.open(between).verify()
    fastload.open(file).verify()


@pytest.mark.parametrize(
    ("extents", "size"),
    [
        ([(0, 8), (4, 12)], 12), ([(0, 8), (0, 8)], 8), ([(0, 8), (300, 308)], 308), ([(0, 8), (8, 16)], 16),
        ([(4, 12)], 12),
    ],
    ids=["overlap", "the same bytes", "misaligned", "packed behind padding", "misaligned start"],
)  # fmt: skip
def test_tensors_out_of_place_are_refused(extents, size):
    tensors = {f"t{number}": pair(*extent) for number, extent in enumerate(extents)}

    with pytest.raises(FormatError):
        fastload.open(file_of(bytes(size), **tensors))


def test_an_empty_tensor_may_share_its_place_and_not_lie_within_another():
    empty = burnpack_tensor("F32", (0, 3), 256, 256)
    tensors = {"a": burnpack_tensor("U8", (3,), 0, 3), "b": pair(256, 264), "z": empty}

    assert fastload.open(file_of(bytes(264), **tensors))["z"].shape == (0, 3)
    tensors["b"] = burnpack_tensor("U8", (512,), 0, 512)
    del tensors["a"]
    with pytest.raises(FormatError, match="'z'"):
        fastload.open(file_of(bytes(512), **tensors))


# What is no metadata.


@pytest.mark.parametrize(
    ("metadata", "what"),
    [
        ({}, "tensors"), ([], "map"), ({"tensors": []}, "map"), ({"tensors": None}, "map"),
        ({1: {}, "tensors": {}}, "text"),
        ({"tensors": {1: pair()}}, "text"), ({"tensors": {"w": 1}}, "'w'"), ({"tensors": {}, "metadata": None}, "map"),
        ({"tensors": {}, "metadata": {"a": 1}}, "text"), ({"tensors": {}, "metadata": {1: "a"}}, "text"),
        ({"tensors": {}, "scalars": None}, "map"), (cbor({"tensors": {}}) + b"\0", "follows"),
        (b"\xa2" + cbor("tensors") + b"\xa0" + cbor("tensors") + b"\xa0", "twice"),
        (b"\xa2" + cbor("tensors") + b"\xa0" + cbor("metadata") + b"\xa2" + cbor("a") * 4, "twice"),
        (b"\xa1" + cbor("tensors") + b"\xa2" + (cbor("w") + cbor(pair())) * 2, "'w'"),
        ({"tensors": {"w": b"\xa4" + cbor(pair())[1:] + cbor("shape") + cbor([2])}}, "twice"),
    ],
)  # fmt: skip
def test_metadata_of_another_shape_are_refused(metadata, what):
    with pytest.raises(FormatError, match=what):
        fastload.open(burnpack_raw(cbor(metadata), PAIR))


@pytest.mark.parametrize(
    "fields",
    [
        {"shape": None}, {"shape": 2}, {"shape": [2.0]}, {"shape": [-2]}, {"shape": [True]}, {"shape": ["2"]},
        {"shape": [b"\xc2\x41\x02"]}, {"shape": [3]}, {"shape": [2, 2**63, 2]}, {"shape": [2**62, 2**2]},
        {"data_offsets": []}, {"data_offsets": [0]}, {"data_offsets": [0, 8, 8]}, {"data_offsets": [0, 8.0]},
        {"data_offsets": [8, 0]}, {"data_offsets": {"0": 8}}, {"data_offsets": [2**40, 2**40 + 8]},
        {"data_offsets": [2**64 - 256, 2**64 - 248]}, {"param_id": -1}, {"param_id": 1.0}, {"param_id": False},
        {"param_id": "1"}, {"param_id": b"\xc2\x49\x01" + bytes(8)}, {"dtype": None}, {"dtype": 5}, {"dtype": {}},
        {"dtype": {"Bool": 1}}, {"dtype": {"Bool": "Native", "F32": None}}, {"dtype": b"\x7f\x63F32"},
    ],
)  # fmt: skip
def test_a_description_that_makes_no_sense_is_refused(fields):
    with pytest.raises(FormatError, match=r"'w'|complete"):
        fastload.open(file_of(w=pair(**fields)))


@pytest.mark.parametrize(
    "dtype", ["F128", "f32", "QFloat", "Bool/U32", {"F32": None}, {"Bool": "U64"}, {"Complex": "F32"}]
)
def test_an_unknown_dtype_is_unsupported(dtype):
    with pytest.raises(UnsupportedError, match="'w'"):
        fastload.open(file_of(w=pair(dtype=dtype)))


@pytest.mark.parametrize("field", ["dtype", "shape", "data_offsets"])
def test_a_missing_field_is_refused_by_name(field):
    described = pair()
    del described[field]

    with pytest.raises(FormatError, match=field):
        fastload.open(file_of(w=described))


def test_unknown_keys_are_ignored():
    unknown = {"a": [1, {"b": None}], "c": -1.5}

    assert fastload.open(file_of(w=pair(unknown=unknown), more={"later": unknown}))["w"].tolist() == [1.5, -2]


def test_more_dimensions_than_numpy_has_are_only_listed():
    checkpoint = fastload.open(file_of(w=burnpack_tensor("F32", (1,) * 64 + (2,), 0, 8)))

    assert checkpoint.entry("w").shape == (1,) * 64 + (2,)
    with pytest.raises(UnsupportedError):
        checkpoint["w"]


# Writing.


def test_the_documented_example_is_written_byte_for_byte():
    assert rewritten(DOCUMENTED) == DOCUMENTED


@needs_real_file
def test_a_file_of_burn_is_written_again_byte_for_byte():
    real = REAL.read_bytes()

    again = rewritten(REAL)

    assert struct.unpack_from("<I", again, 6) == (1398,) and again[10:1408] == real[10:1408]
    assert again == real


def test_everything_of_burn_comes_back_as_it_was():
    tensors = {
        "q": ({"QFloat": SCHEME}, (4, 4), bytes(range(20))), "a": ({"Bool": "Native"}, (2,), b"\0\1"),
        "b": ({"Bool": "U32"}, (1,), b"\1\0\0\0"), "é": ("BF16", (), b"ab"), "z": ("I16", (3, 0), b""),
    }  # fmt: skip
    scalars = {"b": {"Bool": False}, "f": {"Float": -math.inf}, "i": {"Int": -300}, "u": {"UInt": 42}}
    source = burnpack_file(tensors, metadata={"k": "v", "l": ""}, scalars=scalars)

    file = rewritten(source)

    checkpoint = fastload.open(file)

    assert rewritten(file) == file and list(checkpoint) == list(tensors)
    assert checkpoint.entry("q").quantization == SCHEME and checkpoint["q"].tolist() == list(range(20))
    assert checkpoint.metadata == {
        "k": "v", "l": "", "scalars": {"b": False, "f": -math.inf, "i": -300, "u": 42}
    }  # fmt: skip


@pytest.mark.parametrize(
    ("value", "encoded"),
    [
        (0.5, "f93800"), (0.0, "f90000"), (-0.0, "f98000"), (65504.0, "f97bff"), (65505.0, "fa477fe100"),
        (100000.0, "fa47c35000"), (0.001, "fb3f50624dd2f1a9fc"), (math.inf, "f97c00"), (math.nan, "f97e00"),
        (2.0**-24, "f90001"), (2.0**-25, "fa33000000"), (1e300, "fb7e37e43c8800759c"), (0.1, "fb3fb999999999999a"),
    ],
)  # fmt: skip
def test_floats_are_written_as_short_as_they_can_be(value, encoded):
    file = written([], {"scalars": {"x": value}})

    assert bytes.fromhex("a165466c6f6174" + encoded) in file
    assert struct.pack("<d", fastload.open(file).metadata["scalars"]["x"]) == struct.pack("<d", value)


@pytest.mark.parametrize(
    ("value", "encoded"),
    [(burnpack.UInt(42), "a16455496e74182a"), (np.uint8(42), "a16455496e74182a"), (-3, "a163496e7422"),
     (2**63, "a16455496e741b8000000000000000"), (np.int32(-3), "a163496e7422"), (True, "a164426f6f6cf5"),
     (np.float32(0.5), "a165466c6f6174f93800"), (-(2**63), "a163496e743b7fffffffffffffff")],
)  # fmt: skip
def test_scalars_are_tagged_as_burn_does(value, encoded):
    assert bytes.fromhex(encoded) in written([], {"scalars": {"x": value}})


def test_names_are_sorted_by_bytes_and_data_keep_their_order():
    tensors = [outgoing(name, np.full(3, number, "u1")) for number, name in enumerate(["b", "é", "Z", "a", ""])]

    file = written(tensors)

    assert [name.decode() for name in (b"", b"Z", b"a", b"b", "é".encode())] == sorted(["b", "é", "Z", "a", ""])
    assert list(fastload.open(file)) == ["b", "é", "Z", "a", ""]
    assert file.index(b"aZ\xa3") < file.index(b"aa\xa3") < file.index(b"ab\xa3") < file.index("bé".encode() + b"\xa3")
    assert len(file) % 256 == 3


def test_a_file_without_tensors_is_padded_to_its_end():
    assert written([]) == burnpack_raw(cbor({"tensors": {}}))


@pytest.mark.parametrize("dtype", ["complex64", "complex128", "float8_e4m3fn", "bits8", "quint8", "qfloat", "|S3"])
def test_a_dtype_that_burn_lacks_is_unsupported_by_name(dtype):
    with pytest.raises(UnsupportedError, match="'w'"):
        burnpack.check_writable([outgoing("w", np.zeros(2, "u1"), dtype)], {})


def test_what_burn_would_not_read_is_not_written():
    def described(name, nbytes):
        return Outgoing(name, "uint8", (nbytes,), nbytes, list)

    burnpack.check_writable([described("w", 10 << 30)], {})
    with pytest.raises(UnsupportedError, match="'w'"):
        burnpack.check_writable([described("w", (10 << 30) + 1)], {})
    with pytest.raises(UnsupportedError, match="files"):
        burnpack.check_writable([described(str(number), 10 << 30) for number in range(10)], {})
    with pytest.raises(UnsupportedError, match="100,001"):
        burnpack.check_writable([described(str(number), 0) for number in range(100_001)], {})
    with pytest.raises(UnsupportedError, match="metadata"):
        burnpack.check_writable([], {"k": "v" * (100 << 20)})
    with pytest.raises(UnsupportedError, match="'w'"):
        burnpack.check_writable([described("w", 1), described("w", 1)], {})
    with pytest.raises(UnsupportedError, match="UTF-8"):
        burnpack.check_writable([described("\ud800", 1)], {})


def test_what_would_be_lost_is_told():
    shared = [outgoing(name, np.zeros(2, "u1"), storage=1) for name in "ab"]
    metadata = {"n": 1, "t": "text", "d": {}, "s": "\ud800", "scalars": {"ok": 1, "big": 2**64, "list": []}}

    lost = burnpack.check_writable(shared, metadata)

    assert len(lost) == 6
    for line, word in zip(sorted(lost), ["'d'", "'n'", "'s'", "'big'", "'list'", "'a', 'b'"], strict=True):
        assert word in line
    assert fastload.open(written(shared, metadata)).metadata == {"t": "text", "scalars": {"ok": 1}}


def test_a_tensor_that_changed_its_size_is_an_error():
    tensor = Outgoing("w", "uint8", (3,), 3, lambda: [memoryview(b"four")])

    with pytest.raises(fastload.FastloadError, match="'w'"):
        written([tensor])
