"""Deflate: the records of archives that are compressed."""

from __future__ import annotations

from fastload.errors import FormatError

__all__ = ["inflate"]


def inflate(data: memoryview, size: int, name: str, crc: int) -> bytes:
    """Inflate a raw deflate stream that must come to *size* bytes exactly; stops at one byte more.

    Of what goes through memory anyway the CRC-32 is seen to be right, too; 0 is none, as torch writes it.
    """
    import zlib  # 2 ms, and few archives are compressed

    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        inflated = stream.decompress(data, size + 1)
    except zlib.error as error:
        raise FormatError(f"record {name!r} is damaged: {error}") from None
    if len(inflated) != size or not stream.eof or stream.unused_data:
        raise FormatError(f"record {name!r} does not inflate to the {size:,} bytes that its directory entry promises")
    if crc and zlib.crc32(inflated) != crc:
        raise FormatError(f"record {name!r} is damaged: its bytes are not those of its CRC-32; fetch the file again")
    return inflated
