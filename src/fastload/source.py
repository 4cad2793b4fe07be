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
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

import numpy as np

from fastload._native import Index, Records, Region, check, filesystem_type, local_header, locate_in_file, locate_record
from fastload.errors import FastloadError, FormatError, TruncatedError, UnsupportedError, located
from fastload.options import Io

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["Source"]


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
MAX_READ_BYTES = 1 << 30  # of one pread; Linux stops below 2 GiB


class _Descriptor:
    """An open file, closed when the last one who reads from it lets go."""

    __slots__ = ("number",)

    def __init__(self, path: str) -> None:
        # O_NONBLOCK, since opening a FIFO that nobody writes to would wait for ever.
        flags = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        self.number = os.open(path, flags)

    def __del__(self) -> None:
        if hasattr(self, "number"):
            os.close(self.number)


class Source:
    """Read-only bytes.

    Attributes
    ----------
    path : str or None
        The file; None for a buffer.
    size : int
        In bytes.
    region : Region or None
        The whole of it in memory; None where it is read piece by piece.
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
        descriptor: _Descriptor | None,
        *,
        origin: int = 0,
        is_inflated: bool = False,
    ) -> None:
        self.path = path
        self.size = size
        self.region = region
        self.origin = origin
        self.is_inflated = is_inflated
        self.archive: Any = None  # what a format that is an archive has read of its directory
        self._descriptor = descriptor
        self._status = _identity(os.fstat(descriptor.number)) if descriptor is not None else None
        self._loaded: WeakValueDictionary[tuple[int, int], Region] = WeakValueDictionary()

    @classmethod
    def of(cls, source: str | os.PathLike[str] | Buffer, io: Io = "auto") -> Source:
        """Make a Source of a path or a buffer.

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
            return cls._of_file(os.fsdecode(source), io)
        try:
            region = Region(source)
        except TypeError:
            message = f"a checkpoint is a path or a bytes-like object, not {type(source).__name__}"
            raise TypeError(message) from None
        except (BufferError, ValueError) as error:
            raise TypeError(f"a checkpoint buffer must be one contiguous run of bytes: {error}") from None
        return cls(None, len(_not_empty(region, None)), region, None)

    @classmethod
    def _of_file(cls, path: str, io: Io) -> Source:
        if "://" in path and not os.path.exists(path):
            raise UnsupportedError("is a URL, and fastload opens files: download it first", path=path)
        if stat.S_ISDIR(os.stat(path).st_mode):
            raise UnsupportedError(
                "is a folder; this version of fastload opens single files: name the shard in it", path=path
            )
        descriptor = _Descriptor(path)
        status = os.fstat(descriptor.number)
        if not stat.S_ISREG(status.st_mode):
            raise UnsupportedError("is a device, pipe or socket, and no file", path=path)
        if io == "auto":
            io = "read" if filesystem_type(descriptor.number) in NETWORK_FILE_SYSTEMS else "mmap"
        if io == "read" or status.st_size == 0:  # mmap refuses an empty file with an error of its own
            return cls(path, len(_not_empty(range(status.st_size), path)), None, descriptor)
        # Python 3.11 and 3.12 keep a duplicate of the descriptor with each mapping; 3.13 need not.
        options: dict[str, Any] = {"trackfd": False} if sys.version_info >= (3, 13) else {}
        mapping = mmap.mmap(descriptor.number, status.st_size, access=mmap.ACCESS_READ, **options)
        return cls(path, status.st_size, Region(mapping), descriptor)

    def part(self, offset: int, size: int) -> Source:
        """The *size* bytes from *offset* on as a Source of their own: a file that lies within a file."""
        if offset > self.size or size > self.size - offset:
            raise TruncatedError(
                f"a part of {size:,} bytes at byte {offset:,} ends beyond the {self.size:,} bytes of the file"
            )
        region = None if self.region is None else Region(memoryview(self.region)[offset : offset + size])
        origin = self.origin + offset
        return Source(self.path, size, region, self._descriptor, origin=origin, is_inflated=self.is_inflated)

    def unpacked(self, data: Buffer) -> Source:
        """A Source of *data*, which was unpacked from this one."""
        region = Region(data)
        return Source(self.path, len(region), region, None, is_inflated=True)

    def still_valid(self) -> bool:
        """Whether the file is still the one that was opened: same file at the path, same size, not written since."""
        if self._descriptor is None or self.path is None:
            return True
        try:
            return _identity(os.stat(self.path)) == self._status == _identity(os.fstat(self._descriptor.number))
        except OSError:
            return False

    def fetch(self, offset: int, count: int) -> memoryview:
        """The *count* bytes from *offset* on: a view where the source is in memory, else read now."""
        if offset > self.size or count > self.size - offset:
            raise TruncatedError(f"{count:,} bytes needed, {max(self.size - offset, 0):,} left", offset=offset)
        if self.region is not None:
            return memoryview(self.region)[offset : offset + count]
        return self._read(offset, count)

    def _read(self, offset: int, count: int) -> memoryview:
        """Read *count* bytes into new memory."""
        assert self._descriptor is not None
        data = np.empty(count, np.uint8).data
        rest = data
        offset += self.origin
        while rest:
            if hasattr(os, "preadv"):
                done = os.preadv(self._descriptor.number, [rest[:MAX_READ_BYTES]], offset)
            else:  # Windows: each read through a descriptor of its own, since they share one position
                assert self.path is not None
                with open(self.path, "rb", buffering=0) as file:
                    file.seek(offset)
                    done = file.readinto(rest[:MAX_READ_BYTES])
            if done == 0:
                raise TruncatedError(f"the file was cut while it was open: {len(rest):,} bytes gone", offset=offset)
            offset += done
            rest = rest[done:]
        return data

    def locate(self, records: Records, number: int) -> int:
        """Where the bytes of a record begin, in bytes from the start of the source; checks its local header."""
        try:
            # Even of a mapped file: to read these few bytes costs a sixth of the page fault of looking at them.
            if self._descriptor is not None:
                return locate_in_file(records, number, self._descriptor.number, self.origin)
            return locate_record(records, number, self.fetch(*local_header(records, number)))
        except FastloadError as error:
            raise located(error, self.path) from None

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
        return memoryview(_inflate(data, records.size(number), records.name(number)))

    def storage(self, index: Index, number: int, swap: int) -> Region:
        """A whole storage in memory of its own: read, inflated, and with its bytes in units of *swap* reversed."""
        key = (number, swap)
        region = self._loaded.get(key)
        if region is None:
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
            # Another thread may have been faster: its Region then is the one that everybody shares.
            region = self._loaded.setdefault(key, Region(data))
        return region


def _identity(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _not_empty(data: Any, path: str | None) -> Any:
    if not len(data):
        raise TruncatedError("is empty: it has 0 bytes; the download or copy failed, fetch it again", path=path)
    return data


def _inflate(data: memoryview, size: int, name: str) -> bytes:
    """Inflate a raw deflate stream that must come to *size* bytes exactly; stops at one byte more."""
    import zlib  # 2 ms, and few archives are compressed

    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        inflated = stream.decompress(data, size + 1)
    except zlib.error as error:
        raise FormatError(f"record {name!r} is damaged: {error}") from None
    if len(inflated) != size or not stream.eof or stream.unused_data:
        raise FormatError(f"record {name!r} does not inflate to the {size:,} bytes that its directory entry promises")
    return inflated
