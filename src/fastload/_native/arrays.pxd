"""NumPy arrays in a pickle: their dtype, their bytes, their geometry."""

from libc.stdint cimport uint32_t

from fastload._native.index cimport Row
from fastload._native.calls cimport Call, Calls

cdef struct ArrayParts:      # nodes of the graph
    uint32_t shape, dtype, fortran, data

cdef int find_array(Calls calls, const Call *call, ArrayParts *parts) except -1 nogil
cdef bint holds_objects(Calls calls, const Call *call) except? True nogil
cdef int read_array(Calls calls, const Call *call, Row *row) except -1 nogil
