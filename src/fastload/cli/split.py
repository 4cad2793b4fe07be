"""`fastload split`: a checkpoint as several safetensors files and their index."""

from __future__ import annotations

import argparse
import re

from fastload.cli import flags, plan_flags, writing
from fastload.cli.document import document
from fastload.cli.progress import progress
from fastload.cli.table import counted, human_size
from fastload.converting import MAX_SHARD_BYTES, draft_split
from fastload.errors import printable

ABOUT = """\
Write a checkpoint into FOLDER as model-00001-of-00002.safetensors and so on, with
model.safetensors.index.json as Hugging Face has it. The index comes last: a folder that
has it is whole. The folder may hold no others of these names, unless --overwrite, which
replaces them once the new ones are on the disk.
Exit status: 0 fine, 2 wrong usage, or what is written is there already, 3 bad or unreadable
file, or one that cannot be written."""
EXAMPLE = "fastload split model.pt shards --max-shard-size 2GB"

SCHEMA = "fastload.split/1"
FORMAT = "safetensors"
SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([KMGT]I?)?B?", re.IGNORECASE)
UNITS = {"": 1, **{unit: 1000**power for power, unit in enumerate("KMGT", 1)}}
UNITS |= {f"{unit}I": 1024**power for power, unit in enumerate("KMGT", 1)}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `split`."""
    flags.add_source(parser)
    parser.add_argument("folder", metavar="FOLDER", help="where to write; made if it is not there")
    parser.add_argument(
        "--max-shard-size",
        dest="max_shard_bytes",
        metavar="SIZE",
        type=_size,
        default=MAX_SHARD_BYTES,
        help="of the tensors in one file, as in 5GB (the default), 500MB, 2GiB",
    )
    writing.add_arguments(parser, SCHEMA)


def run(arguments: argparse.Namespace) -> int:
    """Split a checkpoint."""
    made = draft_split(
        arguments.path,
        arguments.folder,
        max_shard_bytes=arguments.max_shard_bytes,
        lossy=arguments.lossy,
        member=arguments.member,
        **plan_flags.plan_of(arguments),
    )
    sums = {name: sum(tensor.nbytes for tensor in tensors) for name, tensors in made.shards.items()}
    if arguments.dry_run:
        made.check_folder(overwrite=arguments.overwrite)
        nbytes = sum(sums.values())
    else:
        with progress("splitting") as report:
            nbytes = made.write(overwrite=arguments.overwrite, progress=report).nbytes
    tensors = sum(map(len, made.shards.values()))
    if arguments.json:
        fields = {"path": made.path, "format": FORMAT, **writing.sum_up(tensors, nbytes, made.lost, arguments)}
        shards = [
            {"name": name, "tensors": [tensor.name for tensor in held], "nbytes": sums[name]}
            for name, held in made.shards.items()
        ]
        print(document(SCHEMA, fields, shards=shards))
    else:
        shown = printable(made.path)
        if arguments.dry_run:
            for name, held in made.shards.items():
                print(f"would write {shown}/{name}: {counted(len(held), 'tensor')}, {human_size(sums[name])}")
        else:
            files = counted(len(sums), "shard")
            print(f"wrote {shown}: {files} and an index, {counted(tensors, 'tensor')}, {human_size(nbytes)}")
    writing.say_lost(made.lost)
    return 0


def _size(text: str) -> int:
    """A number of bytes: 5GB is 5,000,000,000 and 5GiB is 5 · 2³⁰, as Hugging Face reads them."""
    found = SIZE.fullmatch(text.strip())
    size = int(float(found[1]) * UNITS[(found[2] or "").upper()]) if found else 0
    if size < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no size such as 5GB, 500MB or 2GiB")
    return size
