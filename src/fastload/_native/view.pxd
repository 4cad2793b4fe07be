"""The held buffer that views are made over."""

cdef class Region:
    cdef Py_buffer held
    cdef bint is_held
    cdef object __weakref__
