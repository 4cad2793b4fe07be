"""Exported programs (`torch.export.save`) of torch 2.8 and later, and packages of AOTInductor that bring weights.

    P/archive_format, P/archive_version         "pt2" and "0"
    P/models/NAME.json                          the graph of a program; never needed to find tensors
    P/data/weights/NAME_weights_config.json     {"config": {name: {path_name, is_param, use_pickle, tensor_meta}}}
    P/data/weights/weight_0, 1, …               one whole storage each, raw; several tensors may lie in one
    P/data/constants/NAME_constants_config.json, tensor_0, …    the same of buffers that are not persistent and the like
    P/data/constants/custom_obj_0, opaque_obj_0, …              objects that are no tensors
    P/data/aotinductor/NAME/weights_config.json  {tensor name: [path name, shape, strides, offset]}, whose weights are
                                                 files of torch.save
    P/data/sample_inputs/NAME.pt, P/extra/…, P/byteorder

`use_pickle` marks tensors of a subclass, which are files of torch.save too. A storage of no bytes for a tensor that has
elements is how torch writes a fake tensor: it is described, and has no data.

Format: torch/export/pt2_archive/_package.py and torch/_export/serde/schema.py of torch 2.13.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from fastload import dtypes
from fastload._native import KINDS, Index, TensorEntry, add_storage, append, finish, parse
from fastload.entry import FreeNames
from fastload.errors import FormatError, UnsupportedError
from fastload.formats.torch import archive, saved
from fastload.formats.torch import zip as torch_zip
from fastload.formats.torch.archive import Archive
from fastload.formats.torch.records import about, expect, find, open_part, read_json, read_text
from fastload.options import Options
from fastload.source import Source

NAME = "pt2"

VERSION = "0"  # of the archive; torch reads no other
MAX_EXTRA_BYTES = 1 << 24  # of one of the texts that users put beside the program

# What stands before and behind the name of a program in the names of its records.
MODELS = ("models/", ".json")
WEIGHTS = ("data/weights/", "_weights_config.json")
CONSTANTS = ("data/constants/", "_constants_config.json")
COMPILED = ("data/aotinductor/", "/weights_config.json")
SAMPLES = ("data/sample_inputs/", ".pt")
EXTRA = "extra/"
LISTS = ((WEIGHTS, "buffer"), (CONSTANTS, "tensor"))  # and what a tensor of them is that is no parameter
NO_TENSORS = ("custom_obj_", "opaque_obj_")  # how the path names of objects begin that are no tensors

# The numbers of `ScalarType` in torch/_export/serde/schema.py, which are not those of c10.
SCALAR_TYPES = {
    1: "uint8", 2: "int8", 3: "int16", 4: "int32", 5: "int64", 6: "float16", 7: "float32", 8: "float64",
    9: "complex32", 10: "complex64", 11: "complex128", 12: "bool", 13: "bfloat16", 28: "uint16", 29: "float8_e4m3fn",
    30: "float8_e5m2", 31: "float8_e4m3fnuz", 32: "float8_e5m2fnuz", 33: "float8_e8m0fnu", 34: "uint32", 35: "uint64",
}  # fmt: skip
STRIDED = 7  # of `Layout` there: the one layout whose bytes are those of a plain tensor
LAYOUTS = range(8)

verify = archive.verify


def index(source: Source, options: Options) -> Index:
    """Describe every tensor without reading its data, from the lists of weights and constants.

    Names are those of the state dict; of several programs in one archive, behind the name of the program. Order:
    program by program, weights, then constants, as the lists have them.

    Raises
    ------
    FormatError
        A list is not what it should be, or promises a record that the archive lacks or that is too short.
    UnsupportedError
        A package without weights, an archive of a later version, or a tensor that cannot even be described.
    """
    opened = archive.open_archive(source)
    _check_version(source, opened)
    programs, compiled = _programs(opened), _between(opened, *COMPILED)
    if not programs and not compiled:
        _refuse(opened)
    made = Index(source, dtypes.TABLE, opened.records, opened.swapped)
    writer = _Writer(made, source, opened, options, is_single=len({*programs, *compiled}) == 1)
    for program in programs:
        for place, kind in LISTS:
            for name, payload in _payloads(source, opened, place, program):
                with about(f"tensor {name!r}"):
                    if not _path_name(payload).startswith(NO_TENSORS):
                        writer.add(program, name, place[0], payload, kind)
    for program in compiled:
        for name, fields in _compiled_weights(source, opened, program):
            with about(f"tensor {name!r}"):
                writer.add_compiled(program, name, fields)
    finish(made)
    return made


def metadata(source: Source, index: Index) -> dict[str, Any]:
    """The archive's small texts, its version, and the names of the programs."""
    opened = archive.open_archive(source)
    programs = list(dict.fromkeys([*_programs(opened), *_between(opened, *COMPILED)]))
    return {**archive.metadata(source), "archive_version": _version(source, opened), "programs": programs}


def objects(source: Source, options: Options) -> Any:
    """The programs' graphs as the archive spells them, and the texts that users put beside them."""
    opened = archive.open_archive(source)
    return {
        "programs": {name: read_json(source, opened, name.join(MODELS)) for name in _between(opened, *MODELS)},
        "extra": {
            name: read_text(source, opened, EXTRA + name, MAX_EXTRA_BYTES)
            for name in _between(opened, EXTRA, "")
            if not name.endswith("/")  # a folder
        },
    }


def list_globals(source: Source) -> list[tuple[str, str]]:
    """(module, name) of every global that the pickles within the archive name: of inputs, subclasses and objects."""
    opened = archive.open_archive(source)
    numbers = [find(opened, name.join(SAMPLES)) for name in _between(opened, *SAMPLES)]
    for program in _programs(opened):
        for place, _ in LISTS:
            for name, payload in _payloads(source, opened, place, program):
                with about(f"payload {name!r}"):
                    if expect(payload.get("use_pickle"), bool, "its use_pickle"):
                        numbers.append(find(opened, place[0] + _path_name(payload)))
    for program in _between(opened, *COMPILED):
        for _, fields in _compiled_weights(source, opened, program):
            numbers.append(find(opened, WEIGHTS[0] + expect(fields[0], str, "a path name")))
    found: dict[tuple[str, str], None] = {}
    for number in dict.fromkeys(numbers):
        part = open_part(source, opened, number)
        if archive.is_zip(bytes(part.fetch(0, min(4, part.size)))):
            found.update(dict.fromkeys(torch_zip.list_globals(part)))
        elif part.size:
            found.update(dict.fromkeys(saved.list_globals(parse(part.fetch(0, part.size)))))
    return list(found)


class _Nested(NamedTuple):
    """The one tensor of a file of torch.save within the archive."""

    entry: TensorEntry
    storage: int | None  # its storage as a run of bytes of the archive; None where it is none
    offset: int  # of the tensor in it, in bytes


class _Writer:
    """Fills the index of one archive."""

    def __init__(self, made: Index, source: Source, opened: Archive, options: Options, *, is_single: bool) -> None:
        self._made = made
        self._source = source
        self._opened = opened
        self._options = options
        self._is_single = is_single
        self._names = FreeNames()
        self._nested: dict[int, _Nested | None] = {}

    def add(self, program: str, name: str, folder: str, payload: dict[str, Any], kind: str) -> None:
        """A tensor of a list of weights or constants."""
        number = find(self._opened, folder + _path_name(payload))
        is_pickled = expect(payload.get("use_pickle"), bool, "its use_pickle")
        if expect(payload.get("is_param"), bool, "its is_param"):
            kind = "parameter"
        meta = payload.get("tensor_meta")
        if meta is None and is_pickled:
            raise UnsupportedError("it is a pickled object without a description: load the program with torch")
        geometry = _geometry(expect(meta, dict, "its tensor_meta"))
        storage: int | None = number
        if is_pickled:
            storage = self._pickled_storage(number, geometry)
        elif geometry.strides is None:
            storage = None
        elif not self._opened.records.size(number) and all(geometry.shape):
            storage, kind = None, "meta"
        self._append(program, name, geometry, storage, kind)

    def add_compiled(self, program: str, name: str, fields: list[Any]) -> None:
        """A weight of a compiled program: a part of a tensor that is a file of its own."""
        nested = self._open_nested(find(self._opened, WEIGHTS[0] + expect(fields[0], str, "its path name")))
        if nested is None:
            raise UnsupportedError("its file holds something else than one plain tensor: load it with torch")
        shape, strides = (
            [expect(size, int, f"a number of its {what}") for size in expect(sizes, list, f"its {what}")]
            for sizes, what in ((fields[1], "shape"), (fields[2], "strides"))
        )
        code = dtypes.CODES[nested.entry.dtype]
        geometry = _Geometry(code, shape, strides, expect(fields[3], int, "its offset"))
        self._append(program, name, geometry, nested.storage, "tensor")

    def _append(self, program: str, name: str, geometry: _Geometry, storage: int | None, kind: str) -> None:
        prefix = "" if self._is_single else f"{program}."
        name = self._names.take(prefix + name)
        path = (name,) if self._is_single else (program, name[len(prefix) :])
        dtype, shape, strides, offset = geometry
        number = KINDS.index(kind)
        append(self._made, path, dtype, shape, strides=strides, storage=storage, offset=offset, kind=number)

    def _pickled_storage(self, number: int, geometry: _Geometry) -> int | None:
        """The storage of a pickled tensor, where it is pickled as the plain tensor that the list describes."""
        try:
            nested = self._open_nested(number)
        except UnsupportedError:  # a class whose values only torch knows: described, and refused when asked for
            return None
        if nested is None or geometry.strides is None or len(geometry.strides) != len(geometry.shape):
            return None
        entry, item = nested.entry, dtypes.DTYPES[geometry.dtype].bits // 8
        assert entry.strides is not None  # only dtypes packed below the byte have none, and torch has no such
        steps = zip(geometry.shape, geometry.strides, entry.strides, strict=False)
        is_same = (
            dtypes.CODES[entry.dtype] == geometry.dtype
            and list(entry.shape) == geometry.shape
            and nested.offset == geometry.offset * item
            and all(size == 1 or stride * item == step for size, stride, step in steps)
        )
        return nested.storage if is_same else None

    def _open_nested(self, number: int) -> _Nested | None:
        """The one tensor of a file of torch.save in a record; None where it holds something else."""
        if number not in self._nested:
            with about(f"record {self._opened.records.name(number)!r}"):
                self._nested[number] = self._read_nested(number)
        return self._nested[number]

    def _read_nested(self, number: int) -> _Nested | None:
        part = open_part(self._source, self._opened, number)
        found = torch_zip.index(part, self._options)
        if found.list_names() != [""]:
            return None
        entry, inner = found.entry(0), found.storage_of(0)
        if not entry.zero_copy or found.records is None or not found.is_record(inner):
            return _Nested(entry, None, 0)
        place = part.origin + part.locate(found.records, inner)  # from the start of the file, as those of entries
        size = found.records.size(inner)
        storage = add_storage(self._made, place - self._source.origin, size, self._source.size)
        return _Nested(entry, storage, (entry.offset or 0) - place)


class _Geometry(NamedTuple):
    """What a description of a tensor says, in elements."""

    dtype: int
    shape: list[int]
    strides: list[int] | None  # None where its layout has none
    offset: int


def _geometry(meta: dict[str, Any]) -> _Geometry:
    number = expect(meta.get("dtype"), int, "its dtype")
    if number not in SCALAR_TYPES:
        raise UnsupportedError(f"its dtype has the number {number}, which fastload does not know")
    layout = expect(meta.get("layout"), int, "its layout")
    if layout not in LAYOUTS:
        raise FormatError(f"its layout has the number {layout}, and there are {len(LAYOUTS)}")
    shape = [_integer(size, "shape") for size in expect(meta.get("sizes"), list, "its shape")]
    code = dtypes.CODES[SCALAR_TYPES[number]]
    if layout != STRIDED:
        return _Geometry(code, shape, None, 0)
    strides = [_integer(stride, "strides") for stride in expect(meta.get("strides"), list, "its strides")]
    return _Geometry(code, shape, strides, _integer(meta.get("storage_offset"), "offset"))


def _integer(value: object, what: str) -> int:
    """The number of a `SymInt`, which may be an expression instead."""
    union = expect(value, dict, f"a number of its {what}")
    if "as_expr" in union:
        raise UnsupportedError(f"its {what} is symbolic, so nobody knows how much data it has")
    return expect(union.get("as_int"), int, f"a number of its {what}")


def _payloads(
    source: Source, opened: Archive, place: tuple[str, str], program: str
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The entries of one list: names, and what it says of each."""
    record = program.join(place)
    root = expect(read_json(source, opened, record), dict, f"record {record!r}")
    for name, payload in expect(root.get("config"), dict, f"the config of record {record!r}").items():
        yield name, expect(payload, dict, f"the description of {name!r} in record {record!r}")


def _path_name(payload: dict[str, Any]) -> str:
    return expect(payload.get("path_name"), str, "its path_name")


def _compiled_weights(source: Source, opened: Archive, program: str) -> Iterator[tuple[str, list[Any]]]:
    """Names, and [path name, shape, strides, offset] of each."""
    record = program.join(COMPILED)
    for name, fields in expect(read_json(source, opened, record), dict, f"record {record!r}").items():
        if len(expect(fields, list, f"the description of {name!r}")) != 4:
            raise FormatError(f"the description of {name!r} in record {record!r} has {len(fields)} fields instead of 4")
        yield name, fields


def _programs(opened: Archive) -> list[str]:
    """The programs that there are, or of which there is a list."""
    return list(dict.fromkeys(name for place in (MODELS, WEIGHTS, CONSTANTS) for name in _between(opened, *place)))


def _between(opened: Archive, start: str, end: str) -> list[str]:
    """What stands between *start* and *end* in the names of the records that have both."""
    start = opened.root + start
    return [
        name[len(start) : len(name) - len(end)]
        for name in opened.records.list_names()
        if len(name) > len(start) + len(end) and name.startswith(start) and name.endswith(end)
    ]


def _version(source: Source, opened: Archive) -> str:
    if opened.find("archive_version") < 0:
        return VERSION  # as torch takes it
    return read_text(source, opened, "archive_version").strip()


def _check_version(source: Source, opened: Archive) -> None:
    format = read_text(source, opened, "archive_format").strip()
    if format != "pt2":
        raise UnsupportedError(f"is an archive of the format {format!r}, which fastload does not know")
    version = _version(source, opened)
    if version != VERSION:
        raise UnsupportedError(f"is an exported program of archive version {version!r}, and fastload knows {VERSION!r}")


def _refuse(opened: Archive) -> None:
    """Say what an archive without any list of weights is."""
    if _between(opened, COMPILED[0], ""):
        raise UnsupportedError(
            "is a package of AOTInductor with its weights inside the compiled code: export them with"
            " aot_inductor.package_constants_on_disk, or save the state dict"
        )
    if _between(opened, "xl_model_weights/", ""):
        raise UnsupportedError("keeps its weights in xl_model_weights/, which fastload cannot read")
    raise UnsupportedError("is an archive of torch.export that holds no program")
