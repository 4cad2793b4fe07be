"""A strict CBOR scanner over a cursor: texts, the skipping of values, and values as plain Python data.

Each text is copied before it is checked, and it is the copy that is used: the file may change meanwhile.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcpy

from fastload._native.cursor cimport Cursor, left, point_at, raise_format, read_u8, take, tell
from fastload._native.json cimport Text
from fastload._native.utf8 cimport is_utf8
from fastload._native.vector cimport reserve

from fastload.errors import FormatError, LimitError, TruncatedError

cdef enum:
    FALSE = 20               # simple values
    TRUE = 21
    NULL_VALUE = 22
    UNDEFINED = 23
    HALF = 25                # widths of floats
    SINGLE = 26
    DOUBLE = 27


cdef int raise_count(Cursor *cursor, uint64_t count) except -1 with gil:
    raise TruncatedError(
        f"an array or map promises {count:,} entries, for which {left(cursor):,} bytes are too few", offset=tell(cursor)
    )


cdef int raise_depth(Cursor *cursor) except -1 with gil:
    raise LimitError(f"a value is nested more than {MAX_DEPTH} deep", offset=tell(cursor))


cdef int read_head(Cursor *cursor, Item *item) except -1 nogil:
    """The head of whatever comes: a tag or a break too."""
    cdef uint8_t byte = 0
    cdef const uint8_t *number
    cdef size_t width, i
    read_u8(cursor, &byte)
    item.major = byte >> 5
    item.info = byte & 31
    item.value = item.info
    if item.info < 24:
        return 0
    if item.info == INDEFINITE:
        if item.major == UNSIGNED or item.major == NEGATIVE or item.major == TAG:
            return raise_format(cursor, "a CBOR number or tag has an indefinite length")
        return 0
    if item.info > 27:
        return raise_format(cursor, "the first byte of a CBOR item is a reserved one")
    width = <size_t>1 << (item.info - 24)
    number = take(cursor, width)
    item.value = 0
    for i in range(width):
        item.value = item.value << 8 | number[i]
    if item.major == SIMPLE and item.info == 24 and item.value < 32:
        return raise_format(cursor, "a simple value of CBOR has one byte too many")
    return 0


cdef int read_long_item(Cursor *cursor, Item *item) except -1 nogil:
    """What `read_item` leaves: tags, long numbers, floats, simple values."""
    read_head(cursor, item)
    while item.major == TAG:
        read_head(cursor, item)
    if item.major == SIMPLE and item.info == INDEFINITE:
        return raise_format(cursor, "a CBOR break stands where a value is due")
    return 0


cdef int add_run(Cursor *cursor, uint64_t length, bint is_text, Text *text) except -1 nogil:
    """Append the next *length* bytes."""
    cdef const uint8_t *run = take(cursor, length)
    reserve(<void **>&text.start, &text.capacity, text.length + length + 1, 1)
    memcpy(text.start + text.length, run, length)
    if is_text and not is_utf8(text.start + text.length, length, False):
        return raise_format(cursor, "a CBOR text is not UTF-8")
    text.length += length
    return 0


cdef bint another_piece(Cursor *cursor, const Item *item, uint64_t *remaining, Item *piece) except -1 nogil:
    """Whether a piece of the string behind the head *item* follows, and its head; a definite one is one piece."""
    if not another(cursor, remaining):
        return False
    if item.info == INDEFINITE:
        read_head(cursor, piece)
        if piece.major != item.major or piece.info == INDEFINITE:
            return raise_format(cursor, "a CBOR text or byte string has a piece of another kind")
    return True


cdef int read_string(Cursor *cursor, const Item *item, Text *text) except -1 nogil:
    """The text, or the bytes, behind the head *item*; in pieces where its length is indefinite."""
    cdef Item piece = item[0]
    cdef uint64_t remaining = UNENDING if item.info == INDEFINITE else 1
    text.length = 0
    while another_piece(cursor, item, &remaining, &piece):
        add_run(cursor, piece.value, item.major == TEXT, text)
    return 0


cdef int read_text(Cursor *cursor, Text *text, const char *message) except -1 nogil:
    """A text; *message* is said of anything else."""
    cdef Item item
    read_item(cursor, &item)
    if item.major != TEXT:
        return raise_format(cursor, message)
    return read_string(cursor, &item, text)


cdef int read_count(Cursor *cursor, uint64_t *value, const char *message) except -1 nogil:
    """A whole number without sign, of any width; *message* is said of anything else."""
    cdef Item item
    read_item(cursor, &item)
    if item.major != UNSIGNED:
        return raise_format(cursor, message)
    value[0] = item.value
    return 0


cdef int skip_string(Cursor *cursor, const Item *item) except -1 nogil:
    """A text or byte string that nobody wants; it must still be one."""
    cdef Item piece = item[0]
    cdef uint64_t remaining = UNENDING if item.info == INDEFINITE else 1
    cdef const uint8_t *run
    while another_piece(cursor, item, &remaining, &piece):
        run = take(cursor, piece.value)
        if item.major == TEXT and not is_utf8(<const char *>run, piece.value, False):
            return raise_format(cursor, "a CBOR text is not UTF-8")
    return 0


cdef struct Level:           # an array or map that is being skipped
    uint64_t remaining       # pairs of a map, items of an array; UNENDING until its break
    bint is_map
    bint in_pair             # a key was read, and its value is due


cdef int skip_value(Cursor *cursor) except -1 nogil:
    """Any one value, and all that is in it."""
    cdef Level levels[MAX_DEPTH]
    cdef Level *level
    cdef size_t depth = 0
    cdef Item item
    while True:
        level = &levels[depth - 1] if depth else NULL
        if level != NULL and level.is_map and level.in_pair:
            level.in_pair = False
        elif level != NULL:
            if not another(cursor, &level.remaining):
                depth -= 1
                if depth == 0:
                    return 0
                continue
            level.in_pair = True
        read_item(cursor, &item)
        if item.major == ARRAY or item.major == MAP:
            if depth == MAX_DEPTH:
                return raise_depth(cursor)
            open_items(cursor, &item, &levels[depth].remaining)
            levels[depth].is_map = item.major == MAP
            levels[depth].in_pair = False
            depth += 1
            continue
        if item.major == TEXT or item.major == BYTES:
            skip_string(cursor, &item)
        if depth == 0:
            return 0


cdef double float_of(const Item *item) noexcept:
    """The float of whose bits the head consists; what cannot be told of a NaN in fewer bits is kept too."""
    cdef uint64_t sign, exponent, fraction, bits = item.value
    cdef uint32_t narrow
    cdef float single
    cdef double value
    if item.info == HALF:
        sign = bits >> 15
        exponent = bits >> 10 & 31
        fraction = bits & 0x3FF
        if exponent == 0:
            value = <double>fraction / 16777216      # 2**24
            return -value if sign else value
        exponent = 0x7FF if exponent == 31 else exponent + 1023 - 15
        bits = sign << 63 | exponent << 52 | fraction << 42
    elif item.info == SINGLE:
        narrow = <uint32_t>bits
        memcpy(&single, &narrow, 4)
        return single
    memcpy(&value, &bits, 8)
    return value


cdef object simple_value(Cursor *cursor, const Item *item):
    """A number, a truth value or None."""
    if item.major == UNSIGNED:
        return item.value
    if item.major == NEGATIVE:
        return -1 - <object>item.value
    if item.major == SIMPLE:
        if item.info == HALF or item.info == SINGLE or item.info == DOUBLE:
            return float_of(item)
        if item.info == FALSE or item.info == TRUE:
            return item.info == TRUE
        if item.info == NULL_VALUE or item.info == UNDEFINED:
            return None
    raise_format(cursor, "a CBOR value of no known meaning")


def decode(data):
    """One CBOR value as dicts, lists, texts, bytes, numbers, bools and None.

    Raises
    ------
    FormatError
        It is no CBOR, something follows it, a key is no text or stands twice.
    LimitError
        It is nested more than 128 deep.
    """
    cdef Py_buffer held
    cdef Cursor cursor
    cdef Text text
    cdef Item item
    cdef uint64_t remaining[MAX_DEPTH]
    cdef size_t depth = 0
    cdef list containers = []                # being filled, the outermost first
    cdef list keys = []                      # of each, the key whose value is due
    text.start = NULL
    text.length = text.capacity = 0
    PyObject_GetBuffer(data, &held, PyBUF_SIMPLE)
    try:
        point_at(&cursor, <const uint8_t *>held.buf, held.len, 0)
        reserve(<void **>&text.start, &text.capacity, 64, 1)
        while True:
            if depth and not another(&cursor, &remaining[depth - 1]):
                depth -= 1
                value = containers.pop()
                keys.pop()
            else:
                if depth and isinstance(containers[depth - 1], dict):
                    read_text(&cursor, &text, "the key of a CBOR map is no text")
                    key = PyUnicode_DecodeUTF8(text.start, text.length, NULL)
                    if key in containers[depth - 1]:
                        raise FormatError(f"the key {key!r} stands twice", offset=tell(&cursor))
                    keys[depth - 1] = key
                read_item(&cursor, &item)
                if item.major == ARRAY or item.major == MAP:
                    if depth == MAX_DEPTH:
                        raise_depth(&cursor)
                    open_items(&cursor, &item, &remaining[depth])
                    containers.append({} if item.major == MAP else [])
                    keys.append(None)
                    depth += 1
                    continue
                if item.major == TEXT:
                    read_string(&cursor, &item, &text)
                    value = PyUnicode_DecodeUTF8(text.start, text.length, NULL)
                elif item.major == BYTES:
                    read_string(&cursor, &item, &text)
                    value = PyBytes_FromStringAndSize(text.start, text.length)
                else:
                    value = simple_value(&cursor, &item)
            if not depth:
                break
            if isinstance(containers[depth - 1], dict):
                containers[depth - 1][keys[depth - 1]] = value
            else:
                containers[depth - 1].append(value)
        if left(&cursor):
            raise_format(&cursor, "something follows the CBOR value")
        return value
    finally:
        PyBuffer_Release(&held)
        free(text.start)
