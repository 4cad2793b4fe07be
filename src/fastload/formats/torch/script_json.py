"""TorchScript of torch 1.1 and 1.2: a module described by `model.json`, which is a protobuf message in JSON.

    P/model.json        {"tensors": […], "mainModule": {…}}; 64-bit numbers are texts, fields may be left out
    P/tensors/0, 1, …   one storage each, raw; several tensors may lie in one
    P/attributes.pkl    the values of attributes; absent from the oldest
    P/code/, P/libs/    the program

Tensors that no module calls a parameter or buffer (the constants of the code, parts of attributes, what a packed module
saved of its state) are named by their place in the table of tensors.

Format: torch/csrc/jit/serialization/import_legacy.cpp, caffe2/proto/torch.proto and caffe2.proto of torch 1.5.
"""

from __future__ import annotations

import re
from typing import Any

from fastload import dtypes
from fastload._native import KINDS, Index, append, build, finish
from fastload.entry import FreeNames
from fastload.errors import FormatError, LimitError, UnsupportedError
from fastload.formats.torch import archive, saved
from fastload.formats.torch.archive import Archive
from fastload.formats.torch.records import about, expect, find, read_json
from fastload.formats.torch.vocabulary import VOCABULARY
from fastload.options import Options
from fastload.source import Source

NAME = "torchscript-json"

MODEL = "model.json"
ATTRIBUTES = "attributes.pkl"
CONSTANTS = "constants"  # what stands for the module in the names of tensors that belong to none
PRODUCER = ("protoVersion", "producerName", "producerVersion")

# Names within names: a chain of modules with long names would make a name a module out of every one above it.
MAX_NAME_CHARACTERS = 1 << 28  # of all names together; a model of 100,000 tensors has about 5,000,000

# `TensorProto.DataType` of caffe2.proto, by number; and what quantised tensors have in their place.
DATA_TYPES = (
    "UNDEFINED", "FLOAT", "INT32", "BYTE", "STRING", "BOOL", "UINT8", "INT8", "UINT16", "INT16", "INT64", "",
    "FLOAT16", "DOUBLE", "ZERO_COLLISION_HASH", "REBATCHING_BUFFER",
)  # fmt: skip
DTYPES = {
    "FLOAT": "float32",
    "INT32": "int32",
    "BYTE": "uint8",
    "BOOL": "bool",
    "UINT8": "uint8",
    "INT8": "int8",
    "UINT16": "uint16",
    "INT16": "int16",
    "INT64": "int64",
    "FLOAT16": "float16",
    "DOUBLE": "float64",
}
QUANTISED = {"uint8": "quint8", "int8": "qint8", "int32": "qint32"}

verify = archive.verify


def index(source: Source, options: Options) -> Index:
    """Describe every tensor without reading its data.

    Names are those of the state dict; what belongs to no module is `constants.N`, the Nth of the table of tensors.
    Order: a module's own parameters and buffers, then its submodules, as the file has them; then the constants.

    Raises
    ------
    FormatError
        `model.json` is not what it should be, or promises a record that the archive lacks or that is too short.
    UnsupportedError
        A tensor of a sort that is no plain array, or a `model.json` of another program.
    """
    opened = archive.open_archive(source)
    root = _read(source, opened)
    made = Index(source, dtypes.TABLE, opened.records, opened.swapped)
    table = _objects(root, "tensors")
    names, used = FreeNames(), set()
    for prefix, module in _modules(root):
        for parameter in _objects(module, "parameters"):
            name = prefix + _text(parameter, "name")
            number = _number(parameter, "tensorId")
            with about(f"tensor {name!r}"):
                if not 0 <= number < len(table):
                    raise FormatError(f"it is number {number} of a table of {len(table):,} tensors")
                kind = "buffer" if _flag(parameter, "isBuffer") else "parameter"
                _append(made, opened, (names.take(name),), table[number], kind)
            used.add(number)
    for number, tensor in enumerate(table):
        if number not in used:
            free = names.take(f"{CONSTANTS}.{number}")
            path = (CONSTANTS, number) if free == f"{CONSTANTS}.{number}" else (free,)
            with about(f"tensor {free!r}"):
                _append(made, opened, path, tensor, "tensor")
    finish(made)
    return made


def metadata(source: Source, index: Index) -> dict[str, Any]:
    """The archive's small texts, and what `model.json` says of who wrote it."""
    root = _read(source, archive.open_archive(source))
    return {**archive.metadata(source), **{name: root[name] for name in PRODUCER if name in root}}


def objects(source: Source, options: Options) -> Any:
    """The values of the modules' attributes, by name; those of an unknown class are records."""
    opened = archive.open_archive(source)
    root = _read(source, opened)
    found: dict[str, Any] = {}
    values = None
    for prefix, module in _modules(root):
        for attribute in _objects(module, "attributes"):
            number = _number(attribute, "id")
            if number < 0:  # a module's own code was to set it
                continue
            if values is None:
                graph = archive.parse_record(source, opened, ATTRIBUTES)
                values = build(graph, VOCABULARY, {})
            name = prefix + _text(attribute, "name")
            if not isinstance(values, (list, tuple)) or number >= len(values):
                raise FormatError(f"attribute {name!r} is number {number} of values that are not as many")
            found[name] = values[number]
    return found


def list_globals(source: Source) -> list[tuple[str, str]]:
    """(module, name) of every global that the values of the attributes name, once each."""
    opened = archive.open_archive(source)
    if opened.find(ATTRIBUTES) < 0:
        return []
    return saved.list_globals(archive.parse_record(source, opened, ATTRIBUTES))


def _append(made: Index, opened: Archive, path: tuple[str | int, ...], tensor: dict[str, Any], kind: str) -> None:
    spelled = _field(tensor, "dataType", 0)
    if type(spelled) is int and 0 <= spelled < len(DATA_TYPES):
        spelled = DATA_TYPES[spelled]
    if expect(spelled, str, "its dataType") not in DTYPES:
        raise UnsupportedError(f"its dataType is {spelled!r}, which is no dtype of an array")
    dtype = DTYPES[spelled]
    if _flag(tensor, "isQuantized"):
        if dtype not in QUANTISED:
            raise FormatError(f"it is quantised, and its dataType is {spelled!r}")
        dtype, kind = QUANTISED[dtype], "quantised"
    key = _text(expect(_field(tensor, "data", {}), dict, "its data"), "key")
    append(
        made,
        path,
        dtypes.CODES[dtype],
        _numbers(tensor, "dims"),
        strides=_numbers(tensor, "strides"),
        storage=find(opened, key),
        offset=_number(tensor, "offset"),
        kind=KINDS.index(kind),
    )


def _modules(root: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Each module with what its tensors' names begin with: above before below, as the file has them."""
    found: list[tuple[str, dict[str, Any]]] = []
    characters = 0
    waiting = [("", expect(_field(root, "mainModule", {}), dict, "mainModule"))]
    while waiting:
        prefix, module = waiting.pop()
        found.append((prefix, module))
        named = sum(len(_objects(module, what)) for what in ("submodules", "parameters", "attributes"))
        characters += len(prefix) * named
        if characters > MAX_NAME_CHARACTERS:
            raise LimitError(f"the names of its tensors have more than {MAX_NAME_CHARACTERS:,} characters together")
        below = [(f"{prefix}{_text(child, 'name')}.", child) for child in _objects(module, "submodules")]
        waiting += reversed(below)
    return found


def _read(source: Source, opened: Archive) -> dict[str, Any]:
    root = expect(read_json(source, opened, MODEL), dict, f"record {MODEL!r}")
    if _field(root, "mainModule", None) is None:
        raise UnsupportedError(f"is a zip archive, but no checkpoint: its {MODEL} is none of TorchScript's")
    return root


# Fields as protobuf writes them in JSON: in camel case or, which it reads too, as the message's definition has them;
# and where there is none, or null, its default.


def _field(message: dict[str, Any], name: str, default: object) -> Any:
    value = message.get(name)
    if value is None:
        value = message.get(re.sub("([A-Z])", lambda found: f"_{found[1].lower()}", name))
    return default if value is None else value


def _objects(message: dict[str, Any], name: str) -> list[dict[str, Any]]:
    return [expect(item, dict, f"one of {name}") for item in expect(_field(message, name, []), list, name)]


def _text(message: dict[str, Any], name: str) -> str:
    text = expect(_field(message, name, ""), str, name)
    if not text:
        raise FormatError(f"{name} is missing")
    return text


def _flag(message: dict[str, Any], name: str) -> bool:
    return expect(_field(message, name, False), bool, name)


def _number(message: dict[str, Any], name: str) -> int:
    return _integer(_field(message, name, 0), name)


def _numbers(message: dict[str, Any], name: str) -> list[int]:
    return [_integer(item, f"one of {name}") for item in expect(_field(message, name, []), list, name)]


def _integer(value: object, what: str) -> int:
    """A whole number, or one of 64 bits, which is a text."""
    if type(value) is str:
        if not re.fullmatch("-?[0-9]{1,19}", value):
            raise FormatError(f"{what} is {value!r} instead of a whole number")
        return int(value)
    return expect(value, int, what)
