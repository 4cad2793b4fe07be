"""Writing a zip archive: records that are stored, each aligned, so that readers can map them.

A record's bytes begin at a multiple of the alignment; what is missing is made up in the extra field of its local
header, under the mark with which PyTorch does the same. Checksums are computed on the way, those of large chunks while
they are written, and put into the local header afterwards, so nothing is read twice and no record needs a data
descriptor. The same records make the same bytes.

Format: APPNOTE.TXT 6.3.10 of PKWARE (4.3 and 4.5.3).
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from itertools import chain
from struct import pack
from typing import TYPE_CHECKING, BinaryIO

from fastload.errors import FormatError, LimitError

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

    from typing_extensions import Buffer

__all__ = ["ZipWriter"]

LOCAL_SIGNATURE = 0x04034B50
CENTRAL_SIGNATURE = 0x02014B50
END_SIGNATURE = 0x06054B50
END64_SIGNATURE = 0x06064B50
LOCATOR64_SIGNATURE = 0x07064B50
LOCAL_BYTES = 30  # of a local header, without its name and extra field
CRC_PLACE = 14  # in a local header
END64_REST = 44  # bytes of the ZIP64 end record behind its own size
ZIP64_EXTRA = 0x0001
PADDING_EXTRA = 0x4246  # "FB", as PyTorch has it
VERSION = 20  # that a reader needs: 2.0 for folders, 4.5 for ZIP64
VERSION64 = 45
UNIX = 3 << 8  # who made it: of others, unzip takes names that are not ASCII for those of DOS
FILE_MODE = 0o100644 << 16  # in the attributes that Unix has
FOLDER_MODE = 0o40755 << 16 | 0x10  # and DOS's mark of a folder
UTF8_NAME = 0x0800
STORED = 0
TIME = 0
DATE = 0x0021  # 1 January 1980, the first day that zip knows: the time of writing is no part of a checkpoint
BESIDE_BYTES = 1 << 20  # of a chunk, whose checksum is worth a second thread: it takes as long as half the writing
JOINED_BYTES = 64 << 10  # of a record that is written together with its header
LARGEST16 = 0xFFFF  # these say "see the ZIP64 record" in their fields, and so are too large for them
LARGEST32 = 0xFFFFFFFF


class ZipWriter:
    """An archive that is being written to *file*, from the place where that now is.

    Parameters
    ----------
    file : file
        Binary, writable and seekable; it is not closed.
    alignment : int
        Of each record's bytes in the file, at most 4096; 1 for none.
    """

    def __init__(self, file: BinaryIO, alignment: int = 64) -> None:
        if not 1 <= alignment <= 4096:
            raise ValueError(f"the alignment must be between 1 and 4096, not {alignment}")
        self._file = file
        self._alignment = alignment
        self._position = file.tell()
        self._names: set[bytes] = set()
        self._directory: list[bytes] = []
        self._thread: ThreadPoolExecutor | None = None

    def add(self, name: str, chunks: Iterable[Buffer], size: int, crc: int | None = None) -> int:
        """Write one record.

        Parameters
        ----------
        name : str
            With the folders that it is in, joined by slashes.
        chunks : iterable of buffers
            Its bytes. Of a single small chunk, the checksum is known before it is written.
        size : int
            How many they are together.
        crc : int, optional
            The CRC-32 to be noted, where it is known; else it is computed.

        Returns
        -------
        int
            Where the record's bytes begin in the file.

        Raises
        ------
        FormatError
            The name is taken or cannot be one, or the bytes are not as many as was said.
        LimitError
            The name is too long.
        """
        encoded = self._take_name(name)
        origin = self._position
        is_long = size >= LARGEST32
        extra = pack("<HHQQ", ZIP64_EXTRA, 16, size, size) if is_long else b""
        extra += self._padding(origin + LOCAL_BYTES + len(encoded) + len(extra))
        pieces = iter(chunks)
        first = memoryview(next(pieces, b""))
        is_patched = crc is None and (first.nbytes != size or size >= BESIDE_BYTES)
        if crc is None and not is_patched:
            crc = zlib.crc32(first)
        fields = (UTF8_NAME, STORED, TIME, DATE)
        shown = min(size, LARGEST32)
        version = VERSION64 if is_long else VERSION
        sizes = (shown, shown, len(encoded), len(extra))
        local = pack("<IHHHHHIIIHH", LOCAL_SIGNATURE, version, *fields, crc or 0, *sizes)
        head = b"".join((local, encoded, extra))
        begin = origin + len(head)
        if first.nbytes < JOINED_BYTES and not is_patched:
            first = memoryview(head + first)
        else:
            self._write(head)
        found = self._write_chunks(name, chain((first,), pieces), size, begin, is_summed=is_patched)
        if crc is None:
            crc = found
            self._file.seek(origin + CRC_PLACE)
            self._file.write(pack("<I", crc))
            self._file.seek(self._position)
        large = [*(2 * [size] if is_long else ()), *([origin] if origin >= LARGEST32 else ())]
        extra = pack(f"<HH{len(large)}Q", ZIP64_EXTRA, 8 * len(large), *large) if large else b""
        version = VERSION64 if large else VERSION
        sizes = (shown, shown, len(encoded), len(extra))
        mode = FOLDER_MODE if name.endswith("/") else FILE_MODE
        places = (0, 0, 0, mode, min(origin, LARGEST32))  # comment, volume, text or not, attributes, local header
        self._directory += (
            pack("<IHHHHHHIIIHHHHHII", CENTRAL_SIGNATURE, UNIX | version, version, *fields, crc, *sizes, *places),
            encoded,
            extra,
        )
        return begin

    def close(self) -> None:
        """Write the directory, which makes it an archive. The file stays open."""
        position, count = self._position, len(self._names)
        self._write(*self._directory)
        size = self._position - position
        if position >= LARGEST32 or size >= LARGEST32 or count >= LARGEST16:
            end = self._position
            sizes = (count, count, size, position)
            self._write(
                pack("<IQHHIIQQQQ", END64_SIGNATURE, END64_REST, UNIX | VERSION64, VERSION64, 0, 0, *sizes),
                pack("<IIQI", LOCATOR64_SIGNATURE, 0, end, 1),
            )
        shown = min(count, LARGEST16)
        sizes = (shown, shown, min(size, LARGEST32), min(position, LARGEST32))
        self._write(pack("<IHHHHIIH", END_SIGNATURE, 0, 0, *sizes, 0))
        if self._thread is not None:
            self._thread.shutdown()

    def listing(self) -> bytes:
        """The directory as it is now: the name, place, size and checksum of every record so far."""
        return b"".join(self._directory)

    def _take_name(self, name: str) -> bytes:
        try:
            encoded = name.encode()
        except UnicodeEncodeError:
            raise FormatError(f"{name!r} cannot be the name of a record: it has half a surrogate pair") from None
        if not name or "\0" in name:  # readers end a name there
            raise FormatError(f"{name!r} cannot be the name of a record")
        if len(encoded) > LARGEST16:
            raise LimitError(f"the name of a record has at most {LARGEST16:,} bytes, and {name!r} {len(encoded):,}")
        if encoded in self._names:
            raise FormatError(f"two records are named {name!r}")
        self._names.add(encoded)
        return encoded

    def _padding(self, position: int) -> bytes:
        """An extra field at *position* that ends where a record may begin; nothing where one may begin anyway."""
        if not position % self._alignment:
            return b""
        count = -(position + 4) % self._alignment
        return pack("<HH", PADDING_EXTRA, count) + bytes(count)

    def _write_chunks(self, name: str, chunks: Iterable[Buffer], size: int, begin: int, *, is_summed: bool) -> int:
        """Write what is to be at *begin*, the bytes of a record; returns their checksum where it is wanted."""
        crc = 0
        for chunk in chunks:
            data = memoryview(chunk)
            if data.nbytes > size - (self._position - begin):
                raise FormatError(f"record {name!r} has more bytes than the {size:,} that were announced")
            if is_summed and data.nbytes >= BESIDE_BYTES:
                summed = self._beside().submit(zlib.crc32, data, crc)
                self._write(data)
                crc = summed.result()
            else:
                crc = zlib.crc32(data, crc) if is_summed else 0
                self._write(data)
        if self._position - begin != size:
            raise FormatError(f"record {name!r} has {self._position - begin:,} bytes instead of {size:,}")
        return crc

    def _beside(self) -> ThreadPoolExecutor:
        """The thread that computes checksums; it ends when the archive is closed, or let go."""
        if self._thread is None:
            from concurrent.futures import ThreadPoolExecutor  # 5 ms, and small files need none

            self._thread = ThreadPoolExecutor(1, "fastload-checksums")
        return self._thread

    def _write(self, *parts: Buffer) -> None:
        for part in parts:
            data = memoryview(part)
            if not data.nbytes:  # which cannot be cast
                continue
            data = data.cast("B")
            self._position += data.nbytes
            while data:  # a file without a buffer may take less than it is given
                data = data[self._file.write(data) :]
