"""The stream that torch wrote before its archives: five pickles, then the storages."""

from libc.stdint cimport uint8_t, uint64_t

from fastload._native.graph cimport Slice
from fastload._native.index cimport DtypeTable
from fastload._native.calls cimport Vocabulary

cdef struct Blob:            # a stream that holds a single storage and nothing else
    uint64_t position        # of its bytes, from the start of the stream
    uint64_t size            # in bytes
    uint8_t dtype

cdef int read_blob(Vocabulary vocabulary, DtypeTable dtypes, Slice data, Blob *blob) except -1
