"""gzip: a file of any format, compressed as a whole. It is inflated into memory when it is opened.

A gzip file is a row of members, each a deflate stream with the checksum and the length of what it inflates to. The
length counts to 2**32 and speaks of its own member alone, so it cannot say how much memory is needed: inflating goes
on, step by step, up to `max_inflated`.

Format: RFC 1952.
"""

from __future__ import annotations

from fastload.errors import FormatError, LimitError, TruncatedError, UnsupportedError, advised
from fastload.options import INFLATE_MORE, Options
from fastload.source import Source, free_memory

__all__ = ["NAME", "parts", "probe"]

NAME = "gzip"

MARK = b"\x1f\x8b"
DEFLATE = b"\x08"  # the only method there is
WINDOW_BITS = 31  # zlib's for a deflate stream in a gzip wrapper, whose checksum and length it then checks
OUT_BYTES = 1 << 18  # of one step
# Of one step, at first and at most: a stream that ends hands back a copy of what it did not need, and a file may be
# one tiny member after the other.
MIN_IN_BYTES = 1 << 12
MAX_IN_BYTES = 1 << 16


def probe(source: Source, head: bytes) -> bool:
    """Whether *source* is a gzip file.

    A safetensors file whose header has 559,903 bytes begins with gzip's mark too, and has "{" where gzip has 0, 2 or 4.
    """
    return head.startswith(MARK + DEFLATE) and head[8:9] != b"{"


def parts(source: Source, options: Options) -> list[Source]:
    """The one file in it, inflated.

    Raises
    ------
    UnsupportedError
        Copies are not allowed, and this can be nothing else.
    LimitError
        It inflates to more than `options.max_inflated`.
    TruncatedError
        It ends within a member.
    FormatError
        A member is damaged, or something else follows.
    """
    if not options.allow_copy:
        raise UnsupportedError(
            "is compressed with gzip as a whole, so that no tensor can be a view of it; unpack it, or open it with"
            " allow_copy=True"
        )
    return [source.unpacked(_inflate(source, *_limit(source, options)))]


def _limit(source: Source, options: Options) -> tuple[int, str]:
    """To how many bytes *source* may inflate, and whose limit that is."""
    if options.max_inflated is None:
        return free_memory() // 2, "half of the free memory"
    # What is inflated already, of a gzip file within a gzip file, counts too.
    return options.max_inflated - (source.size if source.is_inflated else 0), "max_inflated"


def _inflate(source: Source, limit: int, whose: str) -> bytearray:
    """Inflate all members, one behind the other, to at most *limit* bytes."""
    import zlib  # 2 ms, and few files are compressed

    inflated = bytearray()  # grows in place, where the system can move pages; never twice as large as what it holds
    stream = zlib.decompressobj(WINDOW_BITS)
    next, step = 0, MIN_IN_BYTES
    while True:
        data = source.fetch(next, min(step, source.size - next))
        used = len(data)
        step = min(2 * step, MAX_IN_BYTES)
        try:
            rest: bytes | memoryview = data
            while True:
                room = min(OUT_BYTES, max(limit - len(inflated), 0) + 1)
                made = stream.decompress(rest, room)
                inflated += made
                if len(inflated) > limit:
                    message = f"is compressed with gzip and inflates to more than {max(limit, 0):,} bytes, which is"
                    raise advised(LimitError(f"{message} {whose}; {INFLATE_MORE}unpack it first"), INFLATE_MORE)
                rest = stream.unconsumed_tail
                if stream.eof or (not rest and len(made) < room):
                    break
        except zlib.error as error:
            raise FormatError(f"is compressed with gzip and damaged: {_reason(error)}", offset=next) from None
        except MemoryError:
            raise LimitError(
                f"is compressed with gzip and inflates to more than memory holds; {len(inflated):,} bytes were done:"
                " unpack it first"
            ) from None
        next += used - len(stream.unused_data)
        if stream.eof:
            if _is_end(source, next):
                return inflated
            stream = zlib.decompressobj(WINDOW_BITS)
            step = MIN_IN_BYTES
        elif next == source.size:
            raise TruncatedError(
                f"is compressed with gzip and cut short: its {source.size:,} bytes end within the stream, after"
                f" {len(inflated):,} inflated bytes; the download or copy is incomplete, fetch it again"
            )


def _is_end(source: Source, next: int) -> bool:
    """Whether nothing is left behind a member but padding."""
    left = source.size - next
    mark = bytes(source.fetch(next, min(left, len(MARK))))
    if left and MARK.startswith(mark):
        return False
    while left:  # zeros, as tapes and some tools pad
        data = source.fetch(next, min(left, MAX_IN_BYTES))
        if any(data):
            raise FormatError(
                f"is compressed with gzip, and {source.size - next:,} bytes follow that are no gzip member: cut them"
                " off, or fetch the file again",
                offset=next,
            )
        next += len(data)
        left -= len(data)
    return True


def _reason(error: Exception) -> str:
    """What zlib says is wrong, without its number."""
    return str(error).rpartition(": ")[2]
