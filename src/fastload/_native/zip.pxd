"""What the view door needs of the zip directory: where a record's bytes lie."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from fastload._native.index cimport Records

cdef int locate(
    Records records, uint32_t number, const uint8_t *header, uint64_t available, uint64_t *position
) except -1 nogil
cdef int check_record(Records records, uint32_t number) except -1 nogil
