"""Checkpoints that are split over several files: by an index, or all files `…-00001-of-00002` of one set.

With an index only the index is read at first, and each file when something of it is asked for; its file descriptor is
not kept, since a process may have fewer than a checkpoint has files. Without an index the names stand in the files
alone, so all their headers are read.
"""

from __future__ import annotations

import copy
import threading
from typing import Any

import numpy as np

from fastload.entry import FreeNames, TensorEntry
from fastload.errors import FastloadError, FormatError, LimitError, located
from fastload.folders.places import Folder
from fastload.folders.weight_map import WeightMap
from fastload.options import Options
from fastload.source import Handing, Source
from fastload.tensors import MAX_FILES, PARTS, PrivateRun, Tensors, open_source

__all__ = ["ShardedTensors", "open_index", "open_set"]

MAX_SHARDS = MAX_FILES // PARTS
SHOWN_NAMES = 3  # in an error


class Shard:
    """One file of a checkpoint, opened when it is first needed."""

    __slots__ = ("_folder", "_lock", "_number", "_opened", "_options", "file")

    def __init__(self, folder: Folder, file: str, number: int, options: Options) -> None:
        self.file = file
        self._folder = folder
        self._number = number
        self._options = options
        self._lock = threading.Lock()
        self._opened: Tensors | None = None

    @property
    def opened(self) -> Tensors | None:
        """Its tensors, if it has been opened."""
        return self._opened

    def tensors(self) -> Tensors:
        """Its tensors; the first thread that asks opens it."""
        opened = self._opened
        if opened is None:
            with self._lock:
                opened = self._opened
                if opened is None:
                    opened = self._opened = self._open()
        return opened

    def _open(self) -> Tensors:
        try:
            self._folder.check(self.file)  # which may have become something else
            source = self._folder.source(self.file, keep_open=False)
            return open_source(source, self._options, self._number * PARTS)
        except FastloadError as error:
            raise self._folder.naming(error, self.file) from None


class ShardedTensors:
    """The tensors of several files, by the names that an index gives or that the files have.

    Parameters
    ----------
    path : str or None
        The folder or index, as it was given, or the archive that it is in.
    shards : list of Shard
    rows : dict of str to int
        The row of each name, in order from 0 on.
    shard_of : list of int
        The shard of each row.
    own : list of int, optional
        The row that each row has in its shard; by default that of the same name.
    index : (str, Source), optional
        The index, and what messages call it.
    metadata : dict, optional
        That of the index; by default that of all shards together.
    """

    __slots__ = ("_index", "_index_name", "_metadata", "_names", "_own", "_path", "_rows", "_shard_of", "_shards")

    def __init__(
        self,
        path: str | None,
        shards: list[Shard],
        rows: dict[str, int],
        shard_of: list[int],
        own: list[int] | None = None,
        index: tuple[str, Source] | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        self._path = path
        self._shards = shards
        self._rows = rows
        self._names = list(rows)
        self._shard_of = shard_of
        self._own = own
        self._index_name = index[0] if index is not None else ""
        self._index = index[1] if index is not None else None
        self._metadata = metadata

    @property
    def path(self) -> str | None:
        """The folder or index, as it was given, or the archive that it is in."""
        return self._path

    @property
    def format(self) -> str:
        """`sharded-` and the format of the first file, which is opened to tell; `sharded` where there is none."""
        return f"sharded-{self._shards[0].tensors().format}" if self._shards else "sharded"

    def __len__(self) -> int:
        return len(self._names)

    def find(self, name: object) -> int:
        """The row of a name, or -1."""
        return self._rows.get(name, -1) if isinstance(name, str) else -1

    def list_names(self) -> list[str]:
        """All names, in order."""
        return list(self._names)

    def entry(self, row: int) -> TensorEntry:
        """The description of one tensor."""
        tensors, own = self._locate(row)
        found = tensors.entry(own)
        return found if self._own is None or found.name == self._names[row] else found.changed(name=self._names[row])

    def entries(self) -> list[TensorEntry]:
        """The descriptions of all tensors, in order; opens every file."""
        if self._own is not None:
            return [self.entry(row) for row in range(len(self._names))]
        finders = [shard.tensors().find for shard in self._shards]
        entries = [shard.tensors().entries() for shard in self._shards]
        found = []
        for row, (name, number) in enumerate(zip(self._names, self._shard_of, strict=True)):
            own = finders[number](name)
            found.append(entries[number][own if own >= 0 else self._locate(row)[1]])
        return found

    def array(self, row: int) -> np.ndarray:
        """The array of one tensor, made anew."""
        tensors, own = self._locate(row)
        return tensors.array(own)

    def check(self, row: int) -> None:
        """See that the array of one tensor can be made."""
        tensors, own = self._locate(row)
        tensors.check(own)

    def private_array(self, row: int, handing: Handing) -> np.ndarray:
        """The array of one tensor, writable, over memory that was made for this handing over alone."""
        tensors, own = self._locate(row)
        return tensors.private_array(own, handing)

    def private_run(self, row: int, handing: Handing) -> PrivateRun | None:
        """Where one tensor lies in memory as that of `private_array`; None where only that can tell."""
        tensors, own = self._locate(row)
        return tensors.private_run(own, handing)

    def source_of(self, row: int) -> Source | None:
        """The source that the bytes of one tensor lie in; None where there is none."""
        tensors, own = self._locate(row)
        return tensors.source_of(own)

    def metadata(self) -> dict[str, Any]:
        """The metadata of the index, for which no file is opened.

        Without an index: what the files keep about their tensors; of two that say the same thing, the first counts.
        """
        if self._metadata is not None:
            return copy.deepcopy(self._metadata)
        found: dict[str, Any] = {}
        for shard in reversed(self._shards):
            found.update(shard.tensors().metadata())
        return found

    def objects(self) -> Any:
        """What else there is, by the name of the file that holds it."""
        return {shard.file: shard.tensors().objects() for shard in self._shards}

    def list_globals(self) -> list[tuple[str, str]]:
        """(module, name) of every global that the pickles name, once each."""
        return list(dict.fromkeys(name for shard in self._shards for name in shard.tensors().list_globals()))

    def verify(self) -> None:
        """Check every file, and that each holds the tensors that the index promises of it, and no others."""
        promised: list[list[str]] = [[] for _ in self._shards]
        for row, number in enumerate(self._shard_of):
            promised[number].append(self._names[row])
            self._locate(row)
        for shard, names in zip(self._shards, promised, strict=True):
            tensors = shard.tensors()
            tensors.verify()
            if len(tensors) > len(names):
                known = set(names)
                extra = [name for name in tensors.list_names() if name not in known]
                raise FormatError(
                    f"holds {_listed(extra)} beyond what the index {self._index_name!r} lists", path=tensors.path
                )

    def still_valid(self) -> bool:
        """Whether the index and every file opened so far are still those that were opened."""
        opened = [shard.opened for shard in self._shards]
        valid = self._index is None or self._index.still_valid()
        return valid and all(tensors is None or tensors.still_valid() for tensors in opened)

    def _locate(self, row: int) -> tuple[Tensors, int]:
        """The file that holds a row, and the row that it has there."""
        tensors = self._shards[self._shard_of[row]].tensors()
        if self._own is not None:
            return tensors, self._own[row]
        own = tensors.find(self._names[row])
        if own < 0:
            raise FormatError(
                f"holds no tensor {self._names[row]!r}, which the index {self._index_name!r} promises",
                path=tensors.path,
                format=tensors.format,
            )
        return tensors, own


def open_index(
    path: str | None, name: str, source: Source, said: WeightMap, folder: Folder, options: Options
) -> ShardedTensors:
    """The tensors of an index; of the files that it names it is checked that they are there.

    Parameters
    ----------
    path : str or None
        What the user opened: the index, the folder that it is in, or an archive.
    name : str
        The index, as messages name it.
    source : Source
        Its bytes.
    said : WeightMap
        What it says.
    folder : Folder
        Where the files are.

    Raises
    ------
    FormatError
        A file is missing, or its name leads elsewhere than to a file in the folder of the index.
    LimitError
        It names more than `MAX_SHARDS` files.
    """
    numbers = {file: number for number, file in enumerate(dict.fromkeys(said.files.values()))}
    if len(numbers) > MAX_SHARDS:
        raise LimitError(f"the index names {len(numbers):,} files, more than {MAX_SHARDS:,}", path=source.path)
    shards = [Shard(folder, file, number, options) for file, number in numbers.items()]
    for file in numbers:
        try:
            folder.check(file)
        except FastloadError as error:
            held = [name for name, its in said.files.items() if its == file]
            error.message += f"; the index says that it holds {_listed(held)}"
            raise located(error, source.path) from None
    shard_of = list(map(numbers.__getitem__, said.files.values()))
    rows = dict(zip(said.files, range(len(shard_of)), strict=True))
    return ShardedTensors(path, shards, rows, shard_of, index=(name, source), metadata=said.metadata)


def open_set(folder: Folder, files: list[str], options: Options) -> ShardedTensors:
    """The tensors of all *files* of a folder, one file after the other.

    Where two come to one name, the later gets `#2`, `#3` and so on.
    """
    if len(files) > MAX_SHARDS:
        raise LimitError(f"holds a set of {len(files):,} files, more than {MAX_SHARDS:,}", path=folder.path)
    shards = [Shard(folder, file, number, options) for number, file in enumerate(files)]
    free = FreeNames()
    rows: dict[str, int] = {}
    shard_of: list[int] = []
    own: list[int] = []
    for number, shard in enumerate(shards):
        names = shard.tensors().list_names()
        for name in names:
            rows[free.take(name)] = len(rows)
        shard_of.extend([number] * len(names))
        own.extend(range(len(names)))
    return ShardedTensors(folder.path, shards, rows, shard_of, own)


def _listed(names: list[str]) -> str:
    """The first of *names*, and how many more there are."""
    more = f" and {len(names) - SHOWN_NAMES:,} more" if len(names) > SHOWN_NAMES else ""
    return ", ".join(map(repr, names[:SHOWN_NAMES])) + more
