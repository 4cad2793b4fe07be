"""`fastload verify`: whether every structure and extent of a file is sound, and its values and bytes as they should."""

from __future__ import annotations

import argparse
from typing import Any

from fastload.checkpoint import Checkpoint
from fastload.cli import flags, totals
from fastload.cli.document import document
from fastload.cli.progress import progress
from fastload.cli.table import counted, human_size
from fastload.errors import FastloadError, located, printable

ABOUT = """\
Check every structure and extent of a checkpoint, without reading tensor data: a sound
file can still hold weights made to do harm, and bits that flipped in them. Of a model that
was embedded into an executable (--member), the checksum is compared, too.
--values reads the data, and counts what is NaN or infinite. --write-sums keeps the checksums
of all tensors and files, and --sums compares with them. Those of tensors are of their
elements alone, so that they hold for the checkpoint in any format; a file is compared if one
of its name was summed.
Exit status: 0 sound, 1 NaN, infinity or another sum was found, 2 wrong usage, or a package
is missing, or sums are there already, 3 bad or unreadable file, and one line that says why."""
EXAMPLE = "fastload verify model.safetensors --values --sums model.sums.json"

SCHEMA = "fastload.verify/1"
ALGORITHMS = ("sha256", "blake3", "xxh3")
MAX_SHOWN = 100  # findings as text; JSON has all
FOUND = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `verify`."""
    flags.add_source(parser)
    parser.add_argument("--values", action="store_true", help="count values that are NaN or infinite")
    sums = parser.add_mutually_exclusive_group()
    sums.add_argument("--sums", metavar="FILE.json", help="compare with the checksums in a file")
    sums.add_argument("--write-sums", metavar="FILE.json", help="write checksums to a file")
    parser.add_argument(
        "--algorithm", choices=ALGORITHMS, help="of --write-sums: sha256 if not given; others need their package"
    )
    flags.add_overwrite(parser)
    flags.add_threads(parser)
    flags.add_json(parser, SCHEMA)


def run(arguments: argparse.Namespace) -> int:
    """Check a file."""
    if arguments.write_sums is None and (arguments.algorithm is not None or arguments.overwrite):
        arguments.parser.error("--algorithm and --overwrite go with --write-sums")
    try:
        with flags.open_source(arguments) as opened:
            opened.verify()
            if opened.source.kind == "embedded":
                from fastload.resource import open_embedded  # few files are programs

                open_embedded(arguments.member, path=arguments.path, verify=True).close()
            format, total = opened.format, totals.overall(totals.by_dtype(opened.entries()).values())
            values = _look_at_values(opened, arguments) if arguments.values else None
            sums = _sum_up(opened, arguments) if arguments.sums or arguments.write_sums else None
    except (FastloadError, OSError) as error:
        if arguments.json:
            print(document(SCHEMA, _refusal(arguments.path, error)))
        raise
    found = [*(values["tensors"] if values else ()), *(sums["differences"] if sums else ())]
    if arguments.json:
        fields = {"path": arguments.path, "ok": not found, "format": format, **total._asdict()}
        print(document(SCHEMA, {**fields, "values": values, "sums": sums, "error": None}))
    else:
        for line in map(_line, found[:MAX_SHOWN]):
            print(line)
        if len(found) > MAX_SHOWN:
            print(f"and {len(found) - MAX_SHOWN:,} more: --json has all")
        what = [f"{counted(total.tensors, 'tensor')}, {format}, {human_size(total.nbytes)}", *_told(values, sums)]
        print(f"{'not ok' if found else 'ok'}: {'; '.join(what)}")
    return FOUND if found else 0


def _look_at_values(opened: Checkpoint, arguments: argparse.Namespace) -> dict[str, Any]:
    """How many values are not finite, and in which tensors."""
    from fastload.statistics import find_not_finite

    with progress("reading") as report:
        found = list(find_not_finite(opened, arguments.threads, report))
    counts = [(one.entry.name, *one.found) for one in found if one.found is not None]
    return {
        "nans": sum(nans for _, nans, _ in counts),
        "infinities": sum(infinities for _, _, infinities in counts),
        "not_read": sum(one.error is not None for one in found),
        "tensors": [
            {"name": name, "nans": nans, "infinities": infinities}
            for name, nans, infinities in counts
            if nans or infinities
        ],
    }


def _sum_up(opened: Checkpoint, arguments: argparse.Namespace) -> dict[str, Any]:
    """The checksums, written or compared."""
    from fastload import sums

    known = sums.read(arguments.sums) if arguments.sums is not None else None
    if known is None:
        flags.check_target(arguments.write_sums, arguments.overwrite, opened, arguments.path)
    algorithm = known.algorithm if known is not None else arguments.algorithm or ALGORITHMS[0]
    with progress("summing up") as report:
        found = sums.sum_up(opened, algorithm, arguments.threads, report)
    if known is None:
        from fastload.atomic import publish

        lists = {"files": map(_plain, found.files), "tensors": map(_plain, found.tensors)}
        with publish(arguments.write_sums, overwrite=arguments.overwrite) as file:
            file.write(f"{document(sums.SCHEMA, {'algorithm': algorithm}, **lists)}\n".encode())
    names = {file.name for file in known.files} if known is not None else set()
    return {
        "algorithm": algorithm,
        "written": arguments.write_sums,
        "compared_with": arguments.sums,
        "files": sum(known is None or file.name in names for file in found.files),
        "tensors": sum(tensor.sum is not None for tensor in found.tensors),
        "differences": [_plain(one) for one in sums.compare(known, found)] if known is not None else [],
    }


def _plain(row: Any) -> dict[str, Any]:
    fields: dict[str, Any] = row._asdict()
    return fields


def _line(finding: dict[str, Any]) -> str:
    name = printable(finding["name"])
    if "what" not in finding:
        return f"{name}: {finding['nans']:,} NaN, {finding['infinities']:,} infinite"
    what, kind = finding["what"], finding["kind"]
    if what in ("missing", "new"):
        return f"{name}: {kind} is {'missing' if what == 'missing' else 'not among the sums'}"
    expected, found = (printable(str(finding[side])) for side in ("expected", "found"))
    return f"{name}: {kind} of another {what}: {found} instead of {expected}"


def _told(values: dict[str, Any] | None, sums: dict[str, Any] | None) -> list[str]:
    """What was looked at beside the structure."""
    told = []
    if values is not None:
        not_read = f", {counted(values['not_read'], 'tensor')} could not be read" if values["not_read"] else ""
        told.append(f"{values['nans']:,} NaN, {values['infinities']:,} infinite{not_read}")
    if sums is not None:
        what = f"{sums['algorithm']} of {counted(sums['tensors'], 'tensor')} and {counted(sums['files'], 'file')}"
        differ = f"{what}: {counted(len(sums['differences']), 'difference')}"
        told.append(f"{what} written to {printable(sums['written'])}" if sums["written"] is not None else differ)
    return told


def _refusal(path: str, error: FastloadError | OSError) -> dict[str, Any]:
    known = located(error, path) if isinstance(error, FastloadError) else None
    return {
        "path": path,
        "ok": False,
        "format": known.format if known else None,
        "error": {
            "type": type(error).__name__,
            "message": known.message if known else str(error),
            "offset": known.offset if known else None,
        },
    }
