"""Where tensors come to lie in one block of memory, as what copies them and what makes their arrays sees it."""

cimport cython
from libc.stdint cimport uint64_t

from fastload._native.index cimport Index

cdef struct Place:           # of one tensor, or of several over the same bytes
    uint64_t position        # of the first byte, from the start of the file
    uint64_t nbytes          # there
    uint64_t start           # from the start of the block
    uint64_t size            # there
    int from_float, to_float  # positions in cast.FLOATS; equal where nothing is cast
    size_t number            # of the tensor, or of the first

cdef struct Laid:            # one tensor
    uint64_t start           # from the start of the block
    size_t row
    int code                 # of its dtype there


@cython.final
cdef class Layout:
    cdef Index index
    cdef Place *places       # by position
    cdef size_t places_capacity, places_count
    cdef Laid *laid          # by number
    cdef size_t laid_capacity, laid_count
    cdef list dtypes         # numpy's, by code, as far as they are needed
    cdef readonly uint64_t nbytes
    cdef readonly uint64_t filled
    cdef readonly uint64_t size

    cdef bint add(
        self, size_t row, int target, object find_dtype, list floats, uint64_t origin, uint64_t length
    ) except -1
    cdef bint place(self, uint64_t alignment) except -1
