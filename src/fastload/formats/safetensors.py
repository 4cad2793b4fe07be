"""safetensors: 8 bytes of header length, a JSON header, the data.

    0        8                8+N                                end of file
    | N: u64 | JSON, N bytes  | one run per tensor, no gaps       |

Little-endian, row-major, no strides; alignment is not promised. The reference refuses headers of more than 100 MB, and
so do we; unlike it we also refuse a name that stands twice, of which it would keep the last.

What we write has the reference's order (`WRITING_ORDER`, then by name), and data that begin at a multiple of 64 bytes;
what `pieces` gives for `fastload.safetensors` is the reference's to the byte.

Format: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import attrgetter
from struct import pack
from typing import Any, BinaryIO

from fastload import dtypes
from fastload._native import Index, members_of_header, read_header, read_length
from fastload.dtypes import CODES, DTYPES
from fastload.errors import LimitError, TruncatedError, UnsupportedError
from fastload.formats.writing import Outgoing, find_losses, integers_of, is_unicode, texts_of, write_tensors
from fastload.options import Options
from fastload.source import Source

NAME = "safetensors"

MAX_HEADER_BYTES = 100_000_000  # the reference reader's cap; a larger header is hostile or broken
PEEKED_BYTES = 1 << 14  # of a header that is copied: up to here that takes less time than to fault its pages in
METADATA = "__metadata__"
ALIGNMENT = 64  # of the data in files that we write, in bytes: a cache line
REFERENCE_ALIGNMENT = 8  # in those of the reference
# The order in which the reference writes dtypes: widest first. Its readers want none.
WRITING_ORDER = (
    "U64", "I64", "F64", "C64", "F32", "U32", "I32",
    "BF16", "F16", "U16", "I16", "F8_E5M2FNUZ", "F8_E4M3FNUZ", "F8_E8M0", "F8_E4M3", "F8_E5M2",
    "I8", "U8", "F6_E3M2", "F6_E2M3", "F4", "BOOL",
)  # fmt: skip

# What the format calls each canonical dtype that it can hold, those of quantised tensors as their integers; and the
# place of each in that order.
SPELLINGS = {row.name: text for row in DTYPES if (text := DTYPES[CODES[integers_of(row.name)]].safetensors) is not None}
RANKS = {name: WRITING_ORDER.index(spelling) for name, spelling in SPELLINGS.items()}


def probe(source: Source, head: bytes) -> bool:
    """Whether a file that begins with *head* is of this format: a `{` behind the length of a header."""
    return head[8:9] == b"{" and read_length(head) <= MAX_HEADER_BYTES


def index(source: Source, options: Options) -> Index:
    """Describe every tensor without reading its data.

    Offsets in the header count bytes from the end of the header; those of the entries from the start of the file.
    Order: by data offset, then as the header has them.

    Raises
    ------
    TruncatedError
        The header is longer than the file, or promises more data than the file has.
    LimitError
        The header is longer than `MAX_HEADER_BYTES`.
    FormatError
        The header is not strict JSON of the format's shape, or tensors overlap, leave a hole or share a name.
    """
    length = read_length(source.peek(0, 8))
    if length > MAX_HEADER_BYTES:
        raise LimitError(
            f"the header claims {length:,} bytes, more than the {MAX_HEADER_BYTES:,} of the format", offset=0
        )
    if length > source.size - 8:
        raise TruncatedError(
            f"the file has {source.size:,} bytes and its header alone promises {8 + length:,}:"
            " the download or copy is incomplete; fetch it again"
        )
    header = source.peek(8, length) if length <= PEEKED_BYTES else source.fetch(8, length)
    return read_header(header, source, dtypes.TABLE, dtypes.SAFETENSORS, source.size - 8 - length)


def metadata(source: Source, index: Index) -> dict[str, Any]:
    """The text to text under `__metadata__`."""
    return index.metadata


def objects(source: Source, options: Options) -> Any:
    """What the file holds beside tensors and metadata: nothing."""
    return {}


def list_globals(source: Source) -> list[tuple[str, str]]:
    """The globals that the file names: none."""
    return []


def verify(source: Source, index: Index) -> None:
    """Check what `index` has left unchecked: nothing, since it reads the whole header."""


def check_writable(tensors: Sequence[Outgoing], metadata: Mapping[str, Any]) -> list[str]:
    """What would be lost, a line each: metadata that are no text, sharing of memory, quantisation, param ids.

    Raises
    ------
    UnsupportedError
        A tensor has a dtype or a name that the format lacks, or the header would be too long.
    """
    names = [tensor.name for tensor in tensors]
    if METADATA in names:
        raise UnsupportedError(f"tensor {METADATA!r} has a name that safetensors keeps for itself")
    if not is_unicode("\0".join(names)):
        name = next(name for name in names if not is_unicode(name))
        raise UnsupportedError(f"tensor {name!r}: its name holds half a surrogate pair, no text")
    if not {tensor.dtype for tensor in tensors} <= SPELLINGS.keys():
        lacking = next(tensor for tensor in tensors if tensor.dtype not in SPELLINGS)
        raise UnsupportedError(
            f"tensor {lacking.name!r} is {lacking.dtype}, which safetensors cannot hold: cast it first"
        )
    texts, lost = texts_of(metadata)
    length = len(_header(_ordered(tensors), texts or None, ALIGNMENT))
    if length > MAX_HEADER_BYTES:
        raise UnsupportedError(
            f"the names of {len(tensors):,} tensors and the metadata need a header of {length:,} bytes, and readers of"
            f" safetensors take at most {MAX_HEADER_BYTES:,}"
        )
    return find_losses(tensors) + lost


def write(file: BinaryIO, tensors: Sequence[Outgoing], metadata: Mapping[str, Any]) -> None:
    """Write the whole file, a chunk at a time.

    Raises
    ------
    FormatError
        A tensor gives another number of bytes than was said.
    """
    write_aligned(file, tensors, texts_of(metadata)[0] or None, ALIGNMENT)


def write_aligned(file: BinaryIO, tensors: Sequence[Outgoing], texts: Mapping[str, str] | None, alignment: int) -> None:
    """Write the whole file, whose data begin at a multiple of *alignment* bytes.

    Raises
    ------
    FormatError
        A tensor gives another number of bytes than was said.
    """
    ordered = _ordered(tensors)
    header = _header(ordered, texts, alignment)
    file.write(pack("<Q", len(header)))
    file.write(header)
    write_tensors(file, ordered)


def _ordered(tensors: Sequence[Outgoing]) -> list[Outgoing]:
    by_name = sorted(tensors, key=attrgetter("name"))
    return sorted(by_name, key=lambda tensor: RANKS[tensor.dtype])


def _header(ordered: list[Outgoing], texts: Mapping[str, str] | None, alignment: int) -> bytes:
    """The header of tensors in their order, with the spaces at its end that align the data."""
    members = [members_of_header(ordered, SPELLINGS)] if ordered else []
    if texts is not None:
        import json  # only for metadata: headers are read and written by the native core

        held = json.dumps(dict(texts), ensure_ascii=False, separators=(",", ":")).encode()
        members.insert(0, b'"%s":%s' % (METADATA.encode(), held))
    header = b"{%s}" % b",".join(members)
    return header + b" " * (-(8 + len(header)) % alignment)
