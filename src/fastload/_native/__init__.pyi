"""What Python may call of the native core."""

from collections.abc import Callable, Container, Hashable, Iterable, Mapping, Sequence
from typing import Any, Literal, final

import numpy as np
from typing_extensions import Buffer

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
    "Outgoing",
    "Part",
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

ADVICE: dict[str, int]
BURNPACK_ALIGNMENT: int
BURNPACK_HEADER_BYTES: int
BURNPACK_MAX_TENSORS: int
CAN_MAP: bool
CAN_READ: bool
END_SEARCH_BYTES: int
FLOATS: tuple[str, ...]
KERNELS: tuple[str, ...]
KINDS: tuple[str, ...]
LOAD: int
LOCATE: int

@final
class DtypeTable:
    names: tuple[str, ...]
    extra: tuple[np.dtype[Any], ...]
    def __init__(self, rows: Sequence[tuple[str, int, int, int]], extra: Sequence[np.dtype[Any]] = ()) -> None: ...

@final
class Spellings:
    def __init__(self, codes: dict[str, int]) -> None: ...

@final
class Vocabulary:
    def __init__(
        self,
        rows: Iterable[tuple[str | None, str, str, int, str, str]],
        makers: dict[tuple[str, str], tuple[str, Any]],
        mapping: Callable[..., Any],
        array_dtype: Callable[[tuple[Any, ...], Any, bool], tuple[str, np.dtype[Any], int, bool] | None],
        quantization: Callable[[str, Any, Any, int | None], Any],
    ) -> None: ...

@final
class Records:
    @staticmethod
    def of_runs(runs: list[tuple[str, int, int]]) -> Records: ...
    def __len__(self) -> int: ...
    def find(self, name: str) -> int: ...
    def name(self, number: int) -> str: ...
    def list_names(self) -> list[str]: ...
    def is_view(self, number: int) -> bool: ...
    def stored(self, number: int) -> int: ...
    def size(self, number: int) -> int: ...
    def crc(self, number: int) -> int: ...

@final
class Globs:
    def __init__(self, globs: list[str]) -> None: ...
    def marks_in(self, index: Index, rows: Sequence[Any]) -> bytearray: ...
    def marks(self, names: list[str]) -> bytearray: ...

@final
class Index:
    source: Any
    dtypes: DtypeTable
    records: Records | None
    swapped: bool
    shard: int
    def __init__(
        self, source: Any, dtypes: DtypeTable, records: Records | None = None, swapped: bool = False, shard: int = 0
    ) -> None: ...
    def code_for(self, name: str, dtype: np.dtype[Any], unit: int) -> int: ...
    def __len__(self) -> int: ...
    def find(self, name: object) -> int: ...
    def list_names(self) -> list[str]: ...
    def names_at(self, rows: Iterable[Any]) -> list[str]: ...
    def dtype_code(self, row: int) -> int: ...
    def resolution(self, row: int) -> tuple[bool, bool]: ...
    def access(self, row: int) -> int: ...
    def storage_of(self, row: int) -> int: ...
    def extent_of(self, storage: int) -> tuple[int | None, int]: ...
    def held_bytes(self, storage: int) -> Buffer: ...
    def is_record(self, storage: int) -> bool: ...
    def swap_of(self, row: int) -> int: ...
    def entry(self, row: int) -> TensorEntry: ...
    def entries(self) -> list[TensorEntry]: ...
    @property
    def metadata(self) -> dict[str, Any]: ...

@final
class Outgoing:
    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    storage: Hashable
    entry: TensorEntry | None
    view: tuple[int, tuple[int, ...], int] | None
    storage_chunks: Callable[[], Iterable[memoryview]] | None
    stored: Any
    def __init__(
        self,
        name: str,
        dtype: str,
        shape: tuple[int, ...],
        nbytes: int,
        chunks: Callable[[], Iterable[memoryview]],
        *,
        storage: Hashable = None,
        entry: TensorEntry | None = None,
        view: tuple[int, tuple[int, ...], int] | None = None,
        storage_chunks: Callable[[], Iterable[memoryview]] | None = None,
        stored: Any = None,
    ) -> None: ...
    @property
    def chunks(self) -> Callable[[], Iterable[memoryview]]: ...
    def array(self) -> np.ndarray[Any, Any] | None: ...
    def changed(self, **changes: Any) -> Outgoing: ...

@final
class TensorEntry:
    def __init__(self, *args: object, **kwargs: object) -> None: ...
    def changed(self, **changes: Any) -> TensorEntry: ...
    @property
    def name(self) -> str: ...
    @property
    def key_path(self) -> tuple[str | int, ...]: ...
    @property
    def dtype(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def strides(self) -> tuple[int, ...] | None: ...
    @property
    def offset(self) -> int | None: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def storage(self) -> int | None: ...
    @property
    def storage_nbytes(self) -> int: ...
    @property
    def storage_offset(self) -> int | None: ...
    @property
    def file(self) -> str | None: ...
    @property
    def zero_copy(self) -> bool: ...
    @property
    def kind(
        self,
    ) -> Literal["tensor", "parameter", "buffer", "storage", "meta", "component", "quantised", "numpy"]: ...
    @property
    def param_id(self) -> int | None: ...
    @property
    def quantization(self) -> Any: ...

@final
class Graph:
    end: int
    @property
    def is_plain(self) -> bool: ...
    def __len__(self) -> int: ...
    def list_globals(self) -> list[tuple[str, str]]: ...

@final
class Part:
    def __init__(
        self,
        graph: Graph,
        prefix: bytes = b"",
        suffix: bytes = b"",
        leaves: dict[int, int] | None = None,
        tensors: dict[str, tuple[int, int, int, tuple[int, ...], tuple[int, ...], bool]] | None = None,
        scripts: Callable[[str, str], tuple[Container[str], Container[str]] | tuple[()] | None] | None = None,
        at: tuple[str, ...] = (),
        references: list[tuple[tuple[str, ...], Any]] | None = None,
    ) -> None: ...

@final
class Record:
    module: str
    name: str
    args: tuple[Any, ...] | None
    kwargs: dict[str, Any]
    state: Any
    items: list[Any]
    is_mapping: bool
    source_file: str | None
    source: str | None
    def __init__(self, module: str, name: str, args: tuple[Any, ...] | None = None) -> None: ...

@final
class FileMapping:
    def __new__(cls, descriptor: int, size: int, offset: int = 0, private: bool = False) -> FileMapping: ...
    @property
    def address(self) -> int: ...
    def __len__(self) -> int: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...

@final
class Region:
    def __new__(cls, data: Buffer) -> Region: ...
    def __len__(self) -> int: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...

@final
class WritableRegion:
    def __new__(cls, data: Buffer) -> WritableRegion: ...
    def __len__(self) -> int: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...
    @property
    def address(self) -> int: ...

@final
class Transfer:
    @property
    def blocks(self) -> int: ...
    @property
    def done(self) -> int: ...
    @property
    def total(self) -> int: ...
    @property
    def failure(self) -> tuple[int, int, int | None] | None: ...
    def __init__(self) -> None: ...
    def add_target(self, data: Buffer) -> int: ...
    def add_memory(self, data: Buffer, span: int, page: int, is_mapped: bool = False) -> int: ...
    def add_file(self, descriptor: int, size: int, span: int, page: int, direct: int = -1) -> int: ...
    def add(
        self,
        origin: int,
        position: int,
        nbytes: int,
        target: int,
        offset: int,
        from_float: int = -1,
        to_float: int = -1,
    ) -> None: ...
    def stop(self) -> None: ...
    def work(self, report: Callable[[], object] | None = None) -> None: ...

def add_storage(index: Index, position: int, size: int, limit: int) -> int: ...
def advise(data: Buffer, offset: int, count: int, advice: str) -> bool: ...
def append(
    index: Index,
    key_path: tuple[str | int, ...],
    dtype: int,
    shape: Sequence[int],
    *,
    strides: Sequence[int] | None = None,
    storage: int | None = None,
    offset: int = 0,
    kind: int = 0,
    swapped: bool = False,
) -> None: ...
def allocate(descriptor: int, count: int) -> None: ...
def begin_sync(descriptor: int, offset: int, count: int) -> None: ...
def build(graph: Graph, vocabulary: Vocabulary, leaves: dict[int, Any]) -> Any: ...
def build_state(graph: Graph, vocabulary: Vocabulary) -> Any: ...
def check(records: Records, number: int) -> None: ...
def convert(
    data: Buffer, source: int, result: Buffer, target: int, kernel: str | None = None, streams: bool | None = None
) -> None: ...
def count_resident(data: Buffer, offset: int, count: int) -> int: ...
def count_cached(descriptor: int, positions: Iterable[int]) -> int: ...
def filesystem_type(descriptor: int) -> int: ...
def find_directory(tail: Buffer, origin: int) -> tuple[int, int, int]: ...
def find_prefix(tail: Buffer, origin: int) -> int: ...
def finish(index: Index) -> None: ...
def gather(tensors: list[Outgoing], first: int, room: Buffer, alignment: int = 1) -> tuple[int, int]: ...
def harvest(
    parts: Sequence[Part | Callable[[Index], None]],
    vocabulary: Vocabulary,
    source: Any,
    dtypes: DtypeTable,
    records: Records,
    swapped: bool = False,
    attributes: bool = False,
    thorough: bool = False,
) -> Index: ...
def list_globals(graph: Graph, vocabulary: Vocabulary, dtypes: DtypeTable) -> list[tuple[str, str]]: ...
def local_header(records: Records, number: int) -> tuple[int, int]: ...
def locate_in_file(records: Records, number: int, descriptor: int, origin: int = 0) -> int: ...
def locate_record(records: Records, number: int, header: Buffer) -> int: ...
def members_of_header(tensors: list[Outgoing], spellings: dict[str, str]) -> bytes: ...
def parse(data: Buffer, origin: int = 0, is_in_source: bool = True) -> Graph: ...
def promise_storage(index: Index, size: int, is_view: bool, make: Callable[[], Buffer] | None = None) -> int: ...
def read_burnpack(
    data: Buffer,
    source: Any,
    dtypes: DtypeTable,
    plain: Spellings,
    bools: Spellings,
    opaque: int,
    scalars: dict[str, Callable[[Any], Any]],
    metadata_size: int,
    file_size: int,
) -> Index: ...
def read_burnpack_start(data: Buffer) -> tuple[int, int]: ...
def read_directory(data: Buffer, origin: int, count: int, file_size: int) -> Records: ...
def read_header(data: Buffer, source: Any, dtypes: DtypeTable, spellings: Spellings, data_size: int) -> Index: ...
def read_length(data: Buffer) -> int: ...
def read_stream(
    data: Buffer, origin: int, limit: int, is_in_source: bool, vocabulary: Vocabulary, dtypes: DtypeTable
) -> tuple[Graph, Records]: ...
def renumber(
    names: list[str], others: list[str], only: list[tuple[str, int]] | None, never: list[tuple[str, int]]
) -> tuple[list[str], list[str]]: ...
def describe_arrays(
    arrays: Mapping[Any, Any],
    array_of: Callable[[str, Any], np.ndarray[Any, Any]],
    name_of: Callable[[str, np.dtype[Any]], str],
    cut: Callable[[np.ndarray[Any, Any]], Iterable[memoryview]],
) -> tuple[list[Outgoing], list[int]]: ...
def describe_entries(
    entries: list[TensorEntry],
    tensors: Any,
    codes: dict[str, int],
    table: DtypeTable,
    cut: Callable[[np.ndarray[Any, Any]], Iterable[memoryview]],
    refuse: Callable[[TensorEntry], object],
) -> tuple[list[Outgoing], list[list[int]]]: ...
def direct_run(
    index: Index, row: int, length: int
) -> tuple[int, int, int, int, int, tuple[int, ...], tuple[int, ...]] | None: ...
def direct_view(
    index: Index, row: int, region: Region, dtypes: list[np.dtype[Any] | None]
) -> np.ndarray[Any, Any] | None: ...
def rename_exclusively(source: bytes, target: bytes) -> None: ...
def view(index: Index, row: int, region: Region, dtype: np.dtype[Any], whole: bool = False) -> np.ndarray[Any, Any]: ...
def writable_view(index: Index, row: int, region: WritableRegion, dtype: np.dtype[Any]) -> np.ndarray[Any, Any]: ...
