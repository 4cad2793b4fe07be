"""What a node of the graph holds: its items, each with the key that names it.

A dict has its pairs, a list its values; an object has what was set and appended, its attributes, and the arguments of
its call, as far as their meaning is known. Of a key that stands twice the last value counts, in the first place.
"""

cimport cython
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcmp, memcpy, memset

from fastload._native.graph cimport (
    BARREN, BYTEARRAY, DICT, FROZENSET, GLOBAL, ITEMS, KEYWORDS, LIST, PAIRS, SET, STATE, STR8, TEXT, TUPLE, Graph,
    Node, Update,
)
from fastload._native.keys cimport Keys, Text
from fastload._native.recipe cimport MAPPING, SEQUENCE, Meaning, Recipe
from fastload._native.vector cimport reserve

from fastload.errors import LimitError

cdef enum:
    # Entering a node, a step to an item and a try of a name cost 1 each. Real files stay far below: a tensor costs 4.
    BUDGET = 1_000_000
    BUDGET_PER_NODE = 16
    FEW_KEYS = 8                 # up to here keys are compared in pairs, beyond by a hash table


@cython.final
cdef class Contents:
    """Gathers the items of the nodes of one graph, within a budget."""

    def __cinit__(self, Graph graph, Recipe recipe, Keys keys):
        self.graph = graph
        self.recipe = recipe
        self.keys = keys
        self.budget = BUDGET + BUDGET_PER_NODE * <uint64_t>graph.nodes_count

    def __dealloc__(self):
        free(self.items)
        free(self.slots)

    cdef int raise_budget(self) except -1 with gil:
        raise LimitError("the objects of the pickle refer to each other in more ways than can be listed")

    cdef int spend(self, uint64_t amount) except -1 nogil:
        """Count work, which hostile sharing could make endless."""
        self.work += amount
        if self.work > self.budget:
            return self.raise_budget()
        return 0

    cdef int gather(self, uint32_t node) except -1 nogil:
        """Push the items of *node* at which a tensor may be found."""
        cdef const Node *found = &self.graph.nodes[node]
        self.is_module = False
        self.spend(1)
        if found.kind == TUPLE or found.kind == FROZENSET:
            return self.add_values(found.x, found.tail)
        if found.kind == LIST or found.kind == SET:
            return self.add_appended(node)
        if found.kind == DICT:
            return self.add_set(node)
        return self.add_call(node)

    cdef int add_item(self, uint32_t key, uint32_t value, bint is_position, bint hidden) except -1 nogil:
        """One item of the container that is being entered."""
        cdef Item *item
        reserve(<void **>&self.items, &self.capacity, self.count + 1, sizeof(Item))
        item = &self.items[self.count]
        item.key = key
        item.value = value
        item.is_position = is_position
        item.hidden = hidden
        item.is_worth_entering = self.is_worth_entering(value)
        self.count += 1
        return 0

    cdef bint is_worth_entering(self, uint32_t node) noexcept nogil:
        """Whether a tensor may be found at a value: it has children, and was not found to lead to none."""
        cdef const Node *found = &self.graph.nodes[node]
        return found.kind > BYTEARRAY and found.kind != GLOBAL and not found.flags & BARREN

    cdef int drop_plain(self, size_t first) except -1 nogil:
        """Leave out the items, from *first* on, at which there is no tensor."""
        cdef size_t i, kept = first
        cdef uint32_t state
        for i in range(first, self.count):
            if self.items[i].is_worth_entering:
                self.items[kept] = self.items[i]
                kept += 1
        self.count = kept
        for i in range(first, kept):             # a parameter may have attributes, and a tensor among them
            state = self.recipe.state_of(self.items[i].value)
            if state and self.is_worth_entering(state):
                self.add_item(0, state, True, True)
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
                self.spend(1)
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
        self.spend(count)
        for i in range(count):
            self.add_item(<uint32_t>i, self.graph.children[first + i], True, False)
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
                self.spend(update.count)
                for i in range(update.count):
                    self.add_item(position, self.graph.children[update.first + i], True, False)
                    position += 1
            if at == self.graph.nodes[node].tail:
                break
        return self.drop_plain(start)

    cdef int add_set(self, uint32_t node) except -1 nogil:
        """What was set by key in a dict or object."""
        cdef uint32_t at = self.graph.nodes[node].tail
        cdef size_t i, start = self.count, end
        cdef Update update
        cdef bint worth = False, composite = False
        while at:
            at = self.graph.updates[at].next
            update = self.graph.updates[at]
            if update.kind == PAIRS:
                self.spend(update.count)
                for i in range(0, update.count, 2):
                    self.add_item(
                        self.graph.children[update.first + i], self.graph.children[update.first + i + 1], False, False
                    )
                    worth |= self.items[self.count - 1].is_worth_entering
                    composite |= self.is_worth_entering(self.graph.children[update.first + i])
            if at == self.graph.nodes[node].tail:
                break
        if not (worth or composite):
            self.count = start
            return 0
        self.drop_repeated(start)
        end = self.count if composite else start
        for i in range(start, end):
            self.add_item(0, self.items[i].key, True, True)  # a key may have a tensor in it
        return self.drop_plain(start)

    cdef int add_listed_pairs(self, uint32_t node) except -1 nogil:
        """The pairs in a list of them, which is how Python 2 pickled an OrderedDict."""
        cdef uint32_t at = self.graph.nodes[node].tail, child
        cdef size_t i, start = self.count
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

    cdef int add_state(self, uint32_t state) except -1 nogil:
        """The attributes of an object: a dict, or a pair of dicts where it has slots."""
        cdef const Node *found = &self.graph.nodes[state]
        cdef uint32_t pair[2]
        cdef int i
        if found.kind == DICT:
            self.is_module = self.is_module or self.is_module_state(state)
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

    cdef int add_call(self, uint32_t node) except -1 nogil:
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
                self.add_state(self.graph.children[update.first])
            elif update.kind == KEYWORDS and self.is_worth_entering(self.graph.children[update.first]):
                self.add_item(0, self.graph.children[update.first], True, True)
            if at == found.tail:
                break
        return 0
