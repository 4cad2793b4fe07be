"""The cold half of vector.pxd: growing."""

from libc.stdlib cimport realloc


cdef int raise_no_memory() except -1 with gil:
    raise MemoryError


cdef int enlarge(void **items, size_t *capacity, size_t needed, size_t width) except -1 nogil:
    """Grow by half at least, so that appending stays linear however many items come."""
    cdef size_t grown = capacity[0] + (capacity[0] >> 1)
    cdef void *moved
    if grown < needed:
        grown = needed
    if grown < 64:
        grown = 64
    if grown > (<size_t>-1) // width:
        return raise_no_memory()
    moved = realloc(items[0], grown * width)
    if moved == NULL:
        return raise_no_memory()
    items[0] = moved
    capacity[0] = grown
    return 0
