"""safetensors: 8 bytes of header length, a JSON header, the data.

    0        8                8+N                                end of file
    | N: u64 | JSON, N bytes  | one run per tensor, no gaps       |

Little-endian, row-major, no strides; alignment is not promised. The reference refuses headers of more than 100 MB, and
so do we; unlike it we also refuse a name that stands twice, of which it would keep the last.

Format: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

from typing import Any

from fastload import dtypes
from fastload._native import Index, read_header, read_length
from fastload.errors import LimitError, TruncatedError
from fastload.options import Options
from fastload.source import Source

NAME = "safetensors"

MAX_HEADER_BYTES = 100_000_000  # the reference reader's cap; a larger header is hostile or broken


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
    length = read_length(source.fetch(0, 8))
    if length > MAX_HEADER_BYTES:
        raise LimitError(
            f"the header claims {length:,} bytes, more than the {MAX_HEADER_BYTES:,} of the format", offset=0
        )
    if length > source.size - 8:
        raise TruncatedError(
            f"the file has {source.size:,} bytes and its header alone promises {8 + length:,}:"
            " the download or copy is incomplete; fetch it again"
        )
    header = source.fetch(8, length)
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
