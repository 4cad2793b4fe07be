"""Growing arrays of plain C structs: the parsers append to them without the GIL."""

cdef int raise_no_memory() except -1 with gil
cdef int enlarge(void **items, size_t *capacity, size_t needed, size_t width) except -1 nogil
cdef void *zeroed(size_t count, size_t width) except NULL nogil


cdef inline int reserve(void **items, size_t *capacity, size_t needed, size_t width) except -1 nogil:
    """Make room for *needed* items of *width* bytes each; what is there stays."""
    if needed > capacity[0]:
        return enlarge(items, capacity, needed, width)
    return 0
