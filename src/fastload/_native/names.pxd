"""Names: an arena of UTF-8 texts numbered from 0, with a hash table from text to number."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

cdef struct Span:
    uint32_t start           # in the arena
    uint32_t length

cdef struct Names:
    char *text               # the arena: our own copy, so that it stays as it was checked
    size_t text_size, text_capacity
    Span *spans              # by number
    size_t count, spans_capacity
    uint64_t *slots          # hash << 32 | number + 1; 0 is free; open addressing, linear probing
    size_t mask              # slots - 1, a power of two less one; 0 before there are any

cdef uint32_t hash_text(const char *text, size_t length) noexcept nogil
cdef int reserve_names(Names *names, size_t count) except -1 nogil
cdef int reserve_texts(Names *names, size_t count, size_t size) except -1 nogil
cdef int64_t add_name(Names *names, const char *text, size_t length) except -2 nogil
cdef int64_t find_name(const Names *names, const char *text, size_t length) noexcept nogil
cdef int append_name(Names *names, const char *text, size_t length) except -1 nogil
cdef int64_t index_names(Names *names) except -2 nogil
cdef void free_names(Names *names) noexcept nogil
