"""UTF-8: checking and writing it, for texts of a file."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

cdef bint is_utf8(const char *text, size_t length, bint surrogates) noexcept nogil
cdef size_t put_utf8(char *target, uint32_t point) noexcept nogil


cdef inline bint is_ascii(const char *text, size_t length) noexcept nogil:
    """Whether no byte has its high bit: what nearly every text is, and then it is UTF-8."""
    cdef uint64_t word, seen = 0
    while length >= 8:
        memcpy(&word, text, 8)
        seen |= word
        text += 8
        length -= 8
    while length:
        length -= 1
        seen |= <uint8_t>text[length]
    return seen & 0x8080808080808080u == 0
