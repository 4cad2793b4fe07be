"""The opcodes whose argument is a line of text: protocol 0, and the names of globals."""

from libc.stdint cimport uint64_t

from fastload._native.graph cimport Graph
from fastload._native.machine cimport Machine

cdef int read_decimal(Machine *machine, uint64_t *value) except -1 nogil
cdef int push_int_line(Machine *machine, Graph graph, bint bools) except -1 nogil
cdef int push_float_line(Machine *machine, Graph graph) except -1 nogil
cdef int push_text_line(Machine *machine, Graph graph) except -1 nogil
cdef int push_string_line(Machine *machine, Graph graph) except -1 nogil
cdef int push_name_line(Machine *machine, Graph graph) except -1 nogil
