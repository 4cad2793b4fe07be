"""The dtypes as the core needs them, and how a format spells them."""

cimport cython
from libc.stdint cimport uint8_t, uint64_t


@cython.final
cdef class DtypeTable:
    cdef readonly tuple names
    cdef readonly tuple extra
    cdef tuple rows
    cdef size_t count
    cdef uint64_t bits[256]  # of an element
    cdef uint8_t swap[256]   # bytes whose order is reversed in big-endian data
    cdef uint8_t packed[256]  # elements that share one where a tensor counts them singly, as quantised ones do

    cdef DtypeTable extended(self, str name, dtype, int swap)


cdef struct Spelling:
    char text[16]
    uint8_t length
    uint8_t code


@cython.final
cdef class Spellings:
    cdef Spelling rows[64]
    cdef size_t count


cdef inline int code_of(const Spelling *rows, size_t count, const char *text, size_t length) noexcept nogil:
    """The dtype code of the spelling *text*, or -1."""
    cdef size_t i, k
    for i in range(count):
        if rows[i].length == length:
            k = 0
            while k < length and rows[i].text[k] == text[k]:
                k += 1
            if k == length:
                return rows[i].code
    return -1
