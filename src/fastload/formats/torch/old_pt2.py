"""Exported programs of torch 2.1 to 2.7, whose tensors lie in files of torch.save within the archive.

    serialized_exported_program.json   the graph
    serialized_state_dict.pt           a PyTorch zip; called .json by torch 2.1 and 2.2, and no JSON for all that
    serialized_constants.pt            the same; absent from the oldest
    serialized_example_inputs.pt, version, extra_files/…

Builds before torch 2.8 was final have the records of `pt2`, and such files in the place of raw weights:
`data/weights/NAME.pt` and `data/constants/NAME.pt`.

Format: torch/export/__init__.py (`load`) and torch/export/pt2_archive/_package.py of torch 2.13.
"""

from __future__ import annotations

from fastload.errors import FormatError
from fastload.formats.torch.archive import Archive, is_zip, open_archive
from fastload.formats.torch.records import open_part
from fastload.options import Options
from fastload.source import Source

NAME = "pt2-old"

PROGRAM = "serialized_exported_program.json"
STATE_DICT = ("serialized_state_dict.pt", "serialized_state_dict.json")
CONSTANTS = ("serialized_constants.pt", "serialized_constants.json")
FOLDERS = ("data/weights/", "data/constants/")


def probe(source: Source, head: bytes) -> bool:
    """Whether *source*, perhaps a part of another, is such an archive."""
    if not is_zip(head):
        return False
    archive = open_archive(source)
    if archive.find("archive_format") >= 0:
        return bool(_folder_blobs(archive))
    return archive.find("data.pkl") < 0 and any(archive.find(name) >= 0 for name in (PROGRAM, *STATE_DICT))


def parts(source: Source, options: Options) -> list[Source]:
    """The files of the state dict and of the constants, as far as they hold anything.

    Raises
    ------
    FormatError
        There is no state dict, or such an archive again in its place.
    """
    archive = open_archive(source)
    if archive.find("archive_format") >= 0:
        numbers = _folder_blobs(archive)
    else:
        numbers = [number for names in (STATE_DICT, CONSTANTS) if (number := _first(archive, names)) >= 0]
        if _first(archive, STATE_DICT) < 0:
            raise FormatError(f"the archive lacks the record {STATE_DICT[0]!r}")
    found = []
    for number in numbers:
        if not archive.records.size(number):  # how torch writes that there is nothing
            continue
        part = open_part(source, archive, number)
        if probe(part, bytes(part.fetch(0, min(4, part.size)))):
            raise FormatError(f"record {archive.records.name(number)!r} is an exported program within another")
        found.append(part)
    return found


def _first(archive: Archive, names: tuple[str, ...]) -> int:
    """The number of the first of *names* that there is, or -1."""
    return next((number for name in names if (number := archive.find(name)) >= 0), -1)


def _folder_blobs(archive: Archive) -> list[int]:
    """The numbers of the files of torch.save among the records of `pt2`: of weights first, then of constants."""
    names = archive.records.list_names()
    starts = [archive.root + folder for folder in FOLDERS]
    return [n for start in starts for n, name in enumerate(names) if name.startswith(start) and name.endswith(".pt")]
