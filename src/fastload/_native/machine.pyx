"""The cold half of machine.pxd: the nodes that every graph begins with, and what is said of a bad stream."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from fastload._native.graph cimport FALSE, INT, NONE, TRUE, TUPLE, Graph, Node
from fastload._native.vector cimport reserve

from fastload.errors import FormatError, LimitError, UnsupportedError


cdef int raise_pickle(Machine *machine, const char *message) except -1 with gil:
    raise FormatError("pickle: " + message.decode(), offset=tell(&machine.cursor))


cdef int raise_unsupported(Machine *machine, const char *message) except -1 with gil:
    raise UnsupportedError("pickle: " + message.decode(), offset=tell(&machine.cursor))


cdef int raise_limit(Machine *machine, const char *message) except -1 with gil:
    raise LimitError("pickle: " + message.decode(), offset=tell(&machine.cursor))


cdef int raise_opcode(Machine *machine, uint8_t op) except -1 with gil:
    raise FormatError(f"pickle: the byte {op:#04x} is no opcode", offset=tell(&machine.cursor) - 1)


cdef Node[FIRST_NODE] FIRST_NODES


cdef int fill_first_nodes() except -1:
    """The nodes of NODE_NONE to the last small int; number 0 stands for no node."""
    cdef uint32_t i
    memset(FIRST_NODES, 0, sizeof(FIRST_NODES))
    FIRST_NODES[NODE_NONE].kind = NONE
    FIRST_NODES[NODE_FALSE].kind = FALSE
    FIRST_NODES[NODE_TRUE].kind = TRUE
    FIRST_NODES[NODE_EMPTY_TUPLE].kind = TUPLE
    for i in range(256):
        FIRST_NODES[NODE_INT_0 + i].kind = INT
        FIRST_NODES[NODE_INT_0 + i].x = i
    return 0


fill_first_nodes()


cdef int make_first_nodes(Graph graph) except -1 nogil:
    """Begin a graph with copies of them: a file may hold thousands of small pickles."""
    reserve(<void **>&graph.nodes, &graph.nodes_capacity, FIRST_NODE, sizeof(Node))
    memcpy(graph.nodes, FIRST_NODES, sizeof(FIRST_NODES))
    graph.nodes_count = FIRST_NODE
    return 0


cdef int make_registers(Machine *machine) except -1 nogil:
    """Make a stack and a memo, which `run_common` takes for granted, of sizes that suit torch's own pickles."""
    reserve(<void **>&machine.stack, &machine.stack_capacity, FIRST_HEIGHT, sizeof(uint32_t))
    reserve(<void **>&machine.memo, &machine.memo_capacity, machine.guess // 10 + DEFINED_MEMO, sizeof(uint32_t))
    memset(machine.memo, 0, DEFINED_MEMO * sizeof(uint32_t))
    return 0


cdef int extend_memo(Machine *machine, uint64_t index) except -1 nogil:
    """Make the memo reach to *index*, which lies beyond its end."""
    cdef size_t stream = machine.cursor.end - machine.cursor.start
    # Whoever counts memo entries stays below the bytes of the stream; a leap beyond would only eat memory.
    if index >= stream:
        return raise_limit(machine, "a memo index beyond the length of the stream")
    reserve(<void **>&machine.memo, &machine.memo_capacity, index + 1, sizeof(uint32_t))
    memset(machine.memo + machine.memo_end, 0, (index + 1 - machine.memo_end) * sizeof(uint32_t))
    machine.memo_holes += index + 1 - machine.memo_end
    machine.memo_end = index + 1
    return 0
