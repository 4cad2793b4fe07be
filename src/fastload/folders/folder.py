"""A folder: which of its files are the checkpoint."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from fastload import formats
from fastload.errors import FastloadError, FormatError, LimitError, UnknownFormatError, UnsupportedError, located
from fastload.folders import sharded
from fastload.folders.places import Folder
from fastload.folders.weight_map import WeightMap, read_weight_map
from fastload.options import Options
from fastload.source import Source
from fastload.tensors import Tensors, open_source

__all__ = ["open_folder"]

MAX_PROBED_FILES = 10_000  # of a folder without an index, each of which is opened to tell what it is: half a second
SHOWN_FILES = 20  # in an error

# A file so called is a candidate even where its bytes are none: an unfinished download must not make another file
# the only one. The second row is which index of several wins.
CHECKPOINT_ENDINGS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".npz", ".bpk")
INDEX_RANKS = ((".safetensors",), (".bin", ".pt", ".pth", ".ckpt"))

_OF_SET = re.compile(r"(?P<stem>.+)-(?P<number>[0-9]{1,9})-of-(?P<count>[0-9]{1,9})(?P<ending>\.[^-]*)?", re.DOTALL)


class FileSet(NamedTuple):
    """Files `STEM-00001-of-00002ENDING`, by their number."""

    stem: str
    total: str
    ending: str
    files: dict[int, str]

    def __str__(self) -> str:
        return f"{self.stem}-…-of-{self.total}{self.ending}"

    def complete(self) -> list[str]:
        """All files in order.

        Raises
        ------
        FormatError
            One is missing, or there is one too many.
        """
        first = 0 if 0 in self.files else 1
        end = first + int(self.total)
        stray = next((file for number, file in sorted(self.files.items()) if not first <= number < end), None)
        if stray is not None:
            raise FormatError(f"{stray!r} is not one of a set of {int(self.total):,}")
        if len(self.files) < int(self.total):
            number = next(number for number in range(first, end) if number not in self.files)
            name = f"{self.stem}-{number:0{len(self.total)}}-of-{self.total}{self.ending}"
            more = int(self.total) - len(self.files) - 1
            raise FormatError(
                f"lacks {name!r}{f' and {more:,} more' if more else ''} of its {int(self.total):,} files:"
                " the download or copy is incomplete"
            )
        return [file for _, file in sorted(self.files.items())]


def open_folder(folder: Folder, options: Options) -> tuple[Tensors, list[str]]:
    """The tensors of a folder, and the files that they are in: of its index, its one set of files, its single one.

    Raises
    ------
    UnknownFormatError
        It holds no checkpoint, or several and no index.
    FormatError
        Its files are not what the index says, or not all there.
    UnsupportedError
        It is a PyTorch file that was unpacked.
    """
    files = folder.list_files()
    if folder.has_file("data.pkl") and folder.has_folder("data"):
        raise UnsupportedError(
            "is a PyTorch file that was unpacked: pack it again, as with `zip -0 -r ../model.pt .` inside the folder"
        )
    index = _pick_index(folder, files)
    if index is not None:
        name, source, said = index
        tensors = sharded.open_index(folder.path, folder.told(name), source, said, folder, options)
        return tensors, list(said.files.values())
    if len(files) > MAX_PROBED_FILES:
        raise LimitError(f"holds {len(files):,} files and no index: name the checkpoint in it")
    found = _find_checkpoint(folder, files)
    if isinstance(found, FileSet):
        complete = found.complete()
        return sharded.open_set(folder, complete, options), complete
    try:
        return open_source(folder.source(found), options), [found]
    except FastloadError as error:
        raise folder.naming(error, found) from None


def _pick_index(folder: Folder, files: list[str]) -> tuple[str, Source, WeightMap] | None:
    """The index of a folder; of several of different formats that for safetensors; None where there is none."""
    found: dict[str, tuple[Source, WeightMap]] = {}
    for file in files:
        if file != "index.json" and not file.endswith(".index.json"):
            continue
        source = folder.index_source(file)
        try:
            found[file] = source, read_weight_map(source)
        except UnknownFormatError:  # JSON of another kind
            continue
        except FastloadError as error:
            raise located(folder.naming(error, file), source.path) from None
    ranks = {file: _rank(said) for file, (_, said) in found.items()}
    best = [file for file in found if ranks[file] == min(ranks.values())]
    if len(best) > 1:
        raise UnknownFormatError(f"holds {len(best)} indexes, {_listed(best)}: name the one to open")
    return (best[0], *found[best[0]]) if best else None


def _rank(said: WeightMap) -> int:
    """Where an index stands among several, by the names of its files: they may not all be there."""
    file = next(iter(said.files.values()), "")
    return next((rank for rank, endings in enumerate(INDEX_RANKS) if file.endswith(endings)), len(INDEX_RANKS))


def _find_checkpoint(folder: Folder, files: list[str]) -> FileSet | str:
    """The one checkpoint among the files of a folder without an index: a set of them, or a single one."""
    reasons = {file: _reason(folder, file) for file in files}
    candidates = [file for file in files if not reasons[file] or file.endswith(CHECKPOINT_ENDINGS)]
    sets = [one for one in _sets(files) if not set(one.files.values()).isdisjoint(candidates)]
    if len(sets) == 1:
        return sets[0]
    if not sets and len(candidates) == 1:
        return candidates[0]
    if not candidates:
        foreign = [f"{file!r} {reason}" for file, reason in reasons.items() if not reason.startswith("is of no format")]
        said = f": {'; '.join(foreign[:SHOWN_FILES])}" if foreign else ""
        raise UnknownFormatError(f"is a folder, with no checkpoint among its {len(files):,} files{said}")
    in_sets = {file for one in sets for file in one.files.values()}
    shown = [*map(str, sets), *(file for file in candidates if file not in in_sets)]
    raise UnknownFormatError(f"holds {len(shown)} checkpoints and no index: {_listed(shown)}; name the one to open")


def _reason(folder: Folder, file: str) -> str:
    """Why a file is no checkpoint; "" where its bytes say that it is one."""
    try:
        source = folder.source(file, keep_open=False)
        if formats.detect_container(source) is None:
            formats.detect(source)
    except FastloadError as error:
        return error.message
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return ""


def _sets(files: Iterable[str]) -> list[FileSet]:
    """The sets that the names of *files* tell of."""
    found: dict[tuple[str, str, str], FileSet] = {}
    for file in files:
        match = _OF_SET.fullmatch(file)
        if match:
            key = match["stem"], match["count"], match["ending"] or ""
            one = found.setdefault(key, FileSet(*key, {}))
            one.files.setdefault(int(match["number"]), file)
    return list(found.values())


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN_FILES:,} more" if len(names) > SHOWN_FILES else ""
    return ", ".join(map(repr, names[:SHOWN_FILES])) + more
