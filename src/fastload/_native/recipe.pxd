"""What a pickle's calls mean for tensors: the vocabulary, and the reading of one tensor's recipe."""

cimport cython
from libc.stdint cimport int8_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from fastload._native.graph cimport Graph, Slice
from fastload._native.index cimport Index, Records, Row

cdef enum Role:
    INERT
    STORAGE                  # a class of storages; `dtype` is that of its elements
    DTYPE                    # a dtype
    SIZE                     # a tuple of sizes by another name
    TENSOR                   # a function that makes a tensor of a storage
    META                     # a function that makes a tensor without data
    WRAPPER                  # a function that makes a tensor of a tensor; `kind` says what it becomes
    MAPPING                  # a dict by another name
    SEQUENCE                 # a list or set by another name
    LATER                    # a tensor of a sort that cannot be read yet

cdef enum:                   # arguments of TENSOR, META and WRAPPER functions: their places in `Meaning.at`
    STORAGE_ARG
    OFFSET_ARG
    SIZE_ARG
    STRIDE_ARG
    DTYPE_ARG
    METADATA_ARG
    TENSOR_ARG
    STATE_ARG
    ARGUMENT_COUNT

cdef struct Meaning:         # of a global
    uint8_t role
    uint8_t dtype
    uint8_t kind
    uint8_t least, most      # arguments
    int8_t at[8]             # place of each argument; -1 where there is none


@cython.final
cdef class Vocabulary:
    cdef Meaning meanings[256]
    cdef dict numbers        # (module or None, name): number
    cdef list labels
    cdef dict makers         # (module, name): function of the caller's that makes a plain value
    cdef object mapping      # the maker that marks a dict-like class

    cdef int resolve(self, Graph graph) except -1


@cython.final
cdef class Recipe:
    cdef Graph graph
    cdef Vocabulary vocabulary
    cdef Index index
    cdef Records records
    cdef uint64_t *sizes     # scratch: the shape of the tensor being read, then its strides
    cdef size_t sizes_capacity
    cdef char *record        # scratch: the name of a storage's record
    cdef size_t prefix_length, record_capacity
    cdef size_t next_record  # the one behind the record that was found last

    cdef const Meaning *meaning(self, uint32_t node) noexcept nogil
    cdef int64_t find_record(self, Slice key) except -2 nogil
    cdef uint32_t state_of(self, uint32_t node) noexcept nogil
    cdef Slice text(self, uint32_t node) noexcept nogil
    cdef int arguments(self, uint32_t node, const Meaning *meaning, const uint32_t **found) except -1 nogil
    cdef int numbers(self, uint32_t node, size_t at, size_t *count, const char *message) except -1 nogil
    cdef int storage(self, uint32_t node, Row *row, uint64_t *declared) except -1 nogil
    cdef int metadata(self, uint32_t node, Row *row) except -1 nogil
    cdef const Meaning *called(self, uint32_t node) noexcept nogil
    cdef int read_tensor(self, uint32_t node, Row *row) except -1 nogil
    cdef int read_storage(self, uint32_t node, Row *row) except -1 nogil


cdef str text_of_node(Graph graph, uint32_t node)
