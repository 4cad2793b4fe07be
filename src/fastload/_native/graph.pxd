"""The graph of a pickle: nodes, the children they name, and what was added to them later."""

cimport cython
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef enum Kind:
    #                  x, y                           tail, high
    NONE, FALSE, TRUE  # -
    INT                # a signed 64-bit number       -
    LONG               # place of its bytes           length: two's complement, little-endian
    FLOAT              # a double                     -
    TEXT               # place of its UTF-8, or SHORT length: lone surrogates may stand in it
    STR8               # place of its bytes           length: a str of Python 2, text or bytes
    BYTES, BYTEARRAY   # place                        length
    GLOBAL             # module, name: TEXT nodes     tail: what the walker takes it for
    TUPLE, FROZENSET   # first child, parts           count, depth: see MAX_KEY_PARTS
    LIST, DICT, SET    # -                            updates
    REDUCE             # callable, arguments: TUPLE   updates
    NEWOBJ             # class, arguments: TUPLE      updates
    PERSID             # the id, for the walker       updates

cdef enum NodeFlag:
    OWN_BYTES = 1      # the place is in the graph's own arena, not in the stream
    UNHASHABLE = 2     # cannot be the key of a dict or an item of a set
    ON_PATH = 4        # the walker's marks: being visited,
    BARREN = 8         # and no tensor can be reached from it; from what a GLOBAL makes of nothing, that is
    SHORT = 16         # a TEXT of at most 8 bytes, which are the node's own x and y: its place is nowhere else
    WORD = 32          # three bits: what the walker takes a TEXT for; 0 where it did not look yet

# 16 bytes, since opening touches all of them: 20,000 tensors make 180,000 nodes.
cdef struct Node:
    uint32_t x
    uint32_t y
    uint32_t tail
    uint16_t high
    uint8_t kind
    uint8_t flags

cdef enum UpdateKind:
    ITEMS              # APPEND, APPENDS, ADDITEMS: values
    PAIRS              # SETITEM, SETITEMS: key, value, key, value, …
    STATE              # BUILD: one value
    KEYWORDS           # NEWOBJ_EX: one dict

# Of a list, dict, set or object, in a ring: a node's `tail` is its last one, whose `next` is its first.
cdef struct Update:
    uint32_t first     # in `children`
    uint32_t count
    uint32_t next
    uint32_t kind

cdef enum:
    # A tuple or frozenset is hashed and shown part by part, each as often as it stands in it, and recursively. As the
    # key of a dict or an item of a set it may have so many parts, in all, and so many levels; keys in the wild have
    # two or three.
    MAX_KEY_PARTS = 1000
    MAX_KEY_DEPTH = 50

cdef struct Slice:
    const char *start
    size_t length


@cython.final
cdef class Graph:
    cdef Node *nodes
    cdef size_t nodes_count, nodes_capacity
    cdef uint32_t *children
    cdef size_t children_count, children_capacity
    cdef Update *updates
    cdef size_t updates_count, updates_capacity
    cdef uint32_t *globals
    cdef size_t globals_count, globals_capacity
    cdef char *arena
    cdef size_t arena_size, arena_capacity
    cdef const char *data    # the stream
    cdef object owner        # what holds its bytes
    cdef uint32_t root
    cdef readonly uint64_t end   # bytes of the stream, its STOP included
    cdef bint has_native     # a global of the walker's vocabulary makes objects of native code
    cdef uint64_t origin     # where the buffer begins in the source
    cdef bint is_in_source   # whether it lies there as it is; else it was inflated or decoded


cdef inline uint64_t wide(const Node *node) noexcept nogil:
    """The place of a node's bytes."""
    return node.x | (<uint64_t>node.y << 32)


cdef inline int64_t int_of(const Node *node) noexcept nogil:
    return <int64_t>wide(node)


cdef inline Slice bytes_of(Graph graph, const Node *node) noexcept nogil:
    """The bytes of a LONG, TEXT, STR8, BYTES or BYTEARRAY."""
    cdef Slice found
    if node.flags & SHORT:
        found.start = <const char *>&node.x
    elif node.flags & OWN_BYTES:
        found.start = <const char *>graph.arena + wide(node)
    else:
        found.start = graph.data + wide(node)
    found.length = node.tail | (<size_t>node.high << 32)
    return found


cdef inline bint is_sequence(const Node *node) noexcept nogil:
    return <uint8_t>(node.kind - TUPLE) <= FROZENSET - TUPLE


cdef inline void count_part(const Node *part, uint32_t *parts, uint16_t *depth, uint8_t *flags) noexcept nogil:
    """Add one item to what is known of the tuple or frozenset that it stands in."""
    flags[0] |= part.flags & UNHASHABLE
    if is_sequence(part):
        depth[0] = max(depth[0], min(part.high, MAX_KEY_DEPTH) + 1)
        parts[0] = min(parts[0], MAX_KEY_PARTS) + min(part.y, MAX_KEY_PARTS)
    else:
        parts[0] = min(parts[0], MAX_KEY_PARTS) + 1


cdef inline bint is_unwieldy(const Node *node) noexcept nogil:
    """Whether hashing or showing a key could take for ever, or all of the stack."""
    return is_sequence(node) and (node.y > MAX_KEY_PARTS or node.high > MAX_KEY_DEPTH)


cdef inline bint is_object(const Node *node) noexcept nogil:
    """Whether it is an instance of something that only its program knows."""
    return node.kind == REDUCE or node.kind == NEWOBJ or node.kind == PERSID


cdef inline bint is_callable(const Node *node) noexcept nogil:
    """Whether a call of it is a node: what a pickle calls is a global, or what a call of one brought."""
    return node.kind == GLOBAL or is_object(node)


cdef inline void link_update(
    Graph graph, Node *node, size_t first, size_t count, uint32_t kind
) noexcept nogil:
    """Add *count* children from *first* on to what a list, dict, set or object was given; there is room for that."""
    cdef uint32_t number = <uint32_t>graph.updates_count
    cdef Update *added = &graph.updates[number]
    added.first = <uint32_t>first
    added.count = <uint32_t>count
    added.kind = kind
    if node.tail:
        added.next = graph.updates[node.tail].next
        graph.updates[node.tail].next = number
    else:
        added.next = number
    node.tail = number
    graph.updates_count += 1


cdef inline bint is_worth_entering(Graph graph, uint32_t node) noexcept nogil:
    """Whether a tensor may be found at a value: it has children, and was not found to lead to none."""
    cdef const Node *found = &graph.nodes[node]
    if found.kind <= BYTEARRAY or found.kind == GLOBAL or found.flags & BARREN:
        return False
    if found.tail or found.kind == PERSID:
        return True
    # A container without items; or a call without arguments, as the hooks of modules and parameters are by the dozen.
    return found.kind > SET and (graph.nodes[found.y].tail != 0 or not graph.nodes[found.x].flags & BARREN)
