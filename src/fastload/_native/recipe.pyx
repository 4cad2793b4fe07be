"""The recipe of a tensor: its call in a pickle → a Row, whose geometry was checked against the storage.

A tensor is pickled as a call: of this function, with that storage, at this offset, with these sizes and strides.
"""

cimport cython
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

from fastload._native.arrays cimport WHOLE, read_array
from fastload._native.blob cimport load_blob
from fastload._native.calls cimport (
    ARRAY, DTYPE, DTYPE_ARG, FROM_BUFFER, LOADER, METADATA_ARG, OFFSET_ARG, OLD_TENSOR, QUANTIZER_ARG, SIZE_ARG,
    STORAGE, STORAGE_ARG, STRIDE_ARG, TENSOR, TENSOR_ARG, WRAPPER, Call, Calls, Identity, Meaning, raise_global,
    raise_recipe, text_of_node, unsigned,
)
from fastload._native.geometry cimport EMPTY_ROW, MAX_BYTES, add_geometry, raise_too_large
from fastload._native.graph cimport (
    DICT, FALSE, GLOBAL, INT, NONE, PERSID, REDUCE, TRUE, TEXT, TUPLE, Graph, Node, Slice, Update, bytes_of, int_of,
    is_worth_entering, wide,
)
from fastload._native.index cimport (
    CONJUGATED, KIND_BUFFER, KIND_META, KIND_PARAMETER, KIND_QUANTISED, KIND_STORAGE, NEGATED, PACKED, Index, Row,
    add_overflows, multiply_overflows,
)
from fastload._native.names cimport Names, append_name, find_name, index_names
from fastload._native.objects cimport build_objects
from fastload._native.vector cimport reserve
from fastload._native.zip cimport check_record

from fastload.errors import FormatError, TruncatedError

cdef enum:
    MOST_PLAIN = 8           # dimensions of a tensor that is read the short way
    MOST_MARKS = 64          # keys and values among a tensor's attributes that are looked at: many may share them

FLOAT_PARAMETERS = "_float_qparams"  # how torch ends the name of the scheme whose zero points are floats


cdef int raise_no_record(Recipe recipe, Slice key) except -1 with gil:
    prefix = recipe.record[:recipe.prefix_length].decode("utf-8", "replace")
    name = prefix + key.start[:key.length].decode("utf-8", "replace") + recipe.suffix.decode("utf-8", "replace")
    what = "storage" if recipe.records.counts != NULL else "record"
    raise FormatError(f"its storage should be the {what} {name!r}, which the file lacks")


cdef int raise_short_record(Recipe recipe, uint32_t number, uint64_t declared) except -1 with gil:
    raise TruncatedError(
        f"its storage is declared with {declared:,} bytes and record {recipe.records.name(number)!r}"
        f" has {recipe.records.extents[number].size:,}"
    )


@cython.final
cdef class Recipe(Calls):
    """Reads the tensors of one graph."""

    # Storages.

    cdef int storage(self, uint32_t node, Row *row, uint64_t *base, uint64_t *declared) except -1 nogil:
        """Find the storage of a tensor: number and dtype into *row*, and besides where it begins and ends, in bytes."""
        cdef Node *persistent = &self.graph.nodes[node]
        cdef Identity identity
        cdef Call call
        cdef int64_t number
        cdef uint64_t item
        base[0] = 0
        if persistent.kind != PERSID:
            if self.open_call(node, &call) and call.meaning != NULL and call.meaning.role == LOADER:
                load_blob(self, node)
                return self.blob_of(node, row, declared)
            return raise_recipe("what should be its storage is none")
        self.identify(node, &identity)
        if persistent.y == 0:
            number = self.find_record(identity.key)
            if number < 0:
                return raise_no_record(self, identity.key)
            check_record(self.records, <uint32_t>number)
            persistent.y = <uint32_t>(number + 1)
        row.storage = persistent.y - 1
        row.dtype = identity.meaning.dtype
        item = self.index.dtypes.bits[row.dtype] // 8
        if multiply_overflows(identity.count, item, declared):
            return raise_too_large()
        if declared[0] > self.records.extents[row.storage].size:
            return raise_short_record(self, row.storage, declared[0])
        if identity.view:
            return self.view_metadata(&identity, item, base, declared)
        return 0

    cdef int blob_of(self, uint32_t node, Row *row, uint64_t *declared) except -1 with gil:
        """The storage that the call *node* of a LOADER makes, once it is loaded."""
        row.storage, row.dtype, declared[0] = self.blobs[node]
        return 0

    cdef int64_t find_record(self, Slice key) except -2 nogil:
        """The number of the record that holds the storage *key*, or -1.

        Records mostly stand in the order in which the pickle names them, so the one behind the last is tried first.
        """
        cdef Names *names = &self.records.names
        cdef size_t number = self.next_record, length = self.prefix_length + key.length + self.suffix_length
        cdef int64_t found
        cdef const char *name
        if number < names.count and names.spans[number].length == length:
            name = names.text + names.spans[number].start
            if (
                memcmp(name + self.prefix_length, key.start, key.length) == 0
                and memcmp(name, self.record, self.prefix_length) == 0
                and memcmp(name + length - self.suffix_length, self.suffix_text, self.suffix_length) == 0
            ):
                self.next_record = number + 1
                return <int64_t>number
        reserve(<void **>&self.record, &self.record_capacity, length, 1)
        memcpy(self.record + self.prefix_length, key.start, key.length)
        memcpy(self.record + length - self.suffix_length, self.suffix_text, self.suffix_length)
        found = find_name(names, self.record, length)
        self.next_record = <size_t>(found + 1)
        return found

    # Tensors.

    cdef int metadata(self, uint32_t node, Row *row) except -1 nogil:
        """The flags of a lazily conjugated or negated tensor: a dict, or None."""
        cdef const Node *found = &self.graph.nodes[node]
        cdef Update update
        cdef uint32_t at, value
        cdef size_t i
        cdef Slice key
        if found.kind == NONE:
            return 0
        if found.kind != DICT:
            return raise_recipe("its metadata are no dict")
        at = found.tail
        while at:
            at = self.graph.updates[at].next
            update = self.graph.updates[at]
            for i in range(0, update.count, 2):
                key = self.text(self.graph.children[update.first + i])
                value = self.graph.children[update.first + i + 1]
                if self.graph.nodes[value].kind == FALSE:
                    continue
                if key.length == 4 and memcmp(key.start, b"conj", 4) == 0:
                    row.flags |= CONJUGATED
                elif key.length == 3 and memcmp(key.start, b"neg", 3) == 0:
                    row.flags |= NEGATED
                else:
                    return raise_recipe("its metadata say something unknown of it")
            if at == found.tail:
                break
        return 0

    cdef uint8_t marked_kind(self, uint32_t state) noexcept nogil:
        """What the first attributes of a tensor say that it is: a parameter or buffer that is of no such class."""
        cdef const Node *found = &self.graph.nodes[state]
        cdef Update update
        cdef Slice key
        cdef uint32_t at, left = MOST_MARKS
        cdef size_t i
        at = found.tail if found.kind == DICT else 0
        while at and left:
            at = self.graph.updates[at].next
            update = self.graph.updates[at]
            for i in range(0, min(update.count, left), 2):
                if self.graph.nodes[self.graph.children[update.first + i + 1]].kind != TRUE:
                    continue
                key = self.text(self.graph.children[update.first + i])
                if key.length == 9 and memcmp(key.start, b"_is_param", 9) == 0:
                    return KIND_PARAMETER
                if key.length == 10 and memcmp(key.start, b"_is_buffer", 10) == 0:
                    return KIND_BUFFER
            left -= min(update.count, left)
            if at == found.tail:
                break
        return 0

    cdef uint32_t bare_tensor_in(self, uint32_t node) noexcept nogil:
        """The bare tensor that *node* wraps, adding what it is and nothing else that matters; 0 if it does not.

        So are the parameters of modules: its hooks, mostly none, stand beside each.
        """
        cdef const Node *found = &self.graph.nodes[node]
        cdef const Node *arguments
        cdef const Meaning *meaning
        cdef uint32_t tensor
        cdef size_t i
        if found.kind != REDUCE or found.tail:
            return 0
        arguments = &self.graph.nodes[found.y]
        found = &self.graph.nodes[found.x]
        if found.kind != GLOBAL or not found.tail:
            return 0
        meaning = &self.vocabulary.meanings[found.tail - 1]
        if meaning.role != WRAPPER or meaning.kind == 0 or arguments.tail > meaning.most:
            return 0
        if not 0 <= meaning.at[TENSOR_ARG] < <int64_t>arguments.tail:
            return 0
        tensor = self.graph.children[arguments.x + meaning.at[TENSOR_ARG]]
        if self.graph.nodes[tensor].tail or not self.is_bare_tensor(tensor):
            return 0
        for i in range(arguments.tail):
            if i != <size_t>meaning.at[TENSOR_ARG] and is_worth_entering(
                self.graph, self.graph.children[arguments.x + i]
            ):
                return 0
        return tensor

    cdef int plain_storage(self, uint32_t node, Row *row, uint64_t *declared) except -1 nogil:
        """`storage` of one that is a whole record; False where it is not, or something is wrong with it."""
        cdef Node *persistent = &self.graph.nodes[node]
        cdef const Node *id = &self.graph.nodes[persistent.x]
        cdef const Node *part
        cdef const uint32_t *parts
        cdef Slice text
        cdef int64_t number
        if persistent.kind != PERSID or id.kind != TUPLE or id.tail < 5:
            return False
        parts = self.graph.children + id.x
        if id.tail > 5 and self.graph.nodes[parts[5]].kind != NONE:
            return False
        if parts[0] != self.sort:                # one text of the pickle, which all refer to
            text = self.text(parts[0])
            if text.length != 7 or memcmp(text.start, b"storage", 7) != 0:
                return False
            self.sort = parts[0]
        part = &self.graph.nodes[parts[1]]
        if part.kind != GLOBAL or not part.tail or self.vocabulary.meanings[part.tail - 1].role != STORAGE:
            return False
        row.dtype = self.vocabulary.meanings[part.tail - 1].dtype
        part = &self.graph.nodes[parts[4]]
        if part.kind != INT or int_of(part) < 0:
            return False
        if multiply_overflows(wide(part), self.index.dtypes.bits[row.dtype] // 8, declared):
            return False
        if persistent.y == 0:
            part = &self.graph.nodes[parts[2]]
            if part.kind != TEXT:
                return False
            number = self.find_record(bytes_of(self.graph, part))
            if number < 0:
                return False
            check_record(self.records, <uint32_t>number)
            persistent.y = <uint32_t>(number + 1)
        row.storage = persistent.y - 1
        return declared[0] <= self.records.extents[row.storage].size

    cdef int read_plain(self, uint32_t node, Row *row) except -1 nogil:
        """`read_tensor` of what nearly all are: bare tensors, and parameters of them, of a whole record, C-contiguous.

        False where it is not, or where anything is wrong: `read_tensor` says what. The row begins as an empty one.
        """
        cdef const Node *found = &self.graph.nodes[node]
        cdef const Node *sizes
        cdef const Node *strides
        cdef const Node *number
        cdef const Meaning *meaning
        cdef const uint32_t *args
        cdef uint64_t shape[MOST_PLAIN]
        cdef uint64_t declared = 0, dense = 1, start, end, size, item
        cdef size_t i
        if found.tail:
            return False
        if not self.is_bare_tensor(node):
            item = self.bare_tensor_in(node)
            if not item:
                return False
            row.kind = self.vocabulary.meanings[self.graph.nodes[found.x].tail - 1].kind
            found = &self.graph.nodes[item]
        meaning = &self.vocabulary.meanings[self.graph.nodes[found.x].tail - 1]
        found = &self.graph.nodes[found.y]
        if meaning.at[DTYPE_ARG] >= 0 or meaning.at[OFFSET_ARG] < 0 or not meaning.least <= found.tail <= meaning.most:
            return False
        if 0 <= meaning.at[METADATA_ARG] < <int64_t>found.tail or 0 <= meaning.at[QUANTIZER_ARG] < <int64_t>found.tail:
            return False
        args = self.graph.children + found.x
        if not self.plain_storage(args[meaning.at[STORAGE_ARG]], row, &declared):
            return False
        item = self.index.dtypes.bits[row.dtype] // 8
        number = &self.graph.nodes[args[meaning.at[OFFSET_ARG]]]
        sizes = &self.graph.nodes[args[meaning.at[SIZE_ARG]]]
        strides = &self.graph.nodes[args[meaning.at[STRIDE_ARG]]]
        if number.kind != INT or int_of(number) < 0 or sizes.kind != TUPLE or strides.kind != TUPLE:
            return False
        if sizes.tail != strides.tail or sizes.tail > MOST_PLAIN:
            return False
        start = wide(number)
        i = sizes.tail
        while i:
            i -= 1
            number = &self.graph.nodes[self.graph.children[sizes.x + i]]
            if number.kind != INT or int_of(number) <= 0:
                return False
            shape[i] = size = wide(number)
            number = &self.graph.nodes[self.graph.children[strides.x + i]]
            if number.kind != INT or int_of(number) < 0 or (size != 1 and wide(number) != dense):
                return False
            if multiply_overflows(dense, size, &dense):
                return False
        if add_overflows(start, dense, &end) or multiply_overflows(end, item, &end) or end > declared:
            return False
        if end > MAX_BYTES:
            return False
        row.offset = start * item
        row.ndim = <uint16_t>sizes.tail
        row.dims = <uint32_t>self.index.dims_count
        self.index.add_dims(shape, sizes.tail)
        return True

    cdef int read_tensor(self, uint32_t node, Row *row) except -1 nogil:
        """The row of the tensor that the call *node* makes, wrappers included; its dims go into the Index."""
        cdef Call call
        cdef const Meaning *dtype
        cdef const uint32_t *args = NULL
        cdef uint32_t quantizer = 0, metadata
        cdef uint64_t start = 0, declared = 0, base = 0
        cdef size_t ndim = 0, strides = 0
        memcpy(row, &EMPTY_ROW, sizeof(Row))
        if not self.thorough and self.read_plain(node, row):
            return 0
        memcpy(row, &EMPTY_ROW, sizeof(Row))
        if self.graph.nodes[node].kind == PERSID:
            return self.read_keyed_tensor(node, row)
        if not self.base(node, &call):
            return raise_recipe("what should be a tensor is none")
        row.kind = call.kind
        if call.state and not row.kind:
            row.kind = self.marked_kind(call.state)
        if call.meaning.role == ARRAY or call.meaning.role == FROM_BUFFER:
            return read_array(self, &call, WHOLE, row)
        if call.meaning.role == OLD_TENSOR:
            return self.read_old_tensor(&call, row)
        self.arguments(&call, &args)
        if call.meaning.role == TENSOR:
            self.storage(args[call.meaning.at[STORAGE_ARG]], row, &base, &declared)
        else:
            row.kind = KIND_META
        if call.meaning.at[DTYPE_ARG] >= 0:
            dtype = self.meaning(args[call.meaning.at[DTYPE_ARG]])
            if dtype == NULL or dtype.role != DTYPE:
                if self.graph.nodes[args[call.meaning.at[DTYPE_ARG]]].kind == GLOBAL:
                    return raise_global(self.graph, args[call.meaning.at[DTYPE_ARG]], "is an unknown dtype")
                return raise_recipe("what should be its dtype is none")
            row.dtype = dtype.dtype
        if call.meaning.at[OFFSET_ARG] >= 0:
            unsigned(&self.graph.nodes[args[call.meaning.at[OFFSET_ARG]]], &start, "its offset is no count")
        metadata = self.argument(&call, METADATA_ARG)
        if metadata:
            self.metadata(metadata, row)
        quantizer = self.argument(&call, QUANTIZER_ARG)
        if quantizer:
            row.kind = KIND_QUANTISED
            if self.index.dtypes.packed[row.dtype] > 1:
                row.flags |= PACKED
        self.numbers(args[call.meaning.at[SIZE_ARG]], 0, &ndim, "its shape is no tuple of counts")
        self.numbers(args[call.meaning.at[STRIDE_ARG]], ndim, &strides, "its strides are no tuple of counts")
        if strides != ndim:
            return raise_recipe("it has not as many strides as dimensions")
        add_geometry(self.index, row, self.sizes, self.sizes + ndim, ndim, base, start, declared)
        if quantizer:
            note_quantization(self, quantizer)
        return 0

    cdef int read_part(self, uint32_t node, uint8_t part, Row *row) except -1 nogil:
        """The row of a part of a masked array."""
        cdef Call call
        memcpy(row, &EMPTY_ROW, sizeof(Row))
        self.base(node, &call)
        return read_array(self, &call, part, row)

    cdef int read_old_tensor(self, const Call *call, Row *row) except -1 nogil:
        """A tensor of torch 0.1: an empty one that was given (storage, offset, size, stride) as its state."""
        cdef uint32_t state = self.state_of(call.node)
        cdef const Node *found = &self.graph.nodes[state]
        cdef const uint32_t *parts = self.graph.children + found.x
        cdef uint64_t start = 0, declared = 0, base = 0
        cdef size_t ndim = 0, strides = 0
        if found.kind != TUPLE or found.tail != 4:
            return raise_recipe("its state has not the four parts of a tensor of torch 0.1")
        self.storage(parts[0], row, &base, &declared)
        unsigned(&self.graph.nodes[parts[1]], &start, "its offset is no count")
        self.numbers(parts[2], 0, &ndim, "its shape is no tuple of counts")
        self.numbers(parts[3], ndim, &strides, "its strides are no tuple of counts")
        if strides != ndim:
            return raise_recipe("it has not as many strides as dimensions")
        return add_geometry(self.index, row, self.sizes, self.sizes + ndim, ndim, base, start, declared)

    cdef int read_keyed_tensor(self, uint32_t node, Row *row) except -1 with gil:
        """A tensor that the pickle names by a key, and that was described outside of it."""
        cdef const Node *id = &self.graph.nodes[self.graph.nodes[node].x]
        cdef Slice text = self.text(self.graph.nodes[node].x)
        cdef size_t ndim, i
        if id.kind != INT and text.start == NULL:
            raise FormatError("its key is none")
        key = int_of(id) if id.kind == INT else text.start[:text.length].decode("ascii", "replace")
        described = self.tensors.get(str(key))
        if described is None:
            raise FormatError(f"its key {str(key)!r} is that of no tensor")
        row.dtype, row.storage, start, sizes, strides, is_storage = described
        if is_storage:
            row.kind = KIND_STORAGE
        ndim = len(sizes)
        reserve(<void **>&self.sizes, &self.sizes_capacity, 2 * ndim + 1, sizeof(uint64_t))
        for i in range(ndim):
            self.sizes[i] = sizes[i]
            self.sizes[ndim + i] = strides[i]
        return add_geometry(
            self.index, row, self.sizes, self.sizes + ndim, ndim, 0, start, self.index.extent(row.storage).size
        )

    cdef int read_storage(self, uint32_t node, Row *row) except -1 nogil:
        """The row of a storage that stands in the file by itself: all its elements in one dimension."""
        cdef uint64_t declared = 0, base = 0
        memcpy(row, &EMPTY_ROW, sizeof(Row))
        row.kind = KIND_STORAGE
        self.storage(node, row, &base, &declared)
        reserve(<void **>&self.sizes, &self.sizes_capacity, 3, sizeof(uint64_t))
        self.sizes[0] = declared // (self.index.dtypes.bits[row.dtype] // 8)
        self.sizes[1] = 1
        return add_geometry(self.index, row, self.sizes, self.sizes + 1, 1, base, 0, declared)


@cython.final
cdef class Quantizer:
    """Makes what an entry shows of the quantisation of one tensor, when it is called.

    The pickle says (scheme, scale, zero point), or (scheme, scales, zero points, axis) with the middle two as tensors
    or lists.
    """
    cdef Recipe recipe
    cdef uint32_t node

    def __call__(self):
        cdef Graph graph = self.recipe.graph
        cdef const Node *found = &graph.nodes[self.node]
        cdef const uint32_t *parts = graph.children + found.x
        scheme = text_of_node(graph, graph.nodes[parts[0]].y)
        scale = numbers_of(self.recipe, parts[1])
        zero_point = numbers_of(self.recipe, parts[2])
        axis = build_objects(graph, parts[3], self.recipe.vocabulary, {}) if found.tail > 3 else None
        # torch writes one name for both schemes; the zero points tell them apart.
        floating = getattr(zero_point, "dtype", None) is not None and zero_point.dtype.kind == "f"
        if floating and not scheme.endswith(FLOAT_PARAMETERS):
            scheme += FLOAT_PARAMETERS
        return self.recipe.vocabulary.quantization(scheme, scale, zero_point, axis)


cdef object numbers_of(Recipe recipe, uint32_t node):
    """A number, a list of them, or the array of a tensor."""
    cdef Call call
    cdef Row row
    cdef Recipe own
    cdef Index index
    if not recipe.base(node, &call):
        return build_objects(recipe.graph, node, recipe.vocabulary, {})
    # An Index of its own over the same records: that of the file is made, and changes no more. A Source of its
    # own too, since a Source keeps storages by number, and the numbers of those that are no records begin anew.
    source = recipe.index.source
    index = Index(source.part(0, source.size), recipe.index.dtypes, recipe.records, recipe.index.swapped)
    own = Recipe(
        recipe.graph, recipe.vocabulary, index, recipe.records, recipe.record[:recipe.prefix_length], recipe.suffix
    )
    own.read_tensor(node, &row)
    append_name(&index.names, b"numbers", 7)
    index.add_row(&row)
    index_names(&index.names)
    return index.source.array(index, 0)


cdef int note_quantization(Recipe recipe, uint32_t node) except -1 with gil:
    """Note what the *node* says of the tensor whose row is added next."""
    cdef const Node *found = &recipe.graph.nodes[node]
    cdef Quantizer quantizer
    if found.kind != TUPLE or found.tail < 3 or recipe.graph.nodes[recipe.graph.children[found.x]].kind != GLOBAL:
        raise FormatError("what should say how it is quantised does not")
    quantizer = Quantizer.__new__(Quantizer)
    quantizer.recipe = recipe
    quantizer.node = node
    recipe.index.quantizations[recipe.index.names.count] = quantizer
    return 0
