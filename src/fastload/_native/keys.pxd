"""The texts of dict keys: what a tensor is called by."""

cimport cython
from libc.stdint cimport uint8_t, uint32_t

from fastload._native.graph cimport Graph
from fastload._native.calls cimport Vocabulary

cdef enum Word:              # names that the file does not spell out, in the order of keys.WORDS
    INDICES_WORD
    VALUES_WORD
    CROW_INDICES_WORD
    COL_INDICES_WORD
    CCOL_INDICES_WORD
    ROW_INDICES_WORD
    SIZES_WORD
    STRIDES_WORD
    OFFSETS_WORD
    STATE_WORD
    CALLABLE_WORD
    DATA_WORD
    MASK_WORD
    FILL_VALUE_WORD
    ORIGINAL_WORD

cdef struct Text:            # a key's text
    const char *start
    size_t length
    uint8_t kind             # TEXT_KEY, INT_KEY or BOOL_KEY


@cython.final
cdef class Keys:
    cdef Graph graph
    cdef Vocabulary vocabulary
    cdef char *made          # the text of a key that does not stand in the graph as it is; until the next call
    cdef size_t made_capacity

    cdef int read(self, uint32_t node, Text *text) except -1 nogil
    cdef int read_position(self, uint32_t position, Text *text) except -1 nogil
    cdef int read_word(self, uint32_t word, Text *text) except -1 nogil
    cdef int read_tensor_key(self, uint32_t number, Text *text) except -1 nogil
    cdef int read_unusual(self, uint32_t node, Text *text) except -1 with gil
    cdef bint equal(self, uint32_t left, uint32_t right) except -1 nogil
    cdef bint equal_values(self, uint32_t left, uint32_t right) except -1 with gil
    cdef uint32_t hash(self, uint32_t node) except? 0 nogil
    cdef uint32_t hash_value(self, uint32_t node) except? 0 with gil
