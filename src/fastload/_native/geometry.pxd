"""Sizes and strides of a tensor, checked against its storage."""

from libc.stdint cimport uint64_t

from fastload._native.index cimport Index, Row

cdef enum:
    MAX_BYTES = 0x7FFFFFFFFFFFFFFF  # of a tensor, counted in signed 64-bit numbers by everyone

cdef int raise_too_large() except -1 with gil
cdef int add_geometry(
    Index index, Row *row, uint64_t *sizes, uint64_t *strides, size_t ndim, uint64_t base, uint64_t start,
    uint64_t declared,
) except -1 nogil

cdef Row EMPTY_ROW           # a tensor that is nothing yet
