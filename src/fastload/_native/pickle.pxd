"""The pickle machine, for the parts of the core that meet pickles within other things."""

from libc.stdint cimport uint8_t, uint64_t

from fastload._native.graph cimport Graph

cdef Graph parse_at(const uint8_t *start, uint64_t length, uint64_t origin, bint is_in_source, uint64_t guess)
