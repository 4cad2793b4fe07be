"""The state of the pickle machine, and the moves that its opcodes are made of."""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from fastload._native.cursor cimport Cursor, tell
from fastload._native.graph cimport Graph, Node
from fastload._native.vector cimport reserve

cdef enum:
    MAX_NODES = 0x7FFFFFFF      # nodes are numbered with 32 bits
    MAX_BYTES = 0xFFFFFFFFFFFF  # of one text or bytes object: its length has 48 bits

# The first nodes are those of values that need no more than one: a small int costs nothing.
cdef enum:
    NODE_NONE = 1            # 0 is no node
    NODE_FALSE = 2
    NODE_TRUE = 3
    NODE_EMPTY_TUPLE = 4
    NODE_INT_0 = 5
    FIRST_NODE = 5 + 256

cdef enum:
    FIRST_HEIGHT = 1024          # of the stack: room for it is looked for in steps of what is left
    DEFINED_MEMO = 256           # entries that BINGET can name

cdef struct Machine:
    Cursor cursor
    uint32_t *stack
    size_t height, stack_capacity
    size_t fence             # nothing below it can be popped: the height at the last MARK
    size_t *marks            # the fences outside the last one
    size_t marks_count, marks_capacity
    uint32_t *memo           # 0 is unset
    size_t memo_end          # one past the highest index ever set; beyond it only the first DEFINED_MEMO are defined
    size_t memo_capacity
    size_t memo_holes        # entries before the end that are unset
    size_t guess             # bytes of the stream: room is made ahead for so many

cdef int make_first_nodes(Graph graph) except -1 nogil
cdef int raise_pickle(Machine *machine, const char *message) except -1 with gil
cdef int raise_unsupported(Machine *machine, const char *message) except -1 with gil
cdef int raise_limit(Machine *machine, const char *message) except -1 with gil
cdef int make_registers(Machine *machine) except -1 nogil
cdef int extend_memo(Machine *machine, uint64_t index) except -1 nogil
cdef int raise_opcode(Machine *machine, uint8_t op) except -1 with gil


cdef inline uint32_t add_node(
    Graph graph, uint8_t kind, uint32_t x, uint32_t y, uint32_t tail, uint16_t high, uint8_t flags
) except 0 nogil:
    """Append a node and return its number."""
    cdef Node *node
    reserve(<void **>&graph.nodes, &graph.nodes_capacity, graph.nodes_count + 1, sizeof(Node))
    node = &graph.nodes[graph.nodes_count]
    node.kind = kind
    node.flags = flags
    node.high = high
    node.x = x
    node.y = y
    node.tail = tail
    graph.nodes_count += 1
    return <uint32_t>(graph.nodes_count - 1)


cdef inline int push(Machine *machine, uint32_t node) except -1 nogil:
    reserve(<void **>&machine.stack, &machine.stack_capacity, machine.height + 1, sizeof(uint32_t))
    machine.stack[machine.height] = node
    machine.height += 1
    return 0


cdef inline int push_node(
    Machine *machine, Graph graph, uint8_t kind, uint64_t value, uint64_t length, uint8_t flags
) except -1 nogil:
    if length > MAX_BYTES:
        return raise_limit(machine, "one object of more than 2**48 bytes")
    return push(
        machine,
        add_node(
            graph, kind, <uint32_t>value, <uint32_t>(value >> 32), <uint32_t>length, <uint16_t>(length >> 32), flags
        ),
    )


cdef inline int need(Machine *machine, size_t count) except -1 nogil:
    """See that *count* values can be popped."""
    if machine.height - machine.fence < count:
        return raise_pickle(machine, "an opcode finds too few values on the stack")
    return 0


cdef inline int pop(Machine *machine, uint32_t *node) except -1 nogil:
    need(machine, 1)
    machine.height -= 1
    node[0] = machine.stack[machine.height]
    return 0
