"""UTF-8: checking and writing it, for texts of a file.

CPython's decoder would do, were it not that it needs the GIL and makes an object of each text.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy


cdef bint is_utf8(const char *text, size_t length, bint surrogates) noexcept nogil:
    """Whether *text* is UTF-8; with *surrogates*, lone ones may stand in it, as pickle writes them."""
    cdef const uint8_t *at = <const uint8_t *>text
    cdef const uint8_t *end = at + length
    cdef uint64_t word
    cdef uint32_t point
    cdef size_t more, i
    while at < end:
        if end - at >= 8:
            memcpy(&word, at, 8)
            if word & 0x8080808080808080u == 0:
                at += 8
                continue
        if at[0] < 0x80:
            at += 1
            continue
        if at[0] < 0xC2 or at[0] > 0xF4:     # C0 and C1 could only spell ASCII over again
            return False
        more = 1 if at[0] < 0xE0 else 2 if at[0] < 0xF0 else 3
        if <size_t>(end - at) <= more:
            return False
        point = at[0] & (0x3F >> more)
        for i in range(1, more + 1):
            if at[i] & 0xC0 != 0x80:
                return False
            point = point << 6 | (at[i] & 0x3F)
        if more == 2 and (point < 0x800 or (0xD800 <= point < 0xE000 and not surrogates)):
            return False
        if more == 3 and not 0x10000 <= point < 0x110000:
            return False
        at += more + 1
    return True


cdef size_t put_utf8(char *target, uint32_t point) noexcept nogil:
    """Write one code point, in at most 4 bytes, and return how many."""
    if point < 0x80:
        target[0] = <char>point
        return 1
    if point < 0x800:
        target[0] = <char>(0xC0 | point >> 6)
        target[1] = <char>(0x80 | point & 0x3F)
        return 2
    if point < 0x10000:
        target[0] = <char>(0xE0 | point >> 12)
        target[1] = <char>(0x80 | point >> 6 & 0x3F)
        target[2] = <char>(0x80 | point & 0x3F)
        return 3
    target[0] = <char>(0xF0 | point >> 18)
    target[1] = <char>(0x80 | point >> 12 & 0x3F)
    target[2] = <char>(0x80 | point >> 6 & 0x3F)
    target[3] = <char>(0x80 | point & 0x3F)
    return 4
