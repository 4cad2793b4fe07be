"""The bounds-checked byte cursor: every byte of a file is read through it.

The hot half. A length is compared with what is left, never added to a position, so nothing can wrap; numbers are put
together byte by byte, so neither alignment nor the machine's byte order matters.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

cdef struct Cursor:
    const uint8_t *start     # first readable byte; borrowed, the caller holds the buffer
    const uint8_t *next      # invariant: start <= next <= end
    const uint8_t *end       # one past the last readable byte
    uint64_t origin          # file offset of `start`, for error messages

cdef int raise_truncated(const Cursor *cursor, uint64_t count) except -1 with gil
cdef int raise_format(const Cursor *cursor, const char *message) except -1 with gil


cdef inline void point_at(Cursor *cursor, const uint8_t *start, size_t count, uint64_t origin) noexcept nogil:
    """Let *cursor* read the *count* bytes from *start* on, which lie *origin* bytes into the file."""
    cursor.start = cursor.next = start
    cursor.end = start + count
    cursor.origin = origin


cdef inline size_t left(const Cursor *cursor) noexcept nogil:
    """Bytes not yet read."""
    return <size_t>(cursor.end - cursor.next)


cdef inline uint64_t tell(const Cursor *cursor) noexcept nogil:
    """File offset of the next byte."""
    return cursor.origin + <uint64_t>(cursor.next - cursor.start)


cdef inline const uint8_t *take(Cursor *cursor, uint64_t count) except NULL nogil:
    """Step over *count* bytes and return the first; unsigned, so it cannot run backwards."""
    cdef const uint8_t *taken = cursor.next
    if count > <uint64_t>(cursor.end - cursor.next):
        raise_truncated(cursor, count)
        return NULL
    cursor.next += count
    return taken


cdef inline uint16_t u16_at(const uint8_t *b) noexcept nogil:
    """A little-endian number of two bytes, which the caller knows to be there."""
    return <uint16_t>(b[0] | (b[1] << 8))


cdef inline uint32_t u32_at(const uint8_t *b) noexcept nogil:
    """The same of four."""
    return b[0] | (<uint32_t>b[1] << 8) | (<uint32_t>b[2] << 16) | (<uint32_t>b[3] << 24)


cdef inline int read_u8(Cursor *cursor, uint8_t *value) except -1 nogil:
    if cursor.next == cursor.end:
        return raise_truncated(cursor, 1)
    value[0] = cursor.next[0]
    cursor.next += 1
    return 0


cdef inline int read_u16(Cursor *cursor, uint16_t *value) except -1 nogil:
    cdef const uint8_t *b = take(cursor, 2)
    value[0] = u16_at(b)
    return 0


cdef inline int read_u32(Cursor *cursor, uint32_t *value) except -1 nogil:
    cdef const uint8_t *b = take(cursor, 4)
    value[0] = u32_at(b)
    return 0


cdef inline int read_u64(Cursor *cursor, uint64_t *value) except -1 nogil:
    cdef uint32_t low = 0, high = 0
    if left(cursor) < 8:
        return raise_truncated(cursor, 8)
    read_u32(cursor, &low)
    read_u32(cursor, &high)
    value[0] = low | (<uint64_t>high << 32)
    return 0
