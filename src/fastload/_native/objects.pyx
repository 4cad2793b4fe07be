"""The graph of a pickle → plain Python values, made when someone asks for `ckpt.objects`.

Each node becomes one object, however often it is referred to, so sharing and cycles are kept and nothing is expanded.
A class or function that the caller gave no maker for becomes a Record: a note of what the file says, which does
nothing.
"""

cimport cython
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport int64_t, uint32_t
from libc.string cimport memcpy

from fastload._native.graph cimport (
    BYTEARRAY, DICT, FALSE, FLOAT, FROZENSET, GLOBAL, INT, ITEMS, KEYWORDS, LIST, LONG, NEWOBJ, NONE, PAIRS,
    PERSID, REDUCE, SET, STATE, STR8, TEXT, TRUE, TUPLE, Graph, Node, Slice, Update, bytes_of, int_of,
    is_unwieldy,
)
from fastload._native.calls cimport Vocabulary

from fastload.errors import FormatError, LimitError

MAX_OBJECTS = 4_000_000      # a file of more has them in a tensor, or means harm


@cython.final
cdef class Record:
    """A class, function or object of the file whose program is not here: what the file says of it, inert.

    Attributes
    ----------
    module, name : str
        Of the class or function.
    args : tuple or None
        What it was called with; None for a bare reference to it.
    kwargs : dict
        Keyword arguments.
    state : object
        What was handed to `__setstate__`, most often the dict of attributes; None if nothing was.
    items : list
        What was appended or, as pairs, set.
    """

    def __init__(self, str module, str name, args=None):
        self.module = module
        self.name = name
        self.args = args
        self.kwargs = {}
        self.items = []

    def __str__(self):
        return f"{self.module}.{self.name}" if self.args is None else repr(self)

    def __repr__(self):
        return f"<Record {self.module}.{self.name}{'' if self.args is None else '(…)'}>"


cdef object scalar(Graph graph, const Node *node):
    """The value of a node that has no children."""
    cdef Slice data
    cdef double number
    if node.kind == NONE:
        return None
    if node.kind == FALSE:
        return False
    if node.kind == TRUE:
        return True
    if node.kind == INT:
        return int_of(node)
    if node.kind == FLOAT:
        memcpy(&number, node, 8)             # x and y are its halves
        return number
    data = bytes_of(graph, node)
    if node.kind == TEXT:
        return PyUnicode_DecodeUTF8(data.start, data.length, "surrogatepass")
    if node.kind == STR8:
        try:
            return PyUnicode_DecodeUTF8(data.start, data.length, NULL)
        except UnicodeDecodeError:
            return data.start[:data.length].decode("latin-1")
    if node.kind == LONG:
        return int.from_bytes(data.start[:data.length], "little", signed=True)
    if node.kind == BYTEARRAY:
        return bytearray(data.start[:data.length])
    return data.start[:data.length]


@cython.final
cdef class Builder:
    """One walk: every node's object by its number, and the tables of the caller."""
    cdef Graph graph
    cdef dict made           # node: object
    cdef set finished        # nodes whose object holds all that it will
    cdef dict makers         # (module, name): function of the arguments
    cdef dict leaves         # node: object that stands for it
    cdef object mapping      # the maker that marks a dict-like class

    def __cinit__(self, Graph graph, Vocabulary vocabulary, dict leaves):
        self.graph = graph
        self.made = {}
        self.finished = set()
        self.makers = vocabulary.makers
        self.leaves = leaves
        self.mapping = vocabulary.mapping

    cdef list children(self, const Node *node):
        """The nodes that *node* names, in order."""
        cdef list found = []
        cdef size_t i
        cdef Update update
        cdef uint32_t at
        if node.kind == TUPLE or node.kind == FROZENSET:
            return [self.graph.children[node.x + i] for i in range(node.tail)]
        if node.kind == REDUCE or node.kind == NEWOBJ:
            found.append(node.x)
            found.append(node.y)
        elif node.kind == PERSID:
            found.append(node.x)
        if node.kind <= GLOBAL or not node.tail:     # of a text, say, `tail` is the length
            return found
        at = node.tail
        while True:
            at = self.graph.updates[at].next
            update = self.graph.updates[at]
            for i in range(update.count):
                found.append(self.graph.children[update.first + i])
            if at == node.tail:
                return found

    cdef object begin(self, uint32_t number):
        """The object of a node, if it can be made before those of its children; else None."""
        cdef Node *node = &self.graph.nodes[number]
        if node.kind == LIST:
            return []
        if node.kind == DICT:
            return {}
        if node.kind == SET:
            return set()
        if node.kind == GLOBAL:
            return Record(scalar(self.graph, &self.graph.nodes[node.x]), scalar(self.graph, &self.graph.nodes[node.y]))
        if node.kind == REDUCE or node.kind == NEWOBJ:
            maker = self.maker(node)
            if maker is None:
                return self.record(node)
            return {} if maker is self.mapping else None
        if node.kind == PERSID:
            return Record("", "persistent id", ())
        return None          # a tuple or frozenset, which never changes

    cdef object maker(self, const Node *node):
        cdef Node *called = &self.graph.nodes[node.x]
        if called.kind != GLOBAL:
            return None
        return self.makers.get(
            (scalar(self.graph, &self.graph.nodes[called.x]), scalar(self.graph, &self.graph.nodes[called.y]))
        )

    cdef Record record(self, const Node *node):
        cdef Node *called = &self.graph.nodes[node.x]
        if called.kind == GLOBAL:
            return Record(
                scalar(self.graph, &self.graph.nodes[called.x]), scalar(self.graph, &self.graph.nodes[called.y]), ()
            )
        return Record("", "call of an object", ())

    cdef bint finish(self, uint32_t number) except -1:
        """Make or fill the object of a node from those of its children; False where one of them is not made yet."""
        cdef Node *node = &self.graph.nodes[number]
        cdef list values = []
        for child in self.children(node):
            if child not in self.made:
                return False
            values.append(self.made[child])
        if node.kind == TUPLE:
            self.made[number] = tuple(values)
        elif node.kind == FROZENSET:
            self.made[number] = frozenset(values)
        elif node.kind == LIST:
            (<list>self.made[number]).extend(values)
        elif node.kind == SET:
            (<set>self.made[number]).update(values)
        elif node.kind == DICT:
            (<dict>self.made[number]).update(zip(values[::2], values[1::2]))
        elif node.kind == PERSID:
            (<Record>self.made[number]).args = (values[0],)
        elif node.kind == REDUCE or node.kind == NEWOBJ:
            self.finish_call(number, node, values)
        self.finished.add(number)
        return True

    cdef bint are_usable(self, uint32_t arguments) except -1:
        """Whether the lists, dicts and sets among the arguments hold all their items, and those can be hashed."""
        cdef Node *node = &self.graph.nodes[arguments]
        cdef size_t i
        cdef uint32_t child
        for i in range(node.tail):
            child = self.graph.children[node.x + i]
            if LIST <= self.graph.nodes[child].kind <= SET and child not in self.finished:
                return False
            for item in self.children(&self.graph.nodes[child]):
                if is_unwieldy(&self.graph.nodes[item]):
                    return False
        return True

    cdef int finish_call(self, uint32_t number, const Node *node, list values) except -1:
        cdef Record record
        cdef Update update
        cdef size_t i = 2
        cdef uint32_t at = node.tail
        args = values[1]
        maker = self.maker(node)
        record = self.made[number] if isinstance(self.made.get(number), Record) else None
        if maker is self.mapping:
            if not self.are_usable(node.y):
                raise LimitError("a dict is made of itself, or of a key that has too many parts")
            for arg in args:
                if isinstance(arg, dict):
                    self.made[number].update(arg)
                elif isinstance(arg, list):          # of pairs, as Python 2 wrote it
                    pairs = [pair for pair in arg if isinstance(pair, (list, tuple)) and len(pair) == 2]
                    self.made[number].update(pairs)
        elif maker is not None:
            try:
                if not self.are_usable(node.y):
                    raise ValueError
                self.made[number] = maker(*args)
            except (TypeError, ValueError, LookupError, OverflowError):
                self.made[number] = record = self.record(node)
        if record is not None:
            record.args = args
        while at:
            at = self.graph.updates[at].next
            update = self.graph.updates[at]
            added = values[i:i + update.count]
            i += update.count
            if update.kind == PAIRS and isinstance(self.made[number], dict):
                self.made[number].update(zip(added[::2], added[1::2]))
            elif update.kind == ITEMS and isinstance(self.made[number], list):
                self.made[number].extend(added)
            elif record is not None:
                if update.kind == STATE:
                    record.state = added[0]
                elif update.kind == KEYWORDS:
                    record.kwargs.update(added[0])
                elif update.kind == PAIRS:
                    record.items.extend(zip(added[::2], added[1::2]))
                else:
                    record.items.extend(added)
            if at == node.tail:
                break
        return 0

    cdef object build(self, uint32_t root):
        """The object of *root*: children before parents, without recursion."""
        cdef int64_t number
        cdef Node *node
        cdef set begun = set()               # nodes that can be made only when their children are
        cdef list stack = [root]
        cdef list late = []
        while stack:
            number = stack.pop()
            if number < 0:                   # its children are done
                if not self.finish(<uint32_t>~number):
                    late.append(~number)
                continue
            if number in self.made or number in begun:
                continue
            if len(self.made) > MAX_OBJECTS:
                raise LimitError(f"the file holds more than {MAX_OBJECTS:,} Python objects beside its tensors")
            node = &self.graph.nodes[number]
            if number in self.leaves:
                self.made[number] = self.leaves[number]
            elif node.kind <= BYTEARRAY:
                self.made[number] = scalar(self.graph, node)
            else:
                made = self.begin(<uint32_t>number)
                if made is None:
                    begun.add(number)
                else:
                    self.made[number] = made
                if node.kind != GLOBAL:
                    stack.append(~number)
                    stack.extend(reversed(self.children(node)))
        for number in late:                  # what refers to itself through an immutable value
            self.finish(<uint32_t>number)
        return self.made.get(root)


cdef object key_value(Graph graph, Vocabulary vocabulary, uint32_t node):
    """A dict key as a Python value, which can be hashed."""
    value = build_objects(graph, node, vocabulary, {})
    try:
        hash(value)
    except TypeError:
        raise FormatError(f"a value of the pickle cannot be the key of a dict: {type(value).__name__}")
    return value


cdef str key_text(Graph graph, Vocabulary vocabulary, uint32_t node):
    """What stands for a dict key that is neither text nor number in the name of a tensor: its `str`."""
    try:
        return str(build_objects(graph, node, vocabulary, {}))
    except ValueError:  # of an int with more digits than Python converts
        raise LimitError("the key of a dict is a number of more than 4300 digits")


cdef object build_objects(Graph graph, uint32_t root, Vocabulary vocabulary, dict leaves):
    try:
        return Builder(graph, vocabulary, leaves).build(root)
    except UnicodeDecodeError:
        raise FormatError("the file changed while it was open: a text in its pickle is no UTF-8 any more")
    except TypeError as error:
        raise FormatError(f"a value of the pickle cannot be the key of a dict: {error}")


def build(Graph graph not None, Vocabulary vocabulary not None, dict leaves not None):
    """The root of a pickle as Python values; *leaves* maps nodes to the objects that stand for them: tensors."""
    return build_objects(graph, graph.root, vocabulary, leaves)


def build_state(Graph graph not None, Vocabulary vocabulary not None):
    """What was handed to `__setstate__` of the root of a pickle, as Python values; None if nothing was."""
    cdef uint32_t at = graph.nodes[graph.root].tail
    if graph.nodes[graph.root].kind != REDUCE and graph.nodes[graph.root].kind != NEWOBJ:
        return None
    while at:
        at = graph.updates[at].next
        if graph.updates[at].kind == STATE:
            return build_objects(graph, graph.children[graph.updates[at].first], vocabulary, {})
        if at == graph.nodes[graph.root].tail:
            break
    return None
