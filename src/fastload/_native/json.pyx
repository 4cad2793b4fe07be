"""A strict JSON scanner over a cursor: strings, and the skipping of values.

Each string is copied before it is checked, and it is the copy that is used: the file may change meanwhile.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

from fastload._native.cursor cimport Cursor, left, raise_format, tell
from fastload._native.utf8 cimport is_utf8, put_utf8
from fastload._native.vector cimport reserve

from fastload.errors import LimitError

cdef extern from *:
    """
    /* How many of the eight bytes, from the first on, are plain: ASCII, no control character, quote or backslash. */
    static inline unsigned plain_bytes(uint64_t word) {
        const uint64_t ones = 0x0101010101010101u;
        uint64_t quote = word ^ ones * '"', slash = word ^ ones * '\\\\';
        uint64_t found = ((quote - ones) & ~quote) | ((slash - ones) & ~slash) | ((word - ones * 32) & ~word) | word;
        found &= ones * 0x80;
        if (!found) return 8;
    #if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
        return (unsigned)__builtin_ctzll(found) >> 3;  /* a borrow spoils only what lies behind it */
    #else
        return 0;
    #endif
    }
    """
    unsigned int plain_bytes(uint64_t word) noexcept nogil

cdef enum:
    MAX_DEPTH = 126          # of arrays and objects in a field: serde_json's 128, less the two objects around it


cdef int raise_depth(Json *json) except -1 with gil:
    raise LimitError(f"a field of the header is nested more than {MAX_DEPTH} deep", offset=tell(&json.cursor))


cdef int read_hex4(Cursor *cursor, uint32_t *value) except -1 nogil:
    cdef int _i
    cdef uint8_t digit
    value[0] = 0
    for _i in range(4):
        if cursor.next == cursor.end:
            return raise_format(cursor, "a string of the JSON header is not closed")
        digit = cursor.next[0]
        if c"0" <= digit <= c"9":
            digit -= c"0"
        elif c"a" <= digit | 0x20 <= c"f":
            digit = (digit | 0x20) - c"a" + 10
        else:
            return raise_format(cursor, "\\u in a string of the JSON header lacks its four hexadecimal digits")
        value[0] = value[0] << 4 | digit
        cursor.next += 1
    return 0


cdef int read_escape(Json *json) except -1 nogil:
    """One escape, from behind its backslash, to the end of `json.text`."""
    cdef Cursor *cursor = &json.cursor
    cdef uint8_t byte
    cdef uint32_t point = 0, low = 0
    if cursor.next == cursor.end:
        return raise_format(cursor, "a string of the JSON header is not closed")
    byte = cursor.next[0]
    cursor.next += 1
    if byte == c"u":
        read_hex4(cursor, &point)
        if 0xDC00 <= point < 0xE000:
            return raise_format(cursor, "a string of the JSON header holds half a surrogate pair")
        if 0xD800 <= point < 0xDC00:
            if left(cursor) < 2 or cursor.next[0] != c"\\" or cursor.next[1] != c"u":
                return raise_format(cursor, "a string of the JSON header holds half a surrogate pair")
            cursor.next += 2
            read_hex4(cursor, &low)
            if not 0xDC00 <= low < 0xE000:
                return raise_format(cursor, "a string of the JSON header holds half a surrogate pair")
            point = 0x10000 + ((point - 0xD800) << 10) + (low - 0xDC00)
    elif byte == c'"' or byte == c"\\" or byte == c"/":
        point = byte
    elif byte == c"b":
        point = 8
    elif byte == c"f":
        point = 12
    elif byte == c"n":
        point = 10
    elif byte == c"r":
        point = 13
    elif byte == c"t":
        point = 9
    else:
        return raise_format(cursor, "unknown escape in a string of the JSON header")
    json.text.length += put_utf8(json.text.start + json.text.length, point)
    return 0


cdef int read_string(Json *json) except -1 nogil:
    """A whole string, from its opening quote on, into `json.text`."""
    cdef Cursor *cursor = &json.cursor
    cdef Text *text = &json.text
    cdef uint64_t word
    cdef unsigned int plain
    cdef uint8_t byte
    cdef bint ascii_only = True
    expect(cursor, c'"', "expected a string")
    text.length = 0
    while True:
        reserve(<void **>&text.start, &text.capacity, text.length + 16, 1)
        while left(cursor) >= 8:                 # one fetch of eight bytes both copies and looks at them
            memcpy(&word, cursor.next, 8)
            memcpy(text.start + text.length, &word, 8)
            plain = plain_bytes(word)
            cursor.next += plain
            text.length += plain
            if plain < 8:
                break
            reserve(<void **>&text.start, &text.capacity, text.length + 16, 1)
        if cursor.next == cursor.end:
            return raise_format(cursor, "a string of the JSON header is not closed")
        byte = cursor.next[0]
        if byte == c'"':
            cursor.next += 1
            break
        if byte < 32:
            return raise_format(cursor, "a control character stands unescaped in a string of the JSON header")
        cursor.next += 1
        if byte == c"\\":
            read_escape(json)
        else:
            text.start[text.length] = <char>byte
            text.length += 1
        ascii_only = ascii_only and byte < 0x80
    if not ascii_only and not is_utf8(text.start, text.length, False):
        return raise_format(cursor, "a string of the JSON header is not UTF-8")
    return 0


cdef int skip_digits(Cursor *cursor) except -1 nogil:
    cdef const uint8_t *first = cursor.next
    while cursor.next < cursor.end and c"0" <= cursor.next[0] <= c"9":
        cursor.next += 1
    if cursor.next == first:
        return raise_format(cursor, "bad number in the JSON header")
    return 0


cdef int check_range(Cursor *cursor, const uint8_t *first) except -1 with gil:
    """Refuse a number beyond the range of a double, as serde_json does."""
    number = float(first[:cursor.next - first])
    if number - number != 0:
        return raise_format(cursor, "a number of the JSON header is out of range")
    return 0


cdef int skip_number(Cursor *cursor) except -1 nogil:
    """Any number that JSON allows."""
    cdef const uint8_t *first = cursor.next
    if cursor.next[0] == c"-":
        cursor.next += 1
    if cursor.next < cursor.end and cursor.next[0] == c"0":
        cursor.next += 1
    else:
        skip_digits(cursor)
    if cursor.next < cursor.end and cursor.next[0] == c".":
        cursor.next += 1
        skip_digits(cursor)
    if cursor.next < cursor.end and cursor.next[0] | 0x20 == c"e":
        cursor.next += 1
        if cursor.next < cursor.end and (cursor.next[0] == c"+" or cursor.next[0] == c"-"):
            cursor.next += 1
        skip_digits(cursor)
    return check_range(cursor, first)


cdef int skip_word(Cursor *cursor, const char *word, size_t length) except -1 nogil:
    if left(cursor) < length or memcmp(cursor.next, word, length) != 0:
        return raise_format(cursor, "bad value in the JSON header")
    cursor.next += length
    return 0


cdef int skip_value(Json *json, int depth) except -1 nogil:
    """Any JSON value: what an entry's unknown field holds."""
    cdef Cursor *cursor = &json.cursor
    cdef uint8_t byte = 0
    cdef bint first = True
    peek(cursor, &byte)
    if byte == c'"':
        return read_string(json)
    if byte == c"{" or byte == c"[":
        if depth == MAX_DEPTH:
            return raise_depth(json)
        cursor.next += 1
        while follows(cursor, byte + 2, &first):  # in ASCII the closing bracket is two past the opening one
            if byte == c"{":
                read_string(json)
                expect(cursor, c":", "expected a colon")
            skip_value(json, depth + 1)
        return 0
    if byte == c"t":
        return skip_word(cursor, "true", 4)
    if byte == c"f":
        return skip_word(cursor, "false", 5)
    if byte == c"n":
        return skip_word(cursor, "null", 4)
    if byte == c"-" or c"0" <= byte <= c"9":
        return skip_number(cursor)
    return raise_format(cursor, "bad value in the JSON header")
