"""Source: a run of read-only bytes and what it came from. The only place that opens a file for reading.

Either the whole source is one Region (a mapping, or a caller's buffer), or it is read piece by piece as asked for. What
must be in memory of its own (read, inflated or byte-swapped storages) is kept by weak reference while an array over it
lives, so that tensors which share a storage go on sharing it. That is the only cache there is.
"""

from __future__ import annotations

import mmap
import os
import stat
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

import numpy as np

from fastload._native import (
    CAN_MAP,
    LOAD,
    LOCATE,
    FileMapping,
    Index,
    Records,
    Region,
    WritableRegion,
    check,
    filesystem_type,
    local_header,
    locate_in_file,
    locate_record,
    view,
    writable_view,
)
from fastload.deflate import inflate
from fastload.dtypes import DTYPES, numpy_dtype
from fastload.errors import FastloadError, FormatError, TruncatedError, UnsupportedError, located
from fastload.options import Io

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["Handing", "OpenFile", "Source", "free_memory"]

# File systems where a mapping costs a network round trip a page fault, by their magic in statfs(2).
NETWORK_FILE_SYSTEMS = {
    0x6969: "nfs",
    0x517B: "smb",
    0xFE534D42: "smb2",
    0xFF534D42: "cifs",
    0x0BD00BD0: "lustre",
    0x65735546: "fuse",  # also virtiofs, sshfs and the object-store mounts
    0x01021997: "9p",
    0x00C36400: "ceph",
    0x5346414F: "afs",
    0x47504653: "gpfs",
    0x19830326: "beegfs",
    0x20030528: "orangefs",
    0x73757245: "coda",
}
# O_NONBLOCK, since opening a FIFO that nobody writes to would wait for ever.
OPENING_FLAGS = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
HEAD_BYTES = 4096  # enough for the mark of every format, and for the header of a small file, with one read
MAX_READ_BYTES = 1 << 30  # of one pread; Linux stops below 2 GiB
MAPPED_RUN_BYTES = 64 << 10  # of a run that is mapped by itself: a process may have no more than 65,530 mappings
MAPPED_BYTES = 4 << 10  # of a storage that is mapped by itself for who writes to it: a page
ASSUMED_FREE_BYTES = 4 << 30  # of memory, where the system does not say
MEMORY_FILE = "/proc/meminfo"
# What the control group of the process (a container, a batch job) may use, and what it does use.
GROUP_FILES = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current")


class OpenFile:
    """A file that was opened: what it then was, and its descriptor for as long as that is kept.

    The descriptor is closed when the last one who reads from it lets go.
    """

    __slots__ = ("descriptor", "identity", "path", "status")

    def __init__(self, path: str, more_flags: int = 0) -> None:
        self.descriptor = -1
        self.path = path
        self.descriptor = os.open(path, OPENING_FLAGS | more_flags)
        self.status = os.fstat(self.descriptor)
        self.identity = _identity(self.status)

    def close(self, _close: Callable[[int], None] = os.close) -> None:
        """Let go of the descriptor; the file is then opened anew for each read."""
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            _close(descriptor)  # kept: at the interpreter's end `os` may be emptied before the last file goes

    __del__ = close

    def opened(self) -> OpenFile:
        """The same with a descriptor: itself, or opened anew and found to be the same.

        Raises
        ------
        FormatError
            Another file is at the path now, or it was written to.
        """
        return self if self.descriptor >= 0 else self._opened_anew()

    def _opened_anew(self) -> OpenFile:
        again = OpenFile(self.path)
        if again.identity != self.identity:
            raise FormatError("was replaced or written to after it was opened: open it again", path=self.path)
        return again

    def opened_directly(self) -> OpenFile | None:
        """The same with a descriptor that goes around the page cache; None where the file system has none."""
        flag = getattr(os, "O_DIRECT", 0)
        try:
            again = OpenFile(self.path, flag) if flag else None
        except OSError:
            return None
        return again if again is not None and again.identity == self.identity else None

    def opened_still(self) -> OpenFile:
        """`opened`, where long may have passed: the descriptor may be another file's, whoever closed ours."""
        try:
            return self if self.descriptor >= 0 and self.is_unchanged() else self._opened_anew()
        except OSError:
            return self._opened_anew()

    def is_unchanged(self) -> bool:
        """Whether the file of the descriptor was not written to since; True where there is none."""
        return self.descriptor < 0 or _identity(os.fstat(self.descriptor)) == self.identity

    def still_valid(self) -> bool:
        """Whether the file at the path is the same, and not written to since."""
        try:
            return self.is_unchanged() and _identity(os.stat(self.path)) == self.identity
        except OSError:
            return False


class Handing:
    """One handing over of tensors to somebody who may write to them: the memory that was made for it.

    Within one, tensors that share a storage share the memory. Where it is *whole*, each file is mapped once for all of
    its tensors, since a process may have no more than some ten thousands of mappings; else each storage for itself, so
    that nothing else is held by it.
    """

    __slots__ = ("mappings", "regions", "whole")

    def __init__(self, whole: bool = False) -> None:
        self.whole = whole
        self.mappings: dict[OpenFile, FileMapping] = {}
        self.regions: dict[tuple[Index, int, int], WritableRegion] = {}


class Source:
    """Read-only bytes.

    Attributes
    ----------
    path : str or None
        The file; None for a buffer.
    size : int
        In bytes.
    origin : int
        Where it begins in the file, in bytes: not 0 for a part of one.
    is_inflated : bool
        Whether the bytes were unpacked from the file, so that no array can be a view of it.
    archive : object
        The directory of an archive, kept by the format that has read it; None before.
    """

    def __init__(
        self,
        path: str | None,
        size: int,
        region: Region | None,
        file: OpenFile | None,
        *,
        origin: int = 0,
        is_inflated: bool = False,
        is_to_be_mapped: bool = False,
    ) -> None:
        self.path = path
        self.size = size
        self._region = region
        self._is_to_be_mapped = is_to_be_mapped
        self.origin = origin
        self.is_inflated = is_inflated
        self.archive: Any = None  # what a format that is an archive has read of its directory
        self._head: bytes | None = None
        self._file = file
        self._shared: memoryview | None = None  # a caller's buffer that may be written to, by whoever is handed it
        self._watched = file  # what `still_valid` looks at, even if nothing more is read from it

    @classmethod
    def of(cls, source: str | os.PathLike[str] | Buffer, io: Io = "auto", *, keep_open: bool = True) -> Source:
        """Make a Source of a path or a buffer.

        Parameters
        ----------
        keep_open : bool
            Whether a file's descriptor is kept. A mapping needs none; without one and without a mapping the file is
            opened again for each read, and must then still be the same.

        Raises
        ------
        UnsupportedError
            A folder, a device, a pipe or a URL.
        TruncatedError
            An empty file or buffer.
        OSError
            The file is missing or cannot be read, as `open` would say.
        TypeError
            Neither a path nor a buffer.
        """
        if io not in ("auto", "mmap", "read"):
            raise ValueError(f'io is "auto", "mmap" or "read", not {io!r}')
        if isinstance(source, (str, os.PathLike)):
            return cls._of_file(os.fsdecode(source), io, keep_open)
        try:
            region = Region(source)
        except TypeError:
            message = f"a checkpoint is a path or a bytes-like object, not {type(source).__name__}"
            raise TypeError(message) from None
        except (BufferError, ValueError) as error:
            raise TypeError(f"a checkpoint buffer must be one contiguous run of bytes: {error}") from None
        made = cls(None, len(_not_empty(region, None)), region, None)
        shared = memoryview(source)
        made._shared = None if shared.readonly else shared.cast("B")
        return made

    @classmethod
    def _of_file(cls, path: str, io: Io, keep_open: bool) -> Source:
        if "://" in path and not os.path.exists(path):
            raise UnsupportedError("is a URL, and fastload opens files: download it first", path=path)
        file = OpenFile(path)
        size = file.status.st_size
        if not stat.S_ISREG(file.status.st_mode):
            what = "a folder" if stat.S_ISDIR(file.status.st_mode) else "a device, pipe or socket"
            raise UnsupportedError(f"is {what}, and no file", path=path)
        _not_empty(range(size), path)
        # Of small files the header is read, and all may be that somebody wants: a mapping takes as long as the rest.
        is_to_be_mapped = io == "auto" and keep_open
        region = None if io == "read" or is_to_be_mapped else _map(file, io)
        if not keep_open:
            file.close()
        return cls(path, size, region, file, is_to_be_mapped=is_to_be_mapped)

    @classmethod
    def of_run(cls, path: str, offset: int, count: int, stamp: tuple[int, int]) -> Source:
        """The *count* bytes from *offset* on of a file: mapped, and no other pages, or read where they are few.

        Parameters
        ----------
        stamp : (int, int)
            What `stamp` of the file was.

        Raises
        ------
        FormatError
            The file is gone, or another one.
        TruncatedError
            It has no such bytes.
        """
        try:
            file = OpenFile(path)
        except (FileNotFoundError, NotADirectoryError):
            raise FormatError("is gone, or cannot be seen from here", path=path) from None
        status = file.status
        if not stat.S_ISREG(status.st_mode) or (status.st_size, status.st_mtime_ns) != stamp:
            raise FormatError("was replaced or written to after it was referred to: refer to it anew", path=path)
        if min(offset, count) < 0 or offset > stamp[0] or count > stamp[0] - offset:
            raise TruncatedError(f"has no {count:,} bytes at byte {offset:,}", path=path)
        if not count:
            return cls(path, 0, Region(b""), file, origin=offset)
        before = offset % mmap.ALLOCATIONGRANULARITY
        mapped = _map(file, "auto", offset - before, before + count) if count >= MAPPED_RUN_BYTES else None
        if mapped is None:
            return cls(path, count, None, file, origin=offset)
        file.close()
        return cls(path, count, Region(memoryview(mapped)[before:]), file, origin=offset)

    @property
    def region(self) -> Region | None:
        """The whole of it in memory, where a file is mapped when this is first asked for; None where it is read.

        Raises
        ------
        FormatError
            The file was replaced or written to between opening and mapping.
        """
        if self._is_to_be_mapped:
            assert self._file is not None
            self._region = _map(self._file.opened_still(), "auto")  # by two threads at once, both ways: either will do
            self._is_to_be_mapped = False
        return self._region

    @property
    def is_in_memory(self) -> bool:
        """Whether it is, or is mapped when its region is asked for; else it is read."""
        return self._is_to_be_mapped or self._region is not None

    def stamp(self) -> tuple[int, int] | None:
        """(size, time of the last change in ns) of the file when it was opened; None for a buffer."""
        status = None if self._watched is None else self._watched.status
        return None if status is None else (status.st_size, status.st_mtime_ns)

    def part(self, offset: int, size: int) -> Source:
        """The *size* bytes from *offset* on as a Source of their own: a file that lies within a file."""
        if offset > self.size or size > self.size - offset:
            raise TruncatedError(
                f"a part of {size:,} bytes at byte {offset:,} ends beyond the {self.size:,} bytes of the file"
            )
        region = None if self.region is None else Region(memoryview(self.region)[offset : offset + size])
        origin = self.origin + offset
        part = Source(self.path, size, region, self._file, origin=origin, is_inflated=self.is_inflated)
        part._watched = self._watched
        part._shared = None if self._shared is None else self._shared[offset : offset + size]
        return part

    def unpacked(self, data: Buffer) -> Source:
        """A Source of *data*, which was unpacked from this one."""
        region = Region(data)
        unpacked = Source(self.path, len(region), region, None, is_inflated=True)
        unpacked._watched = self._watched
        return unpacked

    def still_valid(self) -> bool:
        """Whether the file is still the one that was opened: same file at the path, same size, not written since."""
        return self._watched is None or self._watched.still_valid()

    def opened(self) -> OpenFile | None:
        """The file that the source lies in, with a descriptor for as long as it is held; None for memory.

        Raises
        ------
        FormatError
            Another file is at the path now, or it was written to.
        """
        return None if self._file is None else self._file.opened()

    def pages(self) -> Buffer | None:
        """The source as pages of its file, mapped now where it is read; None for memory, and where nothing can be."""
        if self._file is None or not CAN_MAP:
            return None
        try:
            if self.region is not None:
                return self.region
            file = self._file.opened()
            whole = memoryview(FileMapping(file.descriptor, file.status.st_size))
        except (FormatError, OSError, OverflowError):
            return None
        return whole[self.origin : self.origin + self.size]

    def head(self) -> bytes:
        """The first bytes, by which the format is told; read once."""
        if self._head is None:
            self._head = self.peek(0, min(HEAD_BYTES, self.size))
        return self._head

    def fetch(self, offset: int, count: int) -> memoryview:
        """The *count* bytes from *offset* on: a view where the source is in memory, else read now."""
        if offset > self.size or count > self.size - offset:
            raise TruncatedError(f"{count:,} bytes needed, {max(self.size - offset, 0):,} left", offset=offset)
        if self.region is not None:
            return memoryview(self.region)[offset : offset + count]
        return self._read(offset, count)

    def peek(self, offset: int, count: int) -> bytes:
        """The same as a copy: of a mapped file too, a few bytes are read sooner than a page is faulted in."""
        if self._head is not None and count <= len(self._head) - offset:
            return self._head[offset : offset + count]
        if self._file is not None and self._file.descriptor >= 0 and hasattr(os, "pread"):
            data = os.pread(self._file.descriptor, max(min(count, self.size - offset), 0), self.origin + offset)
            if len(data) == count:
                return data
        return bytes(self.fetch(offset, count))

    def _read(self, offset: int, count: int) -> memoryview:
        """Read *count* bytes into new memory."""
        assert self._file is not None
        file = self._file.opened()
        data = np.empty(count, np.uint8).data
        rest = data
        offset += self.origin
        while rest:
            if hasattr(os, "preadv"):
                done = os.preadv(file.descriptor, [rest[:MAX_READ_BYTES]], offset)
            else:  # Windows: each read through a descriptor of its own, since they share one position
                assert self.path is not None
                with open(self.path, "rb", buffering=0) as reader:
                    reader.seek(offset)
                    done = reader.readinto(rest[:MAX_READ_BYTES])
            if done == 0:
                raise TruncatedError(
                    f"the file was cut while it was open: {len(rest):,} bytes are gone; open it again",
                    offset=offset - self.origin,
                )
            offset += done
            rest = rest[done:]
        return data

    def locate(self, records: Records, number: int) -> int:
        """Where the bytes of a record begin, in bytes from the start of the source; checks its local header."""
        try:
            # Even of a mapped file: to read these few bytes costs a sixth of the page fault of looking at them.
            if self._file is not None and self._file.descriptor >= 0:
                return locate_in_file(records, number, self._file.descriptor, self.origin)
            return locate_record(records, number, self.fetch(*local_header(records, number)))
        except FastloadError as error:
            raise located(error, self.path) from None

    def array(self, index: Index, row: int) -> np.ndarray:
        """The array of a tensor as its bytes are: a view where it can be one, else over a storage of its own."""
        code = index.dtype_code(row)
        dtype = numpy_dtype(code) if code < len(DTYPES) else index.dtypes.extra[code - len(DTYPES)]
        access = index.access(row)
        if self.region is None or access == LOAD:
            return view(index, row, self.storage(index, index.storage_of(row), index.swap_of(row)), dtype, whole=True)
        if access == LOCATE:
            assert index.records is not None
            self.locate(index.records, index.storage_of(row))
        return view(index, row, self.region, dtype)

    def private_array(self, index: Index, row: int, handing: Handing) -> np.ndarray:
        """`array`, writable, over memory that nobody else has but the other tensors of the same handing over."""
        code = index.dtype_code(row)
        dtype = numpy_dtype(code) if code < len(DTYPES) else index.dtypes.extra[code - len(DTYPES)]
        number, swap = index.storage_of(row), index.swap_of(row)
        if index.access(row) != LOAD and not self.is_inflated:
            return writable_view(index, row, self._private_region(index, number, handing), dtype)
        key = (index, number, swap)
        region = handing.regions.get(key)
        if region is None:
            data = self._storage_bytes(index, number, swap)
            # What a format decoded may be kept by it, so that only a record that was read now is taken as it is.
            fresh = index.is_record(number) and not data.readonly
            region = handing.regions[key] = WritableRegion(data if fresh else np.array(data).data)
        return writable_view(index, row, region, dtype)

    def private_memory(
        self, index: Index, number: int, position: int, handing: Handing
    ) -> tuple[FileMapping | WritableRegion, int]:
        """Memory as that of `private_array` that holds a storage which lies at *position*, and where it does there."""
        if handing.whole and self._shared is None and self.is_in_memory and self._file is not None:
            try:
                return self._map_whole(self._file.opened(), handing), self.origin + position
            except (OSError, OverflowError):
                pass  # as in `private`
        return self._private_region(index, number, handing), 0

    def _private_region(self, index: Index, number: int, handing: Handing) -> WritableRegion:
        """A storage that lies in the source as it is, as private memory of the *handing*."""
        region = handing.regions.get((index, number, 1))
        if region is None:
            region = WritableRegion(self.private(*self._extent(index, number), handing))
            region = handing.regions.setdefault((index, number, 1), region)
        return region

    def private(self, offset: int, count: int, handing: Handing) -> Buffer:
        """The *count* bytes from *offset* on, writable: mapped copy-on-write, or copied where they are few.

        A caller's buffer that may be written to is shared.
        """
        data = self._shared
        if data is not None and offset <= self.size and count <= self.size - offset:
            return data[offset : offset + count]
        # By itself a few bytes are sooner copied than mapped: a page would be copied as soon as they are written to.
        is_mapped = handing.whole or count >= MAPPED_BYTES
        if is_mapped and self.is_in_memory and self._file is not None and count:
            self.fetch(offset, count)  # raises where they are not there
            try:
                return self._map_privately(self._file.opened(), self.origin + offset, count, handing)
            except (OSError, OverflowError):
                pass  # no mappings here, or too many of them: a copy costs memory, and is as good
        data = self.fetch(offset, count)
        return np.array(data).data if data.readonly else data

    def _map_privately(self, file: OpenFile, begin: int, count: int, handing: Handing) -> memoryview:
        assert self._file is not None
        if handing.whole:
            return memoryview(self._map_whole(file, handing))[begin : begin + count]
        before = begin % mmap.ALLOCATIONGRANULARITY
        return memoryview(FileMapping(file.descriptor, before + count, begin - before, True))[before:]

    def _map_whole(self, file: OpenFile, handing: Handing) -> FileMapping:
        assert self._file is not None
        mapping = handing.mappings.get(self._file)
        if mapping is None:  # and another thread may be here too: its mapping then is the one that everybody shares
            made = FileMapping(file.descriptor, file.status.st_size, 0, True)
            mapping = handing.mappings.setdefault(self._file, made)
        return mapping

    def _extent(self, index: Index, number: int) -> tuple[int, int]:
        """(position, size) of a storage that lies in the source as it is."""
        if index.is_record(number):
            assert index.records is not None
            return self.locate(index.records, number), index.records.stored(number)
        position, size = index.extent_of(number)
        assert position is not None
        return position, size

    def read_record(self, records: Records, number: int) -> memoryview:
        """The bytes of one record of an archive, inflated if need be; a view where it can be one.

        Raises
        ------
        FormatError
            The record is not what the directory says, or does not inflate to the size that it gives.
        UnsupportedError
            It is encrypted, or compressed by another method than deflate.
        """
        check(records, number)
        data = self.fetch(self.locate(records, number), records.stored(number))
        if records.is_view(number):
            return data
        return memoryview(inflate(data, records.size(number), records.name(number), records.crc(number)))

    def storage(self, index: Index, number: int, swap: int) -> Region:
        """A whole storage in memory of its own: read, inflated, and with its bytes in units of *swap* reversed."""
        key = (number, swap)
        # Made when it is first needed, and as one step, since another thread may be here too.
        loaded: WeakValueDictionary[tuple[int, int], Region]
        loaded = self.__dict__.setdefault("_loaded", WeakValueDictionary())
        region = loaded.get(key)
        if region is None:
            # Another thread may have been faster: its Region then is the one that everybody shares.
            region = loaded.setdefault(key, Region(self._storage_bytes(index, number, swap)))
        return region

    def _storage_bytes(self, index: Index, number: int, swap: int) -> memoryview:
        """The bytes of a whole storage, made anew where they are not in the source as they are."""
        if index.is_record(number):
            assert index.records is not None
            data = self.read_record(index.records, number)
        else:
            position, size = index.extent_of(number)
            data = memoryview(index.held_bytes(number)) if position is None else self.fetch(position, size)
        if swap > 1:
            swapped = np.array(data)  # bytes behind the last element stay as they are
            swapped[: len(data) // swap * swap].view(f"u{swap}").byteswap(inplace=True)
            data = swapped.data
        return data


def free_memory() -> int:
    """Bytes of memory that can be used without swapping: of the machine, and of the process's control group."""
    free = ASSUMED_FREE_BYTES
    machine = _text(MEMORY_FILE)
    if "MemAvailable:" in machine:
        free = int(machine.partition("MemAvailable:")[2].split()[0]) << 10
    most, used = map(_text, GROUP_FILES)
    if most.strip().isdecimal() and used.strip().isdecimal():  # most is "max" where there is no limit
        free = min(free, max(int(most) - int(used), 0))
    return free


def _text(path: str) -> str:
    """What a file of the system says; "" where there is none."""
    try:
        with open(path, encoding="ascii") as file:
            return file.read()
    except OSError:
        return ""


def _map(file: OpenFile, io: Io, offset: int = 0, count: int | None = None) -> Region | None:
    """A mapping of an open file, or of a run of it; None where `io="auto"` finds that it is better read."""
    if io == "auto" and filesystem_type(file.descriptor) in NETWORK_FILE_SYSTEMS:
        return None
    size = file.status.st_size if count is None else count
    try:
        if CAN_MAP:
            return Region(FileMapping(file.descriptor, size, offset))
        # Python 3.11 and 3.12 keep a duplicate of the descriptor with each mapping; 3.13 need not.
        options: dict[str, Any] = {"trackfd": False} if sys.version_info >= (3, 13) else {}
        return Region(mmap.mmap(file.descriptor, size, access=mmap.ACCESS_READ, offset=offset, **options))
    except (OSError, OverflowError, ValueError) as error:
        if io == "auto":
            return None  # a file system without mappings, or an address space that is full
        raise UnsupportedError(f'cannot be mapped ({error}): open it with io="read"', path=file.path) from None


def _identity(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _not_empty(data: Any, path: str | None) -> Any:
    if not len(data):
        raise TruncatedError("is empty: it has 0 bytes; the download or copy failed, fetch it again", path=path)
    return data
