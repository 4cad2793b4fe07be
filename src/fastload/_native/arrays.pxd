"""NumPy arrays in a pickle: their dtype, their bytes, their geometry."""

from libc.stdint cimport uint8_t, uint32_t

from fastload._native.index cimport Row
from fastload._native.calls cimport Call, Calls

cdef struct ArrayParts:      # nodes of the graph; 0 where there is none
    uint32_t shape, dtype, order, data
    uint32_t axes            # of order K
    uint32_t mask            # the bytes of one
    uint32_t more            # a state in which more follows the parts of the array
    uint32_t state           # a state of which `more`, or the array's, is the first part

cdef enum:                   # what is read of an array
    WHOLE
    DATA                     # of a masked one
    MASK

cdef int find_array(Calls calls, const Call *call, ArrayParts *parts) except -1 nogil
cdef bint holds_objects(Calls calls, const Call *call) except? True nogil
cdef bint has_more(Calls calls, const Call *call) except? True nogil
cdef int read_array(Calls calls, const Call *call, uint8_t part, Row *row) except -1 nogil
