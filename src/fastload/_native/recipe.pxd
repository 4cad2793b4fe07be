"""The recipe of a tensor: its call in a pickle → a Row."""

cimport cython
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from fastload._native.calls cimport Call, Calls, Identity
from fastload._native.graph cimport Slice
from fastload._native.index cimport Row


@cython.final
cdef class Recipe(Calls):
    cdef bint thorough           # read no tensor the short way
    cdef uint32_t sort           # the text "storage" that the id of the last storage begins with; 0 before there is one

    cdef int storage(self, uint32_t node, Row *row, uint64_t *base, uint64_t *declared) except -1 nogil
    cdef int blob_of(self, uint32_t node, Row *row, uint64_t *declared) except -1 with gil
    cdef int64_t find_record(self, Slice key) except -2 nogil
    cdef int metadata(self, uint32_t node, Row *row) except -1 nogil
    cdef uint8_t marked_kind(self, uint32_t state) noexcept nogil
    cdef uint32_t bare_tensor_in(self, uint32_t node) noexcept nogil
    cdef int plain_storage(self, uint32_t node, Row *row, uint64_t *declared) except -1 nogil
    cdef int read_plain(self, uint32_t node, Row *row) except -1 nogil
    cdef int read_tensor(self, uint32_t node, Row *row) except -1 nogil
    cdef int read_part(self, uint32_t node, uint8_t part, Row *row) except -1 nogil
    cdef int read_old_tensor(self, const Call *call, Row *row) except -1 nogil
    cdef int read_keyed_tensor(self, uint32_t node, Row *row) except -1 with gil
    cdef int read_storage(self, uint32_t node, Row *row) except -1 nogil
