"""What a node of the graph holds: its items, each with the key that names it.

A dict has its pairs, a list its values; an object has the arguments of its call, what was set and appended, and its
attributes; a pickled module has its state dict. Of a key that stands twice the last value counts, in the first place.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcmp, memcpy, memset

from fastload._native.arrays cimport DATA, MASK, ArrayParts, find_array, holds_objects
from fastload._native.calls cimport (
    ARRAY, FROM_BUFFER, LAYOUT_ARG, MAPPING, MASKED, META, NATIVE, NESTED, OLD_TENSOR, OPAQUE, PARTS_ARG, RAGGED,
    REBUILD, SEQUENCE, SPARSE, SUBCLASS, TENSOR, Call, Calls,
)
from fastload._native.graph cimport (
    DICT, FROZENSET, GLOBAL, INT, ITEMS, KEYWORDS, LIST, PAIRS, PERSID, REDUCE, SET, STATE,
    TEXT, TUPLE, Graph, Node, Slice, Update, int_of, is_worth_entering,
)
from fastload._native.index cimport KIND_COMPONENT
from fastload._native.keys cimport (
    CALLABLE_WORD, CCOL_INDICES_WORD, COL_INDICES_WORD, CROW_INDICES_WORD, DATA_WORD, FILL_VALUE_WORD, INDICES_WORD,
    MASK_WORD, OFFSETS_WORD, ROW_INDICES_WORD, SIZES_WORD, STATE_WORD, STRIDES_WORD, VALUES_WORD, Keys,
)
from fastload._native.vector cimport reserve

from fastload.errors import LimitError

cdef enum:
    # Entering a node, a step to an item and a try of a name cost 1 each. Real files stay far below: a tensor costs 4.
    BUDGET = 1_000_000
    BUDGET_PER_NODE = 16
    FEW_KEYS = 8                 # up to here keys are compared in pairs, beyond by a hash table


cdef inline void put_item(Contents contents, uint32_t key, uint32_t value, uint8_t sort) noexcept nogil:
    """Push one item, for which there is room."""
    cdef Item *item = &contents.items[contents.count]
    item.key = key
    item.value = value
    item.sort = sort
    item.kind = KIND_OWN
    item.is_submodule = False
    item.part = 0
    item.is_worth_entering = is_worth_entering(contents.graph, value)
    contents.count += 1


cdef class Contents:
    """Gathers the items of the nodes of one graph, within a budget."""

    def __cinit__(self, Graph graph, Calls calls, Keys keys, *more):
        self.graph = graph
        self.calls = calls
        self.keys = keys
        self.budget = BUDGET + BUDGET_PER_NODE * <uint64_t>graph.nodes_count

    def __dealloc__(self):
        free(self.items)
        free(self.slots)

    cdef int raise_budget(self) except -1 with gil:
        raise LimitError("the objects of the pickle refer to each other in more ways than can be listed")

    cdef int gather(self, uint32_t node) except -1 nogil:
        """Push the items of *node* at which a tensor may be found."""
        cdef const Node *found = &self.graph.nodes[node]
        cdef size_t start = self.count, middle
        cdef Call call
        self.is_module = False
        spend(self, 1)
        if found.kind == TUPLE or found.kind == FROZENSET:
            return self.add_values(found.x, found.tail)
        if found.kind == LIST or found.kind == SET:
            return self.add_appended(node)
        if found.kind == DICT:
            return self.add_set(node)
        if self.calls.base(node, &call):
            if call.meaning.role == OPAQUE:
                return 0
            if call.meaning.role in (
                SPARSE, NESTED, RAGGED, TENSOR, META, OLD_TENSOR, SUBCLASS, ARRAY, MASKED, FROM_BUFFER,
            ):
                self.add_components(&call)
                middle = self.count
                self.add_tensor_attributes(node)
                return self.drop_components(start, middle)
        return self.gather_object(node)

    cdef int gather_object(self, uint32_t node) except -1 nogil:
        """Push the items of an instance of whatever class."""
        cdef const Node *found = &self.graph.nodes[node]
        cdef const Node *id
        cdef Call call
        if found.kind == PERSID:                 # an object that a package describes: (sort, id, function, arguments)
            id = &self.graph.nodes[found.x]
            if id.kind != TUPLE or not id.tail:
                return 0
            return self.add_content(self.graph.children[id.x + id.tail - 1], id.tail - 1)
        self.calls.open_call(node, &call)
        if call.meaning != NULL and call.meaning.role == NATIVE:
            return self.add_native(node)
        return self.add_call(node, &call)

    cdef int add_item(self, uint32_t key, uint32_t value, uint8_t sort) except -1 nogil:
        """One item of the container that is being entered."""
        reserve(<void **>&self.items, &self.capacity, self.count + 1, sizeof(Item))
        put_item(self, key, value, sort)
        return 0

    cdef int drop_plain(self, size_t first) except -1 nogil:
        """Leave out the items, from *first* on, at which there is no tensor."""
        cdef size_t i, kept = first
        for i in range(first, self.count):
            if self.items[i].is_worth_entering:
                self.items[kept] = self.items[i]
                kept += 1
        self.count = kept
        return 0

    cdef int number_tensor_keys(self, size_t first) noexcept nogil:
        """Call the tensors that are keys, from *first* on, by their place among such keys: they have no text."""
        cdef size_t i
        cdef uint32_t number = 0
        cdef Call call
        for i in range(first, self.count):
            if self.items[i].sort == NODE_KEY and self.calls.base(self.items[i].key, &call) and (
                call.meaning.role == TENSOR or call.meaning.role == OLD_TENSOR
            ):
                self.items[i].sort = TENSOR_KEY
                self.items[i].key = number
                number += 1
        return 0

    cdef int drop_repeated(self, size_t first) except -1 nogil:
        """Of items with one key, from *first* on, keep the last value in the first place, as a dict does."""
        cdef size_t count = self.count - first, kept = first, i, j, mask, at
        if count <= FEW_KEYS:
            for i in range(first, self.count):
                j = first
                while j < kept and not self.keys.equal(self.items[j].key, self.items[i].key):
                    j += 1
                if j < kept:
                    self.items[j].value = self.items[i].value
                    self.items[j].is_worth_entering = self.items[i].is_worth_entering
                else:
                    self.items[kept] = self.items[i]
                    kept += 1
            self.count = kept
            return 0
        mask = 16
        while mask < count * 2:
            mask *= 2
        reserve(<void **>&self.slots, &self.slots_capacity, mask, sizeof(uint32_t))
        memset(self.slots, 0, mask * sizeof(uint32_t))
        mask -= 1
        for i in range(first, self.count):
            at = self.keys.hash(self.items[i].key) & mask
            while self.slots[at] and not self.keys.equal(self.items[first + self.slots[at] - 1].key, self.items[i].key):
                spend(self, 1)
                at = (at + 1) & mask
            if self.slots[at]:
                j = first + self.slots[at] - 1
                self.items[j].value = self.items[i].value
                self.items[j].is_worth_entering = self.items[i].is_worth_entering
            else:
                self.items[kept] = self.items[i]
                kept += 1
                self.slots[at] = <uint32_t>(kept - first)
        self.count = kept
        return 0

    cdef int add_values(self, uint32_t first, size_t count) except -1 nogil:
        """Children that are called by their position."""
        cdef size_t i, start = self.count
        spend(self, count)
        for i in range(count):
            self.add_item(<uint32_t>i, self.graph.children[first + i], POSITION_KEY)
        return self.drop_plain(start)

    cdef int add_appended(self, uint32_t node) except -1 nogil:
        """What was appended to a list, set or object."""
        cdef uint32_t at = self.graph.nodes[node].tail, position = 0
        cdef size_t i, start = self.count
        cdef Update update
        while at:
            at = self.graph.updates[at].next
            update = self.graph.updates[at]
            if update.kind == ITEMS:
                spend(self, update.count)
                for i in range(update.count):
                    self.add_item(position, self.graph.children[update.first + i], POSITION_KEY)
                    position += 1
            if at == self.graph.nodes[node].tail:
                break
        return self.drop_plain(start)

    cdef int add_set(self, uint32_t node) except -1 nogil:
        """What was set by key in a dict or object."""
        cdef uint32_t at = self.graph.nodes[node].tail, key, value
        cdef size_t i, start = self.count
        cdef bint worth = False, composite = False, bare = not self.careful
        cdef Update update
        while at:
            at = self.graph.updates[at].next
            update = self.graph.updates[at]
            if update.kind == PAIRS:
                spend(self, update.count)
                reserve(<void **>&self.items, &self.capacity, self.count + update.count // 2, sizeof(Item))
                for i in range(0, update.count, 2):
                    key = self.graph.children[update.first + i]
                    value = self.graph.children[update.first + i + 1]
                    put_item(self, key, value, NODE_KEY)
                    worth |= self.items[self.count - 1].is_worth_entering
                    composite |= is_worth_entering(self.graph, key)
                    bare = bare and self.graph.nodes[key].kind == TEXT and self.calls.is_bare_tensor(value)
            if at == self.graph.nodes[node].tail:
                break
        if not worth:
            self.count = start
            return 0
        if bare and self.count - start > FEW_KEYS:
            return 0                             # of two tensors by one key the walk finds the names, and begins anew
        self.drop_repeated(start)
        if composite:
            self.number_tensor_keys(start)
        return self.drop_plain(start)

    cdef int add_listed_pairs(self, uint32_t node) except -1 nogil:
        """The pairs in a list of them, which is how Python 2 pickled an OrderedDict."""
        cdef uint32_t at = self.graph.nodes[node].tail, position = 0, child
        cdef size_t i, start = self.count
        cdef Update update
        cdef uint32_t pair[2]
        while at:
            at = self.graph.updates[at].next
            update = self.graph.updates[at]
            spend(self, update.count)
            for i in range(update.count):
                child = self.graph.children[update.first + i]
                if self.two_of(child, pair):
                    self.add_item(pair[0], pair[1], NODE_KEY)
                else:
                    self.add_content(child, position)
                position += 1
            if at == self.graph.nodes[node].tail:
                break
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

    cdef int add_content(self, uint32_t node, uint32_t position) except -1 nogil:
        """What a container holds, as if the object that is being entered held it; what is none, by its position."""
        cdef const Node *found = &self.graph.nodes[node]
        if found.kind == DICT:
            return self.add_set(node)
        if found.kind == LIST or found.kind == SET:
            return self.add_appended(node)
        if found.kind == TUPLE or found.kind == FROZENSET:
            return self.add_values(found.x, found.tail)
        if is_worth_entering(self.graph, node):
            return self.add_item(position, node, POSITION_KEY)
        return 0

    # Objects.

    cdef int add_states(self, uint32_t node) except -1 nogil:
        """What was handed to `__setstate__` of an object: its attributes."""
        cdef uint32_t last = self.graph.nodes[node].tail, at = last
        cdef Update update
        while at:
            at = self.graph.updates[at].next
            update = self.graph.updates[at]
            if update.kind == STATE:
                self.add_state(self.graph.children[update.first])
            elif update.kind == KEYWORDS:
                self.add_content(self.graph.children[update.first], 0)
            if at == last:
                break
        return 0

    cdef int add_state(self, uint32_t state) except -1 nogil:
        """The attributes of an object: a dict, or a pair of dicts where it has slots."""
        cdef const Node *found = &self.graph.nodes[state]
        cdef uint32_t pair[2]
        if found.kind == TUPLE and self.two_of(state, pair) and (
            self.graph.nodes[pair[0]].kind == DICT or self.graph.nodes[pair[1]].kind == DICT
        ):
            self.add_content(pair[0], 0)
            return self.add_content(pair[1], 1)
        if found.kind == DICT or found.kind == LIST or found.kind == TUPLE:
            return self.add_content(state, 0)
        if is_worth_entering(self.graph, state):
            return self.add_item(STATE_WORD, state, WORD_KEY)
        return 0

    cdef int add_native(self, uint32_t node) except -1 nogil:
        """What an object of native code holds, whose state is that and the name of its class."""
        cdef uint32_t pair[2]
        cdef uint32_t state = self.calls.state_of(node)
        if state and self.two_of(state, pair) and self.calls.text(pair[1]).start != NULL:
            return self.add_content(pair[0], 0)
        return self.add_states(node)

    cdef int add_call(self, uint32_t node, const Call *call) except -1 nogil:
        """What an object holds: its arguments, its items and its attributes."""
        cdef const Node *found = &self.graph.nodes[node]
        cdef const Node *arguments = &self.graph.nodes[found.y]
        cdef uint8_t role = 0 if call.meaning == NULL else call.meaning.role
        cdef uint32_t argument
        cdef size_t i, start = self.count
        if is_worth_entering(self.graph, found.x):
            self.add_item(CALLABLE_WORD, found.x, WORD_KEY)
        for i in range(arguments.tail):
            argument = self.graph.children[arguments.x + i]
            if role == MAPPING and self.graph.nodes[argument].kind == LIST:
                self.add_listed_pairs(argument)
            elif role == MAPPING or role == SEQUENCE or (role == REBUILD and i == 2):
                self.add_content(argument, <uint32_t>i)
            elif is_worth_entering(self.graph, argument):
                self.add_item(<uint32_t>i, argument, POSITION_KEY)
        self.add_set(node)
        if role == MAPPING and self.have_keys(start):
            self.drop_repeated(start)            # of what it was made of and what was set later
        self.add_appended(node)
        return self.add_states(node)

    cdef bint have_keys(self, size_t first) noexcept nogil:
        """Whether all items from *first* on are called by keys of the file."""
        cdef size_t i
        for i in range(first, self.count):
            if self.items[i].sort != NODE_KEY:
                return False
        return True

    cdef int mark_items(self, size_t first, uint8_t kind, bint is_submodule) noexcept nogil:
        """Say of the items from *first* on what tensors among them are, and whether modules among them are parts."""
        cdef size_t i
        for i in range(first, self.count):
            self.items[i].kind = kind
            self.items[i].is_submodule = is_submodule
        return 0

    # Tensors that are made of tensors, or have some as attributes.

    cdef int add_components(self, const Call *call) except -1 nogil:
        """The tensors that make up a sparse or nested one, and what an array holds."""
        cdef const Node *parts = &self.graph.nodes[call.arguments]
        cdef const uint32_t *children
        cdef uint32_t words[4]
        cdef uint32_t count = 0, before = 0, node
        cdef size_t start = self.count, i
        if call.meaning.role == ARRAY or call.meaning.role == MASKED or call.meaning.role == FROM_BUFFER:
            return self.add_array(call)
        if call.meaning.role == NESTED:
            words[0], words[1], words[2], words[3] = VALUES_WORD, SIZES_WORD, STRIDES_WORD, OFFSETS_WORD
            count = 4
        elif call.meaning.role == SPARSE:
            node = self.calls.argument(call, LAYOUT_ARG)
            count = self.find_sparse_words(node, words) if node else 0
            node = self.calls.argument(call, PARTS_ARG)
            if parts.tail > 3:                   # as TorchScript has it: layout, sizes, gradient, components, hooks
                before = 3
            elif node and self.graph.nodes[node].kind == TUPLE:
                parts = &self.graph.nodes[node]
        elif call.meaning.role == RAGGED:
            node = self.calls.argument(call, PARTS_ARG)
            if node:
                self.add_content(node, 0)
            self.mark_items(start, KIND_COMPONENT, False)
            return 0
        else:
            return 0
        children = self.graph.children + parts.x + before
        self.add_values(parts.x, before)         # which are no tensors in a sound file
        for i in range(parts.tail - before):
            if i < count:
                self.add_item(words[i], children[i], WORD_KEY)
            else:
                self.add_item(<uint32_t>i, children[i], POSITION_KEY)
        self.drop_plain(start)
        self.mark_items(start, KIND_COMPONENT, False)
        return 0

    cdef int add_array(self, const Call *call) except -1 nogil:
        """The items of an array of objects, the parts of a masked one, and what a subclass adds."""
        cdef ArrayParts parts
        cdef const Node *more
        cdef uint32_t i, first = 5               # parts of a state that were read
        if not find_array(self.calls, call, &parts):
            return 0
        if call.meaning.role == MASKED:
            first = 7
            self.add_part(DATA_WORD, parts.data, 0 if holds_objects(self.calls, call) else DATA)
            self.add_part(MASK_WORD, parts.mask, MASK)
            more = &self.graph.nodes[parts.more]
            if more.tail > 6 and is_worth_entering(self.graph, self.graph.children[more.x + 6]):
                self.add_part(FILL_VALUE_WORD, self.graph.children[more.x + 6], 0)
        elif holds_objects(self.calls, call):
            self.add_appended(parts.data)
        if parts.more:
            more = &self.graph.nodes[parts.more]
            for i in range(first, more.tail):
                self.add_content(self.graph.children[more.x + i], i)
        if parts.state:
            more = &self.graph.nodes[parts.state]
            for i in range(1, more.tail):
                self.add_content(self.graph.children[more.x + i], i)
        return 0

    cdef int add_part(self, uint32_t word, uint32_t node, uint8_t part) except -1 nogil:
        self.add_item(word, node, WORD_KEY)
        self.items[self.count - 1].part = part
        self.items[self.count - 1].kind = KIND_COMPONENT
        return 0

    cdef int drop_components(self, size_t first, size_t middle) except -1 nogil:
        """Leave out the attributes, from *middle* on, that are the components themselves, from *first* on."""
        cdef size_t i, j, kept = middle
        spend(self, (self.count - middle) * (middle - first))
        for i in range(middle, self.count):
            j = first
            while j < middle and self.items[j].value != self.items[i].value:
                j += 1
            if j == middle:
                self.items[kept] = self.items[i]
                kept += 1
        self.count = kept
        return 0

    cdef uint32_t find_sparse_words(self, uint32_t layout, uint32_t *words) noexcept nogil:
        """How the components of a sparse tensor are called; returns how many there are, 0 for an unknown layout."""
        cdef const Node *found = &self.graph.nodes[layout]
        cdef Slice text
        cdef const char *name
        if found.kind == INT:                    # as TorchScript has it, which knows two
            words[0], words[1], words[2] = CROW_INDICES_WORD, COL_INDICES_WORD, VALUES_WORD
            if int_of(found) == 1:
                words[0], words[1] = INDICES_WORD, VALUES_WORD
            return 2 if int_of(found) == 1 else 3 if int_of(found) == 2 else 0
        if found.kind == REDUCE and self.graph.nodes[found.y].tail == 1:
            text = self.calls.text(self.graph.children[self.graph.nodes[found.y].x])
        elif found.kind == GLOBAL:
            text = self.calls.text(found.y)
        else:
            return 0
        if text.length < 10:
            return 0
        name = text.start + text.length - 10
        if memcmp(name, b"sparse_coo", 10) == 0:
            words[0], words[1] = INDICES_WORD, VALUES_WORD
            return 2
        words[2] = VALUES_WORD
        if memcmp(name, b"sparse_csr", 10) == 0 or memcmp(name, b"sparse_bsr", 10) == 0:
            words[0], words[1] = CROW_INDICES_WORD, COL_INDICES_WORD
            return 3
        if memcmp(name, b"sparse_csc", 10) == 0 or memcmp(name, b"sparse_bsc", 10) == 0:
            words[0], words[1] = CCOL_INDICES_WORD, ROW_INDICES_WORD
            return 3
        return 0

    cdef int add_tensor_attributes(self, uint32_t node) except -1 nogil:
        """The attributes that a tensor was given, in its own state and by the calls around the one that makes it."""
        cdef Call call
        cdef size_t start = self.count
        self.calls.open_call(node, &call)
        while True:
            if call.node and not (call.meaning != NULL and call.meaning.role in (OLD_TENSOR, ARRAY, MASKED)):
                self.add_tensor_state(call.node)
            if not self.calls.unwrap(&call):
                break
            if call.state:
                self.add_state(call.state)
        return self.drop_plain(start)

    cdef int add_tensor_state(self, uint32_t node) except -1 nogil:
        """The attributes in a tensor's own state; a tuple there speaks of training, as old parameters have it."""
        cdef uint32_t state = self.calls.state_of(node)
        if state and self.graph.nodes[state].kind == DICT:
            return self.add_set(state)
        return 0
