"""What a pickled module holds: its state dict, without its class.

A torch.nn.Module is any object whose attributes include `_parameters`, `_buffers` and `_modules`, be they its state or
what it is made of (torch.fx); of a module of TorchScript the attributes are one flat dict, and its source says which of
them are parameters and buffers. The packed weights of quantised modules are objects of native code among the
attributes; a state dict has them, so they are listed too.

Format: `Module.state_dict` in torch/nn/modules/module.py.
"""

cimport cython
from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcmp, memset

from fastload._native.calls cimport META, NATIVE, NESTED, OPTIMISED, SPARSE, TENSOR, Call, Calls, Meaning, text_of_node
from fastload._native.contents cimport KIND_OWN, NODE_KEY, POSITION_KEY, WORD_KEY, Contents, Item, spend
from fastload._native.graph cimport (
    BARREN, DICT, GLOBAL, LIST, NEWOBJ, PERSID, REDUCE, SET, STR8, TEXT, TUPLE, WORD, Graph, Node, Slice, Update,
    is_object, is_worth_entering,
)
from fastload._native.index cimport KIND_BUFFER, KIND_PARAMETER
from fastload._native.keys cimport ORIGINAL_WORD, Keys

cdef enum:
    MOST_ARGUMENTS = 8           # of a call, among which the attributes of a module are looked for

# The attributes that make a state dict, by their places in ModuleParts.
cdef enum:
    PARAMETERS
    BUFFERS
    MODULES
    TRANSIENT                    # the names of the buffers that are not persistent; absent before torch 1.6
    NO_PART
    ALL_PARTS = 7                # of every module, as bits


@cython.final
cdef class ModuleContents(Contents):
    """Gathers the items of the nodes of one graph, those of modules as their state dicts have them.

    Parameters
    ----------
    scripts : function or None
        Of TorchScript: of (module, name) of a class to the names of its (parameters, buffers), to () for one of native
        code, and to None for any other.
    attributes : bool
        Whether what a module holds beside its state dict is gathered too.
    """

    def __cinit__(self, Graph graph, Calls calls, Keys keys, scripts, bint attributes):
        self.scripts = scripts
        self.attributes = attributes

    cdef int gather_object(self, uint32_t node) except -1 nogil:
        """Push the items of an instance of whatever class."""
        cdef ModuleParts parts
        cdef uint32_t state = self.module_state(node, &parts)
        cdef Call call
        if state:
            self.is_module = True
            return self.add_module(node, state, &parts)
        if self.calls.open_call(node, &call) and call.meaning != NULL and call.meaning.role == OPTIMISED:
            self.is_module = True
            return self.add_optimised(node, &call)
        if self.scripts is not None and self.add_script(node, self.calls.state_of(node)):
            return 0
        return Contents.gather_object(self, node)

    cdef uint32_t module_state(self, uint32_t node, ModuleParts *parts) except? 0 nogil:
        """The attributes of a torch.nn.Module, however its class is called, and its parts; 0 where *node* is none."""
        cdef uint32_t state = self.calls.state_of(node)
        if state and self.graph.nodes[state].kind == TUPLE and self.graph.nodes[state].tail == 2:  # with slots
            state = self.graph.children[self.graph.nodes[state].x]
        if state and self.graph.nodes[state].kind == DICT:
            self.find_parts(state, parts)
            if parts.found & ALL_PARTS == ALL_PARTS:
                return state
        return self.module_argument(node, parts)

    cdef uint32_t module_argument(self, uint32_t node, ModuleParts *parts) except? 0 nogil:
        """The attributes of a module among the arguments of a function that makes it; 0 where there are none.

        So `torch.fx` has its modules pickled, and packages have, whose objects are persistent ids.
        """
        cdef const Node *found = &self.graph.nodes[node]
        cdef uint32_t arguments = found.y, at
        cdef size_t i
        cdef Call call
        if found.kind == PERSID:
            if self.graph.nodes[found.x].kind != TUPLE or not self.graph.nodes[found.x].tail:
                return 0
            arguments = self.graph.children[self.graph.nodes[found.x].x + self.graph.nodes[found.x].tail - 1]
        elif not self.calls.open_call(node, &call) or call.meaning != NULL:
            return 0
        if self.graph.nodes[arguments].kind != TUPLE:
            return 0
        for i in range(min(self.graph.nodes[arguments].tail, <uint32_t>MOST_ARGUMENTS)):
            at = self.graph.children[self.graph.nodes[arguments].x + i]
            if self.graph.nodes[at].kind == DICT and not self.graph.nodes[at].flags & BARREN:
                self.find_parts(at, parts)
                if parts.found & ALL_PARTS == ALL_PARTS:
                    return at
        return 0

    cdef int find_parts(self, uint32_t state, ModuleParts *parts) except -1 nogil:
        """Which of the attributes that make a state dict an object has; of one that stands twice the last."""
        cdef uint32_t at = self.graph.nodes[state].tail
        cdef uint8_t part
        cdef size_t i
        cdef Update update
        memset(parts, 0, sizeof(ModuleParts))
        while at:
            at = self.graph.updates[at].next
            update = self.graph.updates[at]
            spend(self, update.count)
            for i in range(0, update.count, 2):
                part = self.part_of(self.graph.children[update.first + i])
                if part != NO_PART:
                    parts.found |= 1 << part
                    parts.nodes[part] = self.graph.children[update.first + i + 1]
                elif self.graph.has_native:
                    parts.has_native |= self.is_native(self.graph.children[update.first + i + 1])
            if at == self.graph.nodes[state].tail:
                break
        return 0

    cdef uint8_t part_of(self, uint32_t key) noexcept nogil:
        """Which part of a state dict the attribute of this name is, which the name's node keeps: modules share it."""
        cdef Node *node = &self.graph.nodes[key]
        cdef uint8_t part = NO_PART
        cdef Slice text
        if node.flags >= WORD:
            return node.flags // WORD - 1
        if node.kind != TEXT and node.kind != STR8:
            return NO_PART
        text = self.calls.text(key)
        if text.length == 11 and memcmp(text.start, b"_parameters", 11) == 0:
            part = PARAMETERS
        elif text.length == 8 and memcmp(text.start, b"_buffers", 8) == 0:
            part = BUFFERS
        elif text.length == 8 and memcmp(text.start, b"_modules", 8) == 0:
            part = MODULES
        elif text.length == 27 and memcmp(text.start, b"_non_persistent_buffers_set", 27) == 0:
            part = TRANSIENT
        node.flags |= (part + 1) * WORD
        return part

    cdef int add_mapping(self, uint32_t node) except -1 nogil:
        """The items of a dict, or of an object that stands for one."""
        cdef Call call
        if not is_worth_entering(self.graph, node):
            return 0
        if self.graph.nodes[node].kind == DICT:
            return self.add_set(node)
        if self.calls.open_call(node, &call):
            return self.add_call(node, &call)
        return 0

    cdef bint is_native(self, uint32_t node) noexcept nogil:
        """Whether a value is an object of native code."""
        cdef const Meaning *meaning
        if self.graph.nodes[node].kind != NEWOBJ and self.graph.nodes[node].kind != REDUCE:
            return False
        meaning = self.calls.meaning(self.graph.nodes[node].x)
        return meaning != NULL and meaning.role == NATIVE

    cdef int add_module(self, uint32_t node, uint32_t state, const ModuleParts *parts) except -1 nogil:
        """The state dict of a module, as its `state_dict()` has it: parameters, persistent buffers, modules."""
        cdef size_t start = self.count, i, kept, buffers
        self.add_mapping(parts.nodes[PARAMETERS])
        self.mark_items(start, KIND_PARAMETER, False)
        buffers = self.count
        self.add_mapping(parts.nodes[BUFFERS])
        self.mark_items(buffers, KIND_BUFFER, False)
        if parts.nodes[TRANSIENT] and self.count > buffers and not self.attributes:
            kept = buffers
            for i in range(buffers, self.count):
                if not self.contains_text(parts.nodes[TRANSIENT], self.items[i].key):
                    self.items[kept] = self.items[i]
                    kept += 1
            self.count = kept
        if parts.has_native and not self.attributes:
            self.add_native_attributes(state)
        i = self.count
        self.add_mapping(parts.nodes[MODULES])
        self.mark_items(i, KIND_OWN, True)
        if self.attributes:
            self.add_other_attributes(node, state)
        return 0

    cdef int add_native_attributes(self, uint32_t state) except -1 nogil:
        """The attributes of a module that are objects of native code."""
        cdef size_t start = self.count, i, kept = start
        self.add_set(state)
        for i in range(start, self.count):
            if self.is_native(self.items[i].value):
                self.items[kept] = self.items[i]
                kept += 1
        self.count = kept
        return 0

    cdef int add_other_attributes(self, uint32_t node, uint32_t state) except -1 nogil:
        """What a module holds beside its state dict, and what else it was made of."""
        cdef size_t start = self.count, i, kept = start
        cdef ModuleParts parts
        cdef Item *item
        Contents.gather_object(self, node)
        if self.calls.state_of(node) != state:
            for i in range(start, self.count):       # its attributes were among its arguments, or in a pair with slots
                if self.items[i].value != state:
                    self.items[kept] = self.items[i]
                    kept += 1
            self.count = kept
            if self.module_argument(node, &parts) == state:
                self.add_set(state)
        kept = start
        for i in range(start, self.count):
            item = &self.items[i]
            if item.sort != NODE_KEY or self.part_of(item.key) == NO_PART:
                self.items[kept] = item[0]
                kept += 1
        self.count = kept
        return 0

    cdef int add_optimised(self, uint32_t node, const Call *call) except -1 nogil:
        """The module that `torch.compile` wrapped, by the name that it has in the wrapper."""
        cdef const Node *arguments = &self.graph.nodes[call.arguments]
        cdef size_t i, start = self.count
        for i in range(arguments.tail if self.attributes else min(arguments.tail, 1)):
            self.add_item(<uint32_t>i, self.graph.children[arguments.x + i], POSITION_KEY)
            if i == 0:
                self.items[start].sort = WORD_KEY
                self.items[start].key = ORIGINAL_WORD
                self.items[start].is_submodule = True
        if self.attributes:
            self.add_states(node)
        return self.drop_plain(start)

    cdef bint contains_text(self, uint32_t node, uint32_t key) except -1 nogil:
        """Whether a set of names, or a call that makes one of a list, has the text of a key."""
        cdef const Node *found = &self.graph.nodes[node]
        cdef uint32_t at, last
        cdef size_t i
        cdef Update update
        if found.kind == REDUCE or found.kind == NEWOBJ:
            if not self.graph.nodes[found.y].tail:
                return False
            node = self.graph.children[self.graph.nodes[found.y].x]
        last = at = self.graph.nodes[node].tail if self.graph.nodes[node].kind in (LIST, SET) else 0
        while at:
            at = self.graph.updates[at].next
            update = self.graph.updates[at]
            spend(self, update.count)
            for i in range(update.count):
                if self.keys.equal(self.graph.children[update.first + i], key):
                    return True
            if at == last:
                break
        return False

    cdef int add_script(self, uint32_t node, uint32_t state) except -1 nogil:
        """The state dict of a module of TorchScript: 1, or 0 where *node* is none.

        Its state is one flat dict; which of the tensors there are parameters or buffers only its source says.
        """
        cdef size_t start = self.count
        if not state or self.graph.nodes[state].kind != DICT:
            return 0
        if self.graph.nodes[self.graph.nodes[node].x].kind != GLOBAL:
            return 0
        return self.add_script_class(node, state, start)

    cdef int add_script_class(self, uint32_t node, uint32_t state, size_t start) except -1 with gil:
        cdef Node *called = &self.graph.nodes[self.graph.nodes[node].x]
        cdef Call call
        cdef Item *item
        cdef list others = []
        cdef size_t i, kept = start
        known = self.scripts(text_of_node(self.graph, called.x), text_of_node(self.graph, called.y))
        if not known:
            return 0
        parameters, buffers = known
        self.is_module = True
        self.add_set(state)
        for i in range(start, self.count):
            item = &self.items[i]
            name = text_of_node(self.graph, item.key)
            is_tensor = self.calls.base(item.value, &call) and call.meaning.role in (TENSOR, META, SPARSE, NESTED)
            if name in parameters or name in buffers:
                item.kind = KIND_PARAMETER if name in parameters else KIND_BUFFER
            elif self.script_of(item.value) is not None:  # a module, or an object of native code
                item.is_submodule = True
            elif not self.attributes:
                continue
            if is_tensor:                        # a state dict has them before those of the modules within
                self.items[kept] = item[0]
                kept += 1
            else:
                others.append((item.key, item.value, item.is_submodule))
        self.count = kept
        for key, value, is_submodule in others:
            self.add_item(key, value, NODE_KEY)
            self.items[self.count - 1].is_submodule = is_submodule
        return 1

    cdef object script_of(self, uint32_t node):
        """What is known of the class of a value; None where it is neither a module nor an object of native code."""
        cdef const Node *found = &self.graph.nodes[node]
        if not is_object(found) or found.kind == PERSID or self.graph.nodes[found.x].kind != GLOBAL:
            return None
        found = &self.graph.nodes[found.x]
        return self.scripts(text_of_node(self.graph, found.x), text_of_node(self.graph, found.y))
