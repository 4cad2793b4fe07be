"""What a node of the graph holds: its items, each with the key that names it."""

cimport cython
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from fastload._native.graph cimport Graph
from fastload._native.keys cimport Keys
from fastload._native.recipe cimport Recipe

cdef struct Item:                # one value in a container, and how it is called there
    uint32_t key                 # a node, or a position
    uint32_t value
    uint8_t is_position
    uint8_t is_worth_entering    # a tensor may be found there
    # Only the program knows its name: it is an argument of a call, a state that is no dict, or a key.
    uint8_t hidden


@cython.final
cdef class Contents:
    cdef Graph graph
    cdef Recipe recipe
    cdef Keys keys
    cdef Item *items             # a stack: of the containers on the path, the innermost last
    cdef size_t count, capacity
    cdef uint32_t *slots         # for finding keys that stand twice
    cdef size_t slots_capacity
    cdef bint is_module          # the object gathered last has the attributes of a torch.nn.Module
    cdef uint64_t work, budget

    cdef int gather(self, uint32_t node) except -1 nogil
    cdef int spend(self, uint64_t amount) except -1 nogil
    cdef int raise_budget(self) except -1 with gil
    cdef int add_item(self, uint32_t key, uint32_t value, bint is_position, bint hidden) except -1 nogil
    cdef bint is_worth_entering(self, uint32_t node) noexcept nogil
    cdef int drop_plain(self, size_t first) except -1 nogil
    cdef int drop_repeated(self, size_t first) except -1 nogil
    cdef int add_values(self, uint32_t first, size_t count) except -1 nogil
    cdef int add_appended(self, uint32_t node) except -1 nogil
    cdef int add_set(self, uint32_t node) except -1 nogil
    cdef int add_listed_pairs(self, uint32_t node) except -1 nogil
    cdef bint two_of(self, uint32_t node, uint32_t *pair) noexcept nogil
    cdef int add_state(self, uint32_t state) except -1 nogil
    cdef bint is_module_state(self, uint32_t state) except -1 nogil
    cdef int add_call(self, uint32_t node) except -1 nogil
