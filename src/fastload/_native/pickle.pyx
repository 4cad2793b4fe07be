"""The pickle opcode machine: bytes → a graph of nodes. Nothing is executed.

Every opcode of protocols 0 to 5 is understood. Each appends at most one node of a fixed size, and a node names others
by number, so memory is bounded by the length of the stream, nesting needs no recursion, and a value that is referred
to ten thousand times is there once. There is no operation that could import or call anything: REDUCE is a node with
two numbers in it. What a global means is for the walkers (`harvest`, `objects`) and their vocabulary.

Opcodes: CPython's Lib/pickletools.py, which also is the oracle of the tests.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcpy, memset

from fastload._native.cursor cimport (
    Cursor, left, point_at, raise_truncated, read_u8, read_u16, read_u32, read_u64, take,
)
from fastload._native.graph cimport (
    BYTEARRAY, BYTES, DICT, FLOAT, FROZENSET, GLOBAL, INT, ITEMS, KEYWORDS, LIST, LONG, NEWOBJ, PAIRS,
    PERSID, REDUCE, SET, STATE, STR8, TEXT, TUPLE, UNHASHABLE, Graph, Node, Update,
    count_part, is_callable, is_object, is_unwieldy, link_update,
)
from fastload._native.machine cimport (
    MAX_NODES, NODE_EMPTY_TUPLE, NODE_FALSE, NODE_INT_0, NODE_NONE, NODE_TRUE, Machine, add_node, extend_memo,
    make_first_nodes, make_registers, need, pop, push, push_node, raise_limit, raise_opcode, raise_pickle,
    raise_unsupported,
)
from fastload._native.opcodes cimport (
    OP_MARK, OP_STOP, OP_POP, OP_POP_MARK, OP_DUP, OP_FLOAT, OP_INT, OP_BININT, OP_BININT1, OP_LONG, OP_BININT2,
    OP_NONE, OP_PERSID, OP_BINPERSID, OP_REDUCE, OP_STRING, OP_BINSTRING, OP_SHORT_BINSTRING, OP_UNICODE,
    OP_BINUNICODE, OP_APPEND, OP_BUILD, OP_GLOBAL, OP_DICT, OP_EMPTY_DICT, OP_APPENDS, OP_GET, OP_BINGET, OP_INST,
    OP_LONG_BINGET, OP_LIST, OP_EMPTY_LIST, OP_OBJ, OP_PUT, OP_BINPUT, OP_LONG_BINPUT, OP_SETITEM, OP_TUPLE,
    OP_EMPTY_TUPLE, OP_SETITEMS, OP_BINFLOAT, OP_BINBYTES, OP_SHORT_BINBYTES, OP_PROTO, OP_NEWOBJ, OP_EXT1, OP_EXT2,
    OP_EXT4, OP_TUPLE1, OP_TUPLE2, OP_TUPLE3, OP_NEWTRUE, OP_NEWFALSE, OP_LONG1, OP_LONG4, OP_SHORT_BINUNICODE,
    OP_BINUNICODE8, OP_BINBYTES8, OP_EMPTY_SET, OP_ADDITEMS, OP_FROZENSET, OP_NEWOBJ_EX, OP_STACK_GLOBAL, OP_MEMOIZE,
    OP_FRAME, OP_BYTEARRAY8, OP_NEXT_BUFFER, OP_READONLY_BUFFER,
)
from fastload._native.registers cimport run_common
from fastload._native.textargs cimport (
    push_float_line, push_int_line, push_name_line, push_string_line, push_text_line, read_decimal,
)
from fastload._native.utf8 cimport is_ascii, is_utf8
from fastload._native.vector cimport reserve

cdef enum:
    HIGHEST_PROTOCOL = 5
    MAX_GUESSED_BYTES = 67_108_864  # of a stream, for which room is made ahead: a longer one is mostly data


cdef inline int pop_mark(Machine *machine, size_t *first) except -1 nogil:
    """Undo the last MARK; what was pushed since lies from *first* to the height."""
    if machine.marks_count == 0:
        return raise_pickle(machine, "an opcode finds no MARK on the stack")
    first[0] = machine.fence
    machine.marks_count -= 1
    machine.fence = machine.marks[machine.marks_count]
    return 0


cdef int add_children(Graph graph, const uint32_t *nodes, size_t count, uint32_t *first) except -1 nogil:
    """Append *nodes* to the children; none of them takes more than the bytes that pushed it."""
    reserve(<void **>&graph.children, &graph.children_capacity, graph.children_count + count, sizeof(uint32_t))
    first[0] = <uint32_t>graph.children_count
    memcpy(graph.children + graph.children_count, nodes, count * sizeof(uint32_t))
    graph.children_count += count
    return 0


cdef inline int check_hashable(Machine *machine, const Node *node) except -1 nogil:
    """See that a value can be the key of a dict or an item of a set."""
    if node.flags & UNHASHABLE:
        return raise_pickle(machine, "the key of a dict, or an item of a set, is unhashable")
    if is_unwieldy(node):
        return raise_limit(machine, "the key of a dict, or an item of a set, has too many parts or levels")
    return 0


cdef int push_sequence(Machine *machine, Graph graph, uint8_t kind, size_t first) except -1 nogil:
    """Replace the values from *first* on by one TUPLE or FROZENSET of them."""
    cdef uint32_t place = 0, parts = 1
    cdef uint16_t depth = 1
    cdef const Node *node
    cdef size_t count = machine.height - first, i
    cdef uint8_t flags = 0
    if count == 0 and kind == TUPLE:
        return push(machine, NODE_EMPTY_TUPLE)
    if count:
        add_children(graph, machine.stack + first, count, &place)
    for i in range(count):
        node = &graph.nodes[machine.stack[first + i]]
        count_part(node, &parts, &depth, &flags)
        if kind == FROZENSET:
            check_hashable(machine, node)
    machine.height = first
    return push(machine, add_node(graph, kind, place, parts, <uint32_t>count, depth, flags))


cdef int update(Machine *machine, Graph graph, uint32_t target, uint32_t kind, size_t first) except -1 nogil:
    """Add the values from *first* on to the list, dict, set or object *target*, and drop them from the stack."""
    cdef Node *node = &graph.nodes[target]
    cdef uint32_t place = 0
    cdef size_t count = machine.height - first, i
    if kind == PAIRS:
        if count % 2:
            return raise_pickle(machine, "a dict is given a key without a value")
        for i in range(first, machine.height, 2):
            check_hashable(machine, &graph.nodes[machine.stack[i]])
    if kind == ITEMS and node.kind == SET:
        for i in range(first, machine.height):
            check_hashable(machine, &graph.nodes[machine.stack[i]])
    if count:
        reserve(<void **>&graph.updates, &graph.updates_capacity, graph.updates_count + 1, sizeof(Update))
        add_children(graph, machine.stack + first, count, &place)
        link_update(graph, node, place, count, kind)
    machine.height = first
    return 0


cdef int update_top(Machine *machine, Graph graph, uint32_t kind, size_t first, uint8_t container) except -1 nogil:
    """`update` of the value just below *first*, which must be a *container* or an object."""
    cdef Node *node
    if first <= machine.fence:
        return raise_pickle(machine, "an opcode finds nothing on the stack to add to")
    node = &graph.nodes[machine.stack[first - 1]]
    if node.kind != container and not is_object(node):
        return raise_pickle(machine, "items are added to a value that cannot hold them")
    return update(machine, graph, machine.stack[first - 1], kind, first)


cdef inline int memo_put(Machine *machine, uint64_t index) except -1 nogil:
    """Remember the value on top of the stack."""
    need(machine, 1)
    if index >= machine.memo_end:
        extend_memo(machine, index)
    machine.memo_holes -= machine.memo[index] == 0
    machine.memo[index] = machine.stack[machine.height - 1]
    return 0


cdef inline int memo_get(Machine *machine, uint64_t index) except -1 nogil:
    if index >= machine.memo_end or machine.memo[index] == 0:
        return raise_pickle(machine, "a memo entry is used that was never made")
    return push(machine, machine.memo[index])


cdef int push_long_bytes(Machine *machine, Graph graph, uint64_t length) except -1 nogil:
    """LONG1 or LONG4: two's complement, little-endian; of 8 bytes at most, an INT."""
    cdef const uint8_t *data = take(&machine.cursor, length)
    cdef uint64_t value
    cdef uint64_t i
    if length > 8:
        return push_node(machine, graph, LONG, data - machine.cursor.start, length, 0)
    value = <uint64_t>-1 if length and data[length - 1] & 0x80 else 0
    for i in range(length):
        value = value << 8 | data[length - 1 - i]
    return push_node(machine, graph, INT, value, 0, 0)


cdef int push_binfloat(Machine *machine, Graph graph) except -1 nogil:
    """Eight bytes, big-endian."""
    cdef const uint8_t *b = take(&machine.cursor, 8)
    cdef uint64_t bits = 0
    cdef int i
    for i in range(8):
        bits = bits << 8 | b[i]
    return push_node(machine, graph, FLOAT, bits, 0, 0)


cdef int push_text(Machine *machine, Graph graph, uint64_t length) except -1 nogil:
    cdef const uint8_t *text = take(&machine.cursor, length)
    if not is_ascii(<const char *>text, length) and not is_utf8(<const char *>text, length, True):
        return raise_pickle(machine, "a text is not UTF-8")
    return push_node(machine, graph, TEXT, text - machine.cursor.start, length, 0)


cdef int push_slice(Machine *machine, Graph graph, uint8_t kind, uint64_t length, uint8_t flags) except -1 nogil:
    cdef const uint8_t *data = take(&machine.cursor, length)
    return push_node(machine, graph, kind, data - machine.cursor.start, length, flags)


cdef int push_global(Machine *machine, Graph graph) except -1 nogil:
    """A global of the module and name on top of the stack."""
    cdef uint32_t module = 0, name = 0, made
    pop(machine, &name)
    pop(machine, &module)
    if graph.nodes[module].kind != TEXT or graph.nodes[name].kind != TEXT:
        return raise_pickle(machine, "the module and name of a global are not texts")
    made = add_node(graph, GLOBAL, module, name, 0, 0, 0)
    reserve(<void **>&graph.globals, &graph.globals_capacity, graph.globals_count + 1, sizeof(uint32_t))
    graph.globals[graph.globals_count] = made
    graph.globals_count += 1
    return push(machine, made)


cdef int push_call(Machine *machine, Graph graph, uint8_t kind) except -1 nogil:
    """REDUCE or NEWOBJ of the callable and the argument tuple on top of the stack."""
    cdef uint32_t called = 0, arguments = 0
    pop(machine, &arguments)
    pop(machine, &called)
    if graph.nodes[arguments].kind != TUPLE:
        return raise_pickle(machine, "the arguments of a call are not a tuple")
    if not is_callable(&graph.nodes[called]):
        return raise_pickle(machine, "what is called is neither a global nor an object")
    return push(machine, add_node(graph, kind, called, arguments, 0, 0, 0))


cdef int push_instance(Machine *machine, Graph graph, size_t first) except -1 nogil:
    """INST or OBJ: the class at *first*, its arguments behind it."""
    if machine.height == first:
        return raise_pickle(machine, "an object is made without a class")
    push_sequence(machine, graph, TUPLE, first + 1)
    return push_call(machine, graph, NEWOBJ)


cdef int build(Machine *machine, Graph graph) except -1 nogil:
    """BUILD: the value on top becomes the state of the object below it."""
    need(machine, 2)
    if not is_object(&graph.nodes[machine.stack[machine.height - 2]]):
        return raise_pickle(machine, "a state is given to a value that is no object")
    return update(machine, graph, machine.stack[machine.height - 2], STATE, machine.height - 1)


cdef int new_object_ex(Machine *machine, Graph graph) except -1 nogil:
    """NEWOBJ_EX: class, argument tuple, keyword dict."""
    cdef uint32_t keywords = 0
    pop(machine, &keywords)
    if graph.nodes[keywords].kind != DICT:
        return raise_pickle(machine, "the keyword arguments of a call are not a dict")
    push_call(machine, graph, NEWOBJ)
    push(machine, keywords)
    return update(machine, graph, machine.stack[machine.height - 2], KEYWORDS, machine.height - 1)


cdef int run(Machine *machine, Graph graph) except -1 nogil:
    """Carry out the stream up to its STOP."""
    cdef Cursor *cursor = &machine.cursor
    cdef uint8_t op = 0, u8 = 0
    cdef uint16_t u16 = 0
    cdef uint32_t u32 = 0
    cdef uint64_t u64 = 0
    cdef size_t first = 0
    while True:
        run_common(machine, graph)
        read_u8(cursor, &op)
        if op == OP_BINPUT:
            read_u8(cursor, &u8)
            memo_put(machine, u8)
        elif op == OP_LONG_BINPUT:
            read_u32(cursor, &u32)
            memo_put(machine, u32)
        elif op == OP_MEMOIZE:
            memo_put(machine, machine.memo_end - machine.memo_holes)
        elif op == OP_PUT:
            read_decimal(machine, &u64)
            memo_put(machine, u64)
        elif op == OP_BINGET:
            read_u8(cursor, &u8)
            memo_get(machine, u8)
        elif op == OP_LONG_BINGET:
            read_u32(cursor, &u32)
            memo_get(machine, u32)
        elif op == OP_GET:
            read_decimal(machine, &u64)
            memo_get(machine, u64)

        elif op == OP_MARK:
            reserve(<void **>&machine.marks, &machine.marks_capacity, machine.marks_count + 1, sizeof(size_t))
            machine.marks[machine.marks_count] = machine.fence
            machine.marks_count += 1
            machine.fence = machine.height
        elif op == OP_POP:
            if machine.height == machine.fence and machine.marks_count:
                pop_mark(machine, &first)
            else:
                pop(machine, &u32)
        elif op == OP_POP_MARK:
            pop_mark(machine, &first)
            machine.height = first
        elif op == OP_DUP:
            need(machine, 1)
            push(machine, machine.stack[machine.height - 1])

        elif op == OP_NONE:
            push(machine, NODE_NONE)
        elif op == OP_NEWTRUE:
            push(machine, NODE_TRUE)
        elif op == OP_NEWFALSE:
            push(machine, NODE_FALSE)
        elif op == OP_BININT1:
            read_u8(cursor, &u8)
            push(machine, NODE_INT_0 + <uint32_t>u8)
        elif op == OP_BININT2:
            read_u16(cursor, &u16)
            push_node(machine, graph, INT, u16, 0, 0)
        elif op == OP_BININT:
            read_u32(cursor, &u32)
            push_node(machine, graph, INT, <uint64_t><int64_t><int32_t>u32, 0, 0)
        elif op == OP_INT:
            push_int_line(machine, graph, True)
        elif op == OP_LONG:
            push_int_line(machine, graph, False)
        elif op == OP_LONG1:
            read_u8(cursor, &u8)
            push_long_bytes(machine, graph, u8)
        elif op == OP_LONG4:
            read_u32(cursor, &u32)
            if u32 > 0x7FFFFFFF:
                return raise_pickle(machine, "LONG4 of negative length")
            push_long_bytes(machine, graph, u32)
        elif op == OP_BINFLOAT:
            push_binfloat(machine, graph)
        elif op == OP_FLOAT:
            push_float_line(machine, graph)

        elif op == OP_BINUNICODE:
            read_u32(cursor, &u32)
            push_text(machine, graph, u32)
        elif op == OP_SHORT_BINUNICODE:
            read_u8(cursor, &u8)
            push_text(machine, graph, u8)
        elif op == OP_BINUNICODE8:
            read_u64(cursor, &u64)
            push_text(machine, graph, u64)
        elif op == OP_UNICODE:
            push_text_line(machine, graph)
        elif op == OP_SHORT_BINSTRING:
            read_u8(cursor, &u8)
            push_slice(machine, graph, STR8, u8, 0)
        elif op == OP_BINSTRING:
            read_u32(cursor, &u32)
            if u32 > 0x7FFFFFFF:
                return raise_pickle(machine, "BINSTRING of negative length")
            push_slice(machine, graph, STR8, u32, 0)
        elif op == OP_STRING:
            push_string_line(machine, graph)
        elif op == OP_SHORT_BINBYTES:
            read_u8(cursor, &u8)
            push_slice(machine, graph, BYTES, u8, 0)
        elif op == OP_BINBYTES:
            read_u32(cursor, &u32)
            push_slice(machine, graph, BYTES, u32, 0)
        elif op == OP_BINBYTES8:
            read_u64(cursor, &u64)
            push_slice(machine, graph, BYTES, u64, 0)
        elif op == OP_BYTEARRAY8:
            read_u64(cursor, &u64)
            push_slice(machine, graph, BYTEARRAY, u64, UNHASHABLE)

        elif op == OP_EMPTY_TUPLE:
            push(machine, NODE_EMPTY_TUPLE)
        elif op == OP_TUPLE1:
            need(machine, 1)
            push_sequence(machine, graph, TUPLE, machine.height - 1)
        elif op == OP_TUPLE2:
            need(machine, 2)
            push_sequence(machine, graph, TUPLE, machine.height - 2)
        elif op == OP_TUPLE3:
            need(machine, 3)
            push_sequence(machine, graph, TUPLE, machine.height - 3)
        elif op == OP_TUPLE:
            pop_mark(machine, &first)
            push_sequence(machine, graph, TUPLE, first)
        elif op == OP_FROZENSET:
            pop_mark(machine, &first)
            push_sequence(machine, graph, FROZENSET, first)
        elif op == OP_EMPTY_LIST:
            push_node(machine, graph, LIST, 0, 0, UNHASHABLE)
        elif op == OP_EMPTY_DICT:
            push_node(machine, graph, DICT, 0, 0, UNHASHABLE)
        elif op == OP_EMPTY_SET:
            push_node(machine, graph, SET, 0, 0, UNHASHABLE)
        elif op == OP_LIST or op == OP_DICT:
            pop_mark(machine, &first)
            u32 = add_node(graph, LIST if op == OP_LIST else DICT, 0, 0, 0, 0, UNHASHABLE)
            update(machine, graph, u32, ITEMS if op == OP_LIST else PAIRS, first)
            push(machine, u32)
        elif op == OP_APPEND:
            need(machine, 2)
            update_top(machine, graph, ITEMS, machine.height - 1, LIST)
        elif op == OP_APPENDS:
            pop_mark(machine, &first)
            update_top(machine, graph, ITEMS, first, LIST)
        elif op == OP_SETITEM:
            need(machine, 3)
            update_top(machine, graph, PAIRS, machine.height - 2, DICT)
        elif op == OP_SETITEMS:
            pop_mark(machine, &first)
            update_top(machine, graph, PAIRS, first, DICT)
        elif op == OP_ADDITEMS:
            pop_mark(machine, &first)
            update_top(machine, graph, ITEMS, first, SET)

        elif op == OP_GLOBAL:
            push_name_line(machine, graph)
            push_name_line(machine, graph)
            push_global(machine, graph)
        elif op == OP_STACK_GLOBAL:
            push_global(machine, graph)
        elif op == OP_REDUCE:
            push_call(machine, graph, REDUCE)
        elif op == OP_NEWOBJ:
            push_call(machine, graph, NEWOBJ)
        elif op == OP_NEWOBJ_EX:
            new_object_ex(machine, graph)
        elif op == OP_INST:
            # The class is named in the stream, behind the arguments that are on the stack.
            pop_mark(machine, &first)
            push_sequence(machine, graph, TUPLE, first)
            push_name_line(machine, graph)
            push_name_line(machine, graph)
            push_global(machine, graph)
            u32 = machine.stack[machine.height - 1]
            machine.stack[machine.height - 1] = machine.stack[machine.height - 2]
            machine.stack[machine.height - 2] = u32
            push_call(machine, graph, NEWOBJ)
        elif op == OP_OBJ:
            pop_mark(machine, &first)
            push_instance(machine, graph, first)
        elif op == OP_BUILD:
            build(machine, graph)
        elif op == OP_BINPERSID:
            pop(machine, &u32)
            push(machine, add_node(graph, PERSID, u32, 0, 0, 0, 0))
        elif op == OP_PERSID:
            push_name_line(machine, graph)
            pop(machine, &u32)
            push(machine, add_node(graph, PERSID, u32, 0, 0, 0, 0))

        elif op == OP_PROTO:
            read_u8(cursor, &u8)
            if u8 > HIGHEST_PROTOCOL:
                return raise_unsupported(machine, "a protocol above 5, which does not exist yet")
        elif op == OP_FRAME:
            # A frame only says how much a reader may fetch at once; it must not promise more than there is.
            read_u64(cursor, &u64)
            if u64 > left(cursor):
                return raise_truncated(cursor, u64)
        elif op == OP_STOP:
            break
        elif op == OP_EXT1 or op == OP_EXT2 or op == OP_EXT4:
            take(cursor, 1 if op == OP_EXT1 else 2 if op == OP_EXT2 else 4)
            return raise_unsupported(
                machine, "EXT1, EXT2 or EXT4: an extension code, whose meaning only the program knows that wrote it"
            )
        elif op == OP_NEXT_BUFFER or op == OP_READONLY_BUFFER:
            return raise_unsupported(
                machine, "NEXT_BUFFER or READONLY_BUFFER: a part of the data was kept outside the file"
            )
        else:
            return raise_opcode(machine, op)

        if graph.nodes_count > MAX_NODES:
            return raise_limit(machine, "more than 2**31 values")
    if machine.marks_count:
        return raise_pickle(machine, "a MARK is still open at the end")
    pop(machine, &graph.root)
    graph.end = cursor.next - cursor.start
    return 0


def parse(data, uint64_t origin=0, bint is_in_source=True):
    """Parse the pickle at the start of *data*, which lies *origin* bytes into its source; what follows STOP is left.

    Not *is_in_source* are bytes that were inflated or decoded: nothing in them can be a view of the source.

    Raises
    ------
    TruncatedError
        The stream ends before its STOP, or within an argument.
    FormatError
        An opcode that does not exist, or that finds on the stack what it cannot use.
    UnsupportedError
        Extension codes, out-of-band buffers, and protocols above 5.
    LimitError
        A memo index beyond the stream's length, or a decimal number of more than 4300 digits.
    """
    cdef Graph graph
    view = memoryview(data)
    cdef Py_buffer held
    PyObject_GetBuffer(view, &held, PyBUF_SIMPLE)
    try:
        graph = parse_at(<const uint8_t *>held.buf, held.len, origin, is_in_source, held.len)
        graph.owner = view                       # which holds the bytes from here on
        return graph
    finally:
        PyBuffer_Release(&held)


cdef Graph parse_at(const uint8_t *start, uint64_t length, uint64_t origin, bint is_in_source, uint64_t guess):
    """`parse` of bytes that the caller holds; room is made ahead for a pickle of about *guess* bytes."""
    cdef Graph graph = Graph.__new__(Graph)
    cdef Machine machine
    memset(&machine, 0, sizeof(Machine))
    machine.guess = min(guess, MAX_GUESSED_BYTES)
    graph.data = <const char *>start
    graph.origin = origin
    graph.is_in_source = is_in_source
    point_at(&machine.cursor, start, length, origin)
    try:
        with nogil:
            # What torch's own pickles come to; untouched memory costs nothing.
            reserve(<void **>&graph.nodes, &graph.nodes_capacity, machine.guess // 8 + 512, sizeof(Node))
            reserve(<void **>&graph.children, &graph.children_capacity, machine.guess // 5 + 64, sizeof(uint32_t))
            make_first_nodes(graph)
            reserve(<void **>&graph.updates, &graph.updates_capacity, machine.guess // 100 + 64, sizeof(Update))
            graph.updates_count = 1          # a tail of 0 is none
            make_registers(&machine)
            run(&machine, graph)
        return graph
    finally:
        free(machine.stack)
        free(machine.marks)
        free(machine.memo)
