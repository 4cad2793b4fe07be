"""What the pickle walkers need of the zip directory: whether a record can be read."""

from libc.stdint cimport uint32_t

from fastload._native.index cimport Records

cdef int check_record(Records records, uint32_t number) except -1 nogil
