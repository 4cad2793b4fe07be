"""The safetensors header: strict JSON, scanned straight into the Index.

    { "__metadata__": {text: text, …}, name: {"dtype": text, "shape": [n, …], "data_offsets": [begin, end]}, … }

One pass, no Python object a tensor. Stricter than a JSON library where the format is: no name, field or metadata key
twice, no sign, fraction or exponent in a number of ours. Unknown fields of an entry are skipped as serde skips them,
but must be JSON.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcmp

from fastload._native.cursor cimport Cursor, left, point_at, raise_format, read_u64, tell
from fastload._native.index cimport MAX_DIMENSIONS, Extent, Index, Row, size_in_bytes
from fastload._native.tables cimport DtypeTable, Spellings, code_of
from fastload._native.json cimport (
    Json, Text, expect, follows, is_text, peek, read_number, read_string, skip_space, skip_value,
)
from fastload._native.names cimport append_name
from fastload._native.order cimport arrange, make_room, name_of, raise_layout
from fastload._native.vector cimport reserve

from fastload.errors import FormatError, TruncatedError

cdef enum:
    TYPICAL_ENTRY_BYTES = 96  # of header for one tensor; only a guess at how much room to make

cdef enum Field:
    NO_FIELD = 0
    DTYPE = 1
    SHAPE = 2
    DATA_OFFSETS = 4
    ALL_FIELDS = 7

cdef struct Header:
    Json json                # where the scanner is
    uint64_t *shape          # of the entry being read
    size_t shape_capacity
    bint in_metadata         # __metadata__ is being read
    bint in_entry            # the tensor whose name was added last is being read
    uint64_t data_start      # where the data begins, in bytes from the start of the file
    uint64_t data_size


cdef int raise_name(Header *header, const char *message) except -1 with gil:
    """A FormatError about the string read last: *message* has a place for it."""
    name = PyUnicode_DecodeUTF8(header.json.text.start, header.json.text.length, "replace")
    raise FormatError(message.decode() % repr(name), offset=tell(&header.json.cursor))


cdef int read_field(Header *header) except -1 nogil:
    """The name of a field: one of Field, or NO_FIELD for an unknown one, whose name is in `header.json.text`."""
    cdef Cursor *cursor = &header.json.cursor
    cdef Text *text = &header.json.text
    cdef uint8_t byte = 0
    peek(cursor, &byte)
    if left(cursor) >= 14:                       # as every writer spells them
        if memcmp(cursor.next, b'"dtype"', 7) == 0:
            cursor.next += 7
            return DTYPE
        if memcmp(cursor.next, b'"shape"', 7) == 0:
            cursor.next += 7
            return SHAPE
        if memcmp(cursor.next, b'"data_offsets"', 14) == 0:
            cursor.next += 14
            return DATA_OFFSETS
    read_string(&header.json)
    if is_text(text, "dtype", 5):
        return DTYPE
    if is_text(text, "shape", 5):
        return SHAPE
    if is_text(text, "data_offsets", 12):
        return DATA_OFFSETS
    return NO_FIELD


cdef int read_entry(Header *header, Index index, Spellings spellings, Row *row, Extent *extent) except -1 nogil:
    """The object that describes one tensor, checked in itself: its size is that of its dtype and shape."""
    cdef Cursor *cursor = &header.json.cursor
    cdef Text *text = &header.json.text
    cdef bint first = True, first_item
    cdef int seen = 0, field, code = 0
    cdef size_t ndim = 0
    cdef uint64_t begin = 0, end = 0, size = 0
    expect(cursor, c"{", "expected an object that describes a tensor")
    while follows(cursor, c"}", &first):
        field = read_field(header)
        expect(cursor, c":", "expected a colon")
        if seen & field:
            return raise_format(cursor, "a field stands twice in one entry")
        seen |= field
        if field == DTYPE:
            read_string(&header.json)
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
            skip_value(&header.json, 1)
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
    header.in_metadata = True
    cdef Cursor *cursor = &header.json.cursor
    cdef bint first = True
    expect(cursor, c"{", "__metadata__ is not an object")
    while follows(cursor, c"}", &first):
        read_string(&header.json)
        key = PyUnicode_DecodeUTF8(header.json.text.start, header.json.text.length, NULL)
        if key in metadata:
            raise_name(header, "the key %s stands twice")
        expect(cursor, c":", "expected a colon")
        read_string(&header.json)  # refuses what is no text
        metadata[key] = PyUnicode_DecodeUTF8(header.json.text.start, header.json.text.length, NULL)
    header.in_metadata = False
    return 0


cdef int read_tensors(Header *header, Index index, Spellings spellings, bint first) except -1 nogil:
    """Every entry up to __metadata__ or the closing brace; 1 where it stopped behind the name __metadata__."""
    cdef Cursor *cursor = &header.json.cursor
    cdef Row row
    cdef Extent extent
    row.offset = 0
    row.kind = 0
    row.flags = 0
    while follows(cursor, c"}", &first):
        read_string(&header.json)
        expect(cursor, c":", "expected a colon")
        if is_text(&header.json.text, "__metadata__", 12):
            return 1
        append_name(&index.names, header.json.text.start, header.json.text.length)
        header.in_entry = True
        read_entry(header, index, spellings, &row, &extent)
        header.in_entry = False
        row.storage = <uint32_t>index.add_extent(extent.position, extent.size, False)
        index.add_row(&row)
    return 0


cdef int raise_short(Header *header, uint64_t promised) except -1 with gil:
    have, want = header.data_start + header.data_size, header.data_start + promised
    raise TruncatedError(
        f"the file has {have:,} bytes and its header promises {want:,}:"
        " the download or copy is incomplete; fetch it again"
    )


cdef int raise_long(Header *header, uint64_t promised) except -1 with gil:
    raise FormatError(
        f"{header.data_size - promised:,} bytes follow the last tensor", offset=header.data_start + promised
    )


cdef int check_layout(Header *header, Index index) except -1 nogil:
    """See that no name stands twice and the tensors tile the data without hole or overlap; place them in the file."""
    cdef size_t count = index.names.count, i
    cdef uint64_t run = 0, end = 0, farthest = 0   # where the last tensor with bytes begins and ends
    cdef Extent *extent
    arrange(index)
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
    header.json.text.start = NULL
    header.json.text.length = header.json.text.capacity = 0
    header.shape = NULL
    header.shape_capacity = 0
    header.in_entry = header.in_metadata = False
    PyObject_GetBuffer(data, &held, PyBUF_SIMPLE)
    try:
        point_at(&header.json.cursor, <const uint8_t *>held.buf, held.len, 8)
        header.data_start = 8 + <uint64_t>held.len
        header.data_size = data_size
        reserve(<void **>&header.shape, &header.shape_capacity, 8, sizeof(uint64_t))
        make_room(index, held.len // TYPICAL_ENTRY_BYTES, held.len // TYPICAL_ENTRY_BYTES * 32)
        if not left(&header.json.cursor) or header.json.cursor.next[0] != c"{":
            raise_format(&header.json.cursor, "a safetensors header begins with '{'")
        header.json.cursor.next += 1
        while True:
            with nogil:
                stopped = read_tensors(&header, index, spellings, first)
            if not stopped:
                break
            if metadata_seen:
                raise_format(&header.json.cursor, "__metadata__ stands twice")
            metadata_seen = True
            first = False
            read_metadata(&header, index._metadata)
        skip_space(&header.json.cursor)
        if left(&header.json.cursor):
            raise_format(&header.json.cursor, "something follows the JSON object of the header")
        with nogil:
            check_layout(&header, index)
        return index
    except FormatError as error:
        if header.in_entry:
            error.message = f"tensor {name_of(index, index.names.count - 1)!r}: {error.message}"
        elif header.in_metadata:
            error.message = f"__metadata__ must be an object of texts: {error.message}"
        raise
    finally:
        PyBuffer_Release(&held)
        free(header.json.text.start)
        free(header.shape)
