"""The stream that torch wrote before its archives: five pickles, then the storages."""

cimport cython
from libc.stdint cimport uint8_t, uint64_t

from fastload._native.graph cimport Graph, Slice
from fastload._native.tables cimport DtypeTable
from fastload._native.calls cimport Vocabulary

cdef struct Blob:            # a stream that holds a single storage and nothing else
    uint64_t position        # of its bytes, from the start of the stream
    uint64_t size            # in bytes
    uint8_t dtype


@cython.final
cdef class Stream:
    """The pickles of a stream, and where the storages begin."""
    cdef Graph saved, keys
    cdef list graphs         # of all five
    cdef uint64_t data       # from the start of the stream


cdef Stream read_pickles(const uint8_t *start, uint64_t length, uint64_t origin, bint is_in_source, object held)
cdef int read_blob(Vocabulary vocabulary, DtypeTable dtypes, Slice data, Blob *blob) except -1
