"""What a pickled module holds: its state dict, without its class.

A torch.nn.Module is any object whose attributes include `_parameters`, `_buffers` and `_modules`; of a module of
TorchScript the attributes are one flat dict, and its source says which of them are parameters and buffers.

Format: `Module.state_dict` in torch/nn/modules/module.py.
"""

cimport cython
from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcmp, memset

from fastload._native.calls cimport TENSOR, Call, Calls, text_of_node
from fastload._native.contents cimport KIND_OWN, NODE_KEY, Contents, Item
from fastload._native.graph cimport DICT, GLOBAL, LIST, NEWOBJ, REDUCE, SET, TUPLE, Graph, Node, Slice, Update
from fastload._native.keys cimport Keys

cdef enum:
    KIND_PARAMETER = 1           # rows of KINDS
    KIND_BUFFER = 2

# The attributes that make a state dict, as bits.
cdef enum:
    PARAMETERS = 1
    BUFFERS = 2
    MODULES = 4
    TRANSIENT = 8                # the names of the buffers that are not persistent; absent before torch 1.6


@cython.final
cdef class ModuleContents(Contents):
    """Gathers the items of the nodes of one graph, those of modules as their state dicts have them.

    Parameters
    ----------
    scripts : function or None
        Of TorchScript: of (module, name) of a class to the names of its (parameters, buffers).
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
        if state:
            self.is_module = True
            return self.add_module(state, &parts)
        if self.scripts is not None and self.add_script(node, self.calls.state_of(node)):
            return 0
        return Contents.gather_object(self, node)

    cdef uint32_t module_state(self, uint32_t node, ModuleParts *parts) except? 0 nogil:
        """The attributes of a torch.nn.Module, however its class is called, and its parts; 0 where *node* is none."""
        cdef uint32_t state = self.calls.state_of(node), first
        if not state:
            return 0
        if self.graph.nodes[state].kind == TUPLE and self.graph.nodes[state].tail == 2:  # with slots
            first = self.graph.children[self.graph.nodes[state].x]
            state = first
        if self.graph.nodes[state].kind != DICT:
            return 0
        self.find_parts(state, parts)
        return state if parts.found & 7 == 7 else 0

    cdef int find_parts(self, uint32_t state, ModuleParts *parts) except -1 nogil:
        """Which of the attributes that make a state dict an object has; of one that stands twice the last."""
        cdef uint32_t at = self.graph.nodes[state].tail, key
        cdef size_t i
        cdef Update update
        cdef Slice text
        memset(parts, 0, sizeof(ModuleParts))
        while at:
            at = self.graph.updates[at].next
            update = self.graph.updates[at]
            self.spend(update.count)
            for i in range(0, update.count, 2):
                key = self.part_of(self.calls.text(self.graph.children[update.first + i]))
                if key:
                    parts.found |= key
                    parts.nodes[0 if key == PARAMETERS else 1 if key == BUFFERS else 2 if key == MODULES else 3] = (
                        self.graph.children[update.first + i + 1]
                    )
            if at == self.graph.nodes[state].tail:
                break
        return 0

    cdef uint32_t part_of(self, Slice text) noexcept nogil:
        """Which part of a state dict the attribute of this name is; 0 for none."""
        if text.length == 11 and memcmp(text.start, b"_parameters", 11) == 0:
            return PARAMETERS
        if text.length == 8 and memcmp(text.start, b"_buffers", 8) == 0:
            return BUFFERS
        if text.length == 8 and memcmp(text.start, b"_modules", 8) == 0:
            return MODULES
        if text.length == 27 and memcmp(text.start, b"_non_persistent_buffers_set", 27) == 0:
            return TRANSIENT
        return 0

    cdef int add_mapping(self, uint32_t node) except -1 nogil:
        """The items of a dict, or of an object that stands for one."""
        cdef Call call
        if self.graph.nodes[node].kind == DICT:
            return self.add_set(node)
        if self.calls.open_call(node, &call):
            return self.add_call(node, &call)
        return 0

    cdef int add_module(self, uint32_t state, const ModuleParts *parts) except -1 nogil:
        """The state dict of a module, as its `state_dict()` has it: parameters, persistent buffers, modules."""
        cdef size_t start = self.count, i, kept, buffers
        self.add_mapping(parts.nodes[0])
        self.mark_items(start, KIND_PARAMETER, False)
        buffers = self.count
        self.add_mapping(parts.nodes[1])
        self.mark_items(buffers, KIND_BUFFER, False)
        if parts.nodes[3] and self.count > buffers and not self.attributes:
            kept = buffers
            for i in range(buffers, self.count):
                if not self.contains_text(parts.nodes[3], self.items[i].key):
                    self.items[kept] = self.items[i]
                    kept += 1
            self.count = kept
        i = self.count
        self.add_mapping(parts.nodes[2])
        self.mark_items(i, KIND_OWN, True)
        if self.attributes:
            self.add_other_attributes(state)
        return 0

    cdef int add_other_attributes(self, uint32_t state) except -1 nogil:
        """What a module holds beside its state dict."""
        cdef size_t start = self.count, i, kept = start
        self.add_set(state)
        kept = start
        for i in range(start, self.count):
            if not self.part_of(self.calls.text(self.items[i].key)) or self.items[i].sort != NODE_KEY:
                self.items[kept] = self.items[i]
                kept += 1
        self.count = kept
        return 0

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
            self.spend(update.count)
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
        if known is None:
            return 0
        parameters, buffers = known
        self.is_module = True
        self.add_set(state)
        for i in range(start, self.count):
            item = &self.items[i]
            name = text_of_node(self.graph, item.key)
            is_tensor = self.calls.base(item.value, &call) and call.meaning.role == TENSOR
            if name in parameters or name in buffers:
                item.kind = KIND_PARAMETER if name in parameters else KIND_BUFFER
            elif self.is_script_module(item.value):
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

    cdef bint is_script_module(self, uint32_t node) except -1:
        """Whether a value is an object of a class whose source is in the file."""
        cdef const Node *found = &self.graph.nodes[node]
        cdef const Node *called = &self.graph.nodes[found.x]
        if (found.kind != NEWOBJ and found.kind != REDUCE) or called.kind != GLOBAL:
            return False
        return self.scripts(text_of_node(self.graph, called.x), text_of_node(self.graph, called.y)) is not None
