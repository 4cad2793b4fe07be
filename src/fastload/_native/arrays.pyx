"""NumPy arrays in a pickle: their dtype, their bytes, their geometry.

An array is an empty one that is given its state (version, shape, dtype, whether it is in Fortran's order, bytes), or,
in protocol 5, the call of a function with (bytes, dtype, shape, order). Of an array of Python objects the state has a
list of them instead of bytes.

Format: numpy/_core/src/multiarray/methods.c, `array_reduce_ex` and `array_setstate`.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from fastload._native.blob cimport add_data
from fastload._native.geometry cimport add_geometry
from fastload._native.graph cimport LIST, STR8, TEXT, TRUE, TUPLE, Node, Slice, bytes_of
from fastload._native.graph cimport INT, int_of
from fastload._native.index cimport SWAPPED, Index, Row
from fastload._native.objects cimport build_objects
from fastload._native.calls cimport (
    ARRAY, DATA_ARG, DTYPE_ARG, ORDER_ARG, SIZE_ARG, Call, Calls, raise_recipe, text_of_node,
)

from fastload._native.index import KINDS
from fastload.errors import FormatError, UnsupportedError

cdef enum:
    KIND_TENSOR = 0          # rows of KINDS
    KIND_NUMPY = 7


cdef int find_array(Calls calls, const Call *call, ArrayParts *parts) except -1 nogil:
    """Find what makes up an array: 1, or 0 where it was never filled."""
    cdef uint32_t state
    cdef const Node *found
    cdef const uint32_t *children
    cdef Slice order
    if call.meaning.role != ARRAY:
        parts.data = calls.argument(call, DATA_ARG)
        parts.dtype = calls.argument(call, DTYPE_ARG)
        parts.shape = calls.argument(call, SIZE_ARG)
        parts.fortran = calls.argument(call, ORDER_ARG)
        if not parts.data or not parts.dtype or not parts.shape or not parts.fortran:
            return raise_recipe("the function that makes it is called with too few or too many arguments")
        return 1
    state = calls.state_of(call.node) if call.node else 0
    if not state:
        return 0
    found = &calls.graph.nodes[state]
    if found.kind != TUPLE or not 4 <= found.tail <= 5:  # of the oldest version, which is not written, there are 4
        return raise_recipe("its state has not the five parts of an array")
    children = calls.graph.children + found.x + (found.tail - 4)
    parts.shape, parts.dtype, parts.fortran, parts.data = children[0], children[1], children[2], children[3]
    return 1


cdef bint holds_objects(Calls calls, const Call *call) except? True nogil:
    """Whether the array holds Python objects, or nothing at all, so that it is a list rather than a tensor."""
    cdef ArrayParts parts
    parts.data = 0
    if not find_array(calls, call, &parts):
        return True
    return calls.graph.nodes[parts.data].kind == LIST


cdef bint is_fortran(Calls calls, uint32_t node) noexcept nogil:
    """Whether the first dimension is the dense one: a bool, an int, or the letter F."""
    cdef const Node *found = &calls.graph.nodes[node]
    cdef Slice text
    if found.kind == TEXT or found.kind == STR8:
        text = bytes_of(calls.graph, found)
        return text.length == 1 and text.start[0] == c"F"
    return found.kind == TRUE or (found.kind == INT and int_of(found) != 0)


cdef int read_dtype(Calls calls, uint32_t node, Row *row) except -1 with gil:
    """The dtype of an array, which gets a row in the table of its Index if none there describes it."""
    cdef Index index = calls.index
    known = calls.array_dtypes.get(node)
    if known is None:
        known = calls.array_dtypes[node] = find_dtype(calls, node)
    row.dtype, swapped = known
    if swapped:
        row.flags |= SWAPPED
    return 0


cdef tuple find_dtype(Calls calls, uint32_t node):
    cdef Index index = calls.index
    cdef uint32_t state = calls.state_of(node)
    cdef Call call
    if not calls.open_call(node, &call):
        raise FormatError("the dtype of the array is none")
    args = build_objects(calls.graph, call.arguments, calls.vocabulary, {})
    described = build_objects(calls.graph, state, calls.vocabulary, {}) if state else None
    found = calls.vocabulary.array_dtype(args, described)
    if found is None:
        called = calls.graph.nodes[calls.graph.nodes[node].x]
        what = f"{text_of_node(calls.graph, called.x)}.{text_of_node(calls.graph, called.y)}{args!r:.80}"
        raise UnsupportedError(f"the dtype of an array cannot be read: {what}")
    name, dtype, swapped = found
    return index.code_for(name, dtype), swapped


cdef int read_data(Calls calls, uint32_t node, Row *row) except -1 with gil:
    """The storage of an array's bytes; arrays over the same ones share it."""
    known = calls.array_storages.get(node)
    if known is None:
        known = calls.array_storages[node] = add_data(calls, node)
    row.storage = known
    return 0


cdef int read_array(Calls calls, const Call *call, Row *row) except -1 nogil:
    """The row of an array."""
    cdef ArrayParts parts
    cdef size_t ndim = 0, i, place
    cdef uint64_t dense = 1
    cdef bint fortran
    if not find_array(calls, call, &parts):
        return raise_recipe("the array has no state")
    if row.kind == KIND_TENSOR and not call.wrappers:
        row.kind = KIND_NUMPY
    read_dtype(calls, parts.dtype, row)
    read_data(calls, parts.data, row)
    calls.numbers(parts.shape, 0, &ndim, "its shape is no tuple of counts")
    calls.numbers(parts.shape, ndim, &ndim, "its shape is no tuple of counts")  # for room; strides come there
    fortran = is_fortran(calls, parts.fortran)
    for i in range(ndim):
        place = i if fortran else ndim - 1 - i
        calls.sizes[ndim + place] = dense
        # A product that overflows is refused below, where the sizes are multiplied with a check.
        dense *= max(calls.sizes[place], <uint64_t>1)
    return add_geometry(
        calls.index, row, calls.sizes, calls.sizes + ndim, ndim, 0, 0, calls.index.extent(row.storage).size
    )
