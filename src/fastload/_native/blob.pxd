"""Bytes in a pickle that are not a text: where they lie, or what decodes them."""

from libc.stdint cimport int64_t, uint32_t, uint64_t, uint8_t

from fastload._native.graph cimport Slice
from fastload._native.calls cimport Calls

cdef int64_t add_data(Calls calls, uint32_t node) except -1 with gil
cdef int load_blob(Calls calls, uint32_t node) except -1 with gil
