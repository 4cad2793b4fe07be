"""A strict JSON scanner over a cursor: the hot half.

It knows JSON and nothing of who uses it. Numbers are the whole ones without sign that sizes and offsets are made of;
any other value can only be skipped.
"""

from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcmp

from fastload._native.cursor cimport Cursor, raise_format

cdef struct Text:            # a string of the header, unescaped, in memory of our own
    char *start
    size_t length, capacity

cdef struct Json:
    Cursor cursor
    Text text                # the string read last

cdef int read_string(Json *json) except -1 nogil
cdef int skip_value(Json *json, int depth) except -1 nogil


cdef inline int skip_space(Cursor *cursor) noexcept nogil:
    while cursor.next < cursor.end and (
        cursor.next[0] == c" " or cursor.next[0] == c"\n" or cursor.next[0] == c"\r" or cursor.next[0] == c"\t"
    ):
        cursor.next += 1
    return 0


cdef inline int peek(Cursor *cursor, uint8_t *byte) except -1 nogil:
    """The next byte that is no white space, not yet stepped over."""
    if cursor.next < cursor.end and cursor.next[0] > c" ":
        byte[0] = cursor.next[0]
        return 0
    skip_space(cursor)
    if cursor.next == cursor.end:
        return raise_format(cursor, "the JSON header ends too early")
    byte[0] = cursor.next[0]
    return 0


cdef inline int expect(Cursor *cursor, uint8_t wanted, const char *message) except -1 nogil:
    cdef uint8_t byte = 0
    peek(cursor, &byte)
    if byte != wanted:
        return raise_format(cursor, message)
    cursor.next += 1
    return 0


cdef inline int read_number(Cursor *cursor, uint64_t *value) except -1 nogil:
    """A whole number of 64 bits without sign, fraction or exponent: an extent, a size or an offset."""
    cdef uint8_t byte = 0
    cdef uint64_t digit
    cdef const uint8_t *first
    peek(cursor, &byte)
    first = cursor.next
    value[0] = 0
    while cursor.next < cursor.end:
        digit = <uint64_t>cursor.next[0] - c"0"  # wraps, and so is over 9, for what is no digit
        if digit > 9:
            break
        if cursor.next - first >= 19 and value[0] > (<uint64_t>-1 - digit) // 10:  # 19 digits always fit
            return raise_format(cursor, "a number of the JSON header does not fit 64 bits")
        value[0] = value[0] * 10 + digit
        cursor.next += 1
    if cursor.next == first:
        return raise_format(cursor, "expected a number without sign")
    if byte == c"0" and cursor.next - first > 1:
        return raise_format(cursor, "a number of the JSON header begins with 0")
    if cursor.next < cursor.end and (cursor.next[0] == c"." or cursor.next[0] | 0x20 == c"e"):
        return raise_format(cursor, "a size or offset of the JSON header is not a whole number")
    return 0


cdef inline bint follows(Cursor *cursor, uint8_t closing, bint *first) except -1 nogil:
    """Whether another item of an array or object follows; steps over the comma, or over *closing*."""
    cdef uint8_t byte = 0
    peek(cursor, &byte)
    if byte == closing:
        cursor.next += 1
        return False
    if not first[0]:
        if byte != c",":
            return raise_format(cursor, "expected a comma or the closing bracket")
        cursor.next += 1
        peek(cursor, &byte)
        if byte == closing:
            return raise_format(cursor, "a comma stands before a closing bracket")
    first[0] = False
    return True


cdef inline bint is_text(const Text *text, const char *wanted, size_t length) noexcept nogil:
    return text.length == length and memcmp(text.start, wanted, length) == 0
