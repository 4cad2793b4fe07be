"""What a pickle's calls mean for tensors: the vocabulary, and the reading of one tensor's recipe.

A tensor is pickled as a call: of this function, with that storage, at this offset, with these sizes and strides.
Which functions there are and what their arguments mean is a table that the caller makes (`Vocabulary`); this file
knows no library's names. What it yields is a Row whose geometry has been checked against the storage that the archive
holds.
"""

cimport cython
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcmp, memcpy

from fastload._native.graph cimport (
    DICT, FALSE, GLOBAL, INT, NEWOBJ, NONE, PERSID, REDUCE, STR8, TEXT, TRUE, TUPLE, Graph, Node, Slice,
    Update, bytes_of, int_of, wide,
)
from fastload._native.geometry cimport EMPTY_ROW, add_geometry, raise_too_large
from fastload._native.index cimport (
    CONJUGATED, MAX_DIMENSIONS, NEGATED, Index, Records, Row, multiply_overflows,
)
from fastload._native.names cimport Names, find_name
from fastload._native.vector cimport reserve
from fastload._native.zip cimport check_record

from fastload._native.index import KINDS
from fastload.errors import FormatError, LimitError, TruncatedError, UnsupportedError

# The words for Role and Argument, in their order.
ROLES = ("inert", "storage", "dtype", "size", "tensor", "meta", "wrapper", "mapping", "sequence", "later")
ARGUMENTS = ("storage", "offset", "size", "stride", "dtype", "metadata", "tensor", "state")

cdef enum:
    KIND_TENSOR = 0          # rows of KINDS
    KIND_STORAGE = 3
    KIND_META = 4
    MAX_WRAPPERS = 8         # around one tensor; torch writes one


@cython.final
cdef class Vocabulary:
    """What the globals of a pickle mean.

    Parameters
    ----------
    rows : iterable of (module, name, role, dtype, kind, arguments, label)
        *module* None stands for any. *dtype* is a code, for storages and dtypes. *kind* is one of `KINDS`, for
        wrappers. *arguments* names the arguments of a function in order; a ``?`` marks those that may be missing, and
        what is not in `ARGUMENTS` is ignored. *label* says in an error what a row of role "later" is.
    makers : dict
        (module, name) to a pair, how the core is to use it and what makes a plain value: ("call", function of the
        arguments in the file), ("state", function of the arguments and of what was handed to `__setstate__`),
        ("namespace", None) for an object that is nothing but its attributes, ("constant", value), and ("new", function
        of the arguments behind a class, which returns those of the class and the items). A function that raises
        TypeError, ValueError or LookupError leaves a Record.
    mapping : function
        The maker that marks a dict-like class, whose items are set after it is made.
    """

    def __init__(self, rows, dict makers not None, mapping):
        cdef Meaning *meaning
        self.makers = makers
        self.mapping = mapping
        self.numbers = {}
        self.labels = []
        for number, (module, name, role, dtype, kind, arguments, label) in enumerate(rows):
            if number >= 256:
                raise ValueError("a vocabulary has at most 256 rows")
            meaning = &self.meanings[number]
            meaning.role = ROLES.index(role)
            meaning.dtype = dtype
            meaning.kind = KINDS.index(kind)
            words = arguments.split()
            meaning.most = len(words)
            meaning.least = len([word for word in words if not word.endswith("?")])
            for place, argument in enumerate(ARGUMENTS):
                found = [i for i, word in enumerate(words) if word.rstrip("?") == argument]
                meaning.at[place] = found[0] if found else -1
            self.numbers[module, name] = number
            self.labels.append(label)

    cdef int resolve(self, Graph graph) except -1:
        """Write into each global of *graph* what it means: number + 1, or 0."""
        cdef size_t i
        cdef Node *node
        for i in range(graph.globals_count):
            node = &graph.nodes[graph.globals[i]]
            module, name = text_of_node(graph, node.x), text_of_node(graph, node.y)
            number = self.numbers.get((module, name))
            if number is None:
                number = self.numbers.get((None, name), -1)
            node.tail = number + 1
        return 0


cdef str text_of_node(Graph graph, uint32_t node):
    """A TEXT for a message or a look-up; what is no text comes as a question mark."""
    if graph.nodes[node].kind != TEXT and graph.nodes[node].kind != STR8:
        return "?"
    cdef Slice data = bytes_of(graph, &graph.nodes[node])
    return PyUnicode_DecodeUTF8(data.start, data.length, "replace")


cdef int raise_recipe(const char *message) except -1 with gil:
    raise FormatError(message.decode())


cdef int raise_global(Graph graph, uint32_t node, const char *message) except -1 with gil:
    """An UnsupportedError about a global."""
    cdef Node *found = &graph.nodes[node]
    raise UnsupportedError(f"{text_of_node(graph, found.x)}.{text_of_node(graph, found.y)} {message.decode()}")


cdef int raise_text_id() except -1 with gil:
    raise UnsupportedError(
        "its storage is named by a text, as protocol 0 names it, which nobody can read back: save it with protocol 2"
    )


cdef int raise_no_record(Recipe recipe, size_t length) except -1 with gil:
    name = recipe.record[:length].decode("utf-8", "replace")
    raise FormatError(f"its storage should be the record {name!r}, which the archive lacks")


cdef int raise_short_record(Recipe recipe, uint32_t number, uint64_t declared) except -1 with gil:
    raise TruncatedError(
        f"its storage is declared with {declared:,} bytes and record {recipe.records.name(number)!r}"
        f" has {recipe.records.extents[number].size:,}"
    )


cdef int unsigned(const Node *node, uint64_t *value, const char *message) except -1 nogil:
    """A count, size or place: an int that is not negative. A bool is an int, as in Python."""
    if node.kind == INT and int_of(node) >= 0:
        value[0] = <uint64_t>int_of(node)
    elif node.kind == TRUE or node.kind == FALSE:
        value[0] = node.kind == TRUE
    else:
        return raise_recipe(message)
    return 0


@cython.final
cdef class Recipe:
    """Reads the tensors of one graph.

    Parameters
    ----------
    prefix : bytes
        What stands before a storage's key in the name of its record.
    """

    def __cinit__(self, Graph graph, Vocabulary vocabulary, Index index, Records records, bytes prefix):
        self.graph = graph
        self.vocabulary = vocabulary
        self.index = index
        self.records = records
        self.prefix_length = len(prefix)
        reserve(<void **>&self.record, &self.record_capacity, len(prefix) + 64, 1)
        memcpy(self.record, <const char *>prefix, len(prefix))

    def __dealloc__(self):
        free(self.sizes)
        free(self.record)

    cdef const Meaning *meaning(self, uint32_t node) noexcept nogil:
        """What a global means; NULL where it is no global, or the vocabulary lacks it."""
        cdef Node *found = &self.graph.nodes[node]
        if found.kind != GLOBAL or found.tail == 0:
            return NULL
        return &self.vocabulary.meanings[found.tail - 1]

    cdef const Meaning *called(self, uint32_t node) noexcept nogil:
        """What the call *node* calls means; NULL where that is unknown."""
        cdef Node *found = &self.graph.nodes[node]
        if found.kind != REDUCE and found.kind != NEWOBJ:
            return NULL
        return self.meaning(found.x)

    cdef uint32_t state_of(self, uint32_t node) noexcept nogil:
        """The attributes that the call of a WRAPPER gives its tensor; 0 where it gives none."""
        cdef const Meaning *meaning = self.called(node)
        cdef const Node *arguments
        if meaning == NULL or meaning.role != WRAPPER or meaning.at[STATE_ARG] < 0:
            return 0
        arguments = &self.graph.nodes[self.graph.nodes[node].y]
        if <uint32_t>meaning.at[STATE_ARG] >= arguments.tail:
            return 0
        return self.graph.children[arguments.x + meaning.at[STATE_ARG]]

    cdef int arguments(self, uint32_t node, const Meaning *meaning, const uint32_t **found) except -1 nogil:
        """The arguments of a call, as many as its function takes."""
        cdef Node *tuple_node = &self.graph.nodes[self.graph.nodes[node].y]
        if not meaning.least <= tuple_node.tail <= meaning.most:
            return raise_recipe("the function that makes it is called with too few or too many arguments")
        found[0] = self.graph.children + tuple_node.x
        return 0

    cdef int numbers(self, uint32_t node, size_t at, size_t *count, const char *message) except -1 nogil:
        """Put the numbers of a tuple, or of a tuple by another name, into the scratch from place *at* on."""
        cdef const Meaning *meaning
        cdef const Node *found = &self.graph.nodes[node]
        cdef const Node *number
        cdef const uint32_t *children
        cdef size_t i
        if found.kind != TUPLE:
            meaning = self.called(node)
            if meaning != NULL and meaning.role == SIZE and self.graph.nodes[found.y].tail == 1:
                found = &self.graph.nodes[self.graph.children[self.graph.nodes[found.y].x]]
        if found.kind != TUPLE or found.tail > MAX_DIMENSIONS:
            return raise_recipe(message)
        count[0] = found.tail
        reserve(<void **>&self.sizes, &self.sizes_capacity, at + count[0] + 1, sizeof(uint64_t))
        children = self.graph.children + found.x
        for i in range(count[0]):
            number = &self.graph.nodes[children[i]]
            if number.kind == INT and int_of(number) >= 0:
                self.sizes[at + i] = wide(number)
            else:
                unsigned(number, &self.sizes[at + i], message)
        return 0

    cdef int storage(self, uint32_t node, Row *row, uint64_t *declared) except -1 nogil:
        """Find the storage that a persistent id names: number and dtype into *row*, bytes into *declared*."""
        cdef Node *persistent = &self.graph.nodes[node]
        cdef const Node *id
        cdef const uint32_t *parts
        cdef const Meaning *meaning
        cdef Slice key
        cdef uint64_t count = 0
        cdef int64_t number
        if persistent.kind != PERSID:
            return raise_recipe("what should be its storage is none")
        id = &self.graph.nodes[persistent.x]
        key = self.text(persistent.x)
        if key.length > 10 and memcmp(key.start, b"('storage'", 10) == 0:
            return raise_text_id()
        if id.kind != TUPLE or id.tail < 5:
            return raise_recipe("the persistent id of its storage has not the five parts that it should")
        parts = self.graph.children + id.x
        unsigned(&self.graph.nodes[parts[4]], &count, "the size of its storage is no count")
        if persistent.y == 0:
            key = self.text(parts[0])
            if key.length != 7 or memcmp(key.start, b"storage", 7) != 0:
                return raise_recipe("the persistent id of its storage is of an unknown sort")
            meaning = self.meaning(parts[1])
            if meaning == NULL or meaning.role != STORAGE:
                if self.graph.nodes[parts[1]].kind == GLOBAL:
                    return raise_global(
                        self.graph, parts[1], "is an unknown class of storages; a newer fastload may know it"
                    )
                return raise_recipe("the class of its storage is no class")
            key = self.text(parts[2])
            if key.start == NULL:
                return raise_recipe("the key of its storage is no text")
            number = self.find_record(key)
            if number < 0:
                return raise_no_record(self, self.prefix_length + key.length)
            check_record(self.records, <uint32_t>number)
            persistent.y = <uint32_t>(number + 1)
            persistent.high = meaning.dtype
        row.storage = persistent.y - 1
        row.dtype = <uint8_t>persistent.high
        if multiply_overflows(count, self.index.dtypes.bits[row.dtype] // 8, declared):
            return raise_too_large()
        if declared[0] > self.records.extents[row.storage].size:
            return raise_short_record(self, row.storage, declared[0])
        return 0

    cdef int64_t find_record(self, Slice key) except -2 nogil:
        """The number of the record that holds the storage *key*, or -1.

        Records mostly stand in the order in which the pickle names them, so the one behind the last is tried first.
        """
        cdef Names *names = &self.records.names
        cdef size_t number = self.next_record, length = self.prefix_length + key.length
        cdef int64_t found
        cdef const char *name
        if number < names.count and names.spans[number].length == length:
            name = names.text + names.spans[number].start
            if (
                memcmp(name + self.prefix_length, key.start, key.length) == 0
                and memcmp(name, self.record, self.prefix_length) == 0
            ):
                self.next_record = number + 1
                return <int64_t>number
        reserve(<void **>&self.record, &self.record_capacity, length, 1)
        memcpy(self.record + self.prefix_length, key.start, key.length)
        found = find_name(names, self.record, length)
        self.next_record = <size_t>(found + 1)
        return found

    cdef Slice text(self, uint32_t node) noexcept nogil:
        """The bytes of a text; none, at NULL, where it is none."""
        cdef Slice found
        cdef const Node *described = &self.graph.nodes[node]
        if described.kind == TEXT or described.kind == STR8:
            return bytes_of(self.graph, described)
        found.start = NULL
        found.length = 0
        return found

    cdef int metadata(self, uint32_t node, Row *row) except -1 nogil:
        """The flags of a lazily conjugated or negated tensor: a dict, or None."""
        cdef const Node *found = &self.graph.nodes[node]
        cdef Update update
        cdef uint32_t at, value
        cdef size_t i
        cdef Slice key
        if found.kind == NONE:
            return 0
        if found.kind != DICT:
            return raise_recipe("its metadata are no dict")
        at = found.tail
        while at:
            at = self.graph.updates[at].next
            update = self.graph.updates[at]
            for i in range(0, update.count, 2):
                key = self.text(self.graph.children[update.first + i])
                value = self.graph.children[update.first + i + 1]
                if self.graph.nodes[value].kind == FALSE:
                    continue
                if key.length == 4 and memcmp(key.start, b"conj", 4) == 0:
                    row.flags |= CONJUGATED
                elif key.length == 3 and memcmp(key.start, b"neg", 3) == 0:
                    row.flags |= NEGATED
                else:
                    return raise_recipe("its metadata say something unknown of it")
            if at == found.tail:
                break
        return 0

    cdef int read_tensor(self, uint32_t node, Row *row) except -1 nogil:
        """The row of the tensor that the call *node* makes, wrappers included; its dims go into the Index."""
        cdef const Meaning *meaning = self.called(node)
        cdef const Meaning *dtype
        cdef const uint32_t *args = NULL
        cdef uint64_t start = 0, declared = 0
        cdef size_t ndim = 0, strides = 0
        cdef int wrappers = 0
        memcpy(row, &EMPTY_ROW, sizeof(Row))
        while meaning != NULL and meaning.role == WRAPPER:
            self.arguments(node, meaning, &args)
            if row.kind == KIND_TENSOR:
                row.kind = meaning.kind
            node = args[meaning.at[TENSOR_ARG]]
            meaning = self.called(node)
            wrappers += 1
            if wrappers > MAX_WRAPPERS:
                return raise_recipe("it is wrapped too often")
        if meaning == NULL or (meaning.role != TENSOR and meaning.role != META):
            return raise_wrapped(self, node)
        if self.graph.nodes[node].tail:
            return raise_global(self.graph, self.graph.nodes[node].x, "is given a state, which cannot be read yet")
        self.arguments(node, meaning, &args)
        if meaning.role == TENSOR:
            self.storage(args[meaning.at[STORAGE_ARG]], row, &declared)
        else:
            row.kind = KIND_META
        if meaning.at[DTYPE_ARG] >= 0:
            dtype = self.meaning(args[meaning.at[DTYPE_ARG]])
            if dtype == NULL or dtype.role != DTYPE:
                if self.graph.nodes[args[meaning.at[DTYPE_ARG]]].kind == GLOBAL:
                    return raise_global(self.graph, args[meaning.at[DTYPE_ARG]], "is an unknown dtype")
                return raise_recipe("what should be its dtype is none")
            row.dtype = dtype.dtype
        if meaning.at[OFFSET_ARG] >= 0:
            unsigned(&self.graph.nodes[args[meaning.at[OFFSET_ARG]]], &start, "its offset is no count")
        if meaning.at[METADATA_ARG] >= 0 and meaning.at[METADATA_ARG] < self.graph.nodes[self.graph.nodes[node].y].tail:
            self.metadata(args[meaning.at[METADATA_ARG]], row)
        self.numbers(args[meaning.at[SIZE_ARG]], 0, &ndim, "its shape is no tuple of counts")
        self.numbers(args[meaning.at[STRIDE_ARG]], ndim, &strides, "its strides are no tuple of counts")
        if strides != ndim:
            return raise_recipe("it has not as many strides as dimensions")
        return add_geometry(self.index, row, self.sizes, self.sizes + ndim, ndim, 0, start, declared)

    cdef int read_storage(self, uint32_t node, Row *row) except -1 nogil:
        """The row of a storage that stands in the file by itself: all its elements in one dimension."""
        cdef uint64_t declared = 0
        memcpy(row, &EMPTY_ROW, sizeof(Row))
        row.kind = KIND_STORAGE
        self.storage(node, row, &declared)
        reserve(<void **>&self.sizes, &self.sizes_capacity, 3, sizeof(uint64_t))
        self.sizes[0] = declared // (self.index.dtypes.bits[row.dtype] // 8)
        self.sizes[1] = 1
        return add_geometry(self.index, row, self.sizes, self.sizes + 1, 1, 0, 0, declared)


cdef int raise_wrapped(Recipe recipe, uint32_t node) except -1 with gil:
    """Of a wrapper around something that is no plain tensor."""
    cdef Node *found = &recipe.graph.nodes[node]
    if (found.kind == REDUCE or found.kind == NEWOBJ) and recipe.graph.nodes[found.x].kind == GLOBAL:
        return raise_global(recipe.graph, found.x, "makes a tensor of a sort that fastload cannot read yet")
    return raise_recipe("what should be a tensor is none")
