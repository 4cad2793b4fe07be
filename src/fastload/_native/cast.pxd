"""Floats of one dtype to floats of another, as other parts of the core call it: without the GIL."""

cdef void convert_elements(
    const char *source, char *target, size_t count, int from_float, int to_float
) noexcept nogil
