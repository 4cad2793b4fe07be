"""The stream that torch wrote before its archives: five pickles, then the storages.

    pickle of a magic number, of a protocol, of facts about the system, of the object, of the list of storage keys
    for each key of that list: the number of its elements in 8 bytes, and their bytes

The object names its storages by persistent ids, of which the first for each key says how large an element is. So all
places are known without a look at the storages; the numbers before them are checked when one is first needed.

Format: `torch/serialization.py`, `_legacy_save` and `_legacy_load` of torch 2.13.
"""

cimport cython
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer

from fastload._native.cursor cimport Cursor, point_at, read_u64
from fastload._native.graph cimport (
    DICT, INT, LIST, LONG, PERSID, TUPLE, Graph, Node, Slice, Update, bytes_of, int_of,
)
from fastload._native.index cimport Extent, Index, Records, multiply_overflows
from fastload._native.tables cimport DtypeTable
from fastload._native.names cimport add_name, find_name, reserve_names
from fastload._native.pickle cimport parse_at
from fastload._native.calls cimport Identity, Calls, Vocabulary
from fastload._native.vector cimport reserve, zeroed

from fastload.errors import FormatError, LimitError, TruncatedError, UnsupportedError

cdef const char *MAGIC = b"\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"  # 0x1950A86A20F9469CFC6C, little-endian

cdef enum:
    PROTOCOL = 1001
    SMALL_BYTES = 256        # of the pickles that hold no more than a few numbers; only a guess at their length
    KEYS_SHARE = 6           # the list of storages is about so many times shorter than what describes their tensors


@cython.final
cdef class Stream:
    """The pickles of a stream, and where the storages begin."""


cdef Stream read_pickles(const uint8_t *start, uint64_t length, uint64_t origin, bint is_in_source, object held):
    cdef Stream stream = Stream.__new__(Stream)
    stream.graphs = []
    cdef uint64_t at = 0, guess
    cdef Graph graph
    cdef Slice magic
    cdef int section
    cdef Node *root
    for section in range(5):
        guess = SMALL_BYTES if section < 3 else length - at if section == 3 else at // KEYS_SHARE
        graph = parse_at(start + at, length - at, origin + at, is_in_source, guess)
        graph.owner = held
        stream.graphs.append(graph)
        root = &graph.nodes[graph.root]
        if section == 0:
            magic = bytes_of(graph, root)
            if root.kind != LONG or magic.length != 10 or memcmp(magic.start, MAGIC, 10) != 0:
                raise FormatError("the stream does not begin with PyTorch's magic number", offset=origin)
        elif section == 1 and root.kind != INT:
            raise FormatError("the protocol of the stream is no number", offset=origin + at)
        elif section == 1 and int_of(root) != PROTOCOL:
            raise UnsupportedError(
                f"the stream is of protocol {int_of(root)}; PyTorch has only ever written {PROTOCOL}",
                offset=origin + at,
            )
        elif section == 2 and root.kind != DICT:
            raise FormatError("the facts about the system that wrote the stream are no dict", offset=origin + at)
        elif section == 3:
            stream.saved = graph
        elif section == 4:
            stream.keys = graph
        at += graph.end
    stream.data = at
    return stream


cdef int add_storages(Calls calls, Records records) except -1:
    """Name every storage that the pickle names, in that order, with its size in bytes and its number of elements."""
    cdef Graph graph = calls.graph
    cdef Identity identity
    cdef size_t counts_capacity = 0, named = 0
    cdef uint64_t size = 0
    cdef int64_t number
    cdef uint32_t node
    cdef const Node *id
    cdef Slice sort
    for node in range(1, <uint32_t>graph.nodes_count):
        named += graph.nodes[node].kind == PERSID
    reserve_names(&records.names, named)         # else the table is made anew each time that it is full
    reserve(<void **>&records.extents, &records.extents_capacity, named, sizeof(Extent))
    reserve(<void **>&records.counts, &counts_capacity, named, sizeof(uint64_t))
    for node in range(1, <uint32_t>graph.nodes_count):
        if graph.nodes[node].kind != PERSID:
            continue
        id = &graph.nodes[graph.nodes[node].x]
        if id.kind == TUPLE and id.tail:
            sort = calls.text(graph.children[id.x])
            if sort.length == 6 and memcmp(sort.start, b"module", 6) == 0:
                continue                         # a class, with its source
        calls.identify(node, &identity)
        if multiply_overflows(identity.count, calls.index.dtypes.bits[identity.meaning.dtype] // 8, &size):
            raise LimitError("the size of a storage does not fit 63 bits")
        number = add_name(&records.names, identity.key.start, identity.key.length)
        if number < 0:
            continue
        reserve(<void **>&records.extents, &records.extents_capacity, number + 1, sizeof(Extent))
        reserve(<void **>&records.counts, &counts_capacity, number + 1, sizeof(uint64_t))
        records.extents[number].position = 0     # until its key is found in the list
        records.extents[number].size = size
        records.counts[number] = identity.count
    return 0


cdef int place_storages(Calls calls, Records records, Stream stream, uint64_t origin, uint64_t limit) except -1:
    """Give every storage its place, by the list of keys."""
    cdef Graph graph = stream.keys
    cdef const Node *root = &graph.nodes[graph.root]
    cdef uint32_t at = root.tail, child
    cdef uint64_t position = origin + stream.data
    cdef size_t i, placed = 0
    cdef Update update
    cdef Slice key
    cdef int64_t number
    cdef Calls keys = Calls(graph, calls.vocabulary, calls.index, records)
    if root.kind != LIST:
        raise FormatError("the list of the stream's storages is no list")
    while at:
        at = graph.updates[at].next
        update = graph.updates[at]
        for i in range(update.count):
            child = graph.children[update.first + i]
            key = keys.text(child)
            if key.start == NULL:
                raise FormatError("the list of the stream's storages holds what is no key")
            number = find_name(&records.names, key.start, key.length)
            if number < 0 or records.extents[number].position:
                name = repr(key.start[:key.length].decode("utf-8", "replace"))
                what = "a storage that no tensor names" if number < 0 else "a storage twice"
                raise FormatError(f"the list of the stream's storages holds {what}: {name}")
            if position > limit or 8 > limit - position or records.extents[number].size > limit - position - 8:
                raise TruncatedError(
                    f"the file has {limit:,} bytes, and its storage {placed + 1:,} of {records.names.count:,} would end"
                    f" at byte {position + 8 + records.extents[number].size:,}: the download or copy is incomplete;"
                    " fetch it again"
                )
            records.extents[number].position = position + 8
            position += 8 + records.extents[number].size
            placed += 1
        if at == root.tail:
            break
    for i in range(records.names.count):
        if not records.extents[i].position:
            raise FormatError(f"a tensor names the storage {records.name(i)!r}, which the stream does not hold")
    return 0


def read_stream(
    data, uint64_t origin, uint64_t limit, bint is_in_source, Vocabulary vocabulary not None,
    DtypeTable dtypes not None,
):
    """The saved object and the storages of the stream at the start of *data*: a Graph and Records.

    Parameters
    ----------
    data : buffer
        At least the pickles of the stream.
    origin, limit : int
        Its place in the source, and the size of the source, in bytes.

    Raises
    ------
    TruncatedError
        *data* ends within the pickles, or the source before the last storage.
    FormatError, UnsupportedError
        The stream is none of PyTorch's, or its sections contradict each other.
    """
    cdef Py_buffer held
    cdef Records records = Records()
    cdef Stream stream
    cdef Calls calls
    view = memoryview(data)
    PyObject_GetBuffer(view, &held, PyBUF_SIMPLE)
    try:
        stream = read_pickles(<const uint8_t *>held.buf, held.len, origin, is_in_source, view)
    finally:
        PyBuffer_Release(&held)                  # `view` holds the bytes for as long as the graph needs them
    vocabulary.resolve(stream.saved)
    calls = Calls(stream.saved, vocabulary, Index(None, dtypes), records)
    add_storages(calls, records)
    records.are_headed = True
    records.limit = limit
    records.places = <uint64_t *>zeroed(records.names.count + 1, sizeof(uint64_t))
    if records.counts == NULL:
        records.counts = <uint64_t *>zeroed(1, sizeof(uint64_t))
    place_storages(calls, records, stream, origin, limit)
    return stream.saved, records


cdef int read_blob(Vocabulary vocabulary, DtypeTable dtypes, Slice data, Blob *blob) except -1:
    """Read a stream that holds a single storage and nothing else."""
    cdef Stream stream = read_pickles(<const uint8_t *>data.start, data.length, 0, False, None)
    cdef Calls calls = Calls(stream.saved, vocabulary, Index(None, dtypes), None)
    cdef Records records = Records()
    cdef Cursor cursor
    cdef uint64_t count = 0, base = 0
    cdef Identity identity
    vocabulary.resolve(stream.saved)
    if stream.saved.nodes[stream.saved.root].kind != PERSID:
        raise UnsupportedError("holds more than a single storage")
    add_storages(calls, records)
    place_storages(calls, records, stream, 0, data.length)
    if records.names.count != 1:
        raise UnsupportedError("holds more than a single storage")
    calls.identify(stream.saved.root, &identity)
    point_at(&cursor, <const uint8_t *>data.start + records.extents[0].position - 8, 8, 0)
    read_u64(&cursor, &count)
    if count != records.counts[0]:
        raise FormatError(f"a storage of {records.counts[0]:,} elements is preceded by the number {count:,}")
    blob.position = records.extents[0].position
    blob.size = records.extents[0].size
    if identity.view:
        calls.view_metadata(&identity, dtypes.bits[identity.meaning.dtype] // 8, &base, &blob.size)
        blob.position += base
    blob.dtype = identity.meaning.dtype
    return 0
