"""From files to files: `convert`, `merge` and `split`. A few megabytes are in memory at a time, or one tensor.

Each is a draft first, of which all that can be known before a byte is written has been checked; then it is written.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Literal, NamedTuple

from fastload import opening
from fastload.atomic import publish, staging, sync_folder
from fastload.checkpoint import Checkpoint
from fastload.entry import TensorEntry
from fastload.errors import Advice, FastloadError, PlanError, SaveError, advised, located
from fastload.formats.writing import MODULE_VERSIONS, Outgoing, texts_of
from fastload.outgoing import of_checkpoint
from fastload.saving import Draft, SaveReport, checked_metadata, draft, kept_metadata, own_metadata, writer_of

__all__ = [
    "Prefer",
    "Progress",
    "SplitDraft",
    "SplitReport",
    "convert",
    "draft_conversion",
    "draft_merge",
    "draft_split",
    "merge",
    "split",
    "watched",
]

Prefer = Literal["first", "last"]
Progress = Callable[[int, int], object]  # (bytes that are done, bytes in all)
Path = str | os.PathLike[str]
Source = Path | Checkpoint

STEM = "model"  # of the names of shards, as Hugging Face has them
INDEX = f"{STEM}.safetensors.index.json"
SHARD = re.compile(rf"{STEM}-\d+-of-\d+\.safetensors")
MAX_SHARD_BYTES = 5_000_000_000  # the default, which was Hugging Face's: what one file may hold and still be moved
MAX_SHARDS = 99_999  # that five digits can number
SHOWN_NAMES = 3  # in an error


def convert(
    src: Source,
    dst: Path,
    *,
    format: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    lossy: bool = False,
    sync: bool = True,
    progress: Progress | None = None,
    **plan: Any,
) -> SaveReport:
    """Write a checkpoint as a file of any format, with the steps of a plan on the way.

    It is streamed: no more than a few megabytes are in memory, also of tensors that are cast. Only a tensor that is
    compressed in the file, or put together of pieces, is made as a whole, one at a time.

    Parameters
    ----------
    src : path or Checkpoint
        What `open` takes, or what it gives.
    dst : path
        The file; it may be *src* itself, with *overwrite*.
    format, metadata, overwrite, lossy, sync
        As for `save`.
    progress : function, optional
        Called with the bytes that are done and those in all.
    **plan
        As for `open`.

    Returns
    -------
    SaveReport

    Raises
    ------
    SaveError
        Something would be lost, and *lossy* is false; or writing failed.
    FileExistsError
        There is a file, and *overwrite* is false.
    UnsupportedError
        The format cannot hold a tensor, which is named.
    """
    made = draft_conversion(src, dst, format=format, metadata=metadata, lossy=lossy, **plan)
    return watched(made, progress).write(overwrite=overwrite, sync=sync)


def merge(
    sources: Iterable[Source],
    dst: Path,
    *,
    prefer: Prefer | None = None,
    format: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    lossy: bool = False,
    sync: bool = True,
    progress: Progress | None = None,
    **plan: Any,
) -> SaveReport:
    """Write the tensors of several checkpoints as one file, one checkpoint after the other.

    Parameters
    ----------
    sources : iterable of path or Checkpoint
        To choose from one of them, or to rename its tensors, give ``open(path, include=…)``.
    dst : path
        The file.
    prefer : {"first", "last"}, optional
        Which tensor counts of two of one name, and which text of their metadata; an error if not given.
    format, metadata, overwrite, lossy, sync, progress
        As for `convert`.
    **plan
        As for `open`; the steps are done to each of the sources.

    Returns
    -------
    SaveReport

    Raises
    ------
    PlanError
        A name is in two sources, and *prefer* is not given: both are named.
    SaveError
        Something would be lost, and *lossy* is false, such as metadata that differ; or writing failed.
    """
    made = draft_merge(sources, dst, prefer=prefer, format=format, metadata=metadata, lossy=lossy, **plan)
    return watched(made, progress).write(overwrite=overwrite, sync=sync)


class SplitReport(NamedTuple):
    """What was split.

    Attributes
    ----------
    path : str
        The folder, as it was given.
    files : tuple of str
        The names of the shards in it; that of the index comes last.
    tensors : int
        How many there are.
    nbytes : int
        The sizes of all these files.
    lost : tuple of str
        What the format could not keep, a line each; empty unless losses were allowed.
    """

    path: str
    files: tuple[str, ...]
    tensors: int
    nbytes: int
    lost: tuple[str, ...]


def split(
    src: Source,
    folder: Path,
    *,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    metadata: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    lossy: bool = False,
    sync: bool = True,
    progress: Progress | None = None,
    **plan: Any,
) -> SplitReport:
    """Write a checkpoint as several safetensors files and an index, as Hugging Face lays them out.

    The files are ``model-00001-of-00002.safetensors`` and so on, and ``model.safetensors.index.json``, which is
    written last: a folder that has it is whole.

    Parameters
    ----------
    src : path or Checkpoint
        What `open` takes, or what it gives.
    folder : path
        Where the files shall be; it is made if it is not there.
    max_shard_bytes : int
        What the tensors of one file come to at most. One tensor that is larger has a file to itself; tensors that
        share memory stay together, though as copies.
    overwrite : bool
        Whether shards and an index that are there may be replaced, once the new ones are on the disk; they may be those
        of *src* if none keeps its name, as with another number of shards. Files of other names are left alone.
    metadata, lossy, sync, progress
        As for `convert`.
    **plan
        As for `open`.

    Returns
    -------
    SplitReport

    Raises
    ------
    FileExistsError
        The folder holds shards or an index of these names, and *overwrite* is false.
    SaveError
        Something would be lost, and *lossy* is false; shards of *src* would be replaced by others of their names; or
        writing failed.
    """
    made = draft_split(src, folder, max_shard_bytes=max_shard_bytes, metadata=metadata, lossy=lossy, **plan)
    return made.write(overwrite=overwrite, sync=sync, progress=progress)


# Drafts.


def draft_conversion(
    src: Source,
    dst: Path,
    *,
    format: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    lossy: bool = False,
    **plan: Any,
) -> Draft:
    """What `convert` would write."""
    shown = os.fsdecode(dst)
    writer = writer_of(shown, format)
    opened = _opened(src, plan)
    kept = kept_metadata(opened, metadata)
    return draft(shown, writer, _outgoing(opened), kept, lossy=lossy)


def draft_merge(
    sources: Iterable[Source],
    dst: Path,
    *,
    prefer: Prefer | None = None,
    format: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    lossy: bool = False,
    **plan: Any,
) -> Draft:
    """What `merge` would write."""
    if prefer not in (None, "first", "last"):
        raise ValueError(f"prefer is 'first' or 'last', not {prefer!r}")
    if isinstance(sources, (str, bytes, os.PathLike, Checkpoint)):
        raise TypeError("merge takes a list of sources, and was given one")
    shown = os.fsdecode(dst)
    writer = writer_of(shown, format)
    opened = [_opened(source, plan) for source in sources]
    titles = [found.path or f"source {number}" for number, found in enumerate(opened, 1)]
    chosen = _chosen(opened, titles, prefer)
    tensors = []
    for number, found in enumerate(opened):
        wanted = found.select(where=partial(_is_from, chosen, number))
        for tensor in _outgoing(wanted):
            if tensor.storage is not None:
                tensor = tensor.changed(storage=(number, tensor.storage))  # nothing is shared between files
            tensors.append(tensor)
    lost: list[str] = []
    if metadata is None:
        kept = _joined_metadata(list(map(own_metadata, opened)), titles, prefer, lost)
    else:
        kept = checked_metadata(metadata)
    return draft(shown, writer, tensors, kept, lossy=lossy, lost=lost)


class SplitDraft(NamedTuple):
    """Shards that can be written: all that can be known before has been checked, and nothing is written yet.

    Attributes
    ----------
    path : str
        The folder, as it was given.
    source : str or None
        Where the tensors come from.
    shards : dict of str to list of Outgoing
        By the names of the files.
    metadata : dict of str to str
        What the index and each of the shards have.
    lost : tuple of str
        What the format cannot keep, a line each.
    """

    path: str
    source: str | None
    shards: dict[str, list[Outgoing]]
    metadata: dict[str, str]
    lost: tuple[str, ...]

    def write(self, *, overwrite: bool = False, sync: bool = True, progress: Progress | None = None) -> SplitReport:
        """Write the shards, and then the index."""
        self.check_folder(overwrite=overwrite)
        os.makedirs(self.path, exist_ok=True)
        tensors = [tensor for shard in self.shards.values() for tensor in shard]
        count = _Count(_total(tensors), progress)
        nbytes = 0
        index = self._index()
        with staging(self.path, STEM) as staged:
            try:
                for name, shard in self.shards.items():
                    path = os.path.join(staged, name)
                    made = draft(path, writer_of(path), count.around(shard), dict(self.metadata), lossy=True)
                    nbytes += made.write(sync=sync).nbytes
                with publish(os.path.join(staged, INDEX), size=len(index), sync=sync) as file:
                    file.write(index)
            except FastloadError as error:
                if error.path is not None and os.path.dirname(error.path) == staged:
                    error.path = os.path.join(self.path, os.path.basename(error.path))
                raise located(error, self.path) from None
            # All is on the disk: only now does what was there go. Where shards of the same name are replaced, the index
            # goes first, so that no moment has one that lies; else the old ones are whole until it is replaced.
            self.check_folder(overwrite=overwrite)
            old = set(_list_of_our_names(self.path)) - {INDEX}
            if old & self.shards.keys():
                with suppress(FileNotFoundError):
                    os.unlink(os.path.join(self.path, INDEX))
            for name in self.shards:
                os.replace(os.path.join(staged, name), os.path.join(self.path, name))
            os.replace(os.path.join(staged, INDEX), os.path.join(self.path, INDEX))
            left_over = old - self.shards.keys()
            if sync and left_over:
                sync_folder(self.path, self.path)  # the index that does without them comes before they go
            for name in left_over:
                os.unlink(os.path.join(self.path, name))
        if sync:
            sync_folder(self.path, self.path)
        return SplitReport(self.path, (*self.shards, INDEX), len(tensors), nbytes + len(index), self.lost)

    def check_folder(self, *, overwrite: bool) -> None:
        """See that the shards would be the only ones of their name.

        Raises
        ------
        FileExistsError
            There are others, and *overwrite* is false.
        SaveError
            Shards of what is to be split would be replaced by others of the same name, which cannot be done at once.
        """
        found = _list_of_our_names(self.path)
        if not found:
            return
        if not overwrite:
            give = Advice("{} to replace them all, or ", "overwrite", True)
            message = f"holds {_listed(found)} already: give {give}another folder"
            raise advised(FileExistsError(errno.EEXIST, message, self.path), give)
        same = self.shards.keys() & found
        if self.source is not None and same:
            own = [self.path, *(os.path.join(self.path, name) for name in found)]
            if os.path.realpath(self.source) in map(os.path.realpath, own):
                other = Advice(", or another {}", "max_shard_bytes")
                error = SaveError(
                    f"holds {min(same)!r}, which is to be split, and would get another in its place: a crash amid that"
                    f" would leave neither; give another folder{other}",
                    path=self.path,
                    errno=errno.EEXIST,
                )
                raise advised(error, other)

    def _index(self) -> bytes:
        import json

        total = sum(tensor.nbytes for shard in self.shards.values() for tensor in shard)
        files = {tensor.name: name for name, shard in self.shards.items() for tensor in shard}
        content = {"metadata": {**self.metadata, "total_size": total}, "weight_map": dict(sorted(files.items()))}
        return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()


def draft_split(
    src: Source,
    folder: Path,
    *,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    metadata: Mapping[str, Any] | None = None,
    lossy: bool = False,
    **plan: Any,
) -> SplitDraft:
    """What `split` would write."""
    if max_shard_bytes < 1:
        raise ValueError(f"max_shard_bytes is {max_shard_bytes}, and no shard can be so small")
    shown = os.fsdecode(folder)
    opened = _opened(src, plan)
    kept = kept_metadata(opened, metadata)
    made = draft(shown, writer_of(f"{STEM}.safetensors"), _outgoing(opened), kept, lossy=lossy)
    shards = _shards(made.tensors, max_shard_bytes)
    if len(shards) > MAX_SHARDS:
        raise SaveError(f"would be {len(shards):,} shards, and at most {MAX_SHARDS:,} can be numbered", path=shown)
    names = [f"{STEM}-{number:05}-of-{len(shards):05}.safetensors" for number in range(1, len(shards) + 1)]
    texts = texts_of(made.metadata)[0]
    return SplitDraft(shown, opened.path, dict(zip(names, shards, strict=True)), texts, made.lost)


def _opened(source: Source, plan: Mapping[str, Any]) -> Checkpoint:
    if isinstance(source, Checkpoint):
        return opening.planned(source, plan)
    return opening.open(source, **plan)


def _outgoing(opened: Checkpoint) -> list[Outgoing]:
    try:
        return of_checkpoint(opened)
    except FastloadError as error:
        raise located(error, opened.path, opened.format) from None


def _chosen(opened: Sequence[Checkpoint], titles: Sequence[str], prefer: Prefer | None) -> dict[str, int]:
    """The number of the source of every name."""
    chosen: dict[str, int] = {}
    twice: list[tuple[str, int, int]] = []
    for number, found in enumerate(opened):
        for name in found:
            if name in chosen:
                twice.append((name, chosen[name], number))
            if name not in chosen or prefer == "last":
                chosen[name] = number
    if twice and prefer is None:
        shown = "; ".join(f"{name!r} is in {titles[a]} and in {titles[b]}" for name, a, b in twice[:SHOWN_NAMES])
        more = f"; and {len(twice) - SHOWN_NAMES:,} more" if len(twice) > SHOWN_NAMES else ""
        say = Advice(", or say which counts with {}", "prefer")
        raise advised(PlanError(f"merge: {shown}{more}. Rename one, leave one out{say}"), say)
    return chosen


def _is_from(chosen: Mapping[str, int], number: int, entry: TensorEntry) -> bool:
    return chosen[entry.name] == number


def _joined_metadata(
    parts: Sequence[Mapping[str, Any]], titles: Sequence[str], prefer: Prefer | None, lost: list[str]
) -> dict[str, Any]:
    """The metadata of all; of two that differ the preferred one, or else the first, and a line in *lost*."""
    joined: dict[str, Any] = {}
    origin: dict[str, int] = {}
    for number, part in enumerate(parts):
        for key, value in part.items():
            known = joined.get(key)
            if key == MODULE_VERSIONS and isinstance(known, dict) and isinstance(value, dict):
                joined[key] = {**known, **value} if prefer != "first" else {**value, **known}
                differing = [module for module in known.keys() & value.keys() if known[module] != value[module]]
            else:
                differing = [key] if key in joined and known != value else []
                if key not in joined or prefer == "last":
                    joined[key] = value
            origin.setdefault(key, number)
            if differing and prefer is None:
                lost.append(f"metadata: {key!r} differs between {titles[origin[key]]} and {titles[number]}")
    return joined


def _shards(tensors: Sequence[Outgoing], limit: int) -> list[list[Outgoing]]:
    """The tensors in runs of at most *limit* bytes, in their order; those that share memory come together."""
    together: dict[Any, list[Outgoing]] = {}
    for row, tensor in enumerate(tensors):
        together.setdefault(("row", row) if tensor.storage is None else ("storage", tensor.storage), []).append(tensor)
    shards: list[list[Outgoing]] = [[]]
    size = 0
    for group in together.values():
        more = sum(tensor.nbytes for tensor in group)
        if shards[-1] and size + more > limit:
            shards.append([])
            size = 0
        shards[-1] += group
        size += more
    return shards


def _list_of_our_names(folder: str) -> list[str]:
    """The index, if there is one, and the shards of its name in a folder that may not be there."""
    try:
        names = sorted(os.listdir(folder))
    except FileNotFoundError:
        return []
    return [*(name for name in names if name == INDEX), *(name for name in names if SHARD.fullmatch(name))]


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN_NAMES:,} more" if len(names) > SHOWN_NAMES else ""
    return f"{', '.join(names[:SHOWN_NAMES])}{more}"


# Progress.


def watched(made: Draft, progress: Progress | None) -> Draft:
    """The same draft, which tells how far it is while it is written."""
    if progress is None:
        return made
    return made._replace(tensors=_Count(_total(made.tensors), progress).around(made.tensors))


def _total(tensors: Iterable[Outgoing]) -> int:
    return sum(tensor.nbytes for tensor in tensors)


class _Count:
    """The bytes that have been taken of tensors."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self._total = total
        self._done = 0
        self._progress = progress

    def around(self, tensors: list[Outgoing]) -> list[Outgoing]:
        """The same tensors, counted as they are read."""
        if self._progress is None:
            return tensors
        return [
            tensor.changed(
                chunks=partial(self._counted, tensor.chunks),
                storage_chunks=tensor.storage_chunks and partial(self._counted, tensor.storage_chunks),
                stored=tensor.stored and tensor.stored._replace(tell=self._count),
            )
            for tensor in tensors
        ]

    def _counted(self, chunks: Callable[[], Iterable[memoryview]]) -> Iterator[memoryview]:
        for chunk in chunks():
            yield chunk
            self._count(len(chunk))

    def _count(self, nbytes: int) -> None:
        assert self._progress is not None
        self._done = min(self._done + nbytes, self._total)  # a format may read a tensor twice
        self._progress(self._done, self._total)
