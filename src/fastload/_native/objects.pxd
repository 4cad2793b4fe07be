"""What other walkers need of the objects: plain values, and the text of an unusual dict key."""

cimport cython
from libc.stdint cimport uint32_t, uint64_t

from fastload._native.graph cimport Graph
from fastload._native.calls cimport Vocabulary


@cython.final
cdef class Record:
    cdef readonly str module
    cdef readonly str name
    cdef readonly object args
    cdef readonly dict kwargs
    cdef readonly object state
    cdef readonly list items
    cdef readonly bint is_mapping
    cdef readonly str source_file
    cdef readonly str source


cdef object key_value(Graph graph, Vocabulary vocabulary, uint32_t node)
cdef str key_text(Graph graph, Vocabulary vocabulary, uint32_t node)
cdef object build_within(Graph graph, uint32_t root, Vocabulary vocabulary, uint64_t *left)
cdef object build_objects(Graph graph, uint32_t root, Vocabulary vocabulary, dict leaves, bint is_key=*)
