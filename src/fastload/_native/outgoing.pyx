"""Tensors on their way into a file: what each is, which of them share memory, and the bytes of small ones together.

A checkpoint may hold 200,000 of them, so here nothing is made for each but the one object that describes it.
"""

cimport cython
cimport numpy as cnp
from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint64_t
from libc.stdlib cimport free, qsort
from libc.string cimport memcpy, memset

from fastload._native.index cimport TensorEntry
from fastload._native.tables cimport DtypeTable
from fastload._native.utf8 cimport PyUnicode_AsUTF8AndSize
from fastload._native.vector cimport reserve

cnp.import_array()

cdef extern from "numpy/arrayobject.h":
    bint PyArray_ISBYTESWAPPED(cnp.ndarray array)
    bint PyArray_IS_C_CONTIGUOUS(cnp.ndarray array)

cdef extern from *:
    """
    #if PY_BIG_ENDIAN
    enum { is_little_endian = 0 };
    #else
    enum { is_little_endian = 1 };
    #endif
    """
    int is_little_endian

cdef struct Stretch:         # of memory that an array lies in
    const char *begin
    const char *end
    size_t row

cdef struct Text:            # that is being written
    char *start
    size_t length, capacity


# It refers to arrays, to tables of tensors and to functions that give bytes, and none of those refers back.
@cython.no_gc
@cython.final
cdef class Outgoing:
    """One tensor that is to be written.

    Attributes
    ----------
    name : str
        Its name.
    dtype : str
        The canonical name, a row of DTYPES.
    shape : tuple of int
        In elements.
    nbytes : int
        Of its elements, C-contiguous, as the format will hold them.
    chunks : callable
        Its bytes, C-contiguous and little-endian, in runs of bounded size; read only when written.
    storage : hashable
        Equal for tensors whose arrays share memory; None where nobody's does.
    entry : TensorEntry or None
        Where it came from, if from a checkpoint: quantization, kind and the like.
    view : tuple or None
        (byte offset in the shared storage, strides in bytes, bytes of the storage) for formats that keep sharing; None
        where it cannot be said so.
    storage_chunks : callable or None
        The bytes of that whole storage.
    stored : Stored or None
        The file that has the bytes of `chunks`, one after the other; None where none has, or where it does not pay.
    """

    cdef readonly str name, dtype
    cdef readonly tuple shape
    cdef readonly object nbytes, storage, entry, view, storage_chunks, stored
    cdef object given        # what gives the chunks; None where they are those of the array
    cdef object holder       # the array, or the Tensors that make it
    cdef Py_ssize_t row      # among those
    cdef object cut          # a function of an array: its chunks

    def __init__(
        self, str name not None, str dtype not None, tuple shape not None, nbytes, chunks, *, storage=None, entry=None,
        view=None, storage_chunks=None, stored=None,
    ):
        self.name, self.dtype, self.shape, self.nbytes = name, dtype, shape, nbytes
        self.given, self.storage, self.entry, self.view = chunks, storage, entry, view
        self.storage_chunks, self.stored = storage_chunks, stored

    @property
    def chunks(self):
        return self._chunks if self.given is None else self.given

    def _chunks(self):
        return self.cut(self.array())

    def array(self):
        """The array, made anew where it is a checkpoint's; None where only its bytes are known."""
        if self.holder is None or isinstance(self.holder, cnp.ndarray):
            return self.holder
        return self.holder.array(self.row)

    def data(self):
        """The bytes that `chunks` gives; None where they do not lie in memory as they are to be written."""
        if self.given is not None or self.holder is None:
            return None
        made = self.array()
        if not is_as_written(made, self.nbytes):
            return None
        return PyBytes_FromStringAndSize(<char *>cnp.PyArray_DATA(<cnp.ndarray>made), self.nbytes)

    def changed(self, **changes):
        """The same tensor, some of whose attributes are others."""
        cdef Outgoing made = Outgoing.__new__(Outgoing)
        made.name, made.dtype = changes.pop("name", self.name), changes.pop("dtype", self.dtype)
        made.shape, made.nbytes = changes.pop("shape", self.shape), changes.pop("nbytes", self.nbytes)
        made.given, made.storage = changes.pop("chunks", self.given), changes.pop("storage", self.storage)
        made.entry, made.view = changes.pop("entry", self.entry), changes.pop("view", self.view)
        made.storage_chunks = changes.pop("storage_chunks", self.storage_chunks)
        made.stored = changes.pop("stored", self.stored)
        made.holder, made.row, made.cut = self.holder, self.row, self.cut
        if changes:
            raise TypeError(f"an Outgoing has no {', '.join(changes)}")
        return made

    def __repr__(self):
        return f"Outgoing({self.name!r}, {self.dtype}, {self.shape})"


def describe_arrays(arrays, array_of, name_of, cut):
    """Describe arrays, and find those whose memory is of interest beyond their own bytes.

    Parameters
    ----------
    arrays : mapping of str to object
    array_of : callable
        Of a name and whatever is no plain array: the array of it.
    name_of : callable
        Of a name and a dtype of NumPy's: its canonical name.
    cut : callable
        Of an array: its bytes in chunks.

    Returns
    -------
    tuple
        The list of Outgoing, and the rows, in the order of their memory, of those that overlap with another or repeat
        their own.
    """
    cdef list tensors = []
    cdef Outgoing made
    cdef cnp.ndarray array
    cdef Stretch *stretches = NULL
    cdef size_t count = 0, capacity = 0
    cdef dict names = {}                     # of dtypes
    cdef dict shapes = {}                    # each once: 200,000 tuples would set the garbage collector going
    cdef object known = None, dtype_name = None
    try:
        for name, value in arrays.items():
            if not isinstance(name, str):
                raise TypeError(f"names of tensors are text, not {type(name).__name__}: {name!r}")
            array = value if type(value) is cnp.ndarray else array_of(name, value)
            if known is not array.dtype:
                known = array.dtype
                dtype_name = names.get(known)
                if dtype_name is None:
                    dtype_name = names[known] = name_of(name, known)
            made = Outgoing.__new__(Outgoing)
            made.name, made.dtype = name, dtype_name
            shape = (<object>array).shape
            made.shape = shapes.setdefault(shape, shape)
            made.nbytes = cnp.PyArray_NBYTES(array)
            made.holder, made.cut = array, cut
            tensors.append(made)
            if cnp.PyArray_SIZE(array):
                reserve(<void **>&stretches, &capacity, count + 1, sizeof(Stretch))
                stretches[count] = stretch_of(array, len(tensors) - 1)
                count += 1
        return tensors, rows_to_look_at(stretches, count, tensors)
    finally:
        free(stretches)


cdef Stretch stretch_of(cnp.ndarray array, size_t row) noexcept:
    """The memory from the first byte of an array with elements to its last, whichever way its strides go."""
    cdef Stretch found
    cdef int i
    cdef Py_ssize_t step
    found.begin = <const char *>cnp.PyArray_DATA(array)
    found.end = found.begin + cnp.PyArray_ITEMSIZE(array)
    found.row = row
    for i in range(cnp.PyArray_NDIM(array)):
        step = (cnp.PyArray_DIM(array, i) - 1) * cnp.PyArray_STRIDE(array, i)
        if step < 0:
            found.begin += step
        else:
            found.end += step
    return found


cdef int compare(const void *a, const void *b) noexcept nogil:
    cdef const Stretch *first = <const Stretch *>a
    cdef const Stretch *second = <const Stretch *>b
    if first.begin != second.begin:
        return -1 if first.begin < second.begin else 1
    if first.end != second.end:
        return -1 if first.end < second.end else 1
    return -1 if first.row < second.row else first.row > second.row


cdef list rows_to_look_at(Stretch *stretches, size_t count, list tensors):
    """The rows whose memory overlaps with that of others, or holds fewer bytes than they have."""
    cdef list found = []
    cdef size_t first = 0, i
    cdef const char *reach = NULL
    if count == 0:
        return found
    qsort(stretches, count, sizeof(Stretch), compare)
    for i in range(count + 1):
        if i < count and i > first and stretches[i].begin < reach:
            reach = max(reach, stretches[i].end)
            continue
        if i - first > 1 or (i > first and (
            (<Outgoing>tensors[stretches[first].row]).nbytes > stretches[first].end - stretches[first].begin
        )):
            found.extend([stretches[row].row for row in range(first, i)])
        if i < count:
            first, reach = i, stretches[i].end
    return found


def describe_entries(list entries not None, tensors, dict codes not None, DtypeTable table not None, cut, refuse):
    """Describe the tensors of a checkpoint, and find those that share a storage, or repeat it.

    Parameters
    ----------
    entries : list of TensorEntry
        Of all of *tensors*, in their order.
    tensors : Tensors
        What makes the arrays.
    codes : dict of str to int
        The rows of *table* by canonical names of dtypes.
    cut : callable
        Of an array: its bytes in chunks.
    refuse : callable
        Called with an entry without data, or of a dtype that is not among *codes*; it raises.

    Returns
    -------
    tuple
        The list of Outgoing, and lists of rows that belong together.
    """
    cdef list made = []
    cdef dict first = {}, together = {}, shapes = {}
    cdef Outgoing tensor
    cdef TensorEntry entry
    cdef Py_ssize_t row = 0
    cdef size_t code
    for row in range(len(entries)):
        entry = entries[row]
        dtype = entry.dtype
        found = codes.get(dtype)
        if found is None or entry.kind == "meta":
            refuse(entry)
        code = found
        if code >= table.count:
            raise IndexError(code)
        tensor = Outgoing.__new__(Outgoing)
        tensor.name, tensor.dtype, tensor.entry = entry.name, dtype, entry
        shape = entry.shape
        tensor.shape = shapes.setdefault(shape, shape)
        count = 1
        for length in tensor.shape:
            count *= length
        tensor.nbytes = -(-count // <uint64_t>table.packed[code]) * <uint64_t>table.bits[code] // 8
        tensor.holder, tensor.row, tensor.cut = tensors, row, cut
        made.append(tensor)
        storage = entry.storage
        if storage is None or not entry.nbytes:
            continue
        if storage in first:
            together.setdefault(storage, [first[storage]]).append(row)
        else:
            first[storage] = row
            if entry.nbytes > entry.storage_nbytes:
                together[storage] = [row]
    return made, list(together.values())


def gather(list tensors not None, Py_ssize_t first, room, size_t limit, size_t alignment=1):
    """Copy the bytes of small tensors into *room*, one behind the other from *first* on, as long as they fit.

    Parameters
    ----------
    tensors : list of Outgoing
    room : writable buffer
    limit : int
        In bytes: a tensor of so many is none of the small ones.
    alignment : int
        In bytes, of where each begins in *room*; there are zeros between.

    Returns
    -------
    tuple of int
        The number of the tensor that is next, which is not small, does not fit, or does not lie in memory as it is to
        be written; and the bytes of *room* that are filled.
    """
    cdef Py_buffer held
    cdef Outgoing tensor
    cdef cnp.ndarray array
    cdef size_t used = 0, begin, nbytes
    cdef Py_ssize_t place = first
    if first < 0 or alignment == 0:
        raise IndexError(first)
    PyObject_GetBuffer(room, &held, PyBUF_WRITABLE)
    try:
        while place < len(tensors):
            tensor = tensors[place]
            if tensor.given is not None or tensor.stored is not None or tensor.holder is None:
                break
            if tensor.nbytes >= limit or tensor.nbytes > <size_t>held.len - used:
                break
            begin = used + (alignment - used % alignment) % alignment
            nbytes = tensor.nbytes
            if begin > <size_t>held.len or nbytes > <size_t>held.len - begin:
                break
            made = tensor.array()
            if not is_as_written(made, nbytes):
                break
            array = made
            memset(<char *>held.buf + used, 0, begin - used)
            memcpy(<char *>held.buf + begin, cnp.PyArray_DATA(array), nbytes)
            used = begin + nbytes
            place += 1
        return place, used
    finally:
        PyBuffer_Release(&held)


cdef bint is_as_written(object array, size_t nbytes) noexcept:
    """Whether the memory of an array is just the *nbytes* bytes that a file is to have."""
    return (
        is_little_endian
        and isinstance(array, cnp.ndarray)
        and PyArray_IS_C_CONTIGUOUS(array)
        and not PyArray_ISBYTESWAPPED(array)
        and <size_t>cnp.PyArray_NBYTES(array) == nbytes
    )


# The header of safetensors.


cdef int put(Text *text, const char *start, size_t length) except -1:
    if length == 0:
        return 0
    reserve(<void **>&text.start, &text.capacity, text.length + length, 1)
    memcpy(text.start + text.length, start, length)
    text.length += length
    return 0


cdef int put_number(Text *text, uint64_t number) except -1:
    cdef char digits[20]
    cdef size_t at = sizeof(digits)
    while True:
        at -= 1
        digits[at] = <char>(48 + number % 10)
        number //= 10
        if number == 0:
            return put(text, digits + at, sizeof(digits) - at)


cdef int put_string(Text *text, const char *start, size_t length) except -1:
    """A string of JSON, of which only what must be is escaped."""
    cdef const char *digits = b"0123456789abcdef"
    cdef char escape[6]
    cdef size_t begin = 0, i
    cdef uint8_t byte
    put(text, b'"', 1)
    for i in range(length):
        byte = <uint8_t>start[i]
        if byte >= 0x20 and byte != 0x22 and byte != 0x5C:
            continue
        put(text, start + begin, i - begin)
        begin = i + 1
        memcpy(escape, b"\\u00", 4)
        escape[4], escape[5] = digits[byte >> 4], digits[byte & 15]
        if byte == 0x22 or byte == 0x5C:
            escape[1] = <char>byte
        elif byte == 0x08:
            escape[1] = b"b"
        elif byte == 0x09:
            escape[1] = b"t"
        elif byte == 0x0A:
            escape[1] = b"n"
        elif byte == 0x0C:
            escape[1] = b"f"
        elif byte == 0x0D:
            escape[1] = b"r"
        put(text, escape, 6 if escape[1] == b"u" else 2)
    put(text, start + begin, length - begin)
    return put(text, b'"', 1)


def members_of_header(list tensors not None, dict spellings not None):
    """What the header of a safetensors file says of tensors that lie in it one behind the other.

    Parameters
    ----------
    tensors : list of Outgoing
    spellings : dict of str to str
        What the format calls dtypes, by their canonical names.

    Returns
    -------
    bytes
        UTF-8: a member of a JSON object for each, with commas between.

    Raises
    ------
    UnicodeEncodeError
        A name holds half a surrogate pair.
    """
    cdef Text text
    cdef Outgoing tensor
    cdef const char *start
    cdef Py_ssize_t length = 0
    cdef uint64_t offset = 0, nbytes
    cdef size_t i
    memset(&text, 0, sizeof(Text))
    try:
        for tensor in tensors:
            put(&text, b",", text.length > 0)
            start = PyUnicode_AsUTF8AndSize(tensor.name, &length)
            put_string(&text, start, length)
            put(&text, b':{"dtype":"', 11)
            start = PyUnicode_AsUTF8AndSize(spellings[tensor.dtype], &length)
            put(&text, start, length)
            put(&text, b'","shape":[', 11)
            for i in range(len(tensor.shape)):
                put(&text, b",", i > 0)
                put_number(&text, tensor.shape[i])
            put(&text, b'],"data_offsets":[', 18)
            put_number(&text, offset)
            nbytes = tensor.nbytes
            if nbytes > <uint64_t>-1 - offset:
                raise OverflowError("tensors of more bytes than 64 bits can count")
            offset += nbytes
            put(&text, b",", 1)
            put_number(&text, offset)
            put(&text, b"]}", 2)
        return PyBytes_FromStringAndSize(text.start, <Py_ssize_t>text.length)
    finally:
        free(text.start)
