"""Bytes in a pickle that are not a text: where they lie, or what decodes them.

Protocol 3 and above write bytes as they are, and a view of the file can be made over them. Protocols 0 to 2 write them
as the call of a codec on a text of characters below 256, which has to be decoded; so has whatever lies in a pickle that
was itself inflated or decoded.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from fastload._native.graph cimport (
    BYTEARRAY, BYTES, OWN_BYTES, REDUCE, STR8, TEXT, Graph, Node, Slice, bytes_of, wide,
)
from fastload._native.index cimport Index
from fastload._native.tables cimport DtypeTable
from fastload._native.calls cimport ENCODE, LOADER, Call, Calls, Vocabulary
from fastload._native.stream cimport Blob, read_blob, read_pickles

from fastload.errors import FastloadError, FormatError, LimitError

cdef enum:
    MAX_DEPTH = 8                # of files within files; torch itself writes one within one


cdef class Held:
    """Gives the bytes of one storage that is not in the source as it is, when it is called."""
    cdef Graph graph
    cdef uint32_t node
    cdef uint64_t start, size

    def __call__(self):
        cdef Slice data
        cdef Node *node = &self.graph.nodes[self.node]
        data = bytes_of(self.graph, node)
        if node.kind == TEXT:
            return decoded(data)[self.start:self.start + self.size]
        return data.start[self.start:self.start + self.size]


cdef bytes decoded(Slice text):
    """The bytes that a text of characters below 256 stands for."""
    try:
        return text.start[:text.length].decode("utf-8").encode("latin-1")
    except UnicodeError:
        raise FormatError("what should be bytes is a text with other characters in it")


cdef int64_t decoded_size(Slice text) except -1:
    """How many bytes a text stands for, once it is seen that its characters are below 256: two-byte ones in UTF-8."""
    cdef size_t i, size = 0
    for i in range(text.length):
        if <uint8_t>text.start[i] > 0xC3:
            raise FormatError("what should be bytes is a text with other characters in it")
        size += (<uint8_t>text.start[i] & 0xC0) != 0x80
    return <int64_t>size


cdef uint32_t data_node(Calls calls, uint32_t node):
    """The node that holds the bytes themselves; 0 where there are none."""
    cdef Call call
    cdef const Node *found = &calls.graph.nodes[node]
    cdef const Node *arguments
    cdef int depth = 0
    while found.kind == REDUCE and depth < 3:
        if not calls.open_call(node, &call) or call.meaning == NULL or call.meaning.role != ENCODE:
            break
        arguments = &calls.graph.nodes[call.arguments]
        if not arguments.tail:
            return 0
        node = calls.graph.children[arguments.x]
        found = &calls.graph.nodes[node]
        depth += 1
    if found.kind != BYTES and found.kind != BYTEARRAY and found.kind != STR8 and found.kind != TEXT:
        raise FormatError("what should be bytes is none")
    return node


cdef int64_t add_part(Calls calls, uint32_t node, uint64_t start, uint64_t size) except -1:
    """A storage of *size* bytes from *start* of the bytes of a node on."""
    cdef const Node *found = &calls.graph.nodes[node]
    cdef Held held
    cdef int64_t storage
    if calls.graph.is_in_source and found.kind != TEXT and not found.flags & OWN_BYTES:
        return calls.index.add_extent(calls.graph.origin + wide(found) + start, size, False)
    held = Held.__new__(Held)
    held.graph = calls.graph
    held.node = node
    held.start = start
    held.size = size
    storage = calls.index.add_extent(0, size, True)
    calls.index.held[storage] = held
    return storage


cdef int64_t add_data(Calls calls, uint32_t node) except -1 with gil:
    """A storage of the bytes that a node is, or the call of a codec makes."""
    cdef uint32_t data = data_node(calls, node)
    cdef Slice found
    if data == 0:
        return calls.index.add_extent(0, 0, False)
    known = calls.array_storages.get(data)
    if known is None:                            # else another call has the same ones
        found = bytes_of(calls.graph, &calls.graph.nodes[data])
        size = decoded_size(found) if calls.graph.nodes[data].kind == TEXT else <int64_t>found.length
        known = calls.array_storages[data] = add_part(calls, data, 0, size)
    return known


cdef uint32_t blob_node(Calls calls, uint32_t node) except 0:
    """The node that holds the bytes of the file that a LOADER is called with."""
    cdef const Node *arguments = &calls.graph.nodes[calls.graph.nodes[node].y]
    cdef uint32_t data
    if arguments.tail != 1:
        raise FormatError("the function that loads its storage is called with too few or too many arguments")
    data = data_node(calls, calls.graph.children[arguments.x])
    if data == 0:
        raise FormatError("the file that should be its storage is empty")
    return data


cdef bytes blob_bytes(Calls calls, uint32_t node):
    """The bytes of the file that a LOADER is called with."""
    cdef uint32_t data = blob_node(calls, node)
    cdef Slice found = bytes_of(calls.graph, &calls.graph.nodes[data])
    return decoded(found) if calls.graph.nodes[data].kind == TEXT else found.start[:found.length]


cdef int load_blob(Calls calls, uint32_t node) except -1 with gil:
    """Read the whole file that a call of a LOADER has as its argument, and note the one storage in it."""
    cdef uint32_t data
    cdef Slice found
    cdef Blob blob
    cdef bytes text
    if node in calls.blobs:
        return 0
    data = blob_node(calls, node)
    known = calls.blobs.get(~<object>data)       # another call may have read the same bytes
    if known is not None:
        calls.blobs[node] = known
        return 0
    found = bytes_of(calls.graph, &calls.graph.nodes[data])
    if calls.graph.nodes[data].kind == TEXT:
        text = decoded(found)
        found.start, found.length = <const char *>text, len(text)
    try:
        read_blob(calls.vocabulary, calls.index.dtypes, found, &blob)
    except FastloadError as error:
        error.message = f"the file within the pickle that should be its storage: {error.message}"
        error.offset = None
        raise
    storage = add_part(calls, data, blob.position, blob.size)
    calls.blobs[node] = calls.blobs[~<object>data] = (storage, blob.dtype, blob.size)
    return 0


cdef int add_globals(Graph graph, Vocabulary vocabulary, DtypeTable dtypes, dict found, int depth) except -1:
    """Add what a pickle mentions, and the files within it, and the files within those."""
    cdef Calls calls = Calls(graph, vocabulary, Index(None, dtypes), None)
    cdef Call call
    cdef uint32_t node
    cdef Graph inner
    cdef bytes data
    cdef set read = set()        # nodes whose bytes were: very many calls may have the same ones
    if depth > MAX_DEPTH:
        raise LimitError(f"files lie within files of the pickle more than {MAX_DEPTH} deep")
    found.update(dict.fromkeys(graph.list_globals()))
    vocabulary.resolve(graph)
    for node in range(1, <uint32_t>graph.nodes_count):
        if calls.open_call(node, &call) and call.meaning != NULL and call.meaning.role == LOADER:
            number = blob_node(calls, node)
            if number in read:
                continue
            read.add(number)
            data = blob_bytes(calls, node)
            for inner in read_pickles(data, len(data), 0, False, data).graphs:
                add_globals(inner, vocabulary, dtypes, found, depth + 1)
    return 0


def list_globals(Graph graph not None, Vocabulary vocabulary not None, DtypeTable dtypes not None):
    """Every (module, name) that a pickle and the files within it mention, once each, in order.

    Raises
    ------
    FormatError
        A file within the pickle cannot be read.
    """
    cdef dict found = {}
    add_globals(graph, vocabulary, dtypes, found, 0)
    return list(found)
