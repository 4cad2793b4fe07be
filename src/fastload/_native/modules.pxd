"""What a pickled module holds: its state dict, without its class."""

cimport cython
from libc.stdint cimport uint8_t, uint32_t

from fastload._native.calls cimport Call
from fastload._native.contents cimport Contents

cdef struct ModuleParts:         # the attributes of a module that make its state dict
    uint32_t nodes[4]            # their values; 0 where there are none
    int found                    # which of them there are, as bits
    bint has_native              # there are objects of native code beside them


@cython.final
cdef class ModuleContents(Contents):
    cdef object scripts          # of TorchScript: function of a class's (module, name) to (parameters, buffers)
    cdef bint attributes         # modules' tensors beside their state dict are listed too

    cdef uint32_t module_state(self, uint32_t node, ModuleParts *parts) except? 0 nogil
    cdef uint32_t module_argument(self, uint32_t node, ModuleParts *parts) except? 0 nogil
    cdef int find_parts(self, uint32_t state, ModuleParts *parts) except -1 nogil
    cdef uint8_t part_of(self, uint32_t key) noexcept nogil
    cdef int add_mapping(self, uint32_t node) except -1 nogil
    cdef int add_module(self, uint32_t node, uint32_t state, const ModuleParts *parts) except -1 nogil
    cdef int add_optimised(self, uint32_t node, const Call *call) except -1 nogil
    cdef int add_native_attributes(self, uint32_t state) except -1 nogil
    cdef int add_other_attributes(self, uint32_t node, uint32_t state) except -1 nogil
    cdef bint is_native(self, uint32_t node) noexcept nogil
    cdef bint contains_text(self, uint32_t node, uint32_t key) except -1 nogil
    cdef int add_script(self, uint32_t node, uint32_t state) except -1 nogil
    cdef int add_script_class(self, uint32_t node, uint32_t state, size_t start) except -1 with gil
    cdef object script_of(self, uint32_t node)
