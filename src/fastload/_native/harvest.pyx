"""The graph of a pickle → the Index: a walk from the root that finds the tensors and names them.

A global outside the vocabulary is inert: what it was called with, its items and its attributes are walked for tensors,
and it stops none.

The graph may have cycles, and one node may be reached by very many paths. A node is not entered while it is on the
path; one from which no tensor can be reached is entered once (BARREN); and the whole walk has a budget.
"""

cimport cython
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdio cimport snprintf
from libc.stdlib cimport free
from libc.string cimport memcmp, memcpy

from fastload._native.arrays cimport ArrayParts, find_array, has_more, holds_objects
from fastload._native.calls cimport (
    ARRAY, FROM_BUFFER, LOADER, META, OLD_TENSOR, SUBCLASS, TENSOR, Call, Vocabulary,
)
from fastload._native.contents cimport KIND_OWN, POSITION_KEY, TENSOR_KEY, WORD_KEY, Item, spend
from fastload._native.graph cimport BARREN, GLOBAL, ON_PATH, PERSID, TUPLE, Graph, Node, Slice, is_worth_entering
from fastload._native.index cimport TEXT_KEY, Index, Records, Row, Segment
from fastload._native.tables cimport DtypeTable
from fastload._native.keys cimport Keys, Text
from fastload._native.modules cimport ModuleContents
from fastload._native.names cimport add_name, append_name, find_name, index_names, reserve_names
from fastload._native.recipe cimport Recipe
from fastload._native.utf8 cimport is_ascii, is_utf8
from fastload._native.vector cimport reserve

from fastload.errors import FastloadError, FormatError, LimitError, UnsupportedError

cdef enum:
    MAX_NAME_BYTES = 1_048_576   # of one tensor's dotted name
    MAX_PEELED = 8               # arrays of a single object, around one another
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
    size_t name_length           # of its own name and that of its current item, once something below was named
    size_t segments_count        # their keys
    Segment segment              # the last of them
    uint8_t is_module
    uint8_t is_joined            # the names of its items are joined to its own: a module within a module
    uint8_t is_subclass          # a tensor whose data are its attributes


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
    tensors : dict, optional
        Of an archive that keeps its tensors outside the pickle: by key, their
        (dtype code, record, offset, sizes, strides, whether it is a bare storage), the middle three in elements.
    at : tuple of str
        The keys that stand before those of the pickle in the names of its tensors.
    references : list, optional
        Filled with (keys, name) of every object that another part of the file, of that name, describes.
    scripts : function, optional
        Of TorchScript: of (module, name) of a class to the names of its (parameters, buffers), to () for one of native
        code, and to None for one whose source is not in the file.
    """
    cdef Graph graph
    cdef bytes prefix, suffix
    cdef dict leaves, tensors
    cdef object scripts
    cdef tuple at
    cdef list references

    def __init__(
        self, Graph graph not None, bytes prefix not None=b"", bytes suffix not None=b"", dict leaves=None,
        dict tensors=None, scripts=None, tuple at not None=(), list references=None,
    ):
        self.graph = graph
        self.prefix = prefix
        self.suffix = suffix
        self.leaves = leaves
        self.tensors = tensors
        self.scripts = scripts
        self.at = at
        self.references = references


@cython.final
cdef class Walk:
    """One walk over one graph, filling one Index."""
    cdef Graph graph
    cdef Recipe recipe
    cdef Index index
    cdef Part part
    cdef size_t at_count         # keys before those of the pickle
    cdef Frame *frames
    cdef size_t depth, frames_capacity
    cdef uint32_t *pending       # left without a tensor, but in a cycle with a node that is still on the path
    cdef size_t pending_count, pending_capacity
    cdef char *name              # of the tensor that is being listed
    cdef size_t name_length, name_capacity
    cdef size_t composed         # of the containers on the path, the outer ones whose part of it still holds
    cdef Segment *segments       # its keys
    cdef size_t segments_count, segments_capacity
    cdef Keys keys
    cdef ModuleContents contents
    cdef int64_t repeated        # the name that was found taken last, and the number to try next for it
    cdef unsigned int number
    cdef bint careful            # look at once whether a name is taken; else at the end, for all of them

    def __cinit__(self, Graph graph, Recipe recipe, Index index, Part part, bint careful, bint attributes):
        self.graph = graph
        self.careful = careful
        self.repeated = -1
        self.recipe = recipe
        self.index = index
        self.part = part
        self.at_count = len(part.at)
        self.keys = Keys(graph, recipe.vocabulary)
        self.contents = ModuleContents(graph, recipe, self.keys, part.scripts, attributes)
        self.contents.careful = careful
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

    # Names.

    cdef int compose(self) except -1 nogil:
        """Put the dotted name of the current item, and its keys, together."""
        cdef size_t i, length = 0
        cdef Item *item
        cdef Frame *frame
        cdef Segment *segment
        cdef Text text
        if self.depth > MAX_NESTING:
            return self.raise_limit("a tensor lies below more than 4096 containers")
        reserve(<void **>&self.segments, &self.segments_capacity, self.depth + self.at_count + 1, sizeof(Segment))
        self.segments_count = 0
        if self.composed:
            frame = &self.frames[self.composed - 1]
            length, self.segments_count = frame.name_length, frame.segments_count
            self.segments[self.segments_count - 1] = frame.segment
        elif self.at_count:
            length = self.begin_with_head()
        for i in range(self.composed, self.depth):
            frame = &self.frames[i]
            item = &self.contents.items[frame.next - 1]
            if item.sort == POSITION_KEY:
                self.keys.read_position(item.key, &text)
            elif item.sort == WORD_KEY:
                self.keys.read_word(item.key, &text)
            elif item.sort == TENSOR_KEY:
                self.keys.read_tensor_key(item.key, &text)
            else:
                self.keys.read(item.key, &text)
                spend(self.contents, text.length // 1024)  # an unusual key is put together anew for each tensor
            if length + text.length >= MAX_NAME_BYTES:
                return self.raise_limit("the dotted name of a tensor is longer than a million bytes")
            reserve(<void **>&self.name, &self.name_capacity, length + text.length + 32, 1)
            if length or self.segments_count:
                self.name[length] = c"."
                length += 1
            memcpy(self.name + length, text.start, text.length)
            length += text.length
            if frame.is_joined:                  # a module has one key, the dotted name in its state dict
                segment = &self.segments[self.segments_count - 1]
                segment.length += <uint32_t>text.length + 1
                segment.kind = TEXT_KEY
            else:
                segment = &self.segments[self.segments_count]
                segment.length = <uint32_t>text.length
                segment.kind = text.kind
                self.segments_count += 1
            frame.name_length, frame.segments_count, frame.segment = length, self.segments_count, segment[0]
        if self.depth:
            self.composed = self.depth - 1       # the innermost one is about to come to its next item
        self.name_length = length
        if not is_ascii(self.name, length) and not is_utf8(self.name, length, True):
            return self.raise_limit("the name of a tensor is no UTF-8: the file changed while it was read")
        return 0

    cdef size_t begin_with_head(self) except? 0 with gil:
        """Put the keys before those of the pickle first; returns the length of their text."""
        cdef size_t i
        cdef bytes text = ".".join(self.part.at).encode("utf-8", "surrogatepass")
        reserve(<void **>&self.name, &self.name_capacity, len(text) + 32, 1)
        memcpy(self.name, <const char *>text, len(text))
        for i in range(self.at_count):
            self.segments[i].length = <uint32_t>len(self.part.at[i].encode("utf-8", "surrogatepass"))
            self.segments[i].kind = TEXT_KEY
        self.segments_count = self.at_count
        return len(text)

    cdef int name_row(self) except -1 nogil:
        """Give the next row the current name, or its first free variant: `name#2`, `name#3`, …"""
        cdef int64_t added, base
        cdef size_t length
        cdef unsigned int number = 2
        if not self.careful:
            append_name(&self.index.names, self.name, self.name_length)
            return self.index.add_path(self.segments, self.segments_count, False)
        reserve(<void **>&self.name, &self.name_capacity, self.name_length + 32, 1)
        added = add_name(&self.index.names, self.name, self.name_length)
        if added < 0:                            # very many may have one name: go on behind the number given last
            base = find_name(&self.index.names, self.name, self.name_length)
            if base != self.repeated:
                self.repeated, self.number = base, 2
            number = self.number
        while added < 0:
            spend(self.contents, 1)
            length = self.name_length + <size_t>snprintf(self.name + self.name_length, 16, "#%u", number)
            added = add_name(&self.index.names, self.name, length)
            number += 1
            self.number = number
        return self.index.add_path(self.segments, self.segments_count, number > 2)

    # Tensors.

    cdef int list_tensor(self, uint32_t node, bint is_storage, uint8_t part=0) except -1 nogil:
        """List the tensor, the bare storage or the part of an array that the current item is."""
        cdef Row row
        cdef const Item *item
        spend(self.contents, 1)
        if part:
            self.recipe.read_part(node, part, &row)
        elif is_storage:
            self.recipe.read_storage(node, &row)
        else:
            self.recipe.read_tensor(node, &row)
        if self.depth and row.kind == 0:         # a tensor and no more, by itself
            item = &self.contents.items[self.frames[self.depth - 1].next - 1]
            if item.kind != KIND_OWN:
                row.kind = item.kind
        self.compose()
        if self.index.names.text_size > ARENA_BYTES + ARENA_PER_NODE * <uint64_t>self.graph.nodes_count:
            return self.raise_limit("the dotted names of the tensors are out of all proportion to the file")
        self.name_row()
        self.index.add_row(&row)
        if self.part.leaves is not None:
            self.note_leaf(node)
        return 0

    cdef int note_leaf(self, uint32_t node) except -1 with gil:
        self.part.leaves.setdefault(node, self.index.names.count - 1)
        return 0

    # The walk.

    cdef int enter(self, uint32_t node, bint is_listed, bint is_subclass) except -1 nogil:
        """Go into a container: its items come next. A tensor that is listed is one for its attributes."""
        cdef Node *found = &self.graph.nodes[node]
        cdef Frame *frame
        cdef bint is_submodule = False
        if self.depth:
            frame = &self.frames[self.depth - 1]
            is_submodule = frame.is_module and self.contents.items[frame.next - 1].is_submodule
        reserve(<void **>&self.frames, &self.frames_capacity, self.depth + 1, sizeof(Frame))
        frame = &self.frames[self.depth]
        frame.node = node
        frame.low = 0xFFFFFFFF
        frame.first = frame.next = self.contents.count
        frame.rows = self.index.names.count - is_listed
        frame.pending = self.pending_count
        frame.is_subclass = is_subclass
        self.contents.gather(node)
        frame.is_module = self.contents.is_module
        frame.is_joined = is_submodule and frame.is_module
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
        if self.composed and self.composed == self.depth:
            self.composed -= 1
        left = &self.graph.nodes[frame.node]
        left.flags &= 0xFF ^ ON_PATH
        if frame.is_subclass and self.index.names.count == frame.rows:
            self.list_tensor(frame.node, False)  # it has no data anywhere, and a shape
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
        spend(self.contents, self.depth - at + 1)
        if at - 1 < self.frames[self.depth - 1].low:
            self.frames[self.depth - 1].low = <uint32_t>(at - 1)
        return 0

    cdef int visit(self, uint32_t node, int peeled=0) except -1 nogil:
        """List a tensor, or go into a container. So many arrays of a single object were taken off around it."""
        cdef const Node *found = &self.graph.nodes[node]
        cdef Call call
        if not is_worth_entering(self.graph, node):
            return 0
        if found.flags & ON_PATH:
            return self.refer_back(node)
        if self.recipe.is_bare_tensor(node):     # as nearly all are, and `base` would find the same
            self.list_tensor(node, False)
            return self.enter(node, True, False) if found.tail else 0
        if not self.recipe.thorough and self.recipe.bare_tensor_in(node):
            return self.list_tensor(node, False)
        if found.kind == PERSID:
            return self.visit_persistent(node)
        if self.recipe.base(node, &call):
            if call.meaning.role == LOADER:
                return self.list_tensor(node, True)
            if call.meaning.role == ARRAY or call.meaning.role == FROM_BUFFER:
                if holds_objects(self.recipe, &call):
                    return self.enter_array(node, &call, peeled)
                self.list_tensor(node, False)
                return self.enter(node, True, False) if has_more(self.recipe, &call) else 0
            if call.meaning.role == TENSOR or call.meaning.role == META or (
                call.meaning.role == OLD_TENSOR and call.node and self.recipe.state_of(call.node)
            ):
                self.list_tensor(node, False)
                if call.wrappers or self.graph.nodes[node].tail:
                    return self.enter(node, True, False)
                return 0
            if call.meaning.role == SUBCLASS:
                return self.enter(node, False, True)
        return self.enter(node, False, False)

    cdef int visit_persistent(self, uint32_t node) except -1 nogil:
        """A storage by itself, a class, or a tensor that was described outside of the pickle."""
        cdef const Node *id = &self.graph.nodes[self.graph.nodes[node].x]
        cdef Slice sort
        if id.kind == TUPLE:
            if id.tail:
                if self.graph.nodes[self.recipe.class_in_id(node)].kind == GLOBAL:
                    return 0
                sort = self.recipe.text(self.graph.children[id.x])
                if sort.length == 14 and memcmp(sort.start, b"reduce_package", 14) == 0:
                    if self.part.references is not None:
                        self.note_reference(node)
                    return self.enter(node, False, False)
            if self.recipe.tensors is not None:
                return 0                         # of an old archive: a class
        elif self.recipe.tensors is not None:
            return self.list_tensor(node, False)
        return self.list_tensor(node, True)

    cdef int note_reference(self, uint32_t node) except -1 with gil:
        """Tell the caller where an object stands that another part of the file describes."""
        cdef const Node *id = &self.graph.nodes[self.graph.nodes[node].x]
        cdef const Node *arguments = &self.graph.nodes[self.graph.children[id.x + id.tail - 1]]
        cdef Slice text
        if arguments.kind != TUPLE or arguments.tail != 1:
            return 0
        text = self.recipe.text(self.graph.children[arguments.x])
        if text.start != NULL:
            self.compose()
            at, keys = 0, []
            for i in range(self.segments_count):
                keys.append(self.name[at:at + self.segments[i].length].decode("utf-8", "surrogatepass"))
                at += self.segments[i].length + 1
            self.part.references.append((tuple(keys), text.start[:text.length].decode("utf-8", "replace")))
        return 0

    cdef int enter_array(self, uint32_t node, const Call *call, int peeled) except -1 nogil:
        """Go into an array of objects; one without dimensions is only a wrapper of the object in it."""
        cdef ArrayParts parts
        cdef const Node *data
        cdef const Node *shape
        if peeled < MAX_PEELED and find_array(self.recipe, call, &parts):
            data = &self.graph.nodes[parts.data]
            shape = &self.graph.nodes[parts.shape]
            if shape.kind == TUPLE and shape.tail == 0 and data.tail and (
                self.graph.updates[data.tail].next == data.tail and self.graph.updates[data.tail].count == 1
            ):
                return self.visit(self.graph.children[self.graph.updates[data.tail].first], peeled + 1)
        return self.enter(node, False, False)

    cdef int run(self) except -1 nogil:
        cdef Frame *frame
        cdef uint8_t part
        self.visit(self.graph.root)
        while self.depth:
            frame = &self.frames[self.depth - 1]
            if frame.next == frame.end:
                self.leave()
                continue
            frame.next += 1
            spend(self.contents, 1)
            part = self.contents.items[frame.next - 1].part
            if part:
                self.list_tensor(frame.node, False, part)
            else:
                self.visit(self.contents.items[frame.next - 1].value)
        return 0


cdef int walk_once(
    Part part, Vocabulary vocabulary, Index index, bint careful, bint attributes, bint thorough
) except -1:
    cdef Recipe recipe = Recipe(
        part.graph, vocabulary, index, index.records, part.prefix, part.suffix, part.tensors
    )
    recipe.thorough = thorough
    cdef Walk walk = Walk(part.graph, recipe, index, part, careful, attributes)
    if part.leaves is not None:
        part.leaves.clear()
    if part.references is not None:
        part.references.clear()
    vocabulary.resolve(part.graph)
    try:
        with nogil:
            walk.run()
    except (FormatError, UnsupportedError) as error:
        error.message = f"tensor {walk.place()}: {error.message}"
        raise
    return 0


def harvest(
    parts not None, Vocabulary vocabulary not None, source, DtypeTable dtypes not None, Records records not None,
    bint swapped=False, bint attributes=False, bint thorough=False,
):
    """The Index of the tensors of the pickles of a file.

    Parameters
    ----------
    parts : list of Part, or of functions
        The pickles, in order; a function adds what stands between them to the Index that it is given, by `append`.
    vocabulary : Vocabulary
        What their globals mean.
    source, dtypes, records, swapped
        For the Index; *records* hold the storages.
    attributes : bool
        Whether tensors that modules hold beside their state dict are listed too.
    thorough : bool
        Whether each tensor is read by the code for the unusual ones: the tests see that it finds the same.

    Raises
    ------
    FormatError
        A tensor's call, storage or geometry makes no sense.
    UnsupportedError
        A storage of a class, or an array of a dtype, that is unknown.
    LimitError
        The objects refer to each other in too many ways, or the names grow beyond measure.
    """
    cdef Index index
    # Names are looked up at the end and together, which is faster; only where two tensors come to one name is the walk
    # done again, each name being looked up at once.
    for careful in (False, True):
        index = Index(source, dtypes, records, swapped)
        index.expect(records.names.count)        # a storage for each tensor, mostly
        if careful:
            reserve_names(&index.names, 1)           # so that `append` looks names up too
        for part in parts:
            if isinstance(part, Part):
                walk_once(part, vocabulary, index, careful, attributes, thorough)
            else:
                part(index)
        if careful or index_names(&index.names) < 0:
            break
    return index
