"""The graph of a pickle: nodes, the children they name, and what was added to them later.

The machine (`pickle`) makes it, the walkers (`harvest`, `objects`) read it. It holds numbers and places, no Python
object.
"""

cimport cython
from libc.stdlib cimport free


cdef str text_of(Slice data):
    return data.start[:data.length].decode("utf-8", "replace")


@cython.final
cdef class Graph:
    """A parsed pickle. It keeps the buffer alive in which the texts and bytes lie."""

    def __dealloc__(self):
        free(self.nodes)
        free(self.children)
        free(self.updates)
        free(self.globals)
        free(self.arena)

    def __len__(self):
        return self.nodes_count

    @property
    def is_plain(self):
        """Whether the root is a number, a text or the like, which holds nothing."""
        return self.nodes[self.root].kind <= BYTEARRAY

    def list_globals(self):
        """Every (module, name) that the stream mentions, once each, in order."""
        cdef Node node
        cdef Slice module, name
        cdef size_t i
        found = {}
        for i in range(self.globals_count):
            node = self.nodes[self.globals[i]]
            module = bytes_of(self, &self.nodes[node.x])
            name = bytes_of(self, &self.nodes[node.y])
            found[text_of(module), text_of(name)] = None
        return list(found)
