"""Where tensors come to lie in one block of memory, as what copies them sees it."""

cimport cython
from libc.stdint cimport uint64_t

from fastload._native.index cimport Index

cdef struct Place:
    uint64_t position        # of the first byte, from the start of the file
    uint64_t nbytes
    uint64_t start           # from the start of the block
    size_t number            # of the tensor, or of the first of several over the same bytes


@cython.final
cdef class Layout:
    cdef Index index
    cdef Place *places       # by position
    cdef size_t places_capacity, count
    cdef size_t *rows        # by number
    cdef size_t rows_capacity
    cdef uint64_t *starts    # by number
    cdef size_t starts_capacity, numbers
    cdef list dtypes
    cdef readonly uint64_t nbytes
    cdef readonly uint64_t size

    cdef bint place(self, uint64_t alignment) except -1
