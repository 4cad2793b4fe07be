"""Names: an arena of UTF-8 texts numbered from 0, with a hash table from text to number.

The hash is keyed with a number drawn when the process starts, so that a hostile file cannot choose names that
collide.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcmp, memcpy

from fastload._native.vector cimport reserve, zeroed

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
    #if defined(__GNUC__) || defined(__clang__)
    #define fastload_prefetch(address) __builtin_prefetch(address, 1)
    #else
    #define fastload_prefetch(address) ((void)0)
    #endif
    """
    uint64_t fold(uint64_t a, uint64_t b) noexcept nogil
    void prefetch "fastload_prefetch"(const void *address) noexcept nogil

# A constant of the process, set once at import and never changed.
cdef uint64_t SEED = int.from_bytes(os.urandom(8), "little") | 1

# Arena positions and lengths are 32-bit numbers.
cdef enum:
    MAX_ARENA_BYTES = 0xFFFFFFFF


cdef int raise_too_many_names() except -1 with gil:
    raise LimitError("the names of the tensors come to more than 4 GiB")


cdef uint32_t hash_text(const char *text, size_t length) noexcept nogil:
    """Keyed hash of *length* bytes, eight at a time (the folded multiply of wyhash); the last eight may overlap."""
    cdef uint64_t h = SEED ^ length, word = 0
    cdef uint32_t half = 0
    cdef const uint8_t *bytes = <const uint8_t *>text
    cdef size_t at = 0
    if length > 8:
        while length - at > 8:
            memcpy(&word, text + at, 8)
            h = fold(h ^ word, 0xA0761D6478BD642Fu)
            at += 8
        memcpy(&word, text + length - 8, 8)
    elif length >= 4:
        memcpy(&half, text, 4)
        word = <uint64_t>half << 32
        memcpy(&half, text + length - 4, 4)
        word |= half
    elif length:
        word = bytes[0] << 16 | bytes[length >> 1] << 8 | bytes[length - 1]
    h = fold(h ^ word, 0xE7037ED1A0B428DBu ^ SEED)
    return <uint32_t>(h ^ h >> 32)


cdef int make_slots(Names *names, size_t count) except -1 nogil:
    """Make a table for *count* names, of which at most half will be taken; what was in the old one moves."""
    cdef size_t size = 64, i, at
    cdef uint64_t *slots
    while size < count * 2:
        size *= 2
    slots = <uint64_t *>zeroed(size, sizeof(uint64_t))
    if names.slots != NULL:
        for i in range(names.mask + 1):
            if names.slots[i]:
                at = (names.slots[i] >> 32) & (size - 1)
                while slots[at]:
                    at = (at + 1) & (size - 1)
                slots[at] = names.slots[i]
        free(names.slots)
    names.slots = slots
    names.mask = size - 1
    return 0


cdef int reserve_names(Names *names, size_t count) except -1 nogil:
    """Make room for *count* names in all, so that adding them does not rebuild the table."""
    if count > names.spans_capacity or names.slots == NULL:
        reserve(<void **>&names.spans, &names.spans_capacity, count, sizeof(Span))
        make_slots(names, names.spans_capacity)
    return 0


cdef int reserve_texts(Names *names, size_t count, size_t size) except -1 nogil:
    """Make room for appending *count* names of *size* bytes in all, as far as one can tell."""
    reserve(<void **>&names.spans, &names.spans_capacity, names.count + count, sizeof(Span))
    return reserve(<void **>&names.text, &names.text_capacity, names.text_size + size, 1)


cdef inline uint64_t *find_slot(const Names *names, const char *text, size_t length, uint32_t hash) noexcept nogil:
    """Where the name stands in the table, or the free slot where it would."""
    cdef size_t at = hash & names.mask
    cdef const Span *span
    while names.slots[at]:
        if names.slots[at] >> 32 == hash:
            span = &names.spans[<uint32_t>names.slots[at] - 1]
            if span.length == length and memcmp(names.text + span.start, text, length) == 0:
                break
        at = (at + 1) & names.mask
    return &names.slots[at]


cdef int append_name(Names *names, const char *text, size_t length) except -1 nogil:
    """Add a name without looking whether it is there; `index_names` will, for all of them."""
    cdef Span *span
    if length > MAX_ARENA_BYTES - names.text_size:
        return raise_too_many_names()
    reserve(<void **>&names.text, &names.text_capacity, names.text_size + length + 1, 1)
    reserve(<void **>&names.spans, &names.spans_capacity, names.count + 1, sizeof(Span))
    memcpy(names.text + names.text_size, text, length)
    span = &names.spans[names.count]
    span.start = <uint32_t>names.text_size
    span.length = <uint32_t>length
    names.text_size += length
    names.count += 1
    return 0


cdef int64_t index_names(Names *names) except -2 nogil:
    """Make the table of the names appended; the number of one that stands twice, or -1.

    In blocks, whose slots are fetched ahead: with 200,000 names nearly every slot is a cache miss.
    """
    cdef size_t first, last, number
    cdef uint32_t hashes[32]
    cdef uint64_t *slot
    cdef const Span *span
    free(names.slots)
    names.slots = NULL
    make_slots(names, names.count)
    for first in range(0, names.count, 32):
        last = min(first + 32, names.count)
        for number in range(first, last):
            span = &names.spans[number]
            hashes[number - first] = hash_text(names.text + span.start, span.length)
            prefetch(&names.slots[hashes[number - first] & names.mask])
        for number in range(first, last):
            span = &names.spans[number]
            slot = find_slot(names, names.text + span.start, span.length, hashes[number - first])
            if slot[0]:
                return <int64_t>number
            slot[0] = <uint64_t>hashes[number - first] << 32 | (number + 1)
    return -1


cdef int64_t add_name(Names *names, const char *text, size_t length) except -2 nogil:
    """Number of the name just added; -1 where it is there already."""
    cdef uint32_t hash = hash_text(text, length)
    cdef uint64_t *slot
    reserve_names(names, names.count + 1)
    slot = find_slot(names, text, length, hash)
    if slot[0]:
        return -1
    append_name(names, text, length)
    slot[0] = <uint64_t>hash << 32 | names.count
    return <int64_t>names.count - 1


cdef int64_t find_name(const Names *names, const char *text, size_t length) noexcept nogil:
    """Number of a name, or -1."""
    if names.slots == NULL:
        return -1
    return <int64_t><uint32_t>find_slot(names, text, length, hash_text(text, length))[0] - 1


cdef void free_names(Names *names) noexcept nogil:
    free(names.text)
    free(names.spans)
    free(names.slots)
