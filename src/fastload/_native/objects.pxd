"""What other walkers need of the objects: the text of an unusual dict key."""

from libc.stdint cimport uint32_t

from fastload._native.graph cimport Graph

cdef str key_text(Graph graph, uint32_t node)
