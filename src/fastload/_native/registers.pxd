"""The commonest opcodes, carried out in registers."""

from fastload._native.graph cimport Graph
from fastload._native.machine cimport Machine

cdef int run_common(Machine *machine, Graph graph) noexcept nogil
