"""What fastload finds where it runs: its native core, the machine, packages beside it, a file and its file system."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import numpy as np

from fastload import opening
from fastload._native import CAN_MAP, CAN_READ, FLOATS, KERNELS, convert, filesystem_type
from fastload.benching.run import machine
from fastload.dtypes import CODES, DTYPES
from fastload.entry import TensorEntry
from fastload.errors import FastloadError
from fastload.source import NETWORK_FILE_SYSTEMS, OpenFile, free_memory

__all__ = ["Fact", "examine"]

State = Literal["fine", "note", "wrong"]

PACKAGES = ("fastload-ckpt", "numpy", "ml_dtypes", "torch", "jax", "safetensors", "rich", "shtab", "blake3", "xxhash")
NEEDED = ("numpy", "ml_dtypes")
LINE_BYTES = 64  # of a cache, and of the widest vectors: the alignment that libraries ask for at most
# File systems of this machine's own, by their magic in statfs(2).
LOCAL_FILE_SYSTEMS = {
    0xEF53: "ext4",
    0x58465342: "xfs",
    0x9123683E: "btrfs",
    0x2FC12FC1: "zfs",
    0xF2F52010: "f2fs",
    0xCA451A4E: "bcachefs",
    0x794C7630: "overlay",
    0x01021994: "tmpfs",
    0x858458F6: "ramfs",
    0x73717368: "squashfs",
    0xE0F5E1E2: "erofs",
    0x4D44: "fat",
    0x2011BAB0: "exfat",
    0x7366746E: "ntfs",
}


class Fact(NamedTuple):
    """One thing that was looked at.

    Attributes
    ----------
    section : str
        "core", "machine", "packages", "file system" or "file".
    name : str
    value : object
        A number (of bytes, where it is a size), a text, a bool, or None for what is not known or not there.
    state : {"fine", "note", "wrong"}
    advice : str or None
        What to make of it, or to do.
    """

    section: str
    name: str
    value: Any
    state: State = "fine"
    advice: str | None = None


def examine(path: str | None = None, member: str | None = None) -> list[Fact]:
    """All that there is to say, of a file or folder too if one is given, or of a *member* of that file.

    Raises
    ------
    FastloadError, OSError
        The file is bad, or cannot be read.
    """
    facts = [*_core(), *_machine(), *_packages()]
    if path is not None:
        facts += [*_file_system(path), *_file(path, member)]
    return facts


def _core() -> Iterator[Fact]:
    fault = _fault()
    advice = "the native core does not do what it should: install fastload anew" if fault else None
    yield Fact("core", "self-test", fault or "passed", "wrong" if fault else "fine", advice)
    yield Fact("core", "vectors in use", KERNELS[0])
    yield Fact("core", "vectors there are", ", ".join(KERNELS))
    lacking = "this system has no such calls: files are read whole, or by Python's own means"
    yield Fact("core", "mappings", CAN_MAP, "fine" if CAN_MAP else "note", None if CAN_MAP else lacking)
    yield Fact("core", "parallel reads", CAN_READ, "fine" if CAN_READ else "note", None if CAN_READ else lacking)


def _fault() -> str | None:
    """What the native core does wrong; None if nothing is found."""
    header = b'{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
    values = np.array([1.5, -2], "<f4")
    with opening.open(len(header).to_bytes(8, "little") + header + values.tobytes()) as opened:
        if opened["w"].tolist() != values.tolist():
            return "a file is read wrongly"
    # Every float16 there is, to float32 and on to bfloat16.
    halves = np.arange(1 << 16, dtype=np.uint16)
    results = {}
    for kernel in KERNELS:
        wide, narrow = np.empty(halves.size, np.uint32), np.empty(halves.size, np.uint16)
        convert(halves.data, FLOATS.index("float16"), wide.data, FLOATS.index("float32"), kernel)
        convert(wide.data, FLOATS.index("float32"), narrow.data, FLOATS.index("bfloat16"), kernel)
        results[kernel] = wide.tobytes() + narrow.tobytes()
    wrong = [kernel for kernel in KERNELS if results[kernel] != results[KERNELS[-1]]]
    return f"casts by {', '.join(wrong)} are not those by {KERNELS[-1]}" if wrong else None


def _machine() -> Iterator[Fact]:
    found = machine()
    for name in ("system", "cpu", "cores"):
        yield Fact("machine", name, found[name])
    yield Fact("machine", "memory", found["memory"])
    yield Fact("machine", "free memory", free_memory())
    yield Fact("machine", "page size", mmap.PAGESIZE)
    never = found["huge_pages"] == "never"
    advice = "loading into memory of one's own is slower without: allow madvise" if never else None
    yield Fact("machine", "huge pages", found["huge_pages"], "note" if never else "fine", advice)
    yield Fact("machine", "python", found["python"])


def _packages() -> Iterator[Fact]:
    from importlib.metadata import PackageNotFoundError, version

    for name in PACKAGES:
        try:
            yield Fact("packages", name, version(name))
        except PackageNotFoundError:
            if name in NEEDED:
                yield Fact("packages", name, None, "note", "is needed, and is not told of by its installer")
            elif name != PACKAGES[0]:  # run from its sources, it is not installed
                yield Fact("packages", name, None)


def _file_system(path: str) -> Iterator[Fact]:
    file = OpenFile(path)
    magic = filesystem_type(file.descriptor)
    network = NETWORK_FILE_SYSTEMS.get(magic)
    known = network or LOCAL_FILE_SYSTEMS.get(magic)
    yield Fact("file system", "kind", known or (f"{magic:#x}" if magic else None))
    if network is not None:
        advice = 'each page of a mapping would be a round trip: "auto" reads; io="mmap" maps all the same'
        yield Fact("file system", 'io="auto"', "read", "note", advice)
    else:
        yield Fact("file system", 'io="auto"', "mmap")
    if os.path.isfile(path):
        direct = file.opened_directly() is not None
        through = "load reads through the page cache, also what is not in it"
        yield Fact("file system", "direct reads", direct, "fine" if direct else "note", None if direct else through)
    if hasattr(os, "statvfs"):
        status = os.statvfs(path)
        yield Fact("file system", "free room", status.f_bavail * status.f_frsize)


def _file(path: str, member: str | None) -> Iterator[Fact]:
    try:
        opened = opening.open(path, member=member)
    except FastloadError as error:
        if not os.path.isdir(path) or member is not None:
            raise
        yield Fact("file", "checkpoint", None, "note", error.message)
        return
    with opened:
        entries = opened.entries()
        shares = opened.residency()
        format = opened.format
    nbytes = sum(entry.nbytes for entry in entries)
    yield Fact("file", "format", format)
    yield Fact("file", "tensors", len(entries))
    yield Fact("file", "bytes of tensors", nbytes)
    copies = sum(not entry.zero_copy and entry.kind != "meta" for entry in entries)
    advice = "packed, encoded or big-endian ones: fastload convert writes them plain" if copies else None
    yield Fact("file", "tensors that are no views", copies, "note" if copies else "fine", advice)
    placed = [entry for entry in entries if entry.offset is not None and entry.zero_copy and entry.nbytes]
    if placed:
        wide = sum(entry.offset % LINE_BYTES == 0 for entry in placed if entry.offset is not None)
        yield Fact("file", f"aligned to {LINE_BYTES} bytes", wide)
        off = sum(not _is_aligned(entry) for entry in placed)
        advice = "they are views all the same; some libraries copy such arrays" if off else None
        yield Fact("file", "not aligned to their elements", off, "note" if off else "fine", advice)
    known = [(entry.nbytes, shares[entry.name]) for entry in entries]
    if nbytes and all(share is not None for _, share in known):
        yield Fact("file", "share in the page cache", sum(size * (share or 0) for size, share in known) / nbytes)


def _is_aligned(entry: TensorEntry) -> bool:
    unit = DTYPES[CODES[entry.dtype]].swap if entry.dtype in CODES else 1
    return entry.offset is None or entry.offset % unit == 0
