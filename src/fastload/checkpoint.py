"""Checkpoint: the tensors of a file as a mapping from name to numpy array."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from fastload import formats
from fastload._native import LOAD, LOCATE, Index, Region, view
from fastload.dtypes import DTYPES, numpy_dtype
from fastload.entry import TensorEntry
from fastload.errors import FastloadError, LimitError, TensorNotFoundError, UnsupportedError, located, printable
from fastload.source import Io, Source

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Buffer

__all__ = ["Checkpoint", "open"]

SHOWN_TENSORS = 10  # in a repr
MAX_OVERLAP = 64  # times that the elements of a tensor that must be copied may repeat the bytes of its storage
MAX_COMPARED_NAMES = 20_000  # when near names are looked for; more would make a typing error cost seconds


class Checkpoint(Mapping[str, np.ndarray]):
    """The tensors of a checkpoint: a mapping from dotted name to a read-only numpy array.

    Made by `fastload.open`. An array is made when it is asked for, each time anew; it is a view of the file wherever
    the bytes lie there as numpy can use them, and it stays valid after the checkpoint is closed. A checkpoint never
    changes and may be used by several threads at once.
    """

    __slots__ = ("__weakref__", "_allow_copy", "_format", "_index", "_source")

    def __init__(self, source: Source, format: formats.Format, index: Index, allow_copy: bool) -> None:
        self._source: Source | None = source
        self._format = format
        self._index: Index | None = index
        self._allow_copy = allow_copy

    # The mapping.

    def __getitem__(self, name: str) -> np.ndarray:
        index = self._index
        if index is None:
            raise self._closed()
        row = index.find(name)
        if row < 0:
            raise self._not_found(name)
        source: Source = index.source
        try:
            code = index.dtype_code(row)
            access = index.access(row)
            if source.region is None or access == LOAD:
                return self._load(index, row, code)
            if access == LOCATE:
                assert index.records is not None
                source.locate(index.records, index.storage_of(row))
            return view(index, row, source.region, numpy_dtype(code))
        except FastloadError as error:
            raise located(error, source.path, self._format.NAME) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._open_index().list_names())

    def __len__(self) -> int:
        return len(self._open_index())

    def __contains__(self, name: object) -> bool:
        return self._open_index().find(name) >= 0

    # A mapping of arrays has no useful equality: `==` would compare arrays element by element.
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    # What it is.

    @property
    def format(self) -> str:
        """The name of the format: ``"safetensors"`` or ``"pytorch-zip"``."""
        return self._format.NAME

    @property
    def path(self) -> str | None:
        """The file; None for a buffer."""
        path: str | None = self._open_index().source.path
        return path

    @property
    def metadata(self) -> dict[str, Any]:
        """What the format keeps about the tensors as a whole.

        Of safetensors: the texts under ``__metadata__``. Of a PyTorch archive: its version, byte order and the like,
        and ``_metadata`` of the state dict, which has the versions of its modules.
        """
        index = self._open_index()
        with _Located(index.source.path, self._format.NAME):
            return self._format.metadata(index.source, index)

    @property
    def objects(self) -> Any:
        """What else the file holds, as plain Python values, made anew each time.

        Tensors stand there as their `TensorEntry`, classes and functions of other programs as inert `Record`: nothing
        of the file is imported or called.

        Raises
        ------
        LimitError
            There are more objects than can be shown.
        """
        source = self._open_index().source
        with _Located(source.path, self._format.NAME):
            return self._format.objects(source)

    def entry(self, name: str) -> TensorEntry:
        """The description of one tensor; its data is not read.

        Raises
        ------
        TensorNotFoundError
            There is no tensor of that name; the message offers near ones.
        """
        index = self._open_index()
        row = index.find(name)
        if row < 0:
            raise self._not_found(name)
        return index.entry(row)

    def entries(self) -> list[TensorEntry]:
        """The descriptions of all tensors in order: the cheap way to list names, shapes and dtypes."""
        return self._open_index().entries()

    def verify(self) -> None:
        """Check every structure and extent of the file that opening leaves until it is needed; no tensor data is read.

        Raises
        ------
        FormatError
            Something is not where, or not what, the file says.
        """
        index = self._open_index()
        with _Located(index.source.path, self._format.NAME):
            self._format.verify(index.source, index)

    # Closing.

    def close(self) -> None:
        """Let go of the file. Arrays that were taken from it stay valid, and hold it for as long as they live."""
        self._source = None
        self._index = None

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # For a person.

    def __repr__(self) -> str:
        if self._index is None:
            return "<fastload.Checkpoint, closed>"
        entries = [self._index.entry(row) for row in range(min(len(self._index), SHOWN_TENSORS))]
        rows = [(printable(entry.name), entry.dtype, str(entry.shape)) for entry in entries]
        widths = [max((len(row[column]) for row in rows), default=0) for column in range(2)]
        lines = [f"  {name:<{widths[0]}}  {dtype:<{widths[1]}}  {shape}" for name, dtype, shape in rows]
        return "\n".join([f"<fastload.Checkpoint {self._title()}>", *lines, *self._rest()])

    def _repr_html_(self) -> str:
        import html  # only in a notebook

        if self._index is None:
            return html.escape(repr(self))
        entries = [self._index.entry(row) for row in range(min(len(self._index), SHOWN_TENSORS))]
        rows = "".join(
            f"<tr><td>{html.escape(printable(entry.name))}</td><td>{entry.dtype}</td><td>{entry.shape}</td></tr>"
            for entry in entries
        )
        foot = "".join(f"<tr><td colspan=3>{line.strip()}</td></tr>" for line in self._rest())
        return (
            f"<table><caption>{html.escape(self._title())}</caption>"
            f"<tr><th>name</th><th>dtype</th><th>shape</th></tr>{rows}{foot}</table>"
        )

    def _title(self) -> str:
        index = self._open_index()
        where = printable(os.path.basename(index.source.path)) if index.source.path else "in memory"
        return f"{where}: {self.format}, {len(index):,} tensor{'' if len(index) == 1 else 's'}"

    def _rest(self) -> list[str]:
        more = len(self._open_index()) - SHOWN_TENSORS
        return [f"  … {more:,} more"] if more > 0 else []

    # Arrays that are no views of the whole source.

    def _load(self, index: Index, row: int, code: int) -> np.ndarray:
        """The array of a tensor whose storage must first be read, inflated or byte-swapped, or its values resolved."""
        entry = index.entry(row)
        if entry.kind == "meta":
            raise UnsupportedError(
                f"{entry.name!r} is a meta tensor: the file holds its shape {entry.shape} and no data"
            )
        if not (entry.zero_copy or self._allow_copy):
            raise UnsupportedError(
                f"tensor {entry.name!r} cannot be a view: it is compressed, big-endian or conjugated in the file;"
                " open it with allow_copy=True to have a copy"
            )
        swap = DTYPES[code].swap if index.swapped else 1
        source: Source = index.source
        array = view(index, row, source.storage(index, index.storage_of(row), swap), numpy_dtype(code), whole=True)
        conjugated, negated = index.resolution(row)
        if not (conjugated or negated):
            return array
        # A broadcast dimension (stride 0) is resolved once, and broadcast again.
        once = array[tuple(slice(0, 1) if stride == 0 else slice(None) for stride in array.strides)]
        if once.nbytes > MAX_OVERLAP * entry.storage_nbytes:
            raise LimitError(
                f"tensor {entry.name!r} repeats its storage too often for a copy: its values are conjugated"
            )
        resolved = np.array(once, order="C")
        if conjugated and entry.dtype == "complex32":
            resolved[..., 1] = -resolved[..., 1]
        elif conjugated:
            np.conjugate(resolved, out=resolved)
        if negated:
            np.negative(resolved, out=resolved)
        # Over a Region, so that nobody can make it writable; as bytes, since ml_dtypes have no buffer format.
        data = memoryview(Region(resolved.reshape(-1).view(np.uint8).data))
        held = np.ndarray(resolved.shape, resolved.dtype, data)
        return np.broadcast_to(held, array.shape) if held.shape != array.shape else held

    # Errors.

    def _open_index(self) -> Index:
        if self._index is None:
            raise self._closed()
        return self._index

    @staticmethod
    def _closed() -> ValueError:
        return ValueError("the checkpoint is closed")

    def _not_found(self, name: object) -> TensorNotFoundError:
        index = self._open_index()
        near: list[str] = []
        import difflib  # only for a message

        if isinstance(name, str) and len(index) <= MAX_COMPARED_NAMES:
            near = difflib.get_close_matches(name, index.list_names(), n=3)
        hint = f"; near: {', '.join(repr(other) for other in near)}" if near else ""
        return TensorNotFoundError(f"no tensor {name!r} among {len(index):,}{hint}", path=index.source.path)


class _Located:
    """Adds path and format to an error of fastload that passes through."""

    def __init__(self, path: str | None, format: str | None = None) -> None:
        self.path = path
        self.format = format

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, FastloadError):
            located(error, self.path, self.format)


def open(source: str | os.PathLike[str] | Buffer, *, io: Io = "auto", allow_copy: bool = True) -> Checkpoint:
    """Open a checkpoint: read what it holds, and none of its tensors.

    Parameters
    ----------
    source : path or buffer
        A file, or any object with the buffer protocol (bytes, bytearray, memoryview, mmap, array): it is viewed, never
        copied, and kept alive by the arrays over it. The format is told from the bytes.
    io : {"auto", "mmap", "read"}
        How a file's tensors come to memory. "mmap" maps the file, shared and read-only. "read" reads headers now, and
        each storage when it is first asked for, once for as long as an array over it lives; a page fault on a network
        disk costs more than that. "auto" is "read" on network file systems and "mmap" on others.
    allow_copy : bool
        False refuses tensors that cannot be views of the file: compressed, big-endian or conjugated ones.

    Raises
    ------
    FormatError
        The file breaks the rules of its format. Among its kinds: TruncatedError for a file that was cut short,
        UnknownFormatError for one of no known format, LimitError for one that claims too much.
    UnsupportedError
        The file is sound and of a sort that cannot be read.
    OSError
        The file cannot be opened.

    Examples
    --------
    >>> with fastload.open("model.safetensors") as checkpoint:  # doctest: +SKIP
    ...     checkpoint["encoder.weight"].shape
    (768, 768)
    """
    path = os.fsdecode(source) if isinstance(source, (str, os.PathLike)) else None
    with _Located(path):
        opened = Source.of(source, io)
        format = formats.detect(opened)
        with _Located(path, format.NAME):
            return Checkpoint(opened, format, format.index(opened), allow_copy)
