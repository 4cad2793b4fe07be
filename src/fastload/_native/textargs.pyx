"""The opcodes whose argument is a line of text: protocol 0, and the names of globals.

What is plain ASCII stays where it is in the stream; what has escapes, or many digits, is converted by CPython and
kept in the graph's own arena.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.string cimport memchr, memcpy

from fastload._native.cursor cimport Cursor, left, raise_truncated
from fastload._native.graph cimport FLOAT, INT, LONG, OWN_BYTES, STR8, TEXT, Graph
from fastload._native.machine cimport NODE_FALSE, NODE_TRUE, Machine, push, push_node, raise_limit, raise_pickle
from fastload._native.utf8 cimport is_utf8
from fastload._native.vector cimport reserve

import codecs

cdef enum:
    MAX_DIGITS = 4300        # of a decimal number: CPython's own limit, since converting is quadratic


cdef int take_line(Cursor *cursor, const uint8_t **line, size_t *length) except -1 nogil:
    """A text argument, without its newline."""
    cdef const uint8_t *newline = <const uint8_t *>memchr(cursor.next, c"\n", left(cursor))
    if newline == NULL:
        return raise_truncated(cursor, left(cursor) + 1)
    line[0] = cursor.next
    length[0] = newline - cursor.next
    cursor.next = newline + 1
    return 0


cdef int read_decimal(Machine *machine, uint64_t *value) except -1 nogil:
    """A memo index in decimal."""
    cdef const uint8_t *line = NULL
    cdef size_t length = 0, i
    take_line(&machine.cursor, &line, &length)
    if length == 0 or length > 19:
        return raise_limit(machine, "a memo index that is no number of 1 to 19 digits")
    value[0] = 0
    for i in range(length):
        if not c"0" <= line[i] <= c"9":
            return raise_pickle(machine, "a memo index that is no number")
        value[0] = value[0] * 10 + (line[i] - c"0")
    return 0


cdef int push_own(Machine *machine, Graph graph, uint8_t kind, bytes data) except -1:
    """Push a value whose bytes had to be made and do not stand in the stream."""
    cdef size_t length = PyBytes_GET_SIZE(data)
    cdef size_t place = graph.arena_size
    reserve(<void **>&graph.arena, &graph.arena_capacity, place + length + 1, 1)
    memcpy(graph.arena + place, PyBytes_AS_STRING(data), length)
    graph.arena_size += length
    return push_node(machine, graph, kind, place, length, OWN_BYTES)


cdef int push_number_text(
    Machine *machine, Graph graph, const uint8_t *line, size_t length, bint is_long
) except -1 with gil:
    """A decimal number that is long, or not plain digits."""
    if length > MAX_DIGITS:
        raise_limit(machine, "a decimal number of more than 4300 digits")
    text = PyBytes_FromStringAndSize(<const char *>line, length)
    if is_long:
        text = text.removesuffix(b"L")
    value = None
    try:
        value = int(text.decode("ascii"), 0)
    except ValueError:
        raise_pickle(machine, "malformed number")
    return push_own(machine, graph, LONG, value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True))


cdef int push_int_line(Machine *machine, Graph graph, bint bools) except -1 nogil:
    """INT or LONG: a number in decimal, perhaps with an L behind it; `01` and `00` are the bools of INT."""
    cdef const uint8_t *line = NULL
    cdef size_t length = 0, i
    cdef int64_t value = 0
    cdef bint negative
    take_line(&machine.cursor, &line, &length)
    if bools and length == 2 and line[0] == c"0" and (line[1] == c"0" or line[1] == c"1"):
        return push(machine, NODE_TRUE if line[1] == c"1" else NODE_FALSE)
    negative = length > 0 and line[0] == c"-"
    i = 1 if negative else 0
    if length == i or length - i > 18:
        return push_number_text(machine, graph, line, length, not bools)
    while i < length and c"0" <= line[i] <= c"9":
        value = value * 10 + (line[i] - c"0")
        i += 1
    if i < length and not (i + 1 == length and line[i] == c"L" and not bools and length > 1 + negative):
        return push_number_text(machine, graph, line, length, not bools)
    return push_node(machine, graph, INT, <uint64_t>(-value if negative else value), 0, 0)


cdef int push_float(Machine *machine, Graph graph, const uint8_t *line, size_t length) except -1 with gil:
    cdef double value = 0
    cdef uint64_t bits
    try:
        value = float(PyBytes_FromStringAndSize(<const char *>line, length).decode("ascii"))
    except ValueError:
        raise_pickle(machine, "malformed float")
    memcpy(&bits, &value, 8)
    return push_node(machine, graph, FLOAT, bits, 0, 0)


cdef int push_float_line(Machine *machine, Graph graph) except -1 nogil:
    """FLOAT: a number as repr() writes it."""
    cdef const uint8_t *line = NULL
    cdef size_t length = 0
    take_line(&machine.cursor, &line, &length)
    return push_float(machine, graph, line, length)


cdef int push_escaped(
    Machine *machine, Graph graph, uint8_t kind, const uint8_t *line, size_t length
) except -1 with gil:
    """A text argument with escapes in it: raw-unicode-escape of a TEXT, a Python 2 literal of a STR8."""
    data = PyBytes_FromStringAndSize(<const char *>line, length)
    try:
        if kind == TEXT:
            data = data.decode("raw-unicode-escape").encode("utf-8", "surrogatepass")
        else:
            data = codecs.escape_decode(data)[0]
    except ValueError:
        raise_pickle(machine, "malformed escape in a text")
    return push_own(machine, graph, kind, data)


cdef int push_text_line(Machine *machine, Graph graph) except -1 nogil:
    """UNICODE: a line of raw-unicode-escape, which for plain ASCII is the text itself."""
    cdef const uint8_t *line = NULL
    cdef size_t length = 0, i
    take_line(&machine.cursor, &line, &length)
    for i in range(length):
        if line[i] == c"\\" or line[i] >= 0x80:
            return push_escaped(machine, graph, TEXT, line, length)
    return push_node(machine, graph, TEXT, line - machine.cursor.start, length, 0)


cdef int push_string_line(Machine *machine, Graph graph) except -1 nogil:
    """STRING: a quoted literal of Python 2."""
    cdef const uint8_t *line = NULL
    cdef size_t length = 0
    take_line(&machine.cursor, &line, &length)
    if length < 2 or line[0] != line[length - 1] or (line[0] != c"'" and line[0] != c'"'):
        return raise_pickle(machine, "a STRING argument is not in quotes")
    line += 1
    length -= 2
    if memchr(line, c"\\", length) != NULL:
        return push_escaped(machine, graph, STR8, line, length)
    return push_node(machine, graph, STR8, line - machine.cursor.start, length, 0)


cdef int push_name_line(Machine *machine, Graph graph) except -1 nogil:
    """One of the two lines of GLOBAL and INST."""
    cdef const uint8_t *line = NULL
    cdef size_t length = 0
    take_line(&machine.cursor, &line, &length)
    if length == 0 or not is_utf8(<const char *>line, length, False):
        return raise_pickle(machine, "a global without a proper name")
    return push_node(machine, graph, TEXT, line - machine.cursor.start, length, 0)
