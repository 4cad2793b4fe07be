"""TorchScript of torch 1.1 and 1.2, hand-made from its reader's source: no torch writes it any more."""

import json

import numpy as np
import pytest

import fastload
from builders import script_json_file, script_tensor, zip_file
from fastload import FormatError, LimitError, UnsupportedError
from fastload.formats.torch import script_json
from pickles import Call, Global, dumps

PAIR = np.array([1, 2], "<f4").tobytes()
W = script_tensor("FLOAT", (2,))


def parameter(name, number, **fields):
    return {"name": name, "tensorId": str(number), **fields}


def one(row=W, module=None, data=PAIR, **options):
    """A module with one parameter "w" of that description."""
    module = module or {"name": "M", "parameters": [parameter("w", 0)]}
    return script_json_file([row], module, {"tensors/0": data}, **options)


def tree():
    """A module with submodules, buffers, tied parameters, a view, a constant and attributes."""
    rows = [
        script_tensor("FLOAT", (2, 3)),
        script_tensor("FLOAT", (3, 2), strides=["1", "3"]),
        script_tensor("FLOAT", (2,), offset="4"),
        script_tensor("INT64", (), "tensors/1"),
        script_tensor("BOOL", (2,), "tensors/2"),
    ]
    inner = {"name": "0", "optimize": True, "parameters": [parameter("weight", 1), parameter("bias", 2)]}
    norm = {
        "name": "norm",
        "parameters": [parameter("weight", 2, isBuffer=False), parameter("num_batches", 3, isBuffer=True)],
        "attributes": [{"name": "eps", "type": "float", "id": "1"}, {"name": "later", "type": "int", "id": "-1"}],
    }
    module = {
        "name": "Net",
        "submodules": [{"name": "layers", "submodules": [inner]}, norm],
        "parameters": [parameter("top", 0)],
        "attributes": [{"name": "config", "type": "Any", "id": "0"}],
    }
    attributes = (Call(Global("__torch__", "Config"), (1,)), 0.5)
    return script_json_file(
        rows,
        module,
        {
            "tensors/0": np.arange(6, dtype="<f4").tobytes(),
            "tensors/1": b"\7" + bytes(7),
            "tensors/2": b"\1\0",
            "attributes.pkl": dumps(attributes),
            "code/net.py": b"raise SystemExit",
        },
    )


def test_names_are_those_of_the_state_dict_and_what_belongs_to_no_module_is_a_constant():
    checkpoint = fastload.open(tree(), allow_copy=False)

    assert checkpoint.format == "torchscript-json"
    assert {name: checkpoint[name].tolist() for name in checkpoint} == {
        "top": [[0, 1, 2], [3, 4, 5]],
        "layers.0.weight": [[0, 3], [1, 4], [2, 5]],
        "layers.0.bias": [4, 5],
        "norm.weight": [4, 5],
        "norm.num_batches": 7,
        "constants.4": [True, False],
    }
    assert next(iter(checkpoint)) == "top" and list(checkpoint)[-1] == "constants.4"
    assert checkpoint.entry("layers.0.weight").key_path == ("layers.0.weight",)
    assert checkpoint.entry("constants.4").key_path == ("constants", 4)


def test_kinds_and_shared_storages():
    checkpoint = fastload.open(tree())
    kinds = {entry.name: entry.kind for entry in checkpoint.entries()}

    assert kinds["top"] == kinds["norm.weight"] == "parameter"
    assert kinds["norm.num_batches"] == "buffer" and kinds["constants.4"] == "tensor"
    assert np.shares_memory(checkpoint["norm.weight"], checkpoint["top"])
    assert all(entry.zero_copy for entry in checkpoint.entries())


def test_attributes_are_plain_values_or_records():
    checkpoint = fastload.open(tree())

    assert checkpoint.objects["norm.eps"] == 0.5 and set(checkpoint.objects) == {"config", "norm.eps"}
    assert (checkpoint.objects["config"].module, checkpoint.objects["config"].name) == ("__torch__", "Config")
    assert checkpoint._tensors.list_globals() == [("__torch__", "Config")]
    assert checkpoint.metadata["producerName"] == "pytorch" and checkpoint.metadata["protoVersion"] == "5"


@pytest.mark.parametrize(
    "spelled", [*script_json.DTYPES, *(script_json.DATA_TYPES.index(n) for n in ("FLOAT", "BYTE"))]
)
def test_every_data_type_by_name_or_number(spelled):
    name = script_json.DTYPES[script_json.DATA_TYPES[spelled] if isinstance(spelled, int) else spelled]
    data = np.array([0, 1], name).tobytes()

    checkpoint = fastload.open(one(script_tensor(spelled, (2,)), data=data))

    assert checkpoint.entry("w").dtype == name and checkpoint["w"].tolist() == [0, 1]


@pytest.mark.parametrize(("spelled", "dtype"), [("UINT8", "quint8"), ("INT8", "qint8"), ("INT32", "qint32")])
def test_quantised_tensors_are_the_stored_integers(spelled, dtype):
    row = script_tensor(spelled, (2,), isQuantized=True, scale=0.5, zeroPoint="3")
    data = np.array([5, 6], {"UINT8": "u1", "INT8": "i1", "INT32": "<i4"}[spelled]).tobytes()

    checkpoint = fastload.open(one(row, data=data))

    assert checkpoint["w"].tolist() == [5, 6]
    assert checkpoint.entry("w").dtype == dtype and checkpoint.entry("w").kind == "quantised"


def test_fields_may_be_left_out_null_numbers_or_spelled_as_in_the_message():
    row = {"data": {"key": "tensors/0"}, "data_type": "FLOAT", "device": None, "offset": 1, "dims": None}
    module = {"parameters": [{"name": "w", "is_buffer": True}], "submodules": None}
    checkpoint = fastload.open(one(row, module))

    assert checkpoint["w"].tolist() == 2 and checkpoint.entry("w").kind == "buffer"


@pytest.mark.parametrize("options", [{"deflate": ["tensors/0", "model.json"]}, {"align": 1}, {"zip64": ""}], ids=str)
def test_other_archives(options):
    assert fastload.open(one(**options))["w"].tolist() == [1, 2]


@pytest.mark.parametrize("io", ["mmap", "read"])
def test_files_are_read_in_both_ways(io, tmp_path):
    (tmp_path / "model.pt").write_bytes(tree())

    assert fastload.open(tmp_path / "model.pt", io=io)["layers.0.weight"].tolist() == [[0, 3], [1, 4], [2, 5]]


def test_parameters_of_one_name_are_both_listed():
    module = {"parameters": [parameter("w", 0), parameter("w", 0), parameter("w#2", 0), parameter("w", 0)]}

    assert list(fastload.open(one(module=module))) == ["w", "w#2", "w#2#2", "w#3"]


ODD = [True, 1.5, "x", "", "1e3", " 1", "+1", "१", "9" * 20, {}, [], -1, "-1", 2**63, str(2**63 + 1), 10**400]


@pytest.mark.parametrize("value", ODD, ids=lambda value: repr(value)[:20])
@pytest.mark.parametrize("field", ["dims", "strides"])
def test_sizes_of_wrong_types_are_refused(field, value):
    with pytest.raises(FormatError):
        fastload.open(one(W | {field: [value]}))


@pytest.mark.parametrize("value", ODD, ids=lambda value: repr(value)[:20])
@pytest.mark.parametrize("field", ["offset", "dataType", "data", "dims", "strides"])
def test_fields_of_wrong_types_are_refused(field, value):
    with pytest.raises(fastload.FastloadError):
        fastload.open(one(W | {field: value}))


@pytest.mark.parametrize("value", [1, "5", "-1", 2**63, "x", [], {}, True], ids=repr)
def test_a_number_beyond_the_table_is_refused(value):
    with pytest.raises(FormatError):
        fastload.open(one(module={"parameters": [{"name": "w", "tensorId": value}]}))


@pytest.mark.parametrize(
    "module",
    [[], 1, "M", {"parameters": {}}, {"parameters": [1]}, {"parameters": [{"tensorId": "0"}]}, {"submodules": [[]]},
     {"submodules": [{}]}, {"parameters": [parameter(1, 0)]}, {"parameters": [parameter("w", 0, isBuffer="no")]}],
    ids=str,
)  # fmt: skip
def test_modules_that_are_not_what_they_should_be_are_refused(module):
    with pytest.raises(FormatError):
        fastload.open(script_json_file([W], module, {"tensors/0": PAIR}))


@pytest.mark.parametrize(
    "key", ["tensors/1", "../tensors/0", "/tensors/0", "", "\ud800", "\0", "tensors/0\0"], ids=ascii
)
def test_a_record_that_is_not_there_is_refused(key):
    with pytest.raises(FormatError, match=r"tensor 'w'"):
        fastload.open(one(W | {"data": {"key": key}}))


@pytest.mark.parametrize(
    "fields",
    [{"dims": ["3"]}, {"offset": "1"}, {"strides": ["2"]}, {"strides": []}, {"dims": [str(2**62), "4"]},
     {"dataType": "DOUBLE", "offset": "1"}, {"isQuantized": True}],
    ids=str,
)  # fmt: skip
def test_a_geometry_beyond_the_record_is_refused(fields):
    with pytest.raises(FormatError, match="tensor 'w'"):
        fastload.open(one(W | fields))


@pytest.mark.parametrize("spelled", ["UNDEFINED", "STRING", "BFLOAT16", "float", 0, 4, 11, 14])
def test_a_data_type_that_is_no_dtype_is_refused_with_its_tensor(spelled):
    with pytest.raises(fastload.FastloadError, match="tensor 'w': its dataType"):
        fastload.open(one(W | {"dataType": spelled}))


@pytest.mark.parametrize(
    "text",
    [b"", b"[]", b"7", b"\xff", b"[" * 1_000_000, b'{"mainModule":' * 100_000, b'{"tensors": [], "tensors": []}'],
    ids=lambda text: ascii(text[:20]),
)  # fmt: skip
def test_a_description_that_is_no_json_of_that_shape_is_refused(text):
    with pytest.raises(FormatError, match=r"model\.json"):
        fastload.open(zip_file([("s/version", b"1"), ("s/model.json", text)]))


def test_a_model_json_of_another_program_is_no_checkpoint():
    with pytest.raises(UnsupportedError, match="TorchScript"):
        fastload.open(zip_file([("s/model.json", json.dumps({"layers": []}).encode())]))


@pytest.mark.parametrize("values", [(), 7, {0: 1}], ids=repr)
def test_an_attribute_beyond_the_values_is_refused_when_asked_for(values):
    module = {"attributes": [{"name": "a", "id": "0"}]}
    checkpoint = fastload.open(script_json_file([], module, {"attributes.pkl": dumps(values)}))

    with pytest.raises(FormatError, match="attribute 'a'"):
        assert checkpoint.objects


def chain(depth, name, leaves):
    module = {"name": name, "parameters": [parameter(str(n), 0) for n in range(leaves)]}
    for _ in range(depth):
        module = {"name": name, "submodules": [module]}
    return one(module={"submodules": [module]})


def test_deep_chains_of_modules_are_named():
    assert len(fastload.open(chain(200, "m", 1)).entries()[0].name) == 2 * 201 + 1


def test_names_may_be_as_long_as_the_limit_and_no_longer(monkeypatch):
    # 5 characters stand before each of 3 names below two modules; 0, 2 and 2 before those of the modules themselves.
    file = one(
        module={"submodules": [{"name": "a", "submodules": [{"name": "bc", "parameters": [parameter("w", 0)] * 3}]}]}
    )

    monkeypatch.setattr(script_json, "MAX_NAME_CHARACTERS", 2 + 3 * 5)
    assert len(fastload.open(file)) == 3
    monkeypatch.setattr(script_json, "MAX_NAME_CHARACTERS", 2 + 3 * 5 - 1)
    with pytest.raises(LimitError, match="characters"):
        fastload.open(file)


def test_a_chain_of_long_names_is_soon_refused():
    with pytest.raises(LimitError, match="characters"):
        fastload.open(chain(200, "m" * 10_000, 200))


def test_an_archive_with_a_pickle_is_not_told_by_a_model_json_in_it():
    file = zip_file([("s/data.pkl", dumps({})), ("s/model.json", b"{}"), ("s/version", b"3")])

    assert fastload.open(file).format == "pytorch-zip"
