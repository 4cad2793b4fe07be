"""The graph of a pickle → the Index: a walk from the root that finds the tensors and names them.

A global outside the vocabulary is inert: its items and attributes are walked for tensors, and it stops none. A tensor
that could not be named rightly, because only the program knows its place, is an error and never left out.

The graph may have cycles, and one node may be reached by very many paths. A node is not entered while it is on the
path; one from which no tensor can be reached is entered once (BARREN); and the whole walk has a budget.
"""

cimport cython
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdio cimport snprintf
from libc.stdlib cimport free
from libc.string cimport memcpy

from fastload._native.contents cimport Contents, Item
from fastload._native.graph cimport BARREN, GLOBAL, NEWOBJ, ON_PATH, PERSID, REDUCE, Graph, Node
from fastload._native.index cimport DtypeTable, Index, Records, Row, Segment
from fastload._native.keys cimport Keys, Text
from fastload._native.names cimport add_name, append_name, find_name, index_names
from fastload._native.recipe cimport LATER, META, TENSOR, WRAPPER, Meaning, Recipe, Vocabulary, text_of_node
from fastload._native.utf8 cimport is_ascii, is_utf8
from fastload._native.vector cimport reserve

from fastload.errors import FastloadError, FormatError, LimitError, UnsupportedError

cdef enum:
    MAX_NAME_BYTES = 1_048_576   # of one tensor's dotted name
    MAX_NESTING = 4096           # containers around a tensor: its name has as many parts
    # All names together: they may repeat a long key of the file for each tensor below it.
    ARENA_BYTES = 67_108_864
    ARENA_PER_NODE = 256

cdef struct Frame:               # a container on the path
    uint32_t node
    uint32_t low                 # the outermost frame that something below refers back to
    size_t first, next, end      # its items
    size_t rows                  # so many tensors there were when it was entered
    size_t pending               # and so many pending nodes
    uint8_t is_module


@cython.final
cdef class Part:
    """One pickle of several that may make up a file.

    Parameters
    ----------
    graph : Graph
        The pickle; it is marked by the walk, and serves one `harvest` only.
    prefix, suffix : bytes
        What stands before and after a storage's key in the name of its record.
    leaves : dict, optional
        Filled with the row of every node that is a tensor.
    """
    cdef Graph graph
    cdef bytes prefix, suffix
    cdef dict leaves

    def __init__(self, Graph graph not None, bytes prefix not None=b"", bytes suffix not None=b"", dict leaves=None):
        self.graph = graph
        self.prefix = prefix
        self.suffix = suffix
        self.leaves = leaves


@cython.final
cdef class Walk:
    """One walk over one graph, filling one Index."""
    cdef Graph graph
    cdef Recipe recipe
    cdef Index index
    cdef dict leaves             # node: row of every tensor; None where nobody asks
    cdef Frame *frames
    cdef size_t depth, frames_capacity
    cdef uint32_t *pending       # left without a tensor, but in a cycle with a node that is still on the path
    cdef size_t pending_count, pending_capacity
    cdef char *name              # of the tensor that is being listed
    cdef size_t name_length, name_capacity
    cdef Segment *segments       # its keys
    cdef size_t segments_capacity
    cdef Keys keys
    cdef Contents contents
    cdef int64_t repeated        # the name that was found taken last, and the number to try next for it
    cdef unsigned int number
    cdef bint careful            # look at once whether a name is taken; else at the end, for all of them

    def __cinit__(self, Graph graph, Recipe recipe, Index index, leaves, bint careful):
        self.graph = graph
        self.careful = careful
        self.repeated = -1
        self.recipe = recipe
        self.index = index
        self.leaves = leaves
        self.keys = Keys(graph, recipe.vocabulary)
        self.contents = Contents(graph, recipe, self.keys)
        reserve(<void **>&self.name, &self.name_capacity, 64, 1)

    def __dealloc__(self):
        free(self.frames)
        free(self.pending)
        free(self.name)
        free(self.segments)

    # What is said when something is wrong.

    cdef str place(self):
        """Where the walk is, for a message."""
        try:
            self.compose()
        except FastloadError:
            return "a tensor"
        name = PyUnicode_DecodeUTF8(self.name, self.name_length, "replace")
        return repr(name) if self.depth else "the root"

    cdef int raise_limit(self, const char *message) except -1 with gil:
        raise LimitError(message.decode())

    cdef int raise_later(self, uint32_t node, const Meaning *meaning) except -1 with gil:
        label = self.recipe.vocabulary.labels[meaning - self.recipe.vocabulary.meanings]
        raise UnsupportedError(f"{self.place()} is {label}, which this version of fastload cannot read yet")

    cdef int raise_hidden(self, const Frame *frame) except -1 with gil:
        cdef Node *node = &self.graph.nodes[frame.node]
        name = "an object"
        if (node.kind == REDUCE or node.kind == NEWOBJ) and self.graph.nodes[node.x].kind == GLOBAL:
            called = self.graph.nodes[node.x]
            name = f"a {text_of_node(self.graph, called.x)}.{text_of_node(self.graph, called.y)}"
        what = "a whole pickled module" if frame.is_module else "an object whose program alone knows how it is called"
        raise UnsupportedError(
            f"{self.place()} lies within {name}, {what}; this version of fastload reads state dicts:"
            " load it with its program and save its state_dict()"
        )

    # Names.

    cdef int compose(self) except -1 nogil:
        """Put the dotted name of the current item, and its keys, together."""
        cdef size_t i, length = 0
        cdef Item *item
        cdef Text text
        if self.depth > MAX_NESTING:
            return self.raise_limit("a tensor lies below more than 4096 containers")
        reserve(<void **>&self.segments, &self.segments_capacity, self.depth + 1, sizeof(Segment))
        for i in range(self.depth):
            item = &self.contents.items[self.frames[i].next - 1]
            if item.is_position:
                self.keys.read_position(item.key, &text)
            else:
                self.keys.read(item.key, &text)
                self.contents.spend(text.length // 1024)  # an unusual key is put together anew for each tensor
            if length + text.length >= MAX_NAME_BYTES:
                return self.raise_limit("the dotted name of a tensor is longer than a million bytes")
            reserve(<void **>&self.name, &self.name_capacity, length + text.length + 32, 1)
            if i:
                self.name[length] = c"."
                length += 1
            memcpy(self.name + length, text.start, text.length)
            length += text.length
            self.segments[i].length = <uint32_t>text.length
            self.segments[i].kind = text.kind
        self.name_length = length
        if not is_ascii(self.name, length) and not is_utf8(self.name, length, True):
            return self.raise_limit("the name of a tensor is no UTF-8: the file changed while it was read")
        return 0

    cdef int name_row(self) except -1 nogil:
        """Give the next row the current name, or its first free variant: `name#2`, `name#3`, …"""
        cdef int64_t added, base
        cdef size_t length
        cdef unsigned int number = 2
        if not self.careful:
            append_name(&self.index.names, self.name, self.name_length)
            return self.index.add_path(self.segments, self.depth, False)
        reserve(<void **>&self.name, &self.name_capacity, self.name_length + 32, 1)
        added = add_name(&self.index.names, self.name, self.name_length)
        if added < 0:                            # very many may have one name: go on behind the number given last
            base = find_name(&self.index.names, self.name, self.name_length)
            if base != self.repeated:
                self.repeated, self.number = base, 2
            number = self.number
        while added < 0:
            self.contents.spend(1)
            length = self.name_length + <size_t>snprintf(self.name + self.name_length, 16, "#%u", number)
            added = add_name(&self.index.names, self.name, length)
            number += 1
            self.number = number
        return self.index.add_path(self.segments, self.depth, number > 2)

    # Tensors.

    cdef int list_tensor(self, uint32_t node, bint is_storage) except -1 nogil:
        """List the tensor, or the bare storage, that the current item is."""
        cdef Row row
        cdef size_t i
        for i in range(self.depth):
            if self.frames[i].is_module or self.contents.items[self.frames[i].next - 1].hidden:
                return self.raise_hidden(&self.frames[i])
        self.contents.spend(1)
        if is_storage:
            self.recipe.read_storage(node, &row)
        else:
            self.recipe.read_tensor(node, &row)
        self.compose()
        if self.index.names.text_size > ARENA_BYTES + ARENA_PER_NODE * <uint64_t>self.graph.nodes_count:
            return self.raise_limit("the dotted names of the tensors are out of all proportion to the file")
        self.name_row()
        self.index.add_row(&row)
        if self.leaves is not None:
            self.note_leaf(node)
        return 0

    cdef int note_leaf(self, uint32_t node) except -1 with gil:
        self.leaves.setdefault(node, self.index.names.count - 1)
        return 0

    # The walk.

    cdef int enter(self, uint32_t node) except -1 nogil:
        """Go into a container: its items come next."""
        cdef Node *found = &self.graph.nodes[node]
        cdef Frame *frame
        reserve(<void **>&self.frames, &self.frames_capacity, self.depth + 1, sizeof(Frame))
        frame = &self.frames[self.depth]
        frame.node = node
        frame.low = 0xFFFFFFFF
        frame.first = frame.next = self.contents.count
        frame.rows = self.index.names.count
        frame.pending = self.pending_count
        self.contents.gather(node)
        frame.is_module = self.contents.is_module
        frame.end = self.contents.count
        found.flags |= ON_PATH
        self.depth += 1
        return 0

    cdef int leave(self) except -1 nogil:
        """Come out of the innermost container, and remember it if no tensor can be reached from it.

        A node that refers back to one still on the path may yet lead to a tensor by way of it, so it is only pending;
        with the outermost node of such a cycle all of them are decided (the components of Tarjan's algorithm).
        """
        cdef Frame *frame
        cdef Frame *outer
        cdef Node *left
        cdef size_t i
        self.depth -= 1
        frame = &self.frames[self.depth]
        self.contents.count = frame.first
        left = &self.graph.nodes[frame.node]
        left.flags &= 0xFF ^ ON_PATH
        if self.index.names.count > frame.rows:
            self.pending_count = frame.pending
            return 0
        if frame.low >= self.depth:
            left.flags |= BARREN
            for i in range(frame.pending, self.pending_count):
                left = &self.graph.nodes[self.pending[i]]
                left.flags |= BARREN
            self.pending_count = frame.pending
            return 0
        reserve(<void **>&self.pending, &self.pending_capacity, self.pending_count + 1, sizeof(uint32_t))
        self.pending[self.pending_count] = frame.node
        self.pending_count += 1
        outer = &self.frames[self.depth - 1]
        if frame.low < outer.low:
            outer.low = frame.low
        return 0

    cdef int refer_back(self, uint32_t node) except -1 nogil:
        """Note that the current item is a container that is on the path already."""
        cdef size_t at = self.depth
        while self.frames[at - 1].node != node:
            at -= 1
        self.contents.spend(self.depth - at + 1)
        if at - 1 < self.frames[self.depth - 1].low:
            self.frames[self.depth - 1].low = <uint32_t>(at - 1)
        return 0

    cdef int visit(self, uint32_t node) except -1 nogil:
        """List a tensor, or go into a container."""
        cdef const Node *found = &self.graph.nodes[node]
        cdef const Meaning *meaning = self.recipe.called(node)
        if not self.contents.is_worth_entering(node):
            return 0
        if found.flags & ON_PATH:
            return self.refer_back(node)
        if found.kind == PERSID:
            return self.list_tensor(node, True)
        if meaning != NULL:
            if meaning.role == TENSOR or meaning.role == META or meaning.role == WRAPPER:
                return self.list_tensor(node, False)
            if meaning.role == LATER:
                return self.raise_later(node, meaning)
        return self.enter(node)

    cdef int run(self) except -1 nogil:
        cdef Frame *frame
        self.visit(self.graph.root)
        while self.depth:
            frame = &self.frames[self.depth - 1]
            if frame.next == frame.end:
                self.leave()
                continue
            frame.next += 1
            self.contents.spend(1)
            self.visit(self.contents.items[frame.next - 1].value)
        return 0


cdef int walk_once(Part part, Vocabulary vocabulary, Index index, bint careful) except -1:
    cdef Recipe recipe = Recipe(part.graph, vocabulary, index, index.records, part.prefix)
    cdef Walk walk = Walk(part.graph, recipe, index, part.leaves, careful)
    if part.leaves is not None:
        part.leaves.clear()
    vocabulary.resolve(part.graph)
    try:
        with nogil:
            walk.run()
    except FormatError as error:
        error.message = f"tensor {walk.place()}: {error.message}"
        raise
    return 0


def harvest(
    list parts not None, Vocabulary vocabulary not None, source, DtypeTable dtypes not None, Records records not None,
    bint swapped=False, bint attributes=False,
):
    """The Index of the tensors of the pickles of a file.

    Parameters
    ----------
    parts : list of Part
        The pickles, in order.
    vocabulary : Vocabulary
        What their globals mean.
    source, dtypes, records, swapped
        For the Index; *records* hold the storages.
    attributes : bool
        Whether tensors that modules hold beside their state dict are listed too.

    Raises
    ------
    FormatError
        A tensor's call, storage or geometry makes no sense.
    UnsupportedError
        A storage of a class that is unknown.
    LimitError
        The objects refer to each other in too many ways, or the names grow beyond measure.
    """
    cdef Index index
    # Names are looked up at the end and together, which is faster; only where two tensors come to one name is the walk
    # done again, each name being looked up at once.
    for careful in (False, True):
        index = Index(source, dtypes, records, swapped)
        for part in parts:
            walk_once(part, vocabulary, index, careful)
        if careful or index_names(&index.names) < 0:
            break
    return index
