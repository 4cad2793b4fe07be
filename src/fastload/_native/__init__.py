"""The native core: parsers of buffers, the Index they fill, and the door to numpy arrays. It knows no files."""

from fastload._native.filesystem import filesystem_type
from fastload._native.graph import Graph
from fastload._native.harvest import harvest
from fastload._native.index import LOAD, LOCATE, VIEW, DtypeTable, Index, Records, Spellings, TensorEntry
from fastload._native.objects import Record, build, build_state
from fastload._native.pickle import parse
from fastload._native.recipe import Vocabulary
from fastload._native.safetensors import read_header, read_length
from fastload._native.view import Region, view
from fastload._native.zip import (
    END_SEARCH_BYTES,
    check,
    find_directory,
    local_header,
    locate_in_file,
    locate_record,
    read_directory,
)

__all__ = [
    "END_SEARCH_BYTES",
    "LOAD",
    "LOCATE",
    "VIEW",
    "DtypeTable",
    "Graph",
    "Index",
    "Record",
    "Records",
    "Region",
    "Spellings",
    "TensorEntry",
    "Vocabulary",
    "build",
    "build_state",
    "check",
    "filesystem_type",
    "find_directory",
    "harvest",
    "local_header",
    "locate_in_file",
    "locate_record",
    "parse",
    "read_directory",
    "read_header",
    "read_length",
    "view",
]
