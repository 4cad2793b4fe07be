"""The safetensors header: strict JSON, scanned straight into the Index.

    { "__metadata__": {text: text, …}, name: {"dtype": text, "shape": [n, …], "data_offsets": [begin, end]}, … }

One pass, no Python object a tensor. Stricter than a JSON library where the format is: no name, field or metadata key
twice, no sign, fraction or exponent in a number of ours. Unknown fields of an entry are skipped as serde skips them, but
must be JSON. Each text is copied before it is checked, and it is the copy that is used: the file may change meanwhile.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, qsort
from libc.string cimport memcmp, memcpy

from fastload._native.cursor cimport Cursor, left, point_at, raise_format, raise_truncated, read_u64, tell
from fastload._native.index cimport (
    MAX_DIMENSIONS, DtypeTable, Extent, Index, Row, Spellings, code_of, size_in_bytes,
)
from fastload._native.names cimport Span, add_name, reindex, reserve_names
from fastload._native.utf8 cimport is_utf8, put_utf8
from fastload._native.vector cimport raise_no_memory, reserve

from fastload.errors import FormatError, LimitError, TruncatedError

cdef enum:
    MAX_DEPTH = 128          # of arrays and objects in a field that is skipped; serde_json's limit
    TYPICAL_ENTRY_BYTES = 96  # of header for one tensor; only a guess at how much room to make

cdef enum Field:
    NO_FIELD = 0
    DTYPE = 1
    SHAPE = 2
    DATA_OFFSETS = 4
    ALL_FIELDS = 7

cdef struct Text:            # a string of the header, unescaped, in memory of our own
    char *start
    size_t length, capacity

cdef struct Header:
    Cursor cursor
    Text text                # the string read last
    uint64_t *shape          # of the entry being read
    size_t shape_capacity
    uint64_t data_start      # where the data begins, in bytes from the start of the file
    uint64_t data_size


cdef int raise_name(Header *header, const char *message) except -1 with gil:
    """A FormatError about the string read last: *message* has a place for it."""
    name = PyUnicode_DecodeUTF8(header.text.start, header.text.length, "replace")
    raise FormatError(message.decode() % repr(name), offset=tell(&header.cursor))


cdef int raise_tensor(Index index, uint64_t data_start, const char *message, numbers) except -1 with gil:
    """A FormatError about the tensor added last: *message* has places for its name and *numbers*."""
    cdef Span span = index.names.spans[index.names.count - 1]
    name = PyUnicode_DecodeUTF8(index.names.text + span.start, span.length, "replace")
    raise FormatError(message.decode().format(repr(name), *numbers))


cdef int raise_depth(Header *header) except -1 with gil:
    raise LimitError(f"a field of the header is nested more than {MAX_DEPTH} deep", offset=tell(&header.cursor))


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


cdef int read_hex4(Cursor *cursor, uint32_t *value) except -1 nogil:
    cdef int i
    cdef uint8_t digit
    value[0] = 0
    for i in range(4):
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


cdef int read_escape(Header *header) except -1 nogil:
    """One escape, from behind its backslash, to the end of `header.text`."""
    cdef Cursor *cursor = &header.cursor
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
    header.text.length += put_utf8(header.text.start + header.text.length, point)
    return 0


cdef int read_string(Header *header) except -1 nogil:
    """A whole string, from its opening quote on, into `header.text`."""
    cdef Cursor *cursor = &header.cursor
    cdef Text *text = &header.text
    cdef const uint8_t *run
    cdef size_t count
    expect(cursor, c'"', "expected a string")
    text.length = 0
    while True:
        run = cursor.next
        while cursor.next < cursor.end and cursor.next[0] != c'"' and cursor.next[0] != c"\\" and cursor.next[0] >= 32:
            cursor.next += 1
        count = cursor.next - run
        reserve(<void **>&text.start, &text.capacity, text.length + count + 4, 1)  # 4: the longest UTF-8 sequence
        memcpy(text.start + text.length, run, count)
        text.length += count
        if cursor.next == cursor.end:
            return raise_format(cursor, "a string of the JSON header is not closed")
        if cursor.next[0] == c'"':
            cursor.next += 1
            break
        if cursor.next[0] != c"\\":
            return raise_format(cursor, "a control character stands unescaped in a string of the JSON header")
        cursor.next += 1
        read_escape(header)
    if not is_utf8(text.start, text.length, False):
        return raise_format(cursor, "a string of the JSON header is not UTF-8")
    return 0


cdef int read_number(Cursor *cursor, uint64_t *value) except -1 nogil:
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
        if value[0] > (<uint64_t>-1 - digit) // 10:
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


cdef int skip_digits(Cursor *cursor) except -1 nogil:
    cdef const uint8_t *first = cursor.next
    while cursor.next < cursor.end and c"0" <= cursor.next[0] <= c"9":
        cursor.next += 1
    if cursor.next == first:
        return raise_format(cursor, "bad number in the JSON header")
    return 0


cdef int skip_number(Cursor *cursor) except -1 nogil:
    """Any number that JSON allows."""
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
    return 0


cdef int skip_word(Cursor *cursor, const char *word, size_t length) except -1 nogil:
    if left(cursor) < length or memcmp(cursor.next, word, length) != 0:
        return raise_format(cursor, "bad value in the JSON header")
    cursor.next += length
    return 0


cdef bint follows(Cursor *cursor, uint8_t closing, bint *first) except -1 nogil:
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


cdef int skip_value(Header *header, int depth) except -1 nogil:
    """Any JSON value: what an entry's unknown field holds."""
    cdef Cursor *cursor = &header.cursor
    cdef uint8_t byte = 0
    cdef bint first = True
    peek(cursor, &byte)
    if byte == c'"':
        return read_string(header)
    if byte == c"{" or byte == c"[":
        if depth == MAX_DEPTH:
            return raise_depth(header)
        cursor.next += 1
        while follows(cursor, byte + 2, &first):  # in ASCII the closing bracket is two past the opening one
            if byte == c"{":
                read_string(header)
                expect(cursor, c":", "expected a colon")
            skip_value(header, depth + 1)
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


cdef inline bint is_text(const Text *text, const char *wanted, size_t length) noexcept nogil:
    return text.length == length and memcmp(text.start, wanted, length) == 0


cdef int read_entry(Header *header, Index index, Spellings spellings, Row *row, Extent *extent) except -1 nogil:
    """The object that describes one tensor, checked in itself: its size is that of its dtype and shape."""
    cdef Cursor *cursor = &header.cursor
    cdef Text *text = &header.text
    cdef bint first = True, first_item
    cdef int seen = 0, field, code = 0
    cdef size_t ndim = 0
    cdef uint64_t begin = 0, end = 0, size = 0
    expect(cursor, c"{", "expected an object that describes a tensor")
    while follows(cursor, c"}", &first):
        read_string(header)
        expect(cursor, c":", "expected a colon")
        field = NO_FIELD
        if is_text(text, "dtype", 5):
            field = DTYPE
        elif is_text(text, "shape", 5):
            field = SHAPE
        elif is_text(text, "data_offsets", 12):
            field = DATA_OFFSETS
        if seen & field:
            return raise_name(header, "the field %s stands twice in one entry")
        seen |= field
        if field == DTYPE:
            read_string(header)
            code = code_of(spellings.rows, spellings.count, text.start, text.length)
            if code < 0:
                return raise_name(header, "unknown dtype %s; a newer fastload may know it")
        elif field == SHAPE:
            expect(cursor, c"[", "expected the array of a shape")
            first_item = True
            while follows(cursor, c"]", &first_item):
                if ndim == MAX_DIMENSIONS:
                    return raise_format(cursor, "a shape of more than 65535 dimensions")
                reserve(<void **>&header.shape, &header.shape_capacity, ndim + 1, sizeof(uint64_t))
                read_number(cursor, &header.shape[ndim])
                ndim += 1
        elif field == DATA_OFFSETS:
            expect(cursor, c"[", "expected the two data_offsets")
            read_number(cursor, &begin)
            expect(cursor, c",", "expected two data_offsets")
            read_number(cursor, &end)
            expect(cursor, c"]", "expected two data_offsets and no more")
        else:
            skip_value(header, 1)
    if seen != ALL_FIELDS:
        return raise_format(cursor, "an entry lacks its dtype, shape or data_offsets")
    if end < begin:
        return raise_format(cursor, "data_offsets end before they begin")
    field = size_in_bytes(header.shape, ndim, index.dtypes.bits[code], &size)
    if field == -1:
        return raise_format(cursor, "a tensor's size does not fit 64 bits")
    if field == -2:
        return raise_format(cursor, "the elements of a packed tensor do not fill whole bytes")
    if size != end - begin:
        return raise_format(cursor, "data_offsets do not fit the dtype and shape")
    row.dims = <uint32_t>index.dims_count
    row.ndim = <uint16_t>ndim
    row.dtype = <uint8_t>code
    index.add_dims(header.shape, ndim)
    extent.position = begin     # of the data for now; of the file once `check_layout` has seen that it fits
    extent.size = size
    return 0


cdef int read_metadata(Header *header, dict metadata) except -1:
    """The object of text to text under __metadata__."""
    cdef Cursor *cursor = &header.cursor
    cdef bint first = True
    expect(cursor, c"{", "__metadata__ is not an object")
    while follows(cursor, c"}", &first):
        read_string(header)
        key = PyUnicode_DecodeUTF8(header.text.start, header.text.length, NULL)
        if key in metadata:
            raise_name(header, "__metadata__ holds the key %s twice")
        expect(cursor, c":", "expected a colon")
        read_string(header)  # refuses what is no text
        metadata[key] = PyUnicode_DecodeUTF8(header.text.start, header.text.length, NULL)
    return 0


cdef int read_tensors(Header *header, Index index, Spellings spellings, bint first) except -1 nogil:
    """Every entry up to __metadata__ or the closing brace; 1 where it stopped behind the name __metadata__."""
    cdef Cursor *cursor = &header.cursor
    cdef Row row
    cdef Extent extent
    row.offset = 0
    row.kind = 0
    row.flags = 0
    while follows(cursor, c"}", &first):
        read_string(header)
        expect(cursor, c":", "expected a colon")
        if is_text(&header.text, "__metadata__", 12):
            return 1
        if add_name(&index.names, header.text.start, header.text.length) < 0:
            return raise_name(header, "the name %s stands twice")
        read_entry(header, index, spellings, &row, &extent)
        row.storage = <uint32_t>(index.names.count - 1)
        reserve(<void **>&index.extents, &index.extents_capacity, index.names.count, sizeof(Extent))
        index.extents[row.storage] = extent
        index.add_row(&row)
    return 0


cdef struct Placed:          # for sorting: a row and where its data begins
    uint64_t begin
    uint32_t row


cdef int compare_placed(const void *left, const void *right) noexcept nogil:
    cdef const Placed *a = <const Placed *>left
    cdef const Placed *b = <const Placed *>right
    if a.begin != b.begin:
        return -1 if a.begin < b.begin else 1
    return -1 if a.row < b.row else 1


cdef int sort_rows(Index index) except -1 nogil:
    """Bring the rows into the order of their data, and of the header where data begins alike."""
    cdef size_t count = index.names.count, i
    cdef Placed *placed = NULL
    cdef Row *rows = NULL
    cdef Extent *extents = NULL
    cdef Span *spans = NULL
    cdef size_t placed_room = 0, rows_room = 0, extents_room = 0, spans_room = 0
    try:
        reserve(<void **>&placed, &placed_room, count, sizeof(Placed))
        reserve(<void **>&rows, &rows_room, count, sizeof(Row))
        reserve(<void **>&extents, &extents_room, count, sizeof(Extent))
        reserve(<void **>&spans, &spans_room, count, sizeof(Span))
        memcpy(rows, index.rows, count * sizeof(Row))
        memcpy(extents, index.extents, count * sizeof(Extent))
        memcpy(spans, index.names.spans, count * sizeof(Span))
        for i in range(count):
            placed[i].begin = extents[i].position
            placed[i].row = <uint32_t>i
        qsort(placed, count, sizeof(Placed), compare_placed)
        for i in range(count):
            index.rows[i] = rows[placed[i].row]
            index.rows[i].storage = <uint32_t>i
            index.extents[i] = extents[placed[i].row]
            index.names.spans[i] = spans[placed[i].row]
        reindex(&index.names)
    finally:
        free(placed)
        free(rows)
        free(extents)
        free(spans)
    return 0


cdef int raise_layout(Index index, size_t row, const char *message) except -1 with gil:
    cdef Span span = index.names.spans[row]
    name = PyUnicode_DecodeUTF8(index.names.text + span.start, span.length, "replace")
    raise FormatError(f"tensor {name!r} {message.decode()}")


cdef int raise_short(Header *header, uint64_t promised) except -1 with gil:
    have, want = header.data_start + header.data_size, header.data_start + promised
    raise TruncatedError(
        f"the file has {have:,} bytes and its header promises {want:,}: the download or copy is incomplete; fetch it again"
    )


cdef int raise_long(Header *header, uint64_t promised) except -1 with gil:
    raise FormatError(
        f"{header.data_size - promised:,} bytes follow the last tensor", offset=header.data_start + promised
    )


cdef int check_layout(Header *header, Index index) except -1 nogil:
    """See that the tensors tile the data without hole or overlap, and place them in the file."""
    cdef size_t count = index.names.count, i
    cdef uint64_t run = 0, end = 0, farthest = 0   # where the last tensor with bytes begins and ends
    cdef Extent *extent
    for i in range(1, count):
        if index.extents[i].position < index.extents[i - 1].position:
            sort_rows(index)
            break
    for i in range(count):
        extent = &index.extents[i]
        if extent.position + extent.size > farthest:    # both come from an end of 64 bits: no overflow
            farthest = extent.position + extent.size
    if farthest > header.data_size:
        return raise_short(header, farthest)
    for i in range(count):
        extent = &index.extents[i]
        if extent.size == 0:
            # Nothing lies there, so any seam between two tensors will do.
            if extent.position != end and extent.position != run:
                return raise_layout(index, i, "is empty and lies inside or beyond another's data")
        elif extent.position < end:
            return raise_layout(index, i, "overlaps the one before it")
        elif extent.position > end:
            return raise_layout(index, i, "leaves a hole before it")
        else:
            run = end
            end += extent.size
        extent.position += header.data_start
    if end < header.data_size:
        return raise_long(header, end)
    return 0


def read_length(data):
    """The length of the header, from the first 8 bytes of a file."""
    cdef Py_buffer held
    cdef Cursor cursor
    cdef uint64_t length = 0
    PyObject_GetBuffer(data, &held, PyBUF_SIMPLE)
    try:
        point_at(&cursor, <const uint8_t *>held.buf, held.len, 0)
        read_u64(&cursor, &length)
        return length
    finally:
        PyBuffer_Release(&held)


def read_header(data, source, DtypeTable dtypes not None, Spellings spellings not None, uint64_t data_size):
    """The Index of a safetensors file.

    Parameters
    ----------
    data : buffer
        The header, without the 8 bytes of its length before it.
    source : object
        Kept in the Index.
    dtypes, spellings
        The dtype table and the format's names for its rows.
    data_size : int
        Bytes that follow the header in the file.
    """
    cdef Py_buffer held
    cdef Header header
    cdef Index index = Index(source, dtypes)
    cdef int stopped = 0
    cdef bint first = True, metadata_seen = False
    header.text.start = NULL
    header.text.length = header.text.capacity = 0
    header.shape = NULL
    header.shape_capacity = 0
    PyObject_GetBuffer(data, &held, PyBUF_SIMPLE)
    try:
        point_at(&header.cursor, <const uint8_t *>held.buf, held.len, 8)
        header.data_start = 8 + <uint64_t>held.len
        header.data_size = data_size
        reserve(<void **>&header.shape, &header.shape_capacity, 8, sizeof(uint64_t))
        reserve_names(&index.names, held.len // TYPICAL_ENTRY_BYTES)
        if not left(&header.cursor) or header.cursor.next[0] != c"{":
            raise_format(&header.cursor, "a safetensors header begins with '{'")
        header.cursor.next += 1
        while True:
            with nogil:
                stopped = read_tensors(&header, index, spellings, first)
            if not stopped:
                break
            if metadata_seen:
                raise_format(&header.cursor, "__metadata__ stands twice")
            metadata_seen = True
            first = False
            read_metadata(&header, index._metadata)
        skip_space(&header.cursor)
        if left(&header.cursor):
            raise_format(&header.cursor, "something follows the JSON object of the header")
        with nogil:
            check_layout(&header, index)
        return index
    finally:
        PyBuffer_Release(&held)
        free(header.text.start)
        free(header.shape)
