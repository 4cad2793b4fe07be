"""The commonest opcodes, carried out with the state of the pickle machine in registers.

`pickle.run` knows every opcode and every error; each of its steps loads the state from memory and stores it again,
which takes longer than most opcodes do. Here are those that pickles of tensors are made of, for the case that nothing
is wrong and nothing has to grow. Whatever else comes is left to `run`: no opcode is begun that cannot be finished, so
what one does is told there, and only there an error is raised.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t, int32_t, int64_t
from libc.string cimport memcpy

from fastload._native.cursor cimport u16_at, u32_at
from fastload._native.graph cimport (
    DICT, INT, LIST, MAX_KEY_DEPTH, MAX_KEY_PARTS, NEWOBJ, PAIRS, PERSID, REDUCE, SHORT, STATE, TEXT, TUPLE, UNHASHABLE,
    Graph, Node, is_callable, is_object, is_sequence, link_update,
)
from fastload._native.machine cimport (
    MAX_NODES, NODE_EMPTY_TUPLE, NODE_FALSE, NODE_INT_0, NODE_NONE, NODE_TRUE, Machine,
)
from fastload._native.opcodes cimport (
    OP_BINGET, OP_BININT, OP_BININT1, OP_BININT2, OP_BINPERSID, OP_BINPUT, OP_BINUNICODE, OP_BUILD, OP_EMPTY_DICT,
    OP_EMPTY_LIST, OP_EMPTY_TUPLE, OP_LONG_BINGET, OP_LONG_BINPUT, OP_MARK, OP_MEMOIZE, OP_NEWFALSE, OP_NEWOBJ,
    OP_NEWTRUE, OP_NONE, OP_REDUCE, OP_SETITEMS, OP_SHORT_BINUNICODE, OP_TUPLE, OP_TUPLE1, OP_TUPLE2, OP_TUPLE3,
)
from fastload._native.utf8 cimport is_ascii

cdef enum:
    LONGEST = 8                  # bytes that a step may look at: those of several opcodes look at 6


cdef inline void set_node(Node *node, uint8_t kind, uint64_t value, uint32_t tail, uint8_t flags) noexcept nogil:
    node.x = <uint32_t>value
    node.y = <uint32_t>(value >> 32)
    node.tail = tail
    node.high = 0
    node.kind = kind
    node.flags = flags


cdef inline bint has_room(Graph graph, size_t children_count, size_t items) noexcept nogil:
    """Whether one more update, of so many items, needs no more memory."""
    return items <= graph.children_capacity - children_count and graph.updates_count < graph.updates_capacity


cdef int run_common(Machine *machine, Graph graph) noexcept nogil:
    """Carry out common opcodes up to the first that is none of them, or that needs more than is at hand."""
    cdef const uint8_t *start = machine.cursor.start
    cdef const uint8_t *next = machine.cursor.next
    cdef const uint8_t *end = machine.cursor.end
    cdef const uint8_t *last                     # where an opcode can begin
    cdef const uint8_t *stop                     # and where one can that finds room for what it makes
    cdef uint32_t *stack = machine.stack
    cdef size_t height = machine.height, fence = machine.fence, highest = machine.stack_capacity
    cdef size_t *marks = machine.marks
    cdef size_t marks_count = machine.marks_count, marks_capacity = machine.marks_capacity
    cdef uint32_t *memo = machine.memo
    cdef size_t memo_end = machine.memo_end, memo_holes = machine.memo_holes, memo_capacity = machine.memo_capacity
    cdef Node *nodes = graph.nodes
    cdef size_t count = graph.nodes_count, most = min(graph.nodes_capacity, <size_t>MAX_NODES)
    cdef uint32_t *children = graph.children
    cdef size_t children_count = graph.children_count
    cdef size_t room, index, length, first, items, i
    cdef uint64_t parts
    cdef uint16_t depth
    cdef uint8_t op, flags
    cdef const Node *node
    cdef Node *target
    if end - next < LONGEST:
        return 0
    last = end - LONGEST
    while next <= last:
        room = min(highest - height, most - count)
        if not room:
            break
        stop = next + min(room - 1, <size_t>(last - next))  # an opcode is a byte at least, and makes one node at most
        while next <= stop:
            op = next[0]
            if op == OP_BINGET:
                if memo[next[1]] == 0:           # the first ones are defined from the start
                    break
                stack[height] = memo[next[1]]
                height += 1
                next += 2
                # Most of a pickled module is `name, OrderedDict()`, a dozen times in each: as one step it is read in an
                # eighth less time.
                if next[0] == OP_BINGET and next <= stop and memo[next[1]] != 0:
                    stack[height] = memo[next[1]]
                    height += 1
                    next += 2
                if (
                    next[0] != OP_EMPTY_TUPLE or next[1] != OP_REDUCE or next > stop
                    or not is_callable(&nodes[stack[height - 1]])
                ):
                    continue
                set_node(&nodes[count], REDUCE, stack[height - 1] | <uint64_t>NODE_EMPTY_TUPLE << 32, 0, 0)
                stack[height - 1] = <uint32_t>count
                count += 1
                next += 2
            elif op == OP_LONG_BINGET:
                index = u32_at(next + 1)
                if index >= memo_end or memo[index] == 0:
                    break
                stack[height] = memo[index]
                height += 1
                next += 5
                continue
            elif op == OP_MARK:
                if marks_count == marks_capacity:
                    break
                marks[marks_count] = fence
                marks_count += 1
                fence = height
                next += 1
                continue

            elif op == OP_NONE:
                stack[height] = NODE_NONE
                height += 1
                next += 1
                continue
            elif op == OP_NEWTRUE:
                stack[height] = NODE_TRUE
                height += 1
                next += 1
                continue
            elif op == OP_NEWFALSE:
                stack[height] = NODE_FALSE
                height += 1
                next += 1
                continue
            elif op == OP_EMPTY_TUPLE:
                stack[height] = NODE_EMPTY_TUPLE
                height += 1
                next += 1
                continue
            elif op == OP_BININT1:
                stack[height] = NODE_INT_0 + <uint32_t>next[1]
                height += 1
                next += 2
                continue
            elif op == OP_BININT2:
                set_node(&nodes[count], INT, u16_at(next + 1), 0, 0)
                stack[height] = <uint32_t>count
                height += 1
                count += 1
                next += 3
                continue
            elif op == OP_BININT:
                set_node(&nodes[count], INT, <uint64_t><int64_t><int32_t>u32_at(next + 1), 0, 0)
                stack[height] = <uint32_t>count
                height += 1
                count += 1
                next += 5
                continue

            elif op == OP_BINPUT or op == OP_LONG_BINPUT or op == OP_MEMOIZE:
                if height == fence:
                    break
            elif op == OP_BINUNICODE or op == OP_SHORT_BINUNICODE:
                length = u32_at(next + 1) if op == OP_BINUNICODE else next[1]
                index = 5 if op == OP_BINUNICODE else 2
                if length > <size_t>(end - next) - index or not is_ascii(<const char *>next + index, length):
                    break
                next += index
                if length <= sizeof(uint64_t) and end - next >= <ssize_t>sizeof(uint64_t):
                    # It need not be fetched from the stream again; the bytes behind it do no harm.
                    set_node(&nodes[count], TEXT, 0, <uint32_t>length, SHORT)
                    memcpy(&nodes[count].x, next, sizeof(uint64_t))
                else:
                    set_node(&nodes[count], TEXT, <uint64_t>(next - start), <uint32_t>length, 0)
                stack[height] = <uint32_t>count
                height += 1
                count += 1
                next += length
            elif op == OP_EMPTY_DICT or op == OP_EMPTY_LIST:
                set_node(&nodes[count], DICT if op == OP_EMPTY_DICT else LIST, 0, 0, UNHASHABLE)
                stack[height] = <uint32_t>count
                height += 1
                count += 1
                next += 1

            elif op == OP_TUPLE or op == OP_TUPLE1 or op == OP_TUPLE2 or op == OP_TUPLE3:
                if op == OP_TUPLE:
                    if marks_count == 0:
                        break
                    first = fence
                    items = height - first
                else:
                    items = op - OP_TUPLE1 + 1
                    if height - fence < items:
                        break
                    first = height - items
                if items == 0 or items > graph.children_capacity - children_count:
                    break
                if op == OP_TUPLE:
                    marks_count -= 1
                    fence = marks[marks_count]
                flags, depth, parts = 0, 1, items + 1
                for i in range(items):               # as `count_part` counts them
                    children[children_count + i] = stack[first + i]
                    node = &nodes[stack[first + i]]
                    flags |= node.flags
                    if is_sequence(node):
                        parts = parts - 1 + min(node.y, <uint32_t>MAX_KEY_PARTS)
                        depth = max(depth, min(node.high, <uint16_t>MAX_KEY_DEPTH) + 1)
                parts = min(parts, <uint64_t>MAX_KEY_PARTS + 1)
                flags &= UNHASHABLE
                set_node(&nodes[count], TUPLE, children_count | parts << 32, <uint32_t>items, flags)
                nodes[count].high = depth
                children_count += items
                stack[first] = <uint32_t>count
                height = first + 1
                count += 1
                next += 1
            elif op == OP_REDUCE or op == OP_NEWOBJ:
                if height - fence < 2 or nodes[stack[height - 1]].kind != TUPLE:
                    break
                if not is_callable(&nodes[stack[height - 2]]):
                    break
                set_node(
                    &nodes[count], REDUCE if op == OP_REDUCE else NEWOBJ,
                    stack[height - 2] | <uint64_t>stack[height - 1] << 32, 0, 0,
                )
                height -= 1
                stack[height - 1] = <uint32_t>count
                count += 1
                next += 1
            elif op == OP_SETITEMS:
                first, items = fence, height - fence
                if marks_count == 0 or first <= marks[marks_count - 1] or items == 0 or items % 2:
                    break
                target = &nodes[stack[first - 1]]
                if target.kind != DICT or not has_room(graph, children_count, items):
                    break
                i = first
                while i < height and not (nodes[stack[i]].flags & UNHASHABLE or is_sequence(&nodes[stack[i]])):
                    i += 2
                if i < height:
                    break
                memcpy(children + children_count, stack + first, items * sizeof(uint32_t))
                link_update(graph, target, children_count, items, PAIRS)
                children_count += items
                marks_count -= 1
                fence = marks[marks_count]
                height = first
                next += 1
                continue
            elif op == OP_BUILD:
                if height - fence < 2:
                    break
                target = &nodes[stack[height - 2]]
                if not is_object(target) or not has_room(graph, children_count, 1):
                    break
                children[children_count] = stack[height - 1]
                link_update(graph, target, children_count, 1, STATE)
                children_count += 1
                height -= 1
                next += 1
                continue
            elif op == OP_BINPERSID:
                if height == fence:
                    break
                set_node(&nodes[count], PERSID, stack[height - 1], 0, 0)
                stack[height - 1] = <uint32_t>count
                count += 1
                next += 1
            else:
                break

            # What was made is mostly remembered at once. It lies above the fence, where nothing but the memo's own
            # opcode had to look for it.
            if next > last:
                break
            if next[0] == OP_LONG_BINPUT:
                index = u32_at(next + 1)
                length = 5
            elif next[0] == OP_BINPUT:
                index = next[1]
                length = 2
            elif next[0] == OP_MEMOIZE:
                index = memo_end - memo_holes
                length = 1
            else:
                continue
            if index == memo_end and index < memo_capacity:
                memo_end += 1
            elif index < memo_end:
                memo_holes -= memo[index] == 0
            else:
                break
            memo[index] = stack[height - 1]
            next += length
        else:
            continue
        break
    machine.cursor.next = next
    machine.height = height
    machine.fence = fence
    machine.marks_count = marks_count
    machine.memo_holes = memo_holes
    machine.memo_end = memo_end
    graph.nodes_count = count
    graph.children_count = children_count
    return 0
