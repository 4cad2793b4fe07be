"""Floats of one dtype to floats of another: runs of bytes in, runs of bytes out, the GIL released.

The loops are C (`kernels/`): plain ones that any processor runs, and the same for wide vectors where there are any,
chosen when this module is loaded. Everything goes through float32, a block at a time, within the nearest cache.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer

cdef extern from "kernels/dispatch.h" nogil:
    ctypedef struct Variant "Kernels":
        const char *name
    cdef enum:
        FLOAT_COUNT "FLOATS"
        VARIANTS
        STREAM_FROM
    const size_t *widths
    int find_kernels(const Variant **found)
    void convert_floats(
        const Variant *kernels, const char *source, char *target, size_t count, int from_float, int to_float,
        bint streams
    )

# In the order of the C enumeration.
FLOATS = (
    "float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz",
    "float8_e8m0fnu",
)
cdef const Variant *found[VARIANTS]
cdef int found_count = find_kernels(found)
# The best first, which is in use.
KERNELS = tuple([found[i].name.decode() for i in range(found_count)])


cdef void convert_elements(
    const char *source, char *target, size_t count, int from_float, int to_float
) noexcept nogil:
    """Convert *count* elements between two different positions in `FLOATS`, for callers that checked everything."""
    convert_floats(found[0], source, target, count, from_float, to_float, count * widths[to_float] >= STREAM_FROM)


def convert(data, int source, result, int target, kernel=None, streams=None):
    """Convert a run of floats, each correctly rounded once; the GIL is released.

    Parameters
    ----------
    data : buffer
        The elements, side by side, aligned or not.
    source, target : int
        Two different positions in `FLOATS`.
    result : buffer
        Where the converted elements go, as many; it does not overlap with *data*.
    kernel : str, optional
        One of `KERNELS`; by default the first.
    streams : bool, optional
        Whether to store past the caches; by default where the result is larger than most of them.
    """
    cdef Py_buffer read, written
    cdef const Variant *kernels
    cdef bint past_caches
    cdef size_t count
    cdef char *start
    cdef char *place
    if not (0 <= source < FLOAT_COUNT and 0 <= target < FLOAT_COUNT and source != target):
        raise ValueError(f"{source} and {target} are not two floats")
    if kernel is not None and kernel not in KERNELS:
        raise ValueError(f"this processor has no kernel {kernel!r}; it has {', '.join(KERNELS)}")
    kernels = found[0 if kernel is None else KERNELS.index(kernel)]
    PyObject_GetBuffer(data, &read, PyBUF_SIMPLE)
    try:
        PyObject_GetBuffer(result, &written, PyBUF_SIMPLE | PyBUF_WRITABLE)
        try:
            count = <size_t>read.len // widths[source]
            if <size_t>read.len % widths[source] or <size_t>written.len % widths[target] or (
                <size_t>written.len // widths[target] != count
            ):
                raise ValueError(
                    f"{read.len:,} bytes of {FLOATS[source]} do not become {written.len:,} of {FLOATS[target]}"
                )
            start = <char *>read.buf
            place = <char *>written.buf
            if start < place + written.len and place < start + read.len:
                raise ValueError("the result overlaps with the data")
            past_caches = written.len >= STREAM_FROM if streams is None else streams
            with nogil:
                convert_floats(kernels, start, place, count, source, target, past_caches)
        finally:
            PyBuffer_Release(&written)
    finally:
        PyBuffer_Release(&read)
