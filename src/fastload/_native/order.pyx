"""The order of the rows of an Index: by where their data begins, for formats whose tensors are one run each."""

from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcpy, memset

from fastload._native.index cimport Extent, Index, Row
from fastload._native.names cimport Span, index_names
from fastload._native.vector cimport reserve

from fastload.errors import FormatError


cdef struct Placed:          # for sorting: a row and where its data begins
    uint64_t begin
    uint32_t row


cdef Placed *sort_placed(Placed *placed, Placed *spare, size_t count) noexcept nogil:
    """Sort by `begin`, keeping the order of equals: by eleven bits at a time, the lowest first. Returns where it is."""
    cdef size_t starts[2048]
    cdef size_t i, sum, number
    cdef uint64_t largest = 0
    cdef int shift = 0
    for i in range(count):
        largest |= placed[i].begin
    while shift < 64 and largest >> shift:
        if (largest >> shift) & 2047:
            memset(starts, 0, sizeof(starts))
            for i in range(count):
                starts[(placed[i].begin >> shift) & 2047] += 1
            sum = 0
            for i in range(2048):
                number = starts[i]
                starts[i] = sum
                sum += number
            for i in range(count):
                number = (placed[i].begin >> shift) & 2047
                spare[starts[number]] = placed[i]
                starts[number] += 1
            placed, spare = spare, placed
        shift += 11
    return placed


cdef int sort_rows(Index index) except -1 nogil:
    """Bring the rows into the order of their data, and of the header where data begins alike."""
    cdef size_t count = index.names.count, i
    cdef Placed *placed = NULL
    cdef Placed *spare = NULL
    cdef Placed *ordered
    cdef Row *rows = NULL
    cdef Extent *extents = NULL
    cdef Span *spans = NULL
    cdef uint64_t *ids = NULL
    cdef size_t placed_room = 0, spare_room = 0, rows_room = 0, extents_room = 0, spans_room = 0, ids_room = 0
    try:
        reserve(<void **>&placed, &placed_room, count, sizeof(Placed))
        reserve(<void **>&spare, &spare_room, count, sizeof(Placed))
        reserve(<void **>&rows, &rows_room, count, sizeof(Row))
        reserve(<void **>&extents, &extents_room, count, sizeof(Extent))
        reserve(<void **>&spans, &spans_room, count, sizeof(Span))
        memcpy(rows, index.rows, count * sizeof(Row))
        memcpy(extents, index.extents, count * sizeof(Extent))
        memcpy(spans, index.names.spans, count * sizeof(Span))
        for i in range(count):
            placed[i].begin = extents[i].position
            placed[i].row = <uint32_t>i
        if index.param_ids != NULL:
            reserve(<void **>&index.param_ids, &index.param_ids_capacity, count, sizeof(uint64_t))
            reserve(<void **>&ids, &ids_room, count, sizeof(uint64_t))
            memcpy(ids, index.param_ids, count * sizeof(uint64_t))
        ordered = sort_placed(placed, spare, count)
        for i in range(count):
            index.rows[i] = rows[ordered[i].row]
            index.rows[i].storage = <uint32_t>i
            index.extents[i] = extents[ordered[i].row]
            index.names.spans[i] = spans[ordered[i].row]
            if ids != NULL:
                index.param_ids[i] = ids[ordered[i].row]
    finally:
        free(placed)
        free(spare)
        free(rows)
        free(extents)
        free(spans)
        free(ids)
    return 0


cdef str name_of(Index index, size_t row):
    """A tensor's name, for a message."""
    cdef Span span = index.names.spans[row]
    return PyUnicode_DecodeUTF8(index.names.text + span.start, span.length, "replace")


cdef int raise_layout(Index index, size_t row, const char *message) except -1 with gil:
    raise FormatError(f"tensor {name_of(index, row)!r} {message.decode()}")


cdef int arrange(Index index) except -1 nogil:
    """Bring the rows into the order of their data, make their names findable, and see that no name stands twice."""
    cdef size_t i
    cdef int64_t twice
    for i in range(1, index.names.count):
        if index.extents[i].position < index.extents[i - 1].position:
            sort_rows(index)
            break
    twice = index_names(&index.names)
    if twice >= 0:
        return raise_layout(index, twice, "stands twice in the header")
    return 0


cdef int make_room(Index index, size_t count, size_t text_bytes) except -1:
    """Reserve, without touching it, memory for as many rows as there are likely to be."""
    reserve(<void **>&index.names.spans, &index.names.spans_capacity, count, sizeof(Span))
    reserve(<void **>&index.names.text, &index.names.text_capacity, text_bytes, 1)
    reserve(<void **>&index.rows, &index.rows_capacity, count, sizeof(Row))
    reserve(<void **>&index.extents, &index.extents_capacity, count, sizeof(Extent))
    reserve(<void **>&index.dims, &index.dims_capacity, count * 2, sizeof(uint64_t))
    return 0
