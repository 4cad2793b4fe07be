"""The cold half of machine.pxd: what is said when a stream makes no sense."""

from fastload.errors import FormatError, LimitError, UnsupportedError


cdef int raise_pickle(Machine *machine, const char *message) except -1 with gil:
    raise FormatError("pickle: " + message.decode(), offset=tell(&machine.cursor))


cdef int raise_unsupported(Machine *machine, const char *message) except -1 with gil:
    raise UnsupportedError("pickle: " + message.decode(), offset=tell(&machine.cursor))


cdef int raise_limit(Machine *machine, const char *message) except -1 with gil:
    raise LimitError("pickle: " + message.decode(), offset=tell(&machine.cursor))


cdef int raise_opcode(Machine *machine, uint8_t op) except -1 with gil:
    raise FormatError(f"pickle: the byte {op:#04x} is no opcode", offset=tell(&machine.cursor) - 1)
