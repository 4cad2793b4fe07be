"""The graph of a pickle → the Index: a walk from the root that finds the tensors and names them.

A global outside the vocabulary is inert: its items and attributes are walked for tensors, and it stops none. A tensor
that could not be named rightly, because only the program knows its place, is an error and never left out.

The graph may have cycles, and one node may be reached by very many paths. A node is not entered while it is on the path;
one from which no tensor can be reached is entered once (BARREN); and the whole walk has a budget.
"""

from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdio cimport snprintf
from libc.stdlib cimport free
from libc.string cimport memcmp, memcpy, memset

from fastload._native.graph cimport (
    BARREN, BYTEARRAY, DICT, FALSE, FROZENSET, GLOBAL, INT, ITEMS, KEYWORDS, LIST, NEWOBJ, NONE, ON_PATH, PAIRS, PERSID,
    REDUCE, SET, STATE, STR8, TEXT, TRUE, TUPLE, Graph, Node, Slice, Update, bytes_of, int_of,
)
from fastload._native.index cimport BOOL_KEY, INT_KEY, TEXT_KEY, DtypeTable, Index, Path, Records, Row, Segment
from fastload._native.keys cimport Keys, Text
from fastload._native.names cimport add_name, hash_text
from fastload._native.recipe cimport (
    LATER, MAPPING, META, SEQUENCE, SIZE, TENSOR, WRAPPER, Meaning, Recipe, Vocabulary, text_of_node,
)
from fastload._native.utf8 cimport is_utf8
from fastload._native.vector cimport reserve

from fastload.errors import FastloadError, FormatError, LimitError, UnsupportedError

cdef enum:
    # Entering a node, a step to an item and a try of a name cost 1 each. Real files stay far below: a tensor costs 4.
    BUDGET = 1_000_000
    BUDGET_PER_NODE = 16
    MAX_NAME_BYTES = 1_048_576   # of one tensor's dotted name
    MAX_NESTING = 4096           # containers around a tensor: its name has as many parts
    # All names together: they may repeat a long key of the file for each tensor below it.
    ARENA_BYTES = 67_108_864
    ARENA_PER_NODE = 256
    FEW_KEYS = 8                 # up to here keys are compared in pairs, beyond by a hash table

cdef struct Item:                # one value in a container, and how it is called there
    uint32_t key                 # a node, or a position
    uint32_t value
    uint8_t is_position
    uint8_t hidden               # only the program knows its name: an argument of a call, a state that is no dict, a key

cdef struct Frame:               # a container on the path
    uint32_t node
    uint32_t low                 # the outermost frame that something below refers back to
    size_t first, next, end      # its items
    size_t rows                  # so many tensors there were when it was entered
    size_t pending               # and so many pending nodes
    uint8_t is_module

cdef class Walk:
    """One walk over one graph, filling one Index."""
    cdef Graph graph
    cdef Recipe recipe
    cdef Index index
    cdef dict leaves             # node: row of every tensor; None where nobody asks
    cdef Frame *frames
    cdef size_t depth, frames_capacity
    cdef Item *items
    cdef size_t items_count, items_capacity
    cdef uint32_t *pending       # left without a tensor, but in a cycle with a node that is still on the path
    cdef size_t pending_count, pending_capacity
    cdef char *name              # of the tensor that is being listed
    cdef size_t name_length, name_capacity
    cdef Segment *segments       # its keys
    cdef size_t segments_capacity
    cdef Keys keys
    cdef uint32_t *slots         # for finding keys that stand twice
    cdef size_t slots_capacity
    cdef uint64_t work, budget

    def __cinit__(self, Graph graph, Recipe recipe, Index index, leaves):
        self.graph = graph
        self.recipe = recipe
        self.index = index
        self.leaves = leaves
        self.keys = Keys(graph)
        self.budget = BUDGET + BUDGET_PER_NODE * <uint64_t>graph.nodes_count

    def __dealloc__(self):
        free(self.frames)
        free(self.items)
        free(self.pending)
        free(self.name)
        free(self.segments)
        free(self.slots)

    # What is said when something is wrong.

    cdef str place(self):
        """Where the walk is, for a message."""
        try:
            self.compose()
        except FastloadError:
            return "a tensor"
        name = PyUnicode_DecodeUTF8(self.name, self.name_length, "replace")
        return repr(name) if self.depth else "the root"

    cdef int raise_budget(self) except -1 with gil:
        raise LimitError(
            "the objects of the pickle refer to each other in more ways than can be listed: stopped after"
            f" {self.index.names.count:,} tensors"
        )

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

    cdef inline int spend(self, uint64_t amount) except -1 nogil:
        self.work += amount
        if self.work > self.budget:
            return self.raise_budget()
        return 0

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
            item = &self.items[self.frames[i].next - 1]
            if item.is_position:
                self.keys.read_position(item.key, &text)
            else:
                self.keys.read(item.key, &text)
                self.spend(text.length // 1024)      # an unusual key is put together anew for each tensor below it
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
        if not is_utf8(self.name, length, True):
            return self.raise_limit("the name of a tensor is no UTF-8: the file changed while it was read")
        return 0

    cdef int name_row(self) except -1 nogil:
        """Give the next row the current name, or its first free variant: `name#2`, `name#3`, …"""
        cdef int64_t added
        cdef size_t length
        cdef unsigned int number = 2
        reserve(<void **>&self.name, &self.name_capacity, self.name_length + 32, 1)
        added = add_name(&self.index.names, self.name, self.name_length)
        while added < 0:
            self.spend(1)
            length = self.name_length + <size_t>snprintf(self.name + self.name_length, 16, "#%u", number)
            added = add_name(&self.index.names, self.name, length)
            number += 1
        if self.index.names.text_size > ARENA_BYTES + ARENA_PER_NODE * <uint64_t>self.graph.nodes_count:
            return self.raise_limit("the dotted names of the tensors are out of all proportion to the file")
        return self.index.add_path(self.segments, self.depth, number > 2)

    # Tensors.

    cdef int list_tensor(self, uint32_t node, bint is_storage) except -1 nogil:
        """List the tensor, or the bare storage, that the current item is."""
        cdef Row row
        cdef size_t i
        for i in range(self.depth):
            if self.frames[i].is_module or self.items[self.frames[i].next - 1].hidden:
                return self.raise_hidden(&self.frames[i])
        self.spend(1)
        if is_storage:
            self.recipe.read_storage(node, &row)
        else:
            self.recipe.read_tensor(node, &row)
        self.compose()
        self.name_row()
        self.index.add_row(&row)
        if self.leaves is not None:
            self.note_leaf(node)
        return 0

    cdef int note_leaf(self, uint32_t node) except -1 with gil:
        self.leaves.setdefault(node, self.index.names.count - 1)
        return 0

    # Containers.

    cdef inline int add_item(self, uint32_t key, uint32_t value, bint is_position, bint hidden) except -1 nogil:
        """One item of the container that is being entered."""
        cdef Item *item
        reserve(<void **>&self.items, &self.items_capacity, self.items_count + 1, sizeof(Item))
        item = &self.items[self.items_count]
        item.key = key
        item.value = value
        item.is_position = is_position
        item.hidden = hidden
        self.items_count += 1
        return 0

    cdef inline bint is_worth_entering(self, uint32_t node) noexcept nogil:
        """Whether a tensor may be found at a value: it has children, and was not found to lead to none."""
        cdef const Node *found = &self.graph.nodes[node]
        return found.kind > BYTEARRAY and found.kind != GLOBAL and not found.flags & BARREN

    cdef int drop_plain(self, size_t first) except -1 nogil:
        """Leave out the items, from *first* on, at which there is no tensor."""
        cdef size_t i, kept = first
        for i in range(first, self.items_count):
            if self.is_worth_entering(self.items[i].value):
                self.items[kept] = self.items[i]
                kept += 1
        self.items_count = kept
        return 0

    cdef int drop_repeated(self, size_t first) except -1 nogil:
        """Of items with one key, from *first* on, keep the last value in the first place, as a dict does."""
        cdef size_t count = self.items_count - first, kept = first, i, j, mask, at
        cdef Text text
        if count <= FEW_KEYS:
            for i in range(first, self.items_count):
                j = first
                while j < kept and not self.keys.equal(self.items[j].key, self.items[i].key):
                    j += 1
                if j < kept:
                    self.items[j].value = self.items[i].value
                else:
                    self.items[kept] = self.items[i]
                    kept += 1
            self.items_count = kept
            return 0
        mask = 16
        while mask < count * 2:
            mask *= 2
        reserve(<void **>&self.slots, &self.slots_capacity, mask, sizeof(uint32_t))
        memset(self.slots, 0, mask * sizeof(uint32_t))
        mask -= 1
        for i in range(first, self.items_count):
            self.keys.read(self.items[i].key, &text)
            at = hash_text(text.start, text.length) & mask
            while self.slots[at] and not self.keys.equal(self.items[first + self.slots[at] - 1].key, self.items[i].key):
                at = (at + 1) & mask
            if self.slots[at]:
                self.items[first + self.slots[at] - 1].value = self.items[i].value
            else:
                self.items[kept] = self.items[i]
                kept += 1
                self.slots[at] = <uint32_t>(kept - first)
        self.items_count = kept
        return 0

    cdef int add_values(self, uint32_t first, size_t count, bint hidden) except -1 nogil:
        """Children that are called by their position."""
        cdef size_t i, start = self.items_count
        self.spend(count)
        for i in range(count):
            self.add_item(<uint32_t>i, self.graph.children[first + i], True, hidden)
        return self.drop_plain(start)

    cdef int add_appended(self, uint32_t node) except -1 nogil:
        """What was appended to a list, set or object."""
        cdef uint32_t at = self.graph.nodes[node].tail, position = 0
        cdef size_t i, start = self.items_count
        cdef Update update
        while at:
            at = self.graph.updates[at].next
            update = self.graph.updates[at]
            if update.kind == ITEMS:
                self.spend(update.count)
                for i in range(update.count):
                    self.add_item(position, self.graph.children[update.first + i], True, False)
                    position += 1
            if at == self.graph.nodes[node].tail:
                break
        return self.drop_plain(start)

    cdef int add_set(self, uint32_t node) except -1 nogil:
        """What was set by key in a dict or object."""
        cdef uint32_t at = self.graph.nodes[node].tail, key
        cdef size_t i, start = self.items_count, end
        cdef Update update
        cdef bint worth = False
        while at:
            at = self.graph.updates[at].next
            update = self.graph.updates[at]
            if update.kind == PAIRS:
                self.spend(update.count)
                for i in range(0, update.count, 2):
                    self.add_item(
                        self.graph.children[update.first + i], self.graph.children[update.first + i + 1], False, False
                    )
                    worth = worth or self.is_worth_entering(self.graph.children[update.first + i + 1])
                    worth = worth or self.is_worth_entering(self.graph.children[update.first + i])
            if at == self.graph.nodes[node].tail:
                break
        if not worth:
            self.items_count = start
            return 0
        self.drop_repeated(start)
        end = self.items_count
        for i in range(start, end):
            key = self.items[i].key
            if self.is_worth_entering(key):
                self.add_item(0, key, True, True)
        return self.drop_plain(start)

    cdef int add_listed_pairs(self, uint32_t node) except -1 nogil:
        """The pairs in a list of them, which is how Python 2 pickled an OrderedDict."""
        cdef uint32_t at = self.graph.nodes[node].tail, child
        cdef size_t i, start = self.items_count
        cdef Update update
        cdef uint32_t pair[2]
        while at:
            at = self.graph.updates[at].next
            update = self.graph.updates[at]
            self.spend(update.count)
            for i in range(update.count):
                child = self.graph.children[update.first + i]
                if self.two_of(child, pair):
                    self.add_item(pair[0], pair[1], False, False)
                else:
                    self.add_item(0, child, True, True)
            if at == self.graph.nodes[node].tail:
                break
        self.drop_repeated(start)
        return self.drop_plain(start)

    cdef bint two_of(self, uint32_t node, uint32_t *pair) noexcept nogil:
        """Whether a node is a list or tuple of two, and which."""
        cdef const Node *found = &self.graph.nodes[node]
        cdef Update update
        cdef uint32_t at, count = 0
        cdef size_t i
        if found.kind == TUPLE and found.tail == 2:
            memcpy(pair, self.graph.children + found.x, 2 * sizeof(uint32_t))
            return True
        if found.kind != LIST or not found.tail:
            return False
        at = found.tail
        while True:
            at = self.graph.updates[at].next
            update = self.graph.updates[at]
            for i in range(update.count):
                if count == 2:
                    return False
                pair[count] = self.graph.children[update.first + i]
                count += 1
            if at == found.tail:
                return count == 2

    cdef int add_state(self, Frame *frame, uint32_t state) except -1 nogil:
        """The attributes of an object: a dict, or a pair of dicts where it has slots."""
        cdef const Node *found = &self.graph.nodes[state]
        cdef uint32_t pair[2]
        cdef int i
        if found.kind == DICT:
            frame.is_module = frame.is_module or self.is_module_state(state)
            return self.add_set(state)
        if found.kind == TUPLE and self.two_of(state, pair):
            for i in range(2):
                if self.graph.nodes[pair[i]].kind == DICT:
                    self.add_set(pair[i])
                elif self.is_worth_entering(pair[i]):
                    self.add_item(<uint32_t>i, pair[i], True, True)
            return 0
        if self.is_worth_entering(state):
            return self.add_item(0, state, True, True)
        return 0

    cdef bint is_module_state(self, uint32_t state) except -1 nogil:
        """Whether the attributes are those of a torch.nn.Module, however its class is called."""
        cdef uint32_t at = self.graph.nodes[state].tail
        cdef size_t i
        cdef Update update
        cdef Text text
        cdef int found = 0
        while at:
            at = self.graph.updates[at].next
            update = self.graph.updates[at]
            self.spend(update.count)
            for i in range(0, update.count, 2):
                if self.graph.nodes[self.graph.children[update.first + i]].kind not in (TEXT, STR8):
                    continue
                self.keys.read(self.graph.children[update.first + i], &text)
                if text.length == 11 and memcmp(text.start, b"_parameters", 11) == 0:
                    found |= 1
                elif text.length == 8 and memcmp(text.start, b"_buffers", 8) == 0:
                    found |= 2
                elif text.length == 8 and memcmp(text.start, b"_modules", 8) == 0:
                    found |= 4
            if at == self.graph.nodes[state].tail:
                break
        return found == 7

    cdef int add_call(self, Frame *frame, uint32_t node) except -1 nogil:
        """What an object holds: its arguments as far as their meaning is known, its items and its attributes."""
        cdef const Node *found = &self.graph.nodes[node]
        cdef const Meaning *meaning = self.recipe.called(node)
        cdef const Node *arguments = &self.graph.nodes[found.y]
        cdef Update update
        cdef uint32_t at = found.tail, argument
        cdef size_t i
        if self.is_worth_entering(found.x):
            self.add_item(0, found.x, True, True)
        for i in range(arguments.tail):
            argument = self.graph.children[arguments.x + i]
            if meaning != NULL and meaning.role == MAPPING and self.graph.nodes[argument].kind == DICT:
                self.add_set(argument)
            elif meaning != NULL and meaning.role == MAPPING and self.graph.nodes[argument].kind == LIST:
                self.add_listed_pairs(argument)
            elif meaning != NULL and meaning.role == SEQUENCE and self.graph.nodes[argument].kind == LIST:
                self.add_appended(argument)
            elif self.is_worth_entering(argument):
                self.add_item(<uint32_t>i, argument, True, True)
        self.add_set(node)
        self.add_appended(node)
        while at:
            at = self.graph.updates[at].next
            update = self.graph.updates[at]
            if update.kind == STATE:
                self.add_state(frame, self.graph.children[update.first])
            elif update.kind == KEYWORDS and self.is_worth_entering(self.graph.children[update.first]):
                self.add_item(0, self.graph.children[update.first], True, True)
            if at == found.tail:
                break
        return 0

    # The walk.

    cdef int enter(self, uint32_t node) except -1 nogil:
        """Go into a container: its items come next."""
        cdef Node *found = &self.graph.nodes[node]
        cdef Frame *frame
        self.spend(1)
        reserve(<void **>&self.frames, &self.frames_capacity, self.depth + 1, sizeof(Frame))
        frame = &self.frames[self.depth]
        frame.node = node
        frame.low = 0xFFFFFFFF
        frame.first = frame.next = self.items_count
        frame.rows = self.index.names.count
        frame.pending = self.pending_count
        frame.is_module = False
        if found.kind == TUPLE or found.kind == FROZENSET:
            self.add_values(found.x, found.tail, False)
        elif found.kind == LIST or found.kind == SET:
            self.add_appended(node)
        elif found.kind == DICT:
            self.add_set(node)
        else:
            self.add_call(frame, node)
        frame.end = self.items_count
        found.flags |= ON_PATH
        self.depth += 1
        return 0

    cdef int leave(self) except -1 nogil:
        """Come out of the innermost container, and remember it if no tensor can be reached from it.

        A node that refers back to one still on the path may yet lead to a tensor by way of it, so it is only pending; with
        the outermost node of such a cycle all of them are decided (the components of Tarjan's algorithm).
        """
        cdef Frame *frame
        cdef Frame *outer
        cdef Node *left
        cdef size_t i
        self.depth -= 1
        frame = &self.frames[self.depth]
        self.items_count = frame.first
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
        self.spend(self.depth - at + 1)
        if at - 1 < self.frames[self.depth - 1].low:
            self.frames[self.depth - 1].low = <uint32_t>(at - 1)
        return 0

    cdef int visit(self, uint32_t node) except -1 nogil:
        """List a tensor, or go into a container."""
        cdef const Node *found = &self.graph.nodes[node]
        cdef const Meaning *meaning = self.recipe.called(node)
        if not self.is_worth_entering(node):
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
            self.spend(1)
            self.visit(self.items[frame.next - 1].value)
        return 0


def harvest(
    Graph graph not None, Vocabulary vocabulary not None, source, DtypeTable dtypes not None, Records records not None,
    bytes prefix not None, bint swapped, leaves=None
):
    """The Index of the tensors of a pickle.

    Parameters
    ----------
    graph : Graph
        The pickle; it is marked by the walk, and serves one walk only.
    vocabulary : Vocabulary
        What its globals mean.
    source, dtypes, records, swapped
        For the Index; *records* hold the storages.
    prefix : bytes
        What stands before a storage's key in the name of its record.
    leaves : dict, optional
        Filled with the row of every node that is a tensor.

    Raises
    ------
    FormatError
        A tensor's call, storage or geometry makes no sense.
    UnsupportedError
        A tensor of a sort that cannot be read yet, or one whose place only its program knows.
    LimitError
        The objects refer to each other in too many ways, or the names grow beyond measure.
    """
    cdef Index index = Index(source, dtypes, records, swapped)
    cdef Walk walk
    vocabulary.resolve(graph)
    walk = Walk(graph, Recipe(graph, vocabulary, index, records, prefix), index, leaves)
    try:
        with nogil:
            walk.run()
    except FormatError as error:
        error.message = f"tensor {walk.place()}: {error.message}"
        raise
    return index
