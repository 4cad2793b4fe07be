"""The order of the rows of an Index whose storages are one run of the source each."""

from fastload._native.index cimport Index

cdef int sort_rows(Index index) except -1 nogil
cdef str name_of(Index index, size_t row)
