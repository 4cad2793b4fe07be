"""Pages: what the system keeps in memory of a mapped file, and the advice that it takes about that."""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from libc.errno cimport errno
from libc.stdint cimport uintptr_t

cdef extern from *:
    """
    #include <errno.h>
    #include <stddef.h>
    #include <stdint.h>
    #if defined(_WIN32)
    enum { ADVICE_SEQUENTIAL, ADVICE_RANDOM, ADVICE_WILLNEED, ADVICE_DONTNEED };
    static size_t page_size(void) { return 4096; }
    static int advise_pages(void *start, size_t size, int advice) {
        (void)start; (void)size; (void)advice;
        errno = ENOSYS;
        return -1;
    }
    static int see_pages(void *start, size_t size, unsigned char *seen) {
        (void)start; (void)size; (void)seen;
        errno = ENOSYS;
        return -1;
    }
    #else
    #include <sys/mman.h>
    #include <unistd.h>
    enum {
        ADVICE_SEQUENTIAL = MADV_SEQUENTIAL,
        ADVICE_RANDOM = MADV_RANDOM,
        ADVICE_WILLNEED = MADV_WILLNEED,
        ADVICE_DONTNEED = MADV_DONTNEED
    };
    static size_t page_size(void) { return (size_t)sysconf(_SC_PAGESIZE); }
    static int advise_pages(void *start, size_t size, int advice) { return madvise(start, size, advice); }
    static int see_pages(void *start, size_t size, unsigned char *seen) {
    #if defined(__linux__)
        return mincore(start, size, seen);
    #else
        return mincore(start, size, (char *)seen);
    #endif
    }
    #endif
    """
    int ADVICE_SEQUENTIAL
    int ADVICE_RANDOM
    int ADVICE_WILLNEED
    int ADVICE_DONTNEED
    size_t page_size() noexcept nogil
    int advise_pages(void *start, size_t size, int advice) noexcept nogil
    int see_pages(void *start, size_t size, unsigned char *seen) noexcept nogil

cdef enum:
    SEEN_PAGES = 4096                        # that are asked about at once
    # Linux takes of one request to read ahead no more than the device's largest, or its read-ahead: of 2 GiB asked for
    # at once it read 16 MiB. Of a device that nobody has set otherwise that is 128 KiB at least.
    AHEAD_BYTES = 1 << 17

ADVICE = {
    "sequential": ADVICE_SEQUENTIAL,
    "random": ADVICE_RANDOM,
    "willneed": ADVICE_WILLNEED,
    "dontneed": ADVICE_DONTNEED,
}


cdef int check_run(const Py_buffer *held, size_t offset, size_t count) except -1:
    """See that a run lies within a buffer."""
    if offset > <size_t>held.len or count > <size_t>held.len - offset:
        raise ValueError(f"{count:,} bytes at {offset:,} are beyond the {held.len:,} of the mapping")
    return 0


def advise(data, size_t offset, size_t count, str advice not None):
    """Tell the system what will be done with the pages of a mapped file that *count* bytes from *offset* on lie in.

    Only for shared mappings of files: of other memory, "dontneed" would throw the content away.

    Parameters
    ----------
    data : buffer
        The mapping, or a part of it.
    advice : str
        A key of `ADVICE`.

    Returns
    -------
    bool
        Whether the system has taken it.
    """
    cdef Py_buffer held
    cdef int word = ADVICE[advice]
    cdef size_t page = page_size()
    cdef size_t step
    cdef uintptr_t next, end
    cdef bint is_taken = True
    PyObject_GetBuffer(data, &held, PyBUF_SIMPLE)
    try:
        check_run(&held, offset, count)
        if count:
            with nogil:
                next = <uintptr_t>held.buf + offset
                end = next + count
                next -= next % page
                step = max(<size_t>AHEAD_BYTES, page) if word == ADVICE_WILLNEED else end - next
                while next < end and is_taken:
                    step = min(step, <size_t>(end - next))
                    is_taken = advise_pages(<void *>next, step, word) == 0
                    next += step
    finally:
        PyBuffer_Release(&held)
    return is_taken


def count_resident(data, size_t offset, size_t count):
    """How many of *count* bytes from *offset* on, in a mapped file, lie in pages that are in memory.

    Raises
    ------
    OSError
        The system does not tell.
    """
    cdef Py_buffer held
    cdef unsigned char seen[SEEN_PAGES]
    cdef size_t page = page_size()
    cdef size_t found = 0
    cdef size_t size, number
    cdef uintptr_t begin, next, end
    cdef int error = 0
    PyObject_GetBuffer(data, &held, PyBUF_SIMPLE)
    try:
        check_run(&held, offset, count)
        with nogil:
            begin = <uintptr_t>held.buf + offset
            end = begin + count
            next = begin - begin % page
            while next < end:
                size = min(<size_t>(end - next), <size_t>SEEN_PAGES * page)
                if see_pages(<void *>next, size, seen) != 0:
                    error = errno
                    break
                for number in range((size + page - 1) // page):
                    if seen[number] & 1:     # of this page, what belongs to the run
                        found += min(next + page, end) - max(next, begin)
                    next += page
    finally:
        PyBuffer_Release(&held)
    if error:
        raise OSError(error, "the system does not tell which pages are in memory")
    return found
