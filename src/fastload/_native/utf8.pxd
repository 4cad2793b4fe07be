"""UTF-8: checking and writing it, for texts of a file."""

from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

cdef extern from "Python.h":
    const char *PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *length) except NULL
    str PyUnicode_New(Py_ssize_t size, Py_UCS4 highest)
    void *PyUnicode_1BYTE_DATA(object text)

cdef bint is_utf8(const char *text, size_t length, bint surrogates) noexcept nogil
cdef size_t put_utf8(char *target, uint32_t point) noexcept nogil


cdef inline bint is_ascii(const char *text, size_t length) noexcept nogil:
    """Whether no byte has its high bit: what nearly every text is, and then it is UTF-8."""
    cdef const uint8_t *bytes = <const uint8_t *>text
    cdef uint64_t word = 0, seen = 0
    cdef uint32_t half = 0
    cdef size_t at = 0
    if length >= 8:
        while length - at > 8:
            memcpy(&word, text + at, 8)
            seen |= word
            at += 8
        memcpy(&word, text + length - 8, 8)  # of which some may have been seen
        seen |= word
    elif length >= 4:
        memcpy(&half, text, 4)
        seen = half
        memcpy(&half, text + length - 4, 4)
        seen |= half
    elif length:
        seen = bytes[0] | bytes[length >> 1] | bytes[length - 1]
    return seen & 0x8080808080808080u == 0


cdef inline str text_at(const char *start, size_t length):
    """The text of UTF-8 that was checked, and may hold lone surrogates."""
    cdef str text
    if is_ascii(start, length):
        text = PyUnicode_New(<Py_ssize_t>length, 127)
        if length:                           # the empty text is shared, and must not even be touched
            memcpy(PyUnicode_1BYTE_DATA(text), start, length)
        return text
    return PyUnicode_DecodeUTF8(start, <Py_ssize_t>length, "surrogatepass")


cdef inline object utf8_of(str text, const char **start, Py_ssize_t *length):
    """Where the UTF-8 of a text lies, and what holds it: the text itself, but for lone surrogates, as pickles have."""
    try:
        start[0] = PyUnicode_AsUTF8AndSize(text, length)
        return text
    except UnicodeEncodeError:
        encoded = text.encode("utf-8", "surrogatepass")
        start[0] = encoded
        length[0] = len(encoded)
        return encoded
