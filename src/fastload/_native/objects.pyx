"""The graph of a pickle → plain Python values, made when someone asks for `ckpt.objects`.

Each node becomes one object, however often it is referred to, so sharing and cycles are kept and nothing is expanded.
A class or function that the caller gave no maker for becomes a Record: a note of what the file says, which does
nothing.
"""

cimport cython
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport UINT64_MAX, int64_t, uint32_t, uint64_t
from libc.string cimport memcpy

from fastload._native.graph cimport (
    BYTEARRAY, DICT, FALSE, FLOAT, FROZENSET, GLOBAL, INT, ITEMS, KEYWORDS, LIST, LONG, NEWOBJ, NONE, PAIRS,
    PERSID, REDUCE, SET, STATE, STR8, TEXT, TRUE, TUPLE, Graph, Node, Slice, Update, bytes_of, int_of,
    is_sequence, is_unwieldy,
)
from fastload._native.calls cimport Vocabulary

from types import SimpleNamespace

from fastload.errors import FormatError, LimitError

# What a maker raises at arguments that no pickler writes.
REFUSALS = (TypeError, ValueError, LookupError, OverflowError)

MAX_OBJECTS = 4_000_000      # a file of more has them in a tensor, or means harm


@cython.final
@cython.trashcan(True)
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
    is_mapping : bool
        Whether items are pairs of key and value that were set, as in a dict.
    source_file, source : str or None
        Where its class was written, and the text of it, where an old file of torch says so.
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


cdef enum:
    MAKE = 0x10000000000     # with the number of a node: make its object, all that it is made of being done
    # Objects in the key of a dict, which is made anew each time that it is looked at.
    MAX_KEY_OBJECTS = 4000
    # What is handed to a maker is read or copied each time, and thousands of calls may share one list. Real files hand
    # each list and text to one call, so the sum is below the length of the pickle.
    COPIES = 4_000_000
    COPIES_PER_BYTE = 4


@cython.final
cdef class Builder:
    """One walk: every node's object by its number, and the tables of the caller."""
    cdef Graph graph
    cdef dict made           # node: object
    cdef set finished        # nodes whose object holds all that it will
    cdef dict makers         # (module, name): how it is used, and a function
    cdef dict leaves         # node: object that stands for it
    cdef object mapping      # the maker that marks a dict-like class
    cdef dict uses           # global: its row of the table
    cdef dict ways           # call: what makes its object
    cdef uint64_t copied, most_copied
    cdef uint64_t parts_made, most_parts  # objects, and sixteenths of the bytes of texts
    cdef bint is_key         # what the records hold does not matter

    def __cinit__(self, Graph graph, Vocabulary vocabulary, dict leaves, bint is_key):
        self.graph = graph
        self.uses = {}
        self.ways = {}
        self.most_copied = COPIES + COPIES_PER_BYTE * graph.end
        self.is_key = is_key
        self.most_parts = UINT64_MAX
        self.made = {}
        self.finished = set()
        self.makers = vocabulary.makers
        self.leaves = leaves
        self.mapping = vocabulary.mapping

    # What a node names.

    cdef list parts(self, const Node *node):
        """The nodes that *node* is made of, in order."""
        cdef size_t i
        if node.kind == TUPLE or node.kind == FROZENSET:
            return [self.graph.children[node.x + i] for i in range(node.tail)]
        if node.kind == REDUCE or node.kind == NEWOBJ:
            return [node.x, node.y]
        return [node.x] if node.kind == PERSID else []

    cdef list added(self, const Node *node):
        """The nodes that were added to *node* later, in order."""
        cdef list found = []
        cdef size_t i
        cdef Update update
        cdef uint32_t at = node.tail
        if node.kind < LIST or not at:               # of a text, say, `tail` is the length
            return found
        while True:
            at = self.graph.updates[at].next
            update = self.graph.updates[at]
            for i in range(update.count):
                found.append(self.graph.children[update.first + i])
            if at == node.tail:
                return found

    cdef bint is_made(self, list nodes) except -1:
        for node in nodes:
            if node not in self.made:
                return False
        return True

    cdef list values(self, list nodes):
        return [self.made[node] for node in nodes]

    cdef bint is_text(self, uint32_t number) noexcept:
        return self.graph.nodes[number].kind == TEXT or self.graph.nodes[number].kind == STR8

    cdef object text(self, uint32_t number):
        return scalar(self.graph, &self.graph.nodes[number])

    cdef int spend(self, value, int levels=0) except -1:
        """Count what reading a value takes, and that of the items of tuples, so many levels down."""
        if isinstance(value, (str, bytes, bytearray, list, tuple, dict, set, frozenset)):
            self.copied += len(value)
            if self.copied > self.most_copied:
                raise LimitError("the objects of the pickle are made of the same parts over and over")
        if levels and isinstance(value, tuple):
            for item in value:
                self.spend(item, levels - 1)
        return 0

    # Classes and what makes their objects.

    cdef uint32_t class_in_id(self, uint32_t number) except? 0:
        """The class that the persistent id ("module", class, file, source) stands for; 0 where it is no such id."""
        cdef Node *node = &self.graph.nodes[number]
        cdef Node *id
        cdef uint32_t first
        if node.kind != PERSID:
            return 0
        id = &self.graph.nodes[node.x]
        if id.kind != TUPLE or id.tail < 2:
            return 0
        first = self.graph.children[id.x]
        if not self.is_text(first) or self.text(first) != "module":
            return 0
        first = self.graph.children[id.x + 1]
        return first if self.graph.nodes[first].kind == GLOBAL else 0

    cdef Record record_of(self, uint32_t number, args):
        """The record of a class, or of a call of it where there are *args*."""
        cdef Node *node = &self.graph.nodes[number]
        cdef Node *id
        cdef Record record
        cdef uint32_t inner, at
        if node.kind == GLOBAL:
            return Record(self.text(node.x), self.text(node.y), args)
        inner = self.class_in_id(number)
        if not inner:
            return Record("", "call of an object", args)
        record = self.record_of(inner, args)
        id = &self.graph.nodes[node.x]
        for i in range(2, min(id.tail, 4)):
            at = self.graph.children[id.x + i]
            if self.is_text(at) and i == 2:
                record.source_file = self.text(at)
            elif self.is_text(at):
                record.source = self.text(at)
        return record

    cdef tuple maker(self, uint32_t number):
        """What makes the objects of a class: how it is used, and a function; ("", None) where nothing does."""
        cdef Node *node = &self.graph.nodes[number]
        if node.kind != GLOBAL:
            return "", None
        found = self.uses.get(number)            # one global is called thousands of times
        if found is None:
            found = self.uses[number] = self.makers.get((self.text(node.x), self.text(node.y)), ("", None))
        return found

    cdef uint32_t class_of(self, const Node *node) except? 0:
        """What a call is a call of: the class itself, where it goes by way of a function that makes objects of it."""
        cdef Node *arguments = &self.graph.nodes[node.y]
        cdef uint32_t first
        if self.maker(node.x)[0] != "new" or not arguments.tail:
            return node.x
        first = self.graph.children[arguments.x]
        return first if self.graph.nodes[first].kind == GLOBAL or self.class_in_id(first) else node.x

    cdef tuple maker_of(self, uint32_t call):
        """What makes the object of a call."""
        cdef const Node *node = &self.graph.nodes[call]
        cdef uint32_t number
        found = self.ways.get(call)
        if found is None:
            number = self.class_of(node)
            found = self.maker(number)
            use = found[0]
            if (
                use == "constant" or use == "new" or use == "call" and number != node.x
                or use == "namespace" and not self.has_attributes_only(node)
            ):
                found = "", None
            self.ways[call] = found
        return found

    cdef bint has_attributes_only(self, const Node *node) except -1:
        """Whether an object is nothing but attributes called by texts, as a namespace is."""
        cdef uint32_t at = node.tail, state
        cdef bint is_new = self.class_of(node) != node.x
        if not is_new and self.graph.nodes[node.y].tail:
            return False
        while at:
            at = self.graph.updates[at].next
            state = self.graph.children[self.graph.updates[at].first]
            if self.graph.updates[at].kind != STATE or self.graph.nodes[state].kind != DICT:
                return False
            keys = self.added(&self.graph.nodes[state])[::2]
            self.spend(keys)
            for key in keys:
                if not self.is_text(key):
                    return False
            if at == node.tail:
                break
        return True

    # Making objects.

    cdef object begin(self, uint32_t number):
        """The object of a node that can be made ahead of its children; else None."""
        cdef Node *node = &self.graph.nodes[number]
        if node.kind == LIST:
            return []
        if node.kind == DICT:
            return {}
        if node.kind == SET:
            return set()
        if node.kind == GLOBAL:
            use, value = self.maker(number)
            return value if use == "constant" else self.record_of(number, None)
        if node.kind == REDUCE or node.kind == NEWOBJ:
            use, function = self.maker_of(number)
            if use == "":
                return self.record_of(self.class_of(node), ())
            if use == "namespace":
                return SimpleNamespace()
            return {} if function is self.mapping else None
        if node.kind == PERSID:
            return self.record_of(number, None) if self.class_in_id(number) else Record("", "persistent id", ())
        return None          # a tuple or frozenset, which never changes

    cdef int make(self, uint32_t number) except -1:
        """Make the object of a call from its arguments."""
        cdef Node *node = &self.graph.nodes[number]
        _, function = self.maker_of(number)
        self.spend(self.made.get(node.y), 1)
        try:
            if node.y not in self.made or not self.are_usable(node.y):
                raise ValueError
            self.made[number] = function(*self.made[node.y])
        except REFUSALS:
            self.made[number] = self.record_of(node.x, ())
        return 0

    cdef bint finish(self, uint32_t number) except -1:
        """Make or fill the object of a node from those of its children; False where one of them is not made yet."""
        cdef Node *node = &self.graph.nodes[number]
        cdef list parts = self.parts(node), added = self.added(node)
        if not self.is_made(parts) or not self.is_made(added):
            if number not in self.made and not is_sequence(node):
                self.made[number] = self.record_of(node.x, ())   # a state that holds its own object
            return False
        if node.kind == TUPLE:
            self.made[number] = tuple(self.values(parts))
        elif node.kind == FROZENSET:
            self.made[number] = frozenset(self.values(parts))
        elif node.kind == LIST:
            (<list>self.made[number]).extend(self.values(added))
        elif node.kind == SET:
            (<set>self.made[number]).update(self.values(added))
        elif node.kind == DICT:
            (<dict>self.made[number]).update(zip(self.values(added[::2]), self.values(added[1::2])))
        elif node.kind == PERSID:
            if not self.class_in_id(number):
                (<Record>self.made[number]).args = (self.made[node.x],)
            elif node.tail:
                self.finish_call(number, node)
        elif not self.finish_call(number, node):
            return False
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
            for item in self.parts(&self.graph.nodes[child]) + self.added(&self.graph.nodes[child]):
                if is_unwieldy(&self.graph.nodes[item]):
                    return False
        return True

    cdef bint finish_call(self, uint32_t number, const Node *node) except -1:
        """Fill the object of a call, whose children are made; False where one of them does not hold all its items."""
        cdef Record record
        cdef uint32_t class_number = node.x
        cdef tuple args = ()
        use, function = "", None
        if node.kind != PERSID:
            class_number = self.class_of(node)
            use, function = self.maker_of(number)
            args = self.made[node.y]
            if class_number != node.x or use == "namespace":
                for child in self.parts(&self.graph.nodes[node.y]) + self.added(node):
                    if LIST <= self.graph.nodes[child].kind <= SET and child not in self.finished:
                        return False
        if function is not None and function is self.mapping:
            self.set_arguments(number, node)
        elif use == "state" and number not in self.made:
            self.make_with_state(number, node, function)
        made = self.made[number]
        if isinstance(made, Record):
            record = made
            if class_number != node.x and node.kind != PERSID:
                self.take_arguments(record, node)
            elif node.kind != PERSID:
                record.args = args
        self.update(made, node)
        return True

    cdef int make_with_state(self, uint32_t number, const Node *node, function) except -1:
        """Make an object from the arguments of its call and what was handed to `__setstate__`."""
        cdef uint32_t class_number = self.class_of(node)
        cdef list added = self.added(node)
        args = self.made[node.y] if class_number == node.x else self.without_class(node)[0]
        state = self.made[added[0]] if added else None
        self.spend(args, 1)
        self.spend(state, 1)
        try:
            if len(added) > 1 or (added and self.graph.updates[node.tail].kind != STATE):
                raise ValueError
            self.made[number] = function(args, state)
        except REFUSALS:
            self.made[number] = self.record_of(class_number, ())
        return 0

    cdef tuple without_class(self, const Node *node):
        """The arguments and items that a function was given to make an object of a class with."""
        cdef tuple args = self.made[node.y]
        self.spend(args, 1)
        try:
            return self.maker(node.x)[1](*args[1:])
        except REFUSALS:
            return args, None

    cdef int take_arguments(self, Record record, const Node *node) except -1:
        record.args, items = self.without_class(node)
        if isinstance(items, dict):
            record.is_mapping = True
            record.items.extend(items.items())
        elif items is not None:
            record.items.extend(items)
        return 0

    cdef int set_arguments(self, uint32_t number, const Node *node) except -1:
        """Put what a dict-like class was called with into the dict."""
        if not self.are_usable(node.y):
            raise LimitError("a dict is made of itself, or of a key that has too many parts")
        self.spend(self.made[node.y], 1)
        for arg in self.made[node.y]:
            if isinstance(arg, dict):
                self.made[number].update(arg)
            elif isinstance(arg, list):          # of pairs, as Python 2 wrote it
                pairs = [pair for pair in arg if isinstance(pair, (list, tuple)) and len(pair) == 2]
                self.made[number].update(pairs)
        return 0

    cdef int update(self, made, const Node *node) except -1:
        """Add to an object what the pickle added to it."""
        cdef Record record = made if isinstance(made, Record) else None
        cdef Update update
        cdef uint32_t at = node.tail
        cdef list added
        while at:
            at = self.graph.updates[at].next
            update = self.graph.updates[at]
            added = self.values([self.graph.children[update.first + i] for i in range(update.count)])
            if record is not None:
                if update.kind == STATE:
                    record.state = added[0]
                elif update.kind == KEYWORDS:
                    self.spend(added[0])
                    record.kwargs.update(added[0])
                elif update.kind == PAIRS:
                    record.is_mapping = True
                    record.items.extend(zip(added[::2], added[1::2]))
                else:
                    record.items.extend(added)
            elif update.kind == PAIRS and isinstance(made, dict):
                made.update(zip(added[::2], added[1::2]))
            elif update.kind == ITEMS and isinstance(made, list):
                made.extend(added)
            elif update.kind == ITEMS and isinstance(made, set):
                made.update(added)
            elif update.kind == STATE and isinstance(made, SimpleNamespace):
                self.spend(added[0])
                made.__dict__.update(added[0])
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
            if number >= MAKE:
                self.make(<uint32_t>(number - MAKE))
                continue
            if number in self.made or number in begun:
                continue
            if self.is_key and len(self.made) > MAX_KEY_OBJECTS:
                raise LimitError(f"the key of a dict is made of more than {MAX_KEY_OBJECTS:,} objects")
            if len(self.made) > MAX_OBJECTS:
                raise LimitError(f"the file holds more than {MAX_OBJECTS:,} Python objects beside its tensors")
            node = &self.graph.nodes[number]
            self.parts_made += 1 + (node.tail // 16 if LONG <= node.kind <= BYTEARRAY else 0)
            if self.parts_made > self.most_parts:
                raise LimitError("the dtypes of the arrays are made of the same parts over and over")
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
                if node.kind == GLOBAL or (self.is_key and isinstance(made, Record)):
                    continue
                added = self.added(node)
                self.parts_made += len(added)    # as often as they are referred to: one node may be all of a list
                stack.append(~number)
                stack.extend(reversed(added))
                if made is None and not is_sequence(node) and self.maker_of(<uint32_t>number)[0] == "call":
                    stack.append(number + MAKE)
                stack.extend(reversed(self.parts(node)))
        self.finish_late(late)
        return self.made[root]

    cdef int finish_late(self, list late) except -1:
        """Finish what refers to itself: first tuples, each of which stands behind its parts; last what is a copy."""
        cdef list copies = []
        for number in sorted(number for number in late if number not in self.made):
            self.finish(number)
        for number in late:
            if number not in self.finished and not self.finish(number):
                copies.append(number)
        for number in copies:
            self.finish(number)
        return 0


cdef object key_value(Graph graph, Vocabulary vocabulary, uint32_t node):
    """A dict key as a Python value, which can be hashed."""
    value = build_objects(graph, node, vocabulary, {}, True)
    try:
        hash(value)
    except TypeError:
        raise FormatError(f"a value of the pickle cannot be the key of a dict: {type(value).__name__}")
    return value


cdef str key_text(Graph graph, Vocabulary vocabulary, uint32_t node):
    """What stands for a dict key that is neither text nor number in the name of a tensor: its `str`."""
    try:
        return str(build_objects(graph, node, vocabulary, {}, True))
    except ValueError:  # of an int with more digits than Python converts
        raise LimitError("the key of a dict is a number of more than 4300 digits")


cdef object build_within(Graph graph, uint32_t root, Vocabulary vocabulary, uint64_t *left):
    """The same, of no more than *left* parts, which become fewer."""
    cdef Builder builder = Builder(graph, vocabulary, {}, False)
    builder.most_parts = left[0]
    try:
        return built(builder, root)
    finally:                                     # what was refused has cost as much
        left[0] -= min(left[0], builder.parts_made)


cdef object build_objects(Graph graph, uint32_t root, Vocabulary vocabulary, dict leaves, bint is_key=False):
    return built(Builder(graph, vocabulary, leaves, is_key), root)


cdef object built(Builder builder, uint32_t root):
    try:
        return builder.build(root)
    except UnicodeDecodeError:
        raise FormatError("the file changed while it was open: a text in its pickle is no UTF-8 any more")
    except TypeError as error:
        raise FormatError(f"a value of the pickle cannot be the key of a dict: {error}")


def build(Graph graph not None, Vocabulary vocabulary not None, dict leaves not None):
    """The root of a pickle as Python values; *leaves* maps nodes to the objects that stand for them: tensors."""
    return build_objects(graph, graph.root, vocabulary, leaves)


def build_state(Graph graph not None, Vocabulary vocabulary not None):
    """What was handed to `__setstate__` of the root of a pickle, as Python values; None if nothing was."""
    cdef uint32_t at = graph.nodes[graph.root].tail, state = 0
    if graph.nodes[graph.root].kind != REDUCE and graph.nodes[graph.root].kind != NEWOBJ:
        return None
    while at:
        at = graph.updates[at].next
        if graph.updates[at].kind == STATE:      # the last one counts, as for tensors
            state = graph.children[graph.updates[at].first]
        if at == graph.nodes[graph.root].tail:
            break
    return build_objects(graph, state, vocabulary, {}) if state else None
