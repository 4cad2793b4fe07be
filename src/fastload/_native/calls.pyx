"""The calls of a pickle: the vocabulary that says what they mean, and the taking apart of one.

Which functions there are and what their arguments mean is a table that the caller makes (`Vocabulary`); the core knows
no library's names.
"""

import re

cimport cython
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdio cimport snprintf
from libc.stdlib cimport free
from libc.string cimport memcmp, memcpy

from fastload._native.graph cimport (
    BARREN, FALSE, GLOBAL, INT, LIST, NEWOBJ, NONE, PERSID, REDUCE, STATE, STR8, TEXT, TRUE, TUPLE, Graph, Node,
    Slice, bytes_of, int_of, wide,
)
from fastload._native.index cimport MAX_DIMENSIONS, Index, Records
from fastload._native.vector cimport reserve

from fastload._native.index import KINDS
from fastload.errors import FormatError, UnsupportedError

# The words for Role and Argument, in their order.
ROLES = (
    "inert", "storage", "dtype", "size", "tensor", "meta", "subclass", "wrapper", "from_type", "old_tensor", "sparse",
    "nested", "ragged", "loader", "array", "masked", "from_buffer", "encode", "mapping", "sequence", "native",
    "optimised", "rebuild", "new", "opaque",
)
ARGUMENTS = (
    "storage", "offset", "size", "stride", "dtype", "metadata", "tensor", "state", "function", "arguments",
    "quantizer", "layout", "parts", "data", "order", "axes",
)

# A storage's persistent id as protocol 0 writes it: the `repr` of the tuple.
TEXT_ID = re.compile(rb"\('storage', <class '([\w.]+)'>, '(\w+)', '[^']*', (\d+)(?:, None)?\)")


@cython.final
cdef class Vocabulary:
    """What the globals of a pickle mean.

    Parameters
    ----------
    rows : iterable of (module, name, role, dtype, kind, arguments)
        *module* None stands for any. *dtype* is a code, for storages and dtypes. *kind* is one of `KINDS`, for
        wrappers. *arguments* names the arguments of a function in order; a ``?`` marks those that may be missing, and
        what is not in `ARGUMENTS` is ignored.
    makers : dict
        (module, name) to a pair, how the core is to use it and what makes a plain value: ("call", function of the
        arguments in the file), ("state", function of the arguments and of what was handed to `__setstate__`),
        ("namespace", None) for an object that is nothing but its attributes, ("constant", value), and ("new", function
        of the arguments behind a class, which returns those of the class and the items). A function that raises
        TypeError, ValueError or LookupError leaves a Record.
    mapping : function
        The maker that marks a dict-like class, whose items are set after it is made.
    array_dtype : function
        Of the arguments and the state of a pickled NumPy dtype, and whether that of a mask over such elements is meant:
        its (name, numpy.dtype, unit in bytes whose order is reversed where it is big-endian, whether it is), with the
        name of a row of the dtype table where one describes it; None for one of objects, or one that makes no sense.
    quantization : function
        Makes what an entry shows of (scheme, scale, zero_point, axis).
    """

    def __init__(self, rows, dict makers not None, mapping, array_dtype, quantization):
        cdef Meaning *meaning
        self.makers = makers
        self.mapping = mapping
        self.array_dtype = array_dtype
        self.quantization = quantization
        self.numbers = {}
        for number, (module, name, role, dtype, kind, arguments) in enumerate(rows):
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

    cdef int resolve(self, Graph graph) except -1:
        """Write into each global of *graph* what it means: number + 1, or 0."""
        cdef size_t i
        cdef Node *node
        cdef uint8_t role
        for i in range(graph.globals_count):
            node = &graph.nodes[graph.globals[i]]
            module, name = text_of_node(graph, node.x), text_of_node(graph, node.y)
            number = self.numbers.get((module, name))
            if number is None:
                number = self.numbers.get((None, name), -1)
            node.tail = number + 1
            role = self.meanings[node.tail - 1].role if node.tail else INERT
            if role == INERT or role == MAPPING or role == SEQUENCE:
                node.flags |= BARREN
            graph.has_native |= role == NATIVE
        return 0

    cdef const Meaning *named(self, str module, str name) except? NULL:
        """What a global means; NULL where nothing is known of it."""
        number = self.numbers.get((module, name))
        if number is None:
            number = self.numbers.get((None, name))
        return NULL if number is None else &self.meanings[<size_t>number]


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


cdef int unsigned(const Node *node, uint64_t *value, const char *message) except -1 nogil:
    """A count, size or place: an int that is not negative. A bool is an int, as in Python."""
    if node.kind == INT and int_of(node) >= 0:
        value[0] = <uint64_t>int_of(node)
    elif node.kind == TRUE or node.kind == FALSE:
        value[0] = node.kind == TRUE
    else:
        return raise_recipe(message)
    return 0


cdef class Calls:
    """Takes the calls of one graph apart.

    Parameters
    ----------
    index : Index
        What is being filled.
    records : Records
        The storages.
    prefix, suffix : bytes
        What stands before and after a storage's key in the name of its record.
    tensors : dict, optional
        Of an archive that keeps its tensors outside the pickle: by key, their
        (dtype code, record, offset, sizes, strides, whether it is a bare storage), the middle three in elements.
    """

    def __cinit__(
        self, Graph graph, Vocabulary vocabulary, Index index, Records records, bytes prefix=b"", bytes suffix=b"",
        dict tensors=None,
    ):
        self.graph = graph
        self.vocabulary = vocabulary
        self.index = index
        self.records = records
        self.tensors = tensors
        self.suffix = suffix
        self.suffix_text = <const char *>self.suffix
        self.suffix_length = len(suffix)
        self.blobs = {}
        self.array_dtypes = {}
        self.array_storages = {}
        self.dtype_parts = MAX_DTYPE_PARTS
        self.prefix_length = len(prefix)
        reserve(<void **>&self.record, &self.record_capacity, len(prefix) + 64, 1)
        memcpy(self.record, <const char *>prefix, len(prefix))

    def __dealloc__(self):
        free(self.sizes)
        free(self.record)

    cdef const Meaning *meaning(self, uint32_t node) noexcept nogil:
        """What a global means; NULL where it is no global, or the vocabulary lacks it."""
        cdef const Node *found = &self.graph.nodes[node]
        if found.kind == PERSID:
            found = &self.graph.nodes[self.class_in_id(node)]
        if found.kind != GLOBAL or found.tail == 0:
            return NULL
        return &self.vocabulary.meanings[found.tail - 1]

    cdef uint32_t class_in_id(self, uint32_t node) noexcept nogil:
        """The class that an id ("module", class, file, source) of a legacy stream stands for; else *node*."""
        cdef const Node *id = &self.graph.nodes[self.graph.nodes[node].x]
        cdef Slice sort
        if id.kind != TUPLE or id.tail != 4:
            return node
        sort = self.text(self.graph.children[id.x])
        if sort.length != 6 or memcmp(sort.start, b"module", 6) != 0:
            return node
        return self.graph.children[id.x + 1]

    cdef bint open_call(self, uint32_t node, Call *call) noexcept nogil:
        """Whether *node* is a call; what it calls, with what."""
        cdef const Node *found = &self.graph.nodes[node]
        cdef const Meaning *made
        call.skipped = 0
        call.state = 0
        call.kind = 0
        call.wrappers = 0
        call.node = node
        if found.kind != REDUCE and found.kind != NEWOBJ:
            call.meaning = NULL
            return False
        call.meaning = self.meaning(found.x)
        call.arguments = found.y
        if call.meaning != NULL and call.meaning.role == NEW and self.graph.nodes[found.y].tail:
            made = self.meaning(self.graph.children[self.graph.nodes[found.y].x])
            if made != NULL and (made.role == WRAPPER or made.role == OLD_TENSOR):
                call.meaning = made
                call.skipped = 1
        return True

    cdef bint is_bare_tensor(self, uint32_t node) noexcept nogil:
        """Whether *node* is the call of a function that makes a tensor of a storage, with nothing around it."""
        cdef const Node *found = &self.graph.nodes[node]
        if found.kind != REDUCE:
            return False
        found = &self.graph.nodes[found.x]
        return found.kind == GLOBAL and found.tail and self.vocabulary.meanings[found.tail - 1].role == TENSOR

    cdef uint32_t argument(self, const Call *call, int which) noexcept nogil:
        """The node of an argument; 0 where it is not given."""
        cdef const Node *arguments = &self.graph.nodes[call.arguments]
        if call.meaning.at[which] < 0 or <uint32_t>call.meaning.at[which] >= arguments.tail - call.skipped:
            return 0
        return self.graph.children[arguments.x + call.skipped + call.meaning.at[which]]

    cdef bint unwrap(self, Call *call) noexcept nogil:
        """Go from a call that only adds something to a tensor to the one within that makes it."""
        cdef uint32_t function, arguments, tensor
        cdef uint8_t kind = call.kind, wrappers = call.wrappers + 1
        if call.meaning == NULL or wrappers > MAX_WRAPPERS:
            return False
        if call.meaning.role == FROM_TYPE:
            function = self.argument(call, FUNCTION_ARG)
            arguments = self.argument(call, ARGUMENTS_ARG)
            if not function or not arguments or self.graph.nodes[arguments].kind != TUPLE:
                call.meaning = NULL
                return False
            call.state = self.argument(call, STATE_ARG)
            call.meaning = self.meaning(function)
            call.arguments = arguments
            call.skipped = 0
            call.node = 0
            call.wrappers = wrappers
            return True
        if call.meaning.role == WRAPPER:
            function = self.argument(call, STATE_ARG)
            tensor = self.argument(call, TENSOR_ARG)
            if not tensor:
                tensor = self.tensor_in_state(call)
            if kind == 0:
                kind = call.meaning.kind
            if not tensor or not self.open_call(tensor, call):
                call.meaning = NULL
                return False
            call.state = function
            call.kind = kind
            call.wrappers = wrappers
            return True
        return False

    cdef uint32_t tensor_in_state(self, const Call *call) noexcept nogil:
        """The tensor of an old parameter: its state was (tensor, creator, hooks, whether to train it, …); 0 if not."""
        cdef const Node *state
        if not call.node:
            return 0
        state = &self.graph.nodes[self.state_of(call.node)]
        return self.graph.children[state.x] if state.kind == TUPLE and state.tail == 5 else 0

    cdef bint base(self, uint32_t node, Call *call) noexcept nogil:
        """The innermost call that makes the tensor, storage or array *node*; False where it is no known call."""
        if not self.open_call(node, call):
            return False
        while self.unwrap(call):
            pass
        return call.meaning != NULL and call.meaning.role != WRAPPER and call.meaning.role != FROM_TYPE

    cdef int arguments(self, const Call *call, const uint32_t **found) except -1 nogil:
        """The arguments of a call, as many as its function takes."""
        cdef Node *tuple_node = &self.graph.nodes[call.arguments]
        if not call.meaning.least <= tuple_node.tail <= call.meaning.most:
            return raise_recipe("the function that makes it is called with too few or too many arguments")
        found[0] = self.graph.children + tuple_node.x
        return 0

    cdef uint32_t state_of(self, uint32_t node) noexcept nogil:
        """What was handed to `__setstate__` of an object last; 0 if nothing was, or *node* is no object."""
        cdef uint32_t last = self.graph.nodes[node].tail, at = last, found = 0
        if self.graph.nodes[node].kind < LIST:   # whose tail counts something else
            return 0
        while at:
            at = self.graph.updates[at].next
            if self.graph.updates[at].kind == STATE:
                found = self.graph.children[self.graph.updates[at].first]
            if at == last:
                break
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

    cdef int numbers(self, uint32_t node, size_t at, size_t *count, const char *message) except -1 nogil:
        """Put the numbers of a tuple, or of a tuple by another name, into the scratch from place *at* on."""
        cdef Call call
        cdef const Node *found = &self.graph.nodes[node]
        cdef const Node *number
        cdef const uint32_t *children
        cdef size_t i
        if found.kind != TUPLE:
            if self.open_call(node, &call) and call.meaning != NULL and call.meaning.role == SIZE and (
                self.graph.nodes[found.y].tail == 1
            ):
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

    cdef int identify(self, uint32_t node, Identity *identity) except -1 nogil:
        """Read what a persistent id says of a storage."""
        cdef const Node *id = &self.graph.nodes[self.graph.nodes[node].x]
        cdef const uint32_t *parts
        cdef Slice sort = self.text(self.graph.nodes[node].x)
        identity.meaning = NULL
        identity.view = 0
        if sort.length > 10 and memcmp(sort.start, b"('storage'", 10) == 0:
            return self.identify_text(sort, identity)
        if id.kind != TUPLE or id.tail < 5:
            return raise_recipe("the persistent id of its storage has not the five parts that it should")
        parts = self.graph.children + id.x
        sort = self.text(parts[0])
        if sort.length != 7 or memcmp(sort.start, b"storage", 7) != 0:
            return raise_recipe("the persistent id of its storage is of an unknown sort")
        unsigned(&self.graph.nodes[parts[4]], &identity.count, "the size of its storage is no count")
        identity.meaning = self.meaning(parts[1])
        if identity.meaning == NULL or identity.meaning.role != STORAGE:
            if self.graph.nodes[parts[1]].kind == GLOBAL:
                return raise_global(
                    self.graph, parts[1], "is an unknown class of storages; a newer fastload may know it"
                )
            return raise_recipe("the class of its storage is no class")
        identity.key = self.text(parts[2])
        if self.suffix_length and self.graph.nodes[parts[2]].kind == INT:  # as packages number their storages
            identity.key.start = self.digits
            identity.key.length = <size_t>snprintf(
                self.digits, sizeof(self.digits), "%lld", <long long>int_of(&self.graph.nodes[parts[2]])
            )
        if identity.key.start == NULL:
            return raise_recipe("the key of its storage is no text")
        if id.tail > 5 and self.graph.nodes[parts[5]].kind != NONE:
            identity.view = parts[5]
        return 0

    cdef int view_metadata(
        self, const Identity *identity, uint64_t item, uint64_t *base, uint64_t *size
    ) except -1 nogil:
        """A part of a storage that is one by itself, as torch before 0.4 wrote it: (key, offset, size) in elements."""
        cdef const Node *found = &self.graph.nodes[identity.view]
        cdef const uint32_t *parts = self.graph.children + found.x
        cdef uint64_t offset = 0, count = 0
        if found.kind != TUPLE or found.tail != 3:
            return raise_recipe("what should say which part of a storage it is does not")
        unsigned(&self.graph.nodes[parts[1]], &offset, "the part of its storage begins at no count")
        unsigned(&self.graph.nodes[parts[2]], &count, "the size of the part of its storage is no count")
        if offset > identity.count or count > identity.count - offset:
            return raise_recipe("the part of a storage that it is reaches beyond the whole")
        base[0] = offset * item                  # of a count whose bytes were found to fit
        size[0] = count * item
        return 0

    cdef int identify_text(self, Slice text, Identity *identity) except -1 with gil:
        """The same of an id of protocol 0, which is the `repr` of that of the others."""
        found = TEXT_ID.fullmatch(text.start[:text.length])
        if found is None:
            raise FormatError("the persistent id of its storage is a text that says something unknown")
        module, _, name = found[1].decode().rpartition(".")
        identity.meaning = self.vocabulary.named(module, name)
        if identity.meaning == NULL or identity.meaning.role != STORAGE:
            raise UnsupportedError(f"{module}.{name} is an unknown class of storages; a newer fastload may know it")
        if len(found[3]) > 18:
            raise FormatError("the size of its storage is no count")
        identity.count = int(found[3])
        identity.key.start = text.start + <size_t>found.start(2)
        identity.key.length = len(found[2])
        return 0
