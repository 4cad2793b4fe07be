"""The held buffer that views are made over."""

cimport cython


@cython.final
cdef class Region:
    cdef Py_buffer held
    cdef bint is_held
    cdef object __weakref__


@cython.final
cdef class WritableRegion:
    cdef Py_buffer held
    cdef bint is_held
    cdef object __weakref__
