"""The cold half of vector.pxd: where the memory comes from.

Fresh memory costs more than what is written to it: a page fault for every 4 KiB. Large blocks are therefore laid on
huge pages where the system has them for the asking (Linux), of which one fault brings 2 MiB.
"""

from libc.string cimport memcpy, memset

cdef extern from *:
    """
    #include <stdlib.h>
    #if defined(__linux__)
    #include <sys/mman.h>
    #define HUGE_PAGE ((size_t)1 << 21)
    static void *large_block(size_t size) {
        void *block;
        size = (size + HUGE_PAGE - 1) & ~(HUGE_PAGE - 1);
        if (posix_memalign(&block, HUGE_PAGE, size)) return NULL;
        (void)madvise(block, size, MADV_HUGEPAGE);
        return block;
    }
    #else
    static void *large_block(size_t size) { return malloc(size); }
    #endif
    """
    void *large_block(size_t size) noexcept nogil
    void *calloc(size_t count, size_t width) noexcept nogil
    void *realloc(void *block, size_t size) noexcept nogil
    void free(void *block) noexcept nogil

cdef enum:
    LARGE_BLOCK = 1_048_576  # bytes from which on a block is worth huge pages


cdef int raise_no_memory() except -1 with gil:
    raise MemoryError


cdef int enlarge(void **items, size_t *capacity, size_t needed, size_t width) except -1 nogil:
    """Grow by half at least, so that appending stays linear however many items come."""
    cdef size_t grown = capacity[0] + (capacity[0] >> 1)
    cdef void *moved
    if grown < needed:
        grown = needed
    if grown < 64:
        grown = 64
    if grown > (<size_t>-1) // 4 // width:
        return raise_no_memory()
    if grown * width < LARGE_BLOCK:
        moved = realloc(items[0], grown * width)
    else:
        moved = large_block(grown * width)
        if moved != NULL and items[0] != NULL:
            memcpy(moved, items[0], capacity[0] * width)
            free(items[0])
    if moved == NULL:
        return raise_no_memory()
    items[0] = moved
    capacity[0] = grown
    return 0


cdef void *zeroed(size_t count, size_t width) except NULL nogil:
    """A block of zeros."""
    cdef void *block
    if count > (<size_t>-1) // 4 // width:
        raise_no_memory()
    if count * width < LARGE_BLOCK:
        block = calloc(count, width)
    else:
        block = large_block(count * width)
        if block != NULL:
            memset(block, 0, count * width)
    if block == NULL:
        raise_no_memory()
    return block
