"""The native core: parsers of buffers, the Index they fill, and the door to numpy arrays. It knows no files."""

# Modules that only others of the core need, which tools that freeze programs would not find there.
from fastload._native import (  # noqa: F401
    arrays,
    cbor,
    contents,
    cursor,
    json,
    keys,
    machine,
    modules,
    names,
    order,
    recipe,
    registers,
    textargs,
    utf8,
    vector,
)
from fastload._native.blob import list_globals
from fastload._native.burnpack import ALIGNMENT as BURNPACK_ALIGNMENT
from fastload._native.burnpack import HEADER_BYTES as BURNPACK_HEADER_BYTES
from fastload._native.burnpack import MAX_TENSORS as BURNPACK_MAX_TENSORS
from fastload._native.burnpack import read_burnpack, read_burnpack_start
from fastload._native.calls import Vocabulary
from fastload._native.cast import FLOATS, KERNELS, convert
from fastload._native.filesystem import (
    CAN_MAP,
    FileMapping,
    allocate,
    begin_sync,
    filesystem_type,
    rename_exclusively,
)
from fastload._native.geometry import add_storage, append, finish, promise_storage
from fastload._native.globs import Globs
from fastload._native.graph import Graph
from fastload._native.harvest import Part, harvest
from fastload._native.index import KINDS, LOAD, LOCATE, Index, Records, TensorEntry
from fastload._native.layout import Layout, lay_out
from fastload._native.objects import Record, build, build_state
from fastload._native.outgoing import Outgoing, describe_arrays, describe_entries, gather, members_of_header
from fastload._native.pages import ADVICE, advise, count_resident
from fastload._native.pickle import parse
from fastload._native.pickling import PickleWriter
from fastload._native.readinto import CAN_READ, Transfer, count_cached
from fastload._native.renumber import renumber
from fastload._native.safetensors import read_header, read_length
from fastload._native.stream import read_stream
from fastload._native.tables import DtypeTable, Spellings
from fastload._native.view import Region, WritableRegion, arrays_of, direct_run, direct_view, view, writable_view
from fastload._native.zip import (
    END_SEARCH_BYTES,
    check,
    find_directory,
    find_prefix,
    local_header,
    locate_in_file,
    locate_record,
    read_directory,
)

__all__ = [
    "ADVICE",
    "BURNPACK_ALIGNMENT",
    "BURNPACK_HEADER_BYTES",
    "BURNPACK_MAX_TENSORS",
    "CAN_MAP",
    "CAN_READ",
    "END_SEARCH_BYTES",
    "FLOATS",
    "KERNELS",
    "KINDS",
    "LOAD",
    "LOCATE",
    "DtypeTable",
    "FileMapping",
    "Globs",
    "Graph",
    "Index",
    "Layout",
    "Outgoing",
    "Part",
    "PickleWriter",
    "Record",
    "Records",
    "Region",
    "Spellings",
    "TensorEntry",
    "Transfer",
    "Vocabulary",
    "WritableRegion",
    "add_storage",
    "advise",
    "allocate",
    "append",
    "arrays_of",
    "begin_sync",
    "build",
    "build_state",
    "check",
    "convert",
    "count_cached",
    "count_resident",
    "describe_arrays",
    "describe_entries",
    "direct_run",
    "direct_view",
    "filesystem_type",
    "find_directory",
    "find_prefix",
    "finish",
    "gather",
    "harvest",
    "lay_out",
    "list_globals",
    "local_header",
    "locate_in_file",
    "locate_record",
    "members_of_header",
    "parse",
    "promise_storage",
    "read_burnpack",
    "read_burnpack_start",
    "read_directory",
    "read_header",
    "read_length",
    "read_stream",
    "rename_exclusively",
    "renumber",
    "view",
    "writable_view",
]
