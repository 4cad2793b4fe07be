"""NumPy arrays in a pickle: their dtype, their bytes, their geometry.

An array is an empty one that is given its state (version, shape, dtype, whether it is in Fortran's order, bytes), or,
in protocol 5, the call of a function with (bytes, dtype, shape, order); order "K" is followed by the axes, by which the
dimensions are permuted. Of an array of Python objects the state has a list of them instead of bytes. A masked array has
the bytes of its mask behind its own. A subclass may put more behind the state, or the state into one of its own.

Format: numpy/_core/src/multiarray/methods.c, `array_reduce_ex` and `array_setstate`; numpy/_core/numeric.py,
`_frombuffer`; numpy/ma/core.py, `MaskedArray.__setstate__`.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from fastload._native.blob cimport add_data
from fastload._native.geometry cimport add_geometry
from fastload._native.graph cimport FALSE, GLOBAL, INT, LIST, TRUE, TUPLE, Node, Slice, int_of
from fastload._native.index cimport KIND_COMPONENT, KIND_NUMPY, KIND_TENSOR, SWAPPED, Index, Row
from fastload._native.objects cimport build_within
from fastload._native.calls cimport (
    AXES_ARG, DATA_ARG, DTYPE_ARG, FROM_BUFFER, MASKED, ORDER_ARG, SIZE_ARG, Call, Calls, raise_recipe, text_of_node,
)
from fastload._native.vector cimport reserve

from fastload.errors import FormatError, UnsupportedError

cdef enum:
    TAKEN = 0                # no stride: that of a dimension which has found its place


cdef int raise_state() except -1 with gil:
    raise UnsupportedError("it is an array of a class that pickles a state of its own: load it with NumPy")


cdef bint is_state(Calls calls, uint32_t node) noexcept nogil:
    """Whether a node is what NumPy pickles of an array, whatever follows."""
    cdef const Node *found = &calls.graph.nodes[node]
    cdef const uint32_t *children = calls.graph.children + found.x
    return found.kind == TUPLE and found.tail >= 5 and (
        calls.graph.nodes[children[0]].kind == INT and calls.graph.nodes[children[1]].kind == TUPLE
    )


cdef int find_array(Calls calls, const Call *call, ArrayParts *parts) except -1 nogil:
    """Find what makes up an array: 1, or 0 where it was never filled."""
    cdef uint32_t state
    cdef const Node *found
    cdef const uint32_t *children
    parts.axes = parts.mask = parts.more = parts.state = 0
    if call.meaning.role == FROM_BUFFER:
        if calls.graph.nodes[call.arguments].tail > call.meaning.most:
            return raise_recipe("the function that makes it is called with too many arguments")
        parts.data = calls.argument(call, DATA_ARG)
        parts.dtype = calls.argument(call, DTYPE_ARG)
        parts.shape = calls.argument(call, SIZE_ARG)
        parts.order = calls.argument(call, ORDER_ARG)
        parts.axes = calls.argument(call, AXES_ARG)
        if not parts.data or not parts.dtype or not parts.shape or not parts.order:
            return raise_recipe("the function that makes it is called with too few arguments")
        return 1
    state = calls.state_of(call.node) if call.node else 0
    if not state:
        return 0
    found = &calls.graph.nodes[state]
    if found.kind == TUPLE and found.tail and is_state(calls, calls.graph.children[found.x]):
        parts.state = state                      # a subclass's, in which it follows that of the array
        state = calls.graph.children[found.x]
        found = &calls.graph.nodes[state]
    children = calls.graph.children + found.x
    if is_state(calls, state):
        children += 1
        parts.more = state if found.tail > 5 else 0
    elif found.kind != TUPLE or found.tail != 4:  # of the oldest version, which is not written
        return raise_state()
    parts.shape, parts.dtype, parts.order, parts.data = children[0], children[1], children[2], children[3]
    if call.meaning.role == MASKED:
        if not parts.more:
            return raise_recipe("the state of a masked array has no mask")
        parts.mask = children[4]
    return 1


cdef bint holds_objects(Calls calls, const Call *call) except? True nogil:
    """Whether the array holds Python objects, or nothing at all, so that it is a list rather than a tensor."""
    cdef ArrayParts parts
    parts.data = 0
    if not find_array(calls, call, &parts):
        return True
    return calls.graph.nodes[parts.data].kind == LIST


cdef bint has_more(Calls calls, const Call *call) except? True nogil:
    """Whether a subclass has put more than the array into its state."""
    cdef ArrayParts parts
    return find_array(calls, call, &parts) and (parts.more or parts.state)


cdef int read_order(Calls calls, const Call *call, const ArrayParts *parts, uint8_t *order) except -1 nogil:
    """The order of the elements: C or F, or K where the dimensions of an array in C's order are permuted."""
    cdef const Node *found = &calls.graph.nodes[parts.order]
    cdef Slice text = calls.text(parts.order)
    if call.meaning.role != FROM_BUFFER and found.kind in (TRUE, FALSE, INT):
        order[0] = c"F" if found.kind == TRUE or (found.kind == INT and int_of(found) != 0) else c"C"
        return 0
    order[0] = text.start[0] if text.start != NULL and text.length == 1 else 0
    if order[0] != c"C" and order[0] != c"F" and (order[0] != c"K" or not parts.axes):
        return raise_recipe("the order of its elements is unknown")
    return 0


cdef int read_dtype(Calls calls, uint32_t node, bint is_mask, Row *row) except -1 with gil:
    """The dtype of an array, or its mask, which gets a row in the table of its Index if none there describes it."""
    key = ~<object>node if is_mask else node
    known = calls.array_dtypes.get(key)
    if known is None:
        known = calls.array_dtypes[key] = find_dtype(calls, node, is_mask)
    row.dtype, swapped = known
    if swapped:
        row.flags |= SWAPPED
    return 0


cdef tuple find_dtype(Calls calls, uint32_t node, bint is_mask):
    cdef Index index = calls.index
    cdef uint32_t state = calls.state_of(node)
    cdef Call call
    if not calls.open_call(node, &call):
        raise FormatError("the dtype of the array is none")
    args = build_within(calls.graph, call.arguments, calls.vocabulary, &calls.dtype_parts)
    described = build_within(calls.graph, state, calls.vocabulary, &calls.dtype_parts) if state else None
    found = calls.vocabulary.array_dtype(args, described, is_mask)
    if found is None:
        called = calls.graph.nodes[calls.graph.nodes[node].x]
        # Nothing but a text is shown: of shared parts, a few bytes can make a repr without end.
        what = f"({args[0][:40]!r})" if args and isinstance(args[0], str) else "()"
        if called.kind == GLOBAL:
            what = f"{text_of_node(calls.graph, called.x)}.{text_of_node(calls.graph, called.y)}{what}"
        raise UnsupportedError(f"the dtype of an array cannot be read: {what}")
    name, dtype, unit, swapped = found
    return index.code_for(name, dtype, unit), swapped


cdef int read_data(Calls calls, uint32_t node, Row *row) except -1 with gil:
    """The storage of an array's bytes; arrays over the same ones share it."""
    known = calls.array_storages.get(node)
    if known is None:
        known = calls.array_storages[node] = add_data(calls, node)
    row.storage = known
    return 0


cdef int read_array(Calls calls, const Call *call, uint8_t part, Row *row) except -1 nogil:
    """The row of an array: of all of it, or of a part of a masked one."""
    cdef ArrayParts parts
    cdef size_t ndim = 0, i, place
    cdef uint64_t dense = 1
    cdef uint8_t order = 0
    if not find_array(calls, call, &parts):
        return raise_recipe("the array has no state")
    if part != WHOLE:
        row.kind = KIND_COMPONENT
    elif row.kind == KIND_TENSOR and not call.wrappers:
        row.kind = KIND_NUMPY
    read_dtype(calls, parts.dtype, part == MASK, row)
    read_data(calls, parts.mask if part == MASK else parts.data, row)
    calls.numbers(parts.shape, 0, &ndim, "its shape is no tuple of counts")
    reserve(<void **>&calls.sizes, &calls.sizes_capacity, 5 * ndim + 1, sizeof(uint64_t))
    read_order(calls, call, &parts, &order)
    for i in range(ndim):
        place = i if order == c"F" else ndim - 1 - i
        calls.sizes[ndim + place] = dense
        # A product that overflows is refused below, where the sizes are multiplied with a check.
        dense *= max(calls.sizes[place], <uint64_t>1)
    if order == c"K":
        permute(calls, parts.axes, ndim)
    return add_geometry(
        calls.index, row, calls.sizes, calls.sizes + ndim, ndim, 0, 0, calls.index.extent(row.storage).size
    )


cdef int permute(Calls calls, uint32_t node, size_t ndim) except -1 nogil:
    """Put the sizes and strides in the scratch, *ndim* each, in the order that the node says."""
    cdef const char *message = "what should permute its dimensions does not"
    cdef const uint64_t *axes
    cdef uint64_t *old
    cdef size_t count = 0, i
    calls.numbers(node, 2 * ndim, &count, message)
    if count != ndim:
        return raise_recipe(message)
    axes = calls.sizes + 2 * ndim
    old = calls.sizes + 3 * ndim
    memcpy(old, calls.sizes, 2 * ndim * sizeof(uint64_t))
    for i in range(ndim):
        if axes[i] >= ndim or old[ndim + axes[i]] == TAKEN:
            return raise_recipe(message)
        calls.sizes[i] = old[axes[i]]
        calls.sizes[ndim + i] = old[ndim + axes[i]]
        old[ndim + axes[i]] = TAKEN
    return 0
