"""A strict CBOR scanner over a cursor (RFC 8949): the hot half.

It knows CBOR and nothing of who uses it. Tags are stepped over, integers may have any width, lengths may be indefinite,
as the readers of Rust's serde allow; nothing is read recursively.
"""

from libc.stdint cimport uint8_t, uint64_t

from fastload._native.cursor cimport Cursor, left, raise_truncated
from fastload._native.json cimport Text

cdef enum Major:             # the upper three bits of an item's first byte
    UNSIGNED
    NEGATIVE
    BYTES
    TEXT
    ARRAY
    MAP
    TAG
    SIMPLE

cdef enum:
    INDEFINITE = 31          # in the lower five bits: a length that a break ends, or that break
    BREAK = 0xFF
    MAX_DEPTH = 128          # arrays and maps within each other, which is where Burn's reader stops too

cdef extern from *:
    """
    #define FASTLOAD_UNENDING 0xFFFFFFFFFFFFFFFFu
    """
    const uint64_t UNENDING "FASTLOAD_UNENDING"  # items of an array or map that a break ends

cdef struct Item:            # the head of a data item
    uint64_t value           # the number, or how many bytes, items or pairs follow; of a float its bits
    uint8_t major
    uint8_t info             # the lower five bits

cdef int read_long_item(Cursor *cursor, Item *item) except -1 nogil
cdef int raise_count(Cursor *cursor, uint64_t count) except -1 with gil
cdef int read_string(Cursor *cursor, const Item *item, Text *text) except -1 nogil
cdef int read_text(Cursor *cursor, Text *text, const char *message) except -1 nogil
cdef int read_count(Cursor *cursor, uint64_t *value, const char *message) except -1 nogil
cdef int skip_value(Cursor *cursor) except -1 nogil
cdef object simple_value(Cursor *cursor, const Item *item)


cdef inline int read_item(Cursor *cursor, Item *item) except -1 nogil:
    """The head of the next item, behind its tags; a break is refused."""
    if cursor.next < cursor.end and cursor.next[0] < TAG << 5 and cursor.next[0] & 31 < 24:
        item.major = cursor.next[0] >> 5
        item.info = cursor.next[0] & 31
        item.value = item.info
        cursor.next += 1
        return 0
    return read_long_item(cursor, item)


cdef inline int open_items(Cursor *cursor, const Item *item, uint64_t *remaining) except -1 nogil:
    """How many items (of a map: pairs) follow the head of an array or map; no more than there are bytes for."""
    if item.info == INDEFINITE:
        remaining[0] = UNENDING
        return 0
    if item.value > left(cursor) // (2 if item.major == MAP else 1):
        return raise_count(cursor, item.value)
    remaining[0] = item.value
    return 0


cdef inline bint another(Cursor *cursor, uint64_t *remaining) except -1 nogil:
    """Whether an item (of a map: a pair) follows; steps over the break that ends an indefinite one."""
    if remaining[0] != UNENDING:
        if remaining[0] == 0:
            return False
        remaining[0] -= 1
        return True
    if cursor.next == cursor.end:
        return raise_truncated(cursor, 1)
    if cursor.next[0] == BREAK:
        cursor.next += 1
        return False
    return True
