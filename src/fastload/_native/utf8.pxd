"""UTF-8: checking and writing it, for texts of a file."""

from libc.stdint cimport uint32_t

cdef bint is_utf8(const char *text, size_t length, bint surrogates) noexcept nogil
cdef size_t put_utf8(char *target, uint32_t point) noexcept nogil
