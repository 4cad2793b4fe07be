"""The calls of a pickle: the vocabulary that says what they mean, and the taking apart of one."""

cimport cython
from libc.stdint cimport int8_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from fastload._native.graph cimport Graph, Node, Slice
from fastload._native.index cimport Index, Records

cdef enum Role:
    INERT
    STORAGE                  # a class of storages; `dtype` is that of its elements
    DTYPE                    # a dtype
    SIZE                     # a tuple of sizes by another name
    TENSOR                   # a function that makes a tensor of a storage
    META                     # a function that makes a tensor without data
    SUBCLASS                 # a function that makes a tensor whose data are in the attributes that it is given
    WRAPPER                  # a function that makes a tensor of a tensor; `kind` says what it becomes
    FROM_TYPE                # a function that calls a function and gives what it makes attributes
    OLD_TENSOR               # a class of tensors whose state is (storage, offset, size, stride)
    SPARSE, NESTED           # a function that makes a tensor of several, its components
    RAGGED                   # the same, of one dict of them by name
    LOADER                   # a function that makes a storage of the bytes of a whole file
    ARRAY                    # a function that makes a NumPy array, which its state fills
    MASKED                   # the same of one with a mask, whose bytes follow the others
    FROM_BUFFER              # a function that makes a NumPy array of bytes
    ENCODE                   # a function that makes bytes of a text, or of nothing
    MAPPING                  # a dict by another name
    SEQUENCE                 # a list or set by another name
    NATIVE                   # an object of native code; what it holds is in (contents, name of its class)
    OPTIMISED                # a module around a module, which it is called with
    REBUILD                  # a function that makes an object of (class, base, value of the base)
    NEW                      # a function that makes an object of (class, arguments of the class …)
    OPAQUE                   # an object that holds no tensor of anybody's

cdef enum:                   # arguments that functions have: their places in `Meaning.at`
    STORAGE_ARG
    OFFSET_ARG
    SIZE_ARG
    STRIDE_ARG
    DTYPE_ARG
    METADATA_ARG
    TENSOR_ARG
    STATE_ARG
    FUNCTION_ARG
    ARGUMENTS_ARG
    QUANTIZER_ARG
    LAYOUT_ARG
    PARTS_ARG
    DATA_ARG
    ORDER_ARG
    AXES_ARG
    ARGUMENT_COUNT

cdef struct Meaning:         # of a global
    uint8_t role
    uint8_t dtype
    uint8_t kind
    uint8_t least, most      # arguments
    int8_t at[16]            # place of each argument; -1 where there is none

cdef enum:
    MAX_WRAPPERS = 8         # around one tensor; torch writes two
    # Objects, and sixteenths of bytes, of which the dtypes of the arrays are made, all together: they may share them,
    # and each is made anew. A dtype takes a dozen, and one of fields four for each of them.
    MAX_DTYPE_PARTS = 2_000_000

cdef struct Call:            # of a function that the vocabulary knows
    const Meaning *meaning   # NULL where it does not
    uint32_t arguments       # a TUPLE
    uint32_t skipped         # of its items, which are no arguments
    uint32_t node            # whose state the call's result is given; 0 behind a FROM_TYPE
    uint32_t state           # attributes that the last `unwrap` found among the arguments; 0 where there were none
    uint8_t kind             # what the wrappers made of it
    uint8_t wrappers         # that were taken off

cdef struct Identity:        # what a persistent id says of a storage
    const Meaning *meaning   # of its class; NULL where it is another sort of id
    Slice key
    uint64_t count           # its elements
    uint32_t view            # what says that the storage is a part of another; 0 where nothing does


@cython.final
cdef class Vocabulary:
    cdef Meaning meanings[256]
    cdef dict numbers        # (module or None, name): number
    cdef dict makers         # (module, name): function of the caller's that makes a plain value
    cdef object mapping      # the maker that marks a dict-like class
    cdef object array_dtype  # function of the caller's: (args, state) of a NumPy dtype to what it is here
    cdef object quantization  # function of the caller's: (scheme, scale, zero_point, axis) to what an entry shows

    cdef int resolve(self, Graph graph) except -1
    cdef const Meaning *named(self, str module, str name) except? NULL


cdef class Calls:
    cdef Graph graph
    cdef Vocabulary vocabulary
    cdef Index index
    cdef Records records
    cdef dict tensors        # of an old tar: by key; see `harvest.Part`
    cdef bytes suffix        # what stands after a storage's key in the name of its record
    cdef dict blobs          # LOADER call, or ~node of its bytes: (storage, dtype, bytes)
    cdef dict array_dtypes   # node of a NumPy dtype: (code, swapped), and of a mask for its ~node
    cdef uint64_t dtype_parts  # that may still be made
    cdef dict array_storages  # node of the bytes of a NumPy array: storage
    cdef uint64_t *sizes     # scratch: the shape of the tensor being read, then its strides
    cdef size_t sizes_capacity
    cdef char *record        # scratch: the name of a storage's record
    cdef const char *suffix_text
    cdef char digits[24]     # scratch: a storage's key that is a number
    cdef size_t prefix_length, suffix_length, record_capacity
    cdef size_t next_record  # the one behind the record that was found last

    cdef const Meaning *meaning(self, uint32_t node) noexcept nogil
    cdef uint32_t class_in_id(self, uint32_t node) noexcept nogil
    cdef bint open_call(self, uint32_t node, Call *call) noexcept nogil
    cdef bint unwrap(self, Call *call) noexcept nogil
    cdef uint32_t tensor_in_state(self, const Call *call) noexcept nogil
    cdef bint base(self, uint32_t node, Call *call) noexcept nogil
    cdef bint is_bare_tensor(self, uint32_t node) noexcept nogil
    cdef uint32_t argument(self, const Call *call, int which) noexcept nogil
    cdef int arguments(self, const Call *call, const uint32_t **found) except -1 nogil
    cdef uint32_t state_of(self, uint32_t node) noexcept nogil
    cdef Slice text(self, uint32_t node) noexcept nogil
    cdef int numbers(self, uint32_t node, size_t at, size_t *count, const char *message) except -1 nogil
    cdef int identify(self, uint32_t node, Identity *identity) except -1 nogil
    cdef int view_metadata(
        self, const Identity *identity, uint64_t item, uint64_t *base, uint64_t *size
    ) except -1 nogil
    cdef int identify_text(self, Slice text, Identity *identity) except -1 with gil


cdef str text_of_node(Graph graph, uint32_t node)
cdef int raise_recipe(const char *message) except -1 with gil
cdef int raise_global(Graph graph, uint32_t node, const char *message) except -1 with gil
cdef int unsigned(const Node *node, uint64_t *value, const char *message) except -1 nogil
