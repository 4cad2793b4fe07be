"""What other walkers need of the objects: the text of an unusual dict key."""

from libc.stdint cimport uint32_t

from fastload._native.graph cimport Graph
from fastload._native.recipe cimport Vocabulary

cdef str key_text(Graph graph, Vocabulary vocabulary, uint32_t node)
