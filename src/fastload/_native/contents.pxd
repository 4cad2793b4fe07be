"""What a node of the graph holds: its items, each with the key that names it."""

cimport cython
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from fastload._native.graph cimport Graph
from fastload._native.keys cimport Keys
from fastload._native.calls cimport Call, Calls

cdef enum KeySort:
    NODE_KEY                 # a node of the graph
    POSITION_KEY             # a place in a list
    WORD_KEY                 # one of `keys.WORDS`
    TENSOR_KEY               # a tensor that is the key of a dict, by its place among such keys

cdef enum:
    KIND_OWN = 0xFF          # the item is what it is

cdef struct Item:                # one value in a container, and how it is called there
    uint32_t key                 # a node, a position or a word
    uint32_t value
    uint8_t sort                 # of the key
    uint8_t is_worth_entering    # a tensor may be found there
    uint8_t kind                 # what a tensor there is, by its place in KINDS
    uint8_t is_submodule         # a module there has its name joined to that of the one it is in
    uint8_t part                 # of the array that is the container; 0 for an item of its own

cdef class Contents:
    cdef Graph graph
    cdef Calls calls
    cdef Keys keys
    cdef Item *items             # a stack: of the containers on the path, the innermost last
    cdef size_t count, capacity
    cdef uint32_t *slots         # for finding keys that stand twice
    cdef size_t slots_capacity
    cdef bint is_module          # the object gathered last is a module
    cdef bint careful            # look for keys that stand twice even where two tensors would have one name
    cdef uint64_t work, budget

    cdef int gather(self, uint32_t node) except -1 nogil
    cdef int gather_object(self, uint32_t node) except -1 nogil
    cdef int raise_budget(self) except -1 with gil
    cdef int add_item(self, uint32_t key, uint32_t value, uint8_t sort) except -1 nogil
    cdef int drop_plain(self, size_t first) except -1 nogil
    cdef int drop_repeated(self, size_t first) except -1 nogil
    cdef int number_tensor_keys(self, size_t first) noexcept nogil
    cdef int add_values(self, uint32_t first, size_t count) except -1 nogil
    cdef int add_appended(self, uint32_t node) except -1 nogil
    cdef int add_set(self, uint32_t node) except -1 nogil
    cdef int add_listed_pairs(self, uint32_t node) except -1 nogil
    cdef bint two_of(self, uint32_t node, uint32_t *pair) noexcept nogil
    cdef int add_content(self, uint32_t node, uint32_t position) except -1 nogil
    cdef int add_states(self, uint32_t node) except -1 nogil
    cdef int add_state(self, uint32_t state) except -1 nogil
    cdef int add_native(self, uint32_t node) except -1 nogil
    cdef int add_components(self, const Call *call) except -1 nogil
    cdef int add_array(self, const Call *call) except -1 nogil
    cdef int add_part(self, uint32_t word, uint32_t node, uint8_t part) except -1 nogil
    cdef int drop_components(self, size_t first, size_t middle) except -1 nogil
    cdef uint32_t find_sparse_words(self, uint32_t layout, uint32_t *words) noexcept nogil
    cdef int add_tensor_attributes(self, uint32_t node) except -1 nogil
    cdef int add_tensor_state(self, uint32_t node) except -1 nogil
    cdef int add_call(self, uint32_t node, const Call *call) except -1 nogil
    cdef bint have_keys(self, size_t first) noexcept nogil
    cdef int mark_items(self, size_t first, uint8_t kind, bint is_submodule) noexcept nogil


cdef inline int spend(Contents contents, uint64_t amount) except -1 nogil:
    """Count work, which hostile sharing could make endless."""
    contents.work += amount
    if contents.work > contents.budget:
        return contents.raise_budget()
    return 0
