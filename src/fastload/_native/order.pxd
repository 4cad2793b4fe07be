"""The order of the rows of an Index whose storages are one run of the source each."""

from fastload._native.index cimport Index

cdef int arrange(Index index) except -1 nogil
cdef int make_room(Index index, size_t count, size_t text_bytes) except -1
cdef int raise_layout(Index index, size_t row, const char *message) except -1 with gil
cdef str name_of(Index index, size_t row)
