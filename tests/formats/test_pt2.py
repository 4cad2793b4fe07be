"""Exported programs: those that torch writes, and hand-made ones that it would not."""

import io
import json
import zipfile

import numpy as np
import pytest
import torch

import fastload
from builders import payload, pt2_file, smallest_old_pt2, tensor, tensor_meta, torch_file, zip_file
from fastload import FormatError, LimitError, TruncatedError, UnsupportedError, dtypes
from fastload.formats.torch import pt2, records

F32, I64, BF16 = 7, 5, 13
PAIR = np.array([1, 2], "<f4").tobytes()
W = {"w": payload("weight_0", tensor_meta(F32, (2,)))}
RECORDS = {"weights/weight_0": PAIR}


def values(file, **options):
    with fastload.open(file, **options) as checkpoint:
        return {name: checkpoint[name].tolist() for name in checkpoint}


def one(meta, data=PAIR, **options):
    """A program with one weight "w" of that description."""
    return pt2_file({"w": payload("weight_0", meta)}, {"weights/weight_0": data}, **options)


def changed(file, name, change):
    """*file* with the JSON of one record changed."""
    source, out = zipfile.ZipFile(io.BytesIO(file)), io.BytesIO()
    with zipfile.ZipFile(out, "w") as target:
        for info in source.infolist():
            data = source.read(info.filename)
            target.writestr(info.filename, change(data) if info.filename.endswith(name) else data)
    return out.getvalue()


# What torch writes.


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A program with tied weights, strided views of one storage, buffers of both sorts and constants; and its path."""

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
            self.second.weight = self.first.weight
            shared = torch.arange(12.0)
            self.register_buffer("turned", shared[6:].reshape(2, 3).t())
            self.register_buffer("every", shared[1::2])
            self.register_buffer("whole", shared)
            self.register_buffer("mask", torch.tensor([True, False]), persistent=False)
            self.register_buffer("none", torch.zeros(0, 3))
            self.low = torch.nn.Parameter(torch.arange(4.0).to(torch.bfloat16))
            self.scale = torch.nn.Parameter(torch.tensor(2.5))
            self.constant = torch.tensor([5, 6])

        def forward(self, x):
            x = self.first(x) + self.second(x) + self.turned.sum() + self.every.sum() + self.whole.sum()
            x = x + self.mask.sum() + self.low.sum() * self.scale + self.constant.sum() + self.none.sum()
            return x + torch.tensor([1.0, 2.0])

    program = torch.export.export(Model(), (torch.ones(1, 3),))
    path = tmp_path_factory.mktemp("pt2") / "model.pt2"
    torch.export.save(program, path, extra_files={"note.txt": " a note "})
    return path, program


def bytes_of(value):
    return value.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes()


@pytest.mark.parametrize("io", ["mmap", "read"])
def test_an_exported_program_has_the_tensors_that_torch_loads(exported, io):
    path, _ = exported
    program = torch.export.load(path)
    expected = {**program.state_dict, **program.constants}

    checkpoint = fastload.open(path, io=io, allow_copy=False)

    assert checkpoint.format == "pt2" and set(checkpoint) == set(expected)
    for name, value in expected.items():
        entry, array = checkpoint.entry(name), checkpoint[name]
        assert (entry.dtype, entry.shape) == (str(value.dtype).removeprefix("torch."), tuple(value.shape))
        assert array.tobytes() == bytes_of(value), name
        assert entry.zero_copy and entry.key_path == (name,)


def test_weights_come_in_the_order_of_the_state_dict_then_constants(exported):
    path, _ = exported
    program = torch.export.load(path)

    assert list(fastload.open(path)) == [*program.state_dict, *program.constants]


def test_parameters_buffers_and_constants_are_told_apart(exported):
    checkpoint = fastload.open(exported[0])
    kinds = {entry.name: entry.kind for entry in checkpoint.entries()}

    assert {kinds[name] for name in ("first.weight", "second.weight", "low", "scale")} == {"parameter"}
    assert {kinds[name] for name in ("turned", "every", "whole", "none")} == {"buffer"}
    assert {kinds[name] for name in ("mask", "constant", "lifted_tensor_0")} == {"tensor"}


def test_tied_weights_and_views_share_their_storage(exported):
    checkpoint = fastload.open(exported[0])

    assert np.shares_memory(checkpoint["first.weight"], checkpoint["second.weight"])
    assert np.shares_memory(checkpoint["every"], checkpoint["whole"])
    assert checkpoint.entry("turned").storage == checkpoint.entry("whole").storage
    assert checkpoint["turned"].strides == (4, 12) and checkpoint["every"].strides == (8,)


def test_graph_extra_files_and_globals_are_shown(exported):
    checkpoint = fastload.open(exported[0])

    assert "graph_module" in checkpoint.objects["programs"]["model"]
    assert checkpoint.objects["extra"] == {"note.txt": " a note "}
    assert checkpoint.metadata["programs"] == ["model"] and checkpoint.metadata["archive_version"] == "0"
    assert ("torch._utils", "_rebuild_tensor_v2") in checkpoint._tensors.list_globals()


def test_two_programs_stand_behind_their_names(tmp_path):
    from torch.export.pt2_archive._package import package_pt2

    programs = {
        name: torch.export.export(torch.nn.Linear(2, size), (torch.ones(1, 2),))
        for name, size in (("one", 1), ("two", 3))
    }
    package_pt2(tmp_path / "both.pt2", exported_programs=programs)

    checkpoint = fastload.open(tmp_path / "both.pt2")

    assert list(checkpoint) == ["one.weight", "one.bias", "two.weight", "two.bias"]
    assert checkpoint.entry("two.weight").key_path == ("two", "weight")
    for name, program in programs.items():
        assert checkpoint[f"{name}.weight"].tolist() == program.state_dict["weight"].tolist()


def test_fake_tensors_are_described_and_have_no_data(tmp_path):
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        program = torch.export.export(torch.nn.Linear(2, 3), (torch.ones(1, 2),))
    torch.export.save(program, tmp_path / "fake.pt2")

    checkpoint = fastload.open(tmp_path / "fake.pt2")

    assert [(entry.name, entry.shape, entry.kind) for entry in checkpoint.entries()] == [
        ("weight", (3, 2), "meta"),
        ("bias", (3,), "meta"),
    ]
    with pytest.raises(UnsupportedError, match="meta"):
        checkpoint["weight"]


def test_weights_beside_compiled_code_are_read(tmp_path):
    from torch.export.pt2_archive._package import package_pt2
    from torch.export.pt2_archive._package_weights import TensorProperties, Weights

    base = torch.arange(12.0)
    held = {name: base[6:].reshape(2, 3).t() for name in ("turned", "again")} | {"whole": base, "i": torch.tensor([7])}
    weights = Weights({name: (value, TensorProperties(value)) for name, value in held.items()})
    package_pt2(tmp_path / "compiled.pt2", aoti_files={"model": [weights]})

    checkpoint = fastload.open(tmp_path / "compiled.pt2", allow_copy=False)

    assert {name: checkpoint[name].tolist() for name in checkpoint} == {k: v.tolist() for k, v in held.items()}
    assert np.shares_memory(checkpoint["turned"], checkpoint["whole"])
    assert ("torch", "FloatStorage") in checkpoint._tensors.list_globals()


def test_the_numbers_of_dtypes_and_layouts_are_those_of_torch():
    from torch._export.serde import schema, serialize

    theirs = {
        int(number): str(dtype).removeprefix("torch.") for dtype, number in serialize._TORCH_TO_SERIALIZE_DTYPE.items()
    }

    assert theirs == pt2.SCALAR_TYPES and schema.Layout.Strided == pt2.STRIDED
    assert [int(layout) for layout in schema.Layout] == list(pt2.LAYOUTS)


# Hand-made ones.


@pytest.mark.parametrize("number", pt2.SCALAR_TYPES)
def test_every_dtype(number):
    row = dtypes.DTYPES[dtypes.CODES[pt2.SCALAR_TYPES[number]]]
    data = bytes(range(1, 1 + 2 * row.bits // 8)) if row.name != "bool" else b"\1\0"

    checkpoint = fastload.open(one(tensor_meta(number, (2,)), data))

    assert checkpoint.entry("w").dtype == row.name and checkpoint["w"].tobytes() == data


def test_big_endian_data_comes_as_native_copies():
    file = one(tensor_meta(F32, (2,)), np.array([1, 2], ">f4").tobytes(), more={"byteorder": b"big"})

    assert values(file) == {"w": [1, 2]} and not fastload.open(file).entry("w").zero_copy


def test_deflated_records_are_inflated():
    file = pt2_file(W, RECORDS, deflate=["data/weights/weight_0", "data/weights/model_weights_config.json"])

    assert values(file) == {"w": [1, 2]} and not fastload.open(file).entry("w").zero_copy


def test_two_tensors_of_one_name_are_both_listed():
    constants = {"w": payload("tensor_0", tensor_meta(I64, ()))}
    file = pt2_file(W, {**RECORDS, "constants/tensor_0": b"\7" + bytes(7)}, constants=constants)

    assert values(file) == {"w": [1, 2], "w#2": 7}


def test_objects_that_are_no_tensors_are_no_tensors():
    constants = {name: payload(f"{name}_0", None, use_pickle=True) for name in ("custom_obj", "opaque_obj")}
    opaque = b"\x80\2cmodule\nName\n."
    held = {"constants/custom_obj_0": torch_file({}), "constants/opaque_obj_0": opaque}
    checkpoint = fastload.open(pt2_file(W, {**RECORDS, **held}, constants=constants))

    assert list(checkpoint) == ["w"]
    assert ("module", "Name") in checkpoint._tensors.list_globals()


@pytest.mark.parametrize("deflate", [[], ["data/weights/weight_0"]], ids=["stored", "deflated"])
@pytest.mark.parametrize(
    "meta",
    [
        tensor_meta(F32, (2, 2), (1, 2), 2),
        tensor_meta(F32, (2, 2), (2, 1), 2),
        tensor_meta(F32, (2, 2), (1, 2), 1),
        tensor_meta(6, (2, 2), (1, 2), 2),
        tensor_meta(F32, (4,), (1,), 2),
        tensor_meta(F32, (2, 2), layout=2),
    ],
    ids=["as pickled", "other strides", "other offset", "other dtype", "other shape", "sparse"],
)
def test_a_pickled_tensor_is_read_only_where_it_is_what_its_description_says(meta, deflate):
    held = torch_file(tensor("float32", (2, 2), [0, 0, 1, 2, 3, 4], strides=(1, 2), offset=2))
    weights = {"w": payload("weight_0", meta, is_param=True, use_pickle=True)}

    checkpoint = fastload.open(pt2_file(weights, {"weights/weight_0": held}, deflate=deflate))

    assert checkpoint.entry("w").kind == "parameter"
    if meta == tensor_meta(F32, (2, 2), (1, 2), 2) and not deflate:
        assert checkpoint["w"].tolist() == [[1, 3], [2, 4]] and checkpoint.entry("w").zero_copy
    else:
        with pytest.raises(UnsupportedError, match="load the file with torch"):
            checkpoint["w"]


def test_a_pickled_subclass_is_described_and_refused_when_asked_for(tmp_path):
    from torch.testing._internal.two_tensor import TwoTensor

    out = io.BytesIO()
    torch.save(TwoTensor(torch.ones(2), torch.zeros(2)), out)
    weights = {"w": payload("weight_0", tensor_meta(F32, (2,)), use_pickle=True)}

    checkpoint = fastload.open(pt2_file(weights, {"weights/weight_0": out.getvalue()}))

    assert checkpoint.entry("w").shape == (2,) and checkpoint.entry("w").dtype == "float32"
    with pytest.raises(UnsupportedError, match="load the file with torch"):
        checkpoint["w"]


def test_a_sparse_tensor_is_described_and_refused_when_asked_for():
    checkpoint = fastload.open(one(tensor_meta(F32, (9, 9), layout=1)))

    assert checkpoint.entry("w").shape == (9, 9)
    with pytest.raises(UnsupportedError, match="layout"):
        checkpoint["w"]


def test_the_name_of_a_record_is_never_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "outside").write_bytes(PAIR)
    for name in ["../../outside", str(tmp_path / "outside"), "outside", "", "\0", "\ud800", "weight_0/", "x" * 100_000]:
        weights = {"w": payload(name, tensor_meta(F32, (2,)))}
        with pytest.raises(FormatError, match="lacks the record"):
            fastload.open(pt2_file(weights, RECORDS))


def test_odd_names_of_tensors_are_kept():
    names = ["", "a/b", "..", "имя", "\ud800", "a\0b", "#2", "x" * 10_000]
    weights = {name: payload("weight_0", tensor_meta(F32, (2,))) for name in names}

    assert list(fastload.open(pt2_file(weights, RECORDS))) == names


ODD = [None, True, 1.5, "2", [], {}, -1, 2**63, 2**64, 10**400]


@pytest.mark.parametrize("value", ODD, ids=lambda value: repr(value)[:20])
@pytest.mark.parametrize("field", ["dtype", "sizes", "strides", "storage_offset", "layout"])
def test_descriptions_of_wrong_types_are_refused(field, value):
    with pytest.raises(fastload.FastloadError, match=r"tensor 'w'"):
        values(one(tensor_meta(F32, (2,)) | {field: value}))


@pytest.mark.parametrize("value", ODD, ids=lambda value: repr(value)[:20])
@pytest.mark.parametrize("field", ["sizes", "strides"])
def test_sizes_of_wrong_types_are_refused(field, value):
    for item in (value, {"as_int": value}, {"as_int": "2"}, {}):
        with pytest.raises(FormatError, match="tensor 'w'"):
            fastload.open(one(tensor_meta(F32, (2, 2)) | {field: [item, {"as_int": 2}]}))


@pytest.mark.parametrize("value", ODD, ids=lambda value: repr(value)[:20])
@pytest.mark.parametrize("field", ["path_name", "is_param", "use_pickle", "tensor_meta"])
def test_payloads_of_wrong_types_are_refused(field, value):
    entry = payload("weight_0", tensor_meta(F32, (2,))) | {field: value}
    if field in ("is_param", "use_pickle") and value is True:
        return
    with pytest.raises(fastload.FastloadError):
        values(pt2_file({"w": entry}, RECORDS))


@pytest.mark.parametrize("size", [{"as_expr": {"expr_str": "s0"}}, {"as_expr": None, "as_int": 2}])
def test_a_symbolic_shape_is_refused_with_its_tensor(size):
    with pytest.raises(UnsupportedError, match=r"tensor 'w': .*symbolic"):
        fastload.open(one(tensor_meta(F32, (2,), sizes=[size])))


@pytest.mark.parametrize(
    "meta",
    [
        tensor_meta(F32, (3,)),
        tensor_meta(F32, (2,), offset=1),
        tensor_meta(F32, (2,), (2,)),
        tensor_meta(F32, (2**62, 4)),
        tensor_meta(F32, (2,), (2**62,)),
        tensor_meta(F32, (2,), offset=2**63 - 1),
        tensor_meta(F32, (2,), (-1,), 1),
        tensor_meta(F32, (2,), (1, 1)),
        tensor_meta(F32, (1,) * 70_000, (1,) * 70_000),
    ],
)
def test_a_geometry_beyond_the_record_is_refused(meta):
    with pytest.raises(FormatError, match="tensor 'w'"):
        fastload.open(one(meta))


def test_unknown_numbers_are_refused_with_their_tensor():
    for number in (0, 14, 36, 10**6):
        with pytest.raises(UnsupportedError, match=f"tensor 'w': its dtype has the number {number}"):
            fastload.open(one(tensor_meta(number, (2,))))
    with pytest.raises(FormatError, match="layout"):
        fastload.open(one(tensor_meta(F32, (2,), layout=8)))


@pytest.mark.parametrize(
    "text",
    [
        b"", b"\xff", b"[]", b"{}", b"null", b"7", b'{"config": []}', b'{"config": {"w": 1}}', b'{"config": {"w": {}}}',
        b"[" * 1_000_000, b'{"config":' * 100_000, b'{"config": {}, "config": {}}', b'{"config": NaN}',
        b'{"config": {"w": {}, "w": {}}}', b'{"config": ' + b"9" * 10_000 + b"}", b'{"config": {}} x',
    ],
    ids=lambda text: ascii(text[:24]),
)  # fmt: skip
def test_lists_that_are_not_what_they_should_be_are_refused(text):
    file = changed(pt2_file(W, RECORDS), "model_weights_config.json", lambda _: text)

    with pytest.raises(FormatError, match=r"model_weights_config|'w'"):
        fastload.open(file)


def test_a_list_may_be_as_long_as_the_limit_and_no_longer(monkeypatch):
    file = pt2_file(W, RECORDS)
    longest = max(len(json.dumps({"config": W})), len(json.dumps({"config": {}})))

    monkeypatch.setattr(records, "MAX_JSON_BYTES", longest)
    assert values(file) == {"w": [1, 2]}
    monkeypatch.setattr(records, "MAX_JSON_BYTES", longest - 1)
    with pytest.raises(LimitError, match="more than"):
        fastload.open(file)


@pytest.mark.parametrize("name", ["weights/model_weights", "constants/model_constants"])
def test_a_missing_list_is_named(name):
    members = zipfile.ZipFile(io.BytesIO(pt2_file(W, RECORDS)))
    kept = [(each, members.read(each)) for each in members.namelist() if name not in each]

    with pytest.raises(FormatError, match=f"package/data/{name}_config.json"):
        fastload.open(zip_file(kept))


def test_a_program_without_its_graph_keeps_its_tensors():
    members = zipfile.ZipFile(io.BytesIO(pt2_file(W, RECORDS)))
    kept = [(each, members.read(each)) for each in members.namelist() if "models/" not in each]

    assert values(zip_file(kept)) == {"w": [1, 2]}


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({"archive_format": b"zip"}, "format 'zip'"),
        ({"archive_format": b"pt2", "archive_version": b"1"}, "version '1'"),
        ({"archive_format": b"pt2"}, "no program"),
        ({"archive_format": b"pt2", "data/aotinductor/model/a.so": b"\x7fELF"}, "AOTInductor"),
        ({"archive_format": b"pt2", "xl_model_weights/0": b"0"}, "xl_model_weights"),
    ],
)
def test_archives_without_readable_weights_are_told_by_name(members, words):
    with pytest.raises(UnsupportedError, match=words):
        fastload.open(zip_file([(f"package/{name}", data) for name, data in members.items()]))


@pytest.mark.parametrize(
    "fields", [None, [], {}, ["weight_0", [2], [1]], [0, [2], [1], 0], ["weight_0", 2, [1], 0],
               ["weight_0", [2], ["1"], 0], ["weight_0", [2], [1], True], ["weight_0", [3], [1], 0],
               ["weight_0", [2], [1], -1], ["../weight_0", [2], [1], 0]],
)  # fmt: skip
def test_damaged_weights_of_compiled_code_are_refused(fields):
    held = torch_file(tensor("float32", (2,), [1, 2]))
    config = json.dumps({"w": fields}).encode()
    members = {
        "archive_format": b"pt2",
        "data/aotinductor/m/weights_config.json": config,
        "data/weights/weight_0": held,
    }

    with pytest.raises(FormatError):
        fastload.open(zip_file([(f"package/{name}", data) for name, data in members.items()]))


# The layouts before torch 2.8.


STATE = torch_file({"a.w": tensor("float32", (2,), [1, 2]), "b": tensor("int64", (), [3])})
CONSTANTS = torch_file({"c": tensor("bfloat16", (2,), [0x3F80, 0x4000])})


def old_pt2(members, compression=zipfile.ZIP_STORED, prefix=""):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        for name, data in {"serialized_exported_program.json": b"{}", "version": b"8.8", **members}.items():
            archive.writestr(prefix + name, data)
    return out.getvalue()


@pytest.mark.parametrize("prefix", ["", "archive/", "a b/c/"])
@pytest.mark.parametrize("suffix", [".pt", ".json"])
def test_an_old_program_has_its_state_dict_and_constants(suffix, prefix):
    file = old_pt2(
        {
            f"serialized_state_dict{suffix}": STATE,
            f"serialized_constants{suffix}": CONSTANTS,
            "serialized_example_inputs.pt": torch_file([tensor("float32", (1,), [9])]),
        },
        prefix=prefix,
    )
    checkpoint = fastload.open(file, allow_copy=False)

    assert {name: checkpoint[name].tolist() for name in checkpoint} == {"a.w": [1, 2], "b": 3, "c": [1, 2]}
    assert all(entry.zero_copy for entry in checkpoint.entries()) and checkpoint.format == "pt2-old"
    entry = checkpoint.entry("a.w")
    assert file[entry.offset : entry.offset + 8] == PAIR


@pytest.mark.parametrize("io", ["mmap", "read"])
def test_an_old_program_that_is_deflated_is_inflated(io, tmp_path):
    members = {"serialized_state_dict.pt": STATE, "serialized_constants.pt": CONSTANTS}
    (tmp_path / "old.pt2").write_bytes(old_pt2(members, zipfile.ZIP_DEFLATED))
    checkpoint = fastload.open(tmp_path / "old.pt2", io=io)

    assert checkpoint["a.w"].tolist() == [1, 2] and checkpoint["c"].tolist() == [1, 2]
    assert not checkpoint.entry("a.w").zero_copy


def test_an_old_program_that_torch_saved_is_read_by_name_and_value(tmp_path):
    model = torch.nn.BatchNorm1d(3)
    blobs = {}
    for name, value in (("state_dict", model.state_dict()), ("constants", {})):
        out = io.BytesIO()
        torch.save(value, out)
        blobs[f"serialized_{name}.pt"] = out.getvalue()
    (tmp_path / "old.pt2").write_bytes(old_pt2({**blobs, "extra_files/data.pkl.txt": b"x"}))

    assert values(tmp_path / "old.pt2") == {name: value.tolist() for name, value in model.state_dict().items()}


def test_a_user_s_file_in_front_does_not_hide_an_old_program():
    file = zip_file([("extra_files/note", b"x"), ("serialized_state_dict.pt", STATE), ("version", b"8.8")])

    assert list(fastload.open(file)) == ["a.w", "b"]


@pytest.mark.parametrize("constants", [{}, {"serialized_constants.pt": b""}], ids=["none", "empty"])
def test_an_old_program_may_have_no_constants(constants):
    assert list(fastload.open(old_pt2({"serialized_state_dict.pt": STATE, **constants}))) == ["a.w", "b"]


def test_an_old_program_without_its_state_dict_is_refused():
    with pytest.raises(FormatError, match="serialized_state_dict"):
        fastload.open(old_pt2({"serialized_constants.pt": CONSTANTS}))


def test_programs_within_programs_are_refused():
    file = smallest_old_pt2()
    for _ in range(50):
        file = zip_file([("serialized_state_dict.pt", file)])

    with pytest.raises(FormatError, match="within another"):
        fastload.open(file)


def test_a_damaged_file_within_an_old_program_is_refused():
    with pytest.raises(TruncatedError):
        fastload.open(old_pt2({"serialized_state_dict.pt": STATE[:-10]}))


def test_state_dicts_in_the_place_of_raw_weights():
    members = [
        ("p/models/model.json", b"{}"), ("p/data/weights/model.pt", STATE), ("p/data/constants/model.pt", CONSTANTS),
        ("p/data/sample_inputs/model.pt", torch_file([tensor("float32", (1,), [9])])), ("p/archive_format", b"pt2"),
    ]  # fmt: skip

    assert values(zip_file(members), allow_copy=False) == {"a.w": [1, 2], "b": 3, "c": [1, 2]}
