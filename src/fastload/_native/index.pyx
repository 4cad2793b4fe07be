"""The Index: one native row a tensor, and the objects that describe it made when asked for.

A checkpoint may hold 200,000 tensors, so opening makes no Python object for each. The parsers fill the table, check
every number as they do, and hand it over; it never changes afterwards.
"""

cimport cython
from cpython.ref cimport Py_INCREF
from cpython.tuple cimport PyTuple_New, PyTuple_SET_ITEM
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcpy

from fastload._native.tables cimport DtypeTable
from fastload._native.names cimport Span, add_name, find_name, free_names, reserve_texts
from fastload._native.utf8 cimport text_at, utf8_of
from fastload._native.vector cimport reserve

from fastload.errors import FormatError, LimitError

# How an array is made: from a storage in memory of its own, from the mapped source, or from it once the storage's
# record has been located.
LOAD, VIEW, LOCATE = range(3)

# What a row can be, by the number in its `kind`.
KINDS = ("tensor", "parameter", "buffer", "storage", "meta", "component", "quantised", "numpy")

cdef enum:
    TYPICAL_NAME_BYTES = 40  # only a guess at how much room to make
    MAX_SHAPE_NUMBERS = 0xFFFFFFFF  # places in `dims` are 32-bit numbers


cdef int raise_too_many_dims() except -1 with gil:
    raise LimitError("the shapes hold more than 2**32 numbers")


@cython.final
cdef class Records:
    """Named runs of bytes in one source: the records of an archive.

    A record is spoken of by its number, which is the number of the storage that it holds.
    """

    def __dealloc__(self):
        free_names(&self.names)
        free(self.extents)
        free(self.members)
        free(self.places)
        free(self.counts)

    @staticmethod
    def of_runs(list runs not None):
        """Records that are bare runs of bytes: (name, position, size) each."""
        cdef Records records = Records()
        cdef Extent *extent
        for name, position, size in runs:
            text = name.encode("utf-8", "surrogatepass")
            if add_name(&records.names, text, len(text)) < 0:
                raise FormatError(f"the file describes its storage {name!r} twice")
            reserve(<void **>&records.extents, &records.extents_capacity, records.names.count, sizeof(Extent))
            extent = &records.extents[records.names.count - 1]
            extent.position = position
            extent.size = size
        return records

    cdef bint is_stored(self, uint32_t number) noexcept nogil:
        """Whether the bytes lie in the source as they are, not compressed."""
        return self.members == NULL or self.members[number].method == 0

    def __len__(self):
        return self.names.count

    def find(self, str name not None):
        """Number of the record *name*, or -1."""
        cdef bytes text = name.encode("utf-8", "surrogateescape")
        return find_name(&self.names, text, len(text))

    def name(self, size_t number):
        """Name of a record; bytes that are not UTF-8 come as surrogate escapes."""
        if number >= self.names.count:
            raise IndexError(number)
        cdef Span span = self.names.spans[number]
        return PyUnicode_DecodeUTF8(self.names.text + span.start, span.length, "surrogateescape")

    def list_names(self):
        """The names in the order of the directory."""
        return [self.name(number) for number in range(self.names.count)]

    def is_view(self, uint32_t number):
        """Whether a record's bytes lie in the source as they are, not compressed."""
        if number >= self.names.count:
            raise IndexError(number)
        return self.is_stored(number)

    def stored(self, size_t number):
        """Bytes of a record as it lies in the source."""
        if number >= self.names.count:
            raise IndexError(number)
        return self.extents[number].size if self.members == NULL else self.members[number].stored

    def crc(self, size_t number):
        """CRC-32 of a record once inflated, as the directory has it; 0 where none was noted."""
        if number >= self.names.count:
            raise IndexError(number)
        return 0 if self.members == NULL else self.members[number].crc

    def size(self, size_t number):
        """Bytes of a record, once inflated."""
        if number >= self.names.count:
            raise IndexError(number)
        return self.extents[number].size


cdef int size_in_bytes(const uint64_t *shape, size_t ndim, uint64_t bits, uint64_t *size) noexcept nogil:
    """size = bytes of a tensor of *bits* an element, multiplied in the order of the shape, as the references do.

    Returns -1 where a product on the way does not fit 64 bits, -2 where the elements do not fill whole bytes.
    """
    cdef size_t i
    cdef bint packed = bits % 8 != 0
    size[0] = 1
    for i in range(ndim):
        if multiply_overflows(size[0], shape[i], size):
            return -1
    if multiply_overflows(size[0], bits if packed else bits // 8, size):
        return -1
    if packed:
        if size[0] % 8:
            return -2
        size[0] //= 8
    return 0


@cython.final
cdef class Index:
    """The table of the tensors of one source.

    Attributes
    ----------
    source : object
        Where the bytes are; the core only passes it on.
    records : Records or None
        The archive whose records hold the storages; None where the storages are bare runs of bytes.
    swapped : bool
        Whether the bytes of the records are big-endian.
    shard : int
        Which of several files it describes; it makes the numbers of storages differ between them.
    """

    def __init__(
        self, source, DtypeTable dtypes not None, Records records=None, bint swapped=False, uint32_t shard=0
    ):
        self.source = source
        self.dtypes = dtypes
        self.records = records
        self.swapped = swapped
        self.shard = shard
        self.held = {}
        self.quantizations = {}
        self._metadata = {}

    def __dealloc__(self):
        free_names(&self.names)
        free(self.rows)
        free(self.dims)
        free(self.extents)
        free(self.paths)
        free(self.segments)
        free(self.param_ids)

    cdef int add_dims(self, const uint64_t *items, size_t count) except -1 nogil:
        """Append sizes or strides."""
        if count > MAX_SHAPE_NUMBERS - self.dims_count:
            return raise_too_many_dims()
        reserve(<void **>&self.dims, &self.dims_capacity, self.dims_count + count + 1, sizeof(uint64_t))
        memcpy(self.dims + self.dims_count, items, count * sizeof(uint64_t))
        self.dims_count += count
        return 0

    cdef int expect(self, size_t rows) except -1 nogil:
        """Make room for about so many rows more, of names as they mostly are."""
        reserve(<void **>&self.rows, &self.rows_capacity, self.names.count + rows, sizeof(Row))
        return reserve_texts(&self.names, rows, rows * TYPICAL_NAME_BYTES)

    cdef int add_row(self, const Row *row) except -1 nogil:
        """Append the row of the name that was added last."""
        reserve(<void **>&self.rows, &self.rows_capacity, self.names.count, sizeof(Row))
        self.rows[self.names.count - 1] = row[0]
        return 0

    cdef int add_path(self, const Segment *segments, size_t count, bint renamed) except -1 nogil:
        """Note the keys of the row whose name was added last; *renamed* where the name has a number at its end."""
        cdef size_t row = self.names.count - 1, i
        cdef Path *path
        cdef bint whole = count == 1 and segments[0].kind == TEXT_KEY and not renamed
        if self.paths == NULL:
            if whole:
                return 0                     # so far every name is a single key, and none needs a path
            reserve(<void **>&self.paths, &self.paths_capacity, row + 1, sizeof(Path))
            for i in range(row):
                self.paths[i].whole = True
        reserve(<void **>&self.paths, &self.paths_capacity, row + 1, sizeof(Path))
        path = &self.paths[row]
        path.whole = whole
        path.first = <uint32_t>self.segments_count
        path.count = <uint32_t>count
        if not whole:
            reserve(<void **>&self.segments, &self.segments_capacity, self.segments_count + count + 1, sizeof(Segment))
            memcpy(self.segments + self.segments_count, segments, count * sizeof(Segment))
            self.segments_count += count
        return 0

    cdef int64_t add_extent(self, uint64_t position, uint64_t size, bint held) except -1 nogil:
        """Note a storage that is no record, of *size* bytes from *position* of the source on; returns its number."""
        cdef Extent *extent
        cdef uint32_t number = self.records_count() + <uint32_t>self.extents_count
        reserve(<void **>&self.extents, &self.extents_capacity, self.extents_count + 1, sizeof(Extent))
        extent = &self.extents[self.extents_count]
        extent.position = NOWHERE if held else position
        extent.size = size
        self.extents_count += 1
        return number

    cdef uint32_t records_count(self) noexcept nogil:
        return 0 if self.records is None else <uint32_t>self.records.names.count

    cdef bint is_held(self, uint32_t storage) noexcept nogil:
        """Whether the bytes of a storage are not in the source as they are, and no record either."""
        cdef uint32_t count = self.records_count()
        return storage >= count and self.extents[storage - count].position == NOWHERE

    cdef bint is_located(self, uint32_t storage) noexcept nogil:
        """Whether it is known where the bytes of a storage begin."""
        if storage >= self.records_count():
            return True
        return not self.records.are_headed or self.records.places[storage] != 0

    cdef const Extent *extent(self, uint32_t storage) noexcept nogil:
        cdef uint32_t count = self.records_count()
        return &self.extents[storage - count] if storage >= count else &self.records.extents[storage]

    cdef uint64_t position_of(self, uint32_t storage) noexcept nogil:
        """Where the bytes of a storage that is located, and not held, begin in the source."""
        if storage < self.records_count() and self.records.are_headed:
            return self.records.places[storage]
        return self.extent(storage).position

    def code_for(self, str name not None, dtype, int unit):
        """The row of the dtype table that *name* has; a new one of *dtype*, NumPy's, if none describes it.

        *unit* is how many of its bytes are reversed together in big-endian data.
        """
        known = self.dtypes.count - len(self.dtypes.extra)
        if name in self.dtypes.names[:known]:
            return self.dtypes.names.index(name)
        if dtype in self.dtypes.extra:
            return known + self.dtypes.extra.index(dtype)
        self.dtypes = self.dtypes.extended(name, dtype, unit)
        return self.dtypes.count - 1

    def __len__(self):
        return self.names.count

    def find(self, name):
        """Row of the tensor *name*, or -1."""
        cdef Py_ssize_t length = 0
        cdef const char *text = NULL
        cdef object _held           # for as long as its text is looked at
        if not isinstance(name, str):
            return -1
        _held = utf8_of(name, &text, &length)
        return find_name(&self.names, text, length)

    def list_names(self):
        """The names of all tensors, in order."""
        cdef size_t row
        return [text_of(self, row) for row in range(self.names.count)]

    def names_at(self, rows not None):
        """The names of the tensors of some *rows*, a sequence of numbers."""
        cdef size_t row
        cdef list names = []
        if isinstance(rows, range) and rows == range(self.names.count):
            return self.list_names()
        for row in rows:
            if row >= self.names.count:
                raise IndexError(row)
            names.append(text_of(self, row))
        return names

    def dtype_code(self, size_t row):
        """The row of the dtype table that a tensor has."""
        if row >= self.names.count:
            raise IndexError(row)
        return self.rows[row].dtype

    def resolution(self, size_t row):
        """Whether a tensor's values are the (conjugates, negatives) of the stored ones."""
        if row >= self.names.count:
            raise IndexError(row)
        return bool(self.rows[row].flags & CONJUGATED), bool(self.rows[row].flags & NEGATED)

    def access(self, size_t row):
        """How the array of a tensor is made: one of LOAD, LOCATE and VIEW."""
        if row >= self.names.count:
            raise IndexError(row)
        if not is_view(self, &self.rows[row]):
            return LOAD
        return VIEW if self.is_located(self.rows[row].storage) else LOCATE

    def storage_of(self, size_t row):
        """The number of a tensor's storage."""
        if row >= self.names.count:
            raise IndexError(row)
        return self.rows[row].storage

    def extent_of(self, uint32_t storage):
        """(position, size) of a storage that no Records hold, in bytes; position None where it is not in the source."""
        cdef uint32_t count = self.records_count()
        if storage < count or storage - count >= self.extents_count:
            raise IndexError(storage)
        position = None if self.is_held(storage) else self.extents[storage - count].position
        return position, self.extents[storage - count].size

    def held_bytes(self, uint32_t storage):
        """The bytes of a storage that is not in the source as it is: decoded, or copied from what was inflated."""
        return self.held[storage]()

    def is_record(self, uint32_t storage):
        """Whether one of the Records holds a storage."""
        return storage < self.records_count()

    def swap_of(self, size_t row):
        """The unit in bytes whose order must be reversed in a tensor's storage; 1 where there is nothing to reverse."""
        if row >= self.names.count:
            raise IndexError(row)
        return self.dtypes.swap[self.rows[row].dtype] if is_swapped(self, &self.rows[row]) else 1

    def entry(self, size_t row):
        """The description of one tensor."""
        if row >= self.names.count:
            raise IndexError(row)
        return new_entry(self, <uint32_t>row)

    def entries(self):
        """The descriptions of all tensors, in order."""
        cdef size_t row
        return [new_entry(self, <uint32_t>row) for row in range(self.names.count)]

    @property
    def metadata(self):
        """What the header says beside the tensors; a new dict each time."""
        return dict(self._metadata)


cdef extern from "Python.h":
    void PyObject_GC_UnTrack(object made)


cdef inline str text_of(Index index, size_t row):
    cdef Span span = index.names.spans[row]
    return text_at(index.names.text + span.start, span.length)


cdef tuple tuple_of(const uint64_t *numbers, size_t count):
    cdef tuple made = PyTuple_New(count)
    cdef object number
    cdef size_t i
    for i in range(count):
        number = numbers[i]
        Py_INCREF(number)                    # SET_ITEM takes a reference over
        PyTuple_SET_ITEM(made, i, number)
    PyObject_GC_UnTrack(made)                # ints alone: the garbage collector would find the same, later
    return made


cdef inline bint is_swapped(Index index, const Row *row) noexcept:
    """Whether the bytes of a tensor are big-endian."""
    if row.storage >= index.records_count():
        return row.flags & SWAPPED
    return index.swapped


cdef bint is_view(Index index, const Row *row) noexcept:
    """Whether nothing must be inflated, decoded, swapped or resolved to show a tensor."""
    if row.storage == NO_STORAGE or row.flags & (CONJUGATED | NEGATED):
        return False
    if index.dtypes.swap[row.dtype] > 1 and is_swapped(index, row):
        return False
    if row.storage >= index.records_count():
        return not index.is_held(row.storage)
    return index.records.is_stored(row.storage)


cdef inline bint is_elsewhere(Index index, const Row *row) noexcept:
    """Whether the bytes of a tensor are in a file within the source that has not been looked into."""
    cdef uint32_t count = index.records_count()
    return row.storage != NO_STORAGE and row.storage >= count and (
        index.extents[row.storage - count].position == ELSEWHERE
    )


cdef inline TensorEntry new_entry(Index index, uint32_t row):
    cdef TensorEntry entry = TensorEntry.__new__(TensorEntry)
    entry.index = index
    entry.row = row
    return entry                             # whose changes are None


# An entry refers to its index and an index to nothing that refers back, so there is no cycle to collect; leaving the
# garbage collector out keeps a list of 200,000 of them cheap.
@cython.no_gc
@cython.freelist(64)
@cython.final
cdef class TensorEntry:
    """The description of one tensor of a checkpoint: what it is and where its bytes lie; not the bytes.

    Entries are made by `Checkpoint.entry` and `Checkpoint.entries`, and read nothing of the tensor's data.
    """

    def __init__(self):
        raise TypeError("entries are made by Checkpoint.entry and Checkpoint.entries")

    def changed(self, **changes):
        """The same tensor with some of its properties otherwise: its name, or what a view or a copy of it is like."""
        cdef TensorEntry entry = new_entry(self.index, self.row)
        entry.changes = changes if self.changes is None else {**self.changes, **changes}
        return entry

    cdef bint is_changed(self, str what) except? True:
        return self.changes is not None and what in self.changes

    @property
    def name(self):
        """The dotted name, a key of the checkpoint."""
        return self.changes["name"] if self.is_changed("name") else text_of(self.index, self.row)

    @property
    def key_path(self):
        """The keys from the root of the file to the tensor: texts, and ints where the file has ints."""
        cdef Index index = self.index
        cdef Span span = index.names.spans[self.row]
        cdef Path path
        cdef Segment segment
        cdef size_t at, i
        if index.paths == NULL or index.paths[self.row].whole:
            return (text_of(index, self.row),)
        path = index.paths[self.row]
        keys = []
        at = span.start
        for i in range(path.first, path.first + path.count):
            segment = index.segments[i]
            text = PyUnicode_DecodeUTF8(index.names.text + at, segment.length, "surrogatepass")
            keys.append(text if segment.kind == TEXT_KEY else int(text) if segment.kind == INT_KEY else text == "True")
            at += segment.length + 1
        return tuple(keys)

    @property
    def dtype(self):
        """The canonical name of the dtype, such as ``"bfloat16"``."""
        if self.is_changed("dtype"):
            return self.changes["dtype"]
        return self.index.dtypes.names[self.index.rows[self.row].dtype]

    @property
    def shape(self):
        """The sizes of the dimensions, in elements."""
        cdef const Row *row = &self.index.rows[self.row]
        if self.is_changed("shape"):
            return self.changes["shape"]
        return tuple_of(self.index.dims + row.dims, row.ndim)

    @property
    def strides(self):
        """The distance between neighbours in each dimension, in bytes; None for packed and encoded ones."""
        cdef const Row *row = &self.index.rows[self.row]
        cdef size_t i
        cdef uint64_t bits = self.index.dtypes.bits[row.dtype]
        if self.is_changed("strides"):
            return self.changes["strides"]
        if is_elsewhere(self.index, row):
            return self.index.source.entry_of(self.row).strides
        if row.flags & STRIDED:
            return tuple_of(self.index.dims + row.dims + row.ndim, row.ndim)
        if bits % 8 or row.flags & (PACKED | OPAQUE):
            return None
        strides = []
        stride = bits // 8
        for i in range(row.ndim):
            strides.append(stride)
            stride *= max(self.index.dims[row.dims + row.ndim - 1 - i], 1)
        return tuple(strides[::-1])

    @property
    def offset(self):
        """Where the first element lies, in bytes from the start of the file; None where the data is no view of it."""
        cdef const Row *row = &self.index.rows[self.row]
        if self.is_changed("offset"):
            return self.changes["offset"]
        if not self.zero_copy:
            return None
        if is_elsewhere(self.index, row):
            return self.index.source.entry_of(self.row).offset
        if not self.index.is_located(row.storage):
            self.index.source.locate(self.index.records, row.storage)
        return self.index.source.origin + self.index.position_of(row.storage) + row.offset

    @property
    def nbytes(self):
        """The size of all elements, in bytes. A broadcast tensor (stride 0) takes less in the file."""
        cdef const Row *row = &self.index.rows[self.row]
        cdef uint64_t size = 0
        if self.is_changed("nbytes"):
            return self.changes["nbytes"]
        if row.flags & OPAQUE:
            return self.index.extent(row.storage).size
        if size_in_bytes(self.index.dims + row.dims, row.ndim, self.index.dtypes.bits[row.dtype], &size):
            return 0                         # only where there are no elements, behind dimensions that overflow
        if row.flags & PACKED:
            return (size + self.index.dtypes.packed[row.dtype] - 1) // self.index.dtypes.packed[row.dtype]
        return size

    @property
    def storage(self):
        """A number that is equal for tensors that share bytes; None for a meta tensor, which has none."""
        cdef uint32_t storage = self.index.rows[self.row].storage
        if self.is_changed("storage"):
            return self.changes["storage"]
        return None if storage == NO_STORAGE else <uint64_t>self.index.shard << 32 | storage

    @property
    def storage_nbytes(self):
        """The size of that storage in bytes, of which the tensor may be a small part; 0 for a meta tensor."""
        cdef uint32_t storage = self.index.rows[self.row].storage
        return 0 if storage == NO_STORAGE else self.index.extent(storage).size

    @property
    def storage_offset(self):
        """Where the first element lies, in bytes from the start of that storage; None for a meta tensor."""
        cdef const Row *row = &self.index.rows[self.row]
        return None if row.storage == NO_STORAGE else row.offset

    @property
    def file(self):
        """The file that holds the bytes; None for a buffer."""
        return self.index.source.path

    @property
    def zero_copy(self):
        """Whether the array is a view of the file as it lies there, and not inflated, swapped or resolved."""
        if self.is_changed("zero_copy"):
            return self.changes["zero_copy"]
        return is_view(self.index, &self.index.rows[self.row]) and not self.index.source.is_inflated

    @property
    def kind(self):
        """What the file holds it as.

        tensor, parameter, buffer; storage (bare bytes); meta (no data); component (of a sparse or nested tensor);
        quantised; numpy (an array of NumPy's, not of torch).
        """
        if self.is_changed("kind"):
            return self.changes["kind"]
        return KINDS[self.index.rows[self.row].kind]

    @property
    def param_id(self):
        """The number by which Burn knows a parameter; None where the file gives none, as all but Burnpack do."""
        return self.index.param_ids[self.row] if self.index.rows[self.row].flags & IDENTIFIED else None

    @property
    def quantization(self):
        """How the numbers of a quantised tensor stand for floats; None for any other.

        A `Quantization`; of Burnpack the scheme as the file has it, a dict.
        """
        cdef const Row *row = &self.index.rows[self.row]
        if KINDS[row.kind] == "quantised" and is_elsewhere(self.index, row):
            return self.index.source.entry_of(self.row).quantization
        found = self.index.quantizations.get(self.row)
        return found() if callable(found) else found

    def __repr__(self):
        return f"TensorEntry({self.name!r}, {self.dtype}, {self.shape})"
