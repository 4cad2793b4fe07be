"""What a run of bytes says of itself to those who ask for its buffer."""

from cpython.buffer cimport PyBUF_FORMAT, PyBUF_ND, PyBUF_STRIDES, PyBUF_WRITABLE
from libc.stdint cimport uint8_t

cdef extern from *:
    """
    static char unsigned_bytes[] = "B";
    static unsigned char nothing = 0;
    """
    char *UNSIGNED_BYTES "unsigned_bytes"
    uint8_t NOTHING "nothing"                    # where an empty run without an address is said to lie


cdef inline int fill_buffer(
    Py_buffer *buffer, object owner, void *start, Py_ssize_t size, bint readonly, int flags
) except -1:
    """Answer a request for the *size* bytes at *start*, which live for as long as *owner*.

    Field by field: Cython counts the reference to `obj` itself, and PyBuffer_FillInfo would count another.
    """
    if flags & PyBUF_WRITABLE and readonly:
        raise BufferError("the bytes of a checkpoint are read-only")
    buffer.obj = owner
    buffer.buf = start if size else &NOTHING
    buffer.len = size
    buffer.readonly = readonly
    buffer.itemsize = 1
    buffer.format = UNSIGNED_BYTES if flags & PyBUF_FORMAT else NULL
    buffer.ndim = 1
    buffer.shape = &buffer.len if flags & PyBUF_ND else NULL
    buffer.strides = &buffer.itemsize if (flags & PyBUF_STRIDES) == PyBUF_STRIDES else NULL
    buffer.suboffsets = NULL
    buffer.internal = NULL
    return 0
