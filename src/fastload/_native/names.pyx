"""Names: an arena of UTF-8 texts numbered from 0, with a hash table from text to number.

The hash is keyed with a number drawn when the process starts, so that a hostile file cannot choose names that collide.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy

from fastload._native.vector cimport raise_no_memory, reserve

import os

from fastload.errors import LimitError

cdef extern from *:
    """
    #if defined(__SIZEOF_INT128__)
    static inline uint64_t fold(uint64_t a, uint64_t b) {
        unsigned __int128 product = (unsigned __int128)a * b;
        return (uint64_t)product ^ (uint64_t)(product >> 64);
    }
    #else
    static inline uint64_t fold(uint64_t a, uint64_t b) {
        uint64_t h = (a ^ (b >> 32)) * 0x9E3779B97F4A7C15u;
        return h ^ (h >> 29) ^ (b * 0xBF58476D1CE4E5B9u);
    }
    #endif
    """
    uint64_t fold(uint64_t a, uint64_t b) noexcept nogil

# A constant of the process, set once at import and never changed.
cdef uint64_t SEED = int.from_bytes(os.urandom(8), "little") | 1

# Arena positions and lengths are 32-bit numbers.
cdef enum:
    MAX_ARENA_BYTES = 0xFFFFFFFF


cdef int raise_too_many_names() except -1 with gil:
    raise LimitError("the names of the tensors come to more than 4 GiB")


cdef uint64_t hash_text(const char *text, size_t length) noexcept nogil:
    """Keyed hash of *length* bytes, eight at a time (the folded multiply of wyhash)."""
    cdef uint64_t h = SEED ^ length, word
    while length > 8:
        memcpy(&word, text, 8)
        h = fold(h ^ word, 0xA0761D6478BD642Fu)
        text += 8
        length -= 8
    word = 0
    memcpy(&word, text, length)
    return fold(h ^ word, 0xE7037ED1A0B428DBu ^ SEED)


cdef int reindex(Names *names) except -1 nogil:
    """Make the hash table anew from the spans; at most three quarters of it are taken."""
    cdef size_t slots = 64, number, at
    cdef Span *span
    while slots * 3 < names.spans_capacity * 4:
        slots *= 2
    free(names.slots)
    names.slots = <uint32_t *>calloc(slots, sizeof(uint32_t))
    if names.slots == NULL:
        names.mask = 0
        return raise_no_memory()
    names.mask = slots - 1
    for number in range(names.count):
        span = &names.spans[number]
        at = hash_text(names.text + span.start, span.length) & names.mask
        while names.slots[at]:
            at = (at + 1) & names.mask
        names.slots[at] = <uint32_t>(number + 1)
    return 0


cdef int reserve_names(Names *names, size_t count) except -1 nogil:
    """Make room for *count* names in all, so that adding them does not rebuild the table."""
    if count > names.spans_capacity:
        reserve(<void **>&names.spans, &names.spans_capacity, count, sizeof(Span))
        reindex(names)
    return 0


cdef int64_t add_name(Names *names, const char *text, size_t length) except -2 nogil:
    """Number of the name just added; -1 where it is there already."""
    cdef size_t at
    cdef uint32_t taken
    cdef Span *span
    reserve_names(names, names.count + 1)
    at = hash_text(text, length) & names.mask
    while True:
        taken = names.slots[at]
        if taken == 0:
            break
        span = &names.spans[taken - 1]
        if span.length == length and memcmp(names.text + span.start, text, length) == 0:
            return -1
        at = (at + 1) & names.mask
    if length > MAX_ARENA_BYTES - names.text_size:
        return raise_too_many_names() - 1
    reserve(<void **>&names.text, &names.text_capacity, names.text_size + length + 1, 1)
    memcpy(names.text + names.text_size, text, length)
    span = &names.spans[names.count]
    span.start = <uint32_t>names.text_size
    span.length = <uint32_t>length
    names.text_size += length
    names.count += 1
    names.slots[at] = <uint32_t>names.count
    return <int64_t>names.count - 1


cdef int64_t find_name(const Names *names, const char *text, size_t length) noexcept nogil:
    """Number of a name, or -1."""
    cdef size_t at
    cdef uint32_t taken
    cdef const Span *span
    if names.slots == NULL:
        return -1
    at = hash_text(text, length) & names.mask
    while True:
        taken = names.slots[at]
        if taken == 0:
            return -1
        span = &names.spans[taken - 1]
        if span.length == length and memcmp(names.text + span.start, text, length) == 0:
            return taken - 1
        at = (at + 1) & names.mask


cdef void free_names(Names *names) noexcept nogil:
    free(names.text)
    free(names.spans)
    free(names.slots)
