"""The one door from numbers to memory: a row of the Index → a numpy array.

The array is read-only and its base is the Region, which holds the buffer: whatever is closed or dropped, the bytes
stay readable for as long as an array over them lives. Only over a WritableRegion, which is for handing over to those
who write to what they get, it is writable. numpy itself would accept a negative offset and read before the
buffer; so the Index holds only geometry that was checked against its storage, and `view` checks the storage against
the buffer.
"""

import numpy as np

cimport cython
cimport numpy as cnp
from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.ref cimport Py_INCREF
from cpython.tuple cimport PyTuple_New, PyTuple_SET_ITEM
from libc.stdint cimport int64_t, uint64_t

from fastload._native.buffers cimport NOTHING, fill_buffer
from fastload._native.index cimport NO_STORAGE, OPAQUE, PACKED, STRIDED, Extent, Index, Row, is_view
from fastload._native.layout cimport Laid, Layout

from fastload.errors import TruncatedError, UnsupportedError

cnp.import_array()

cdef extern from "numpy/arrayobject.h":
    cnp.ndarray PyArray_NewFromDescr(
        type subtype, cnp.dtype descr, int nd, const cnp.npy_intp *dims, const cnp.npy_intp *strides, void *data,
        int flags, void *obj
    )

cdef enum:
    NUMPY_DIMENSIONS = 64
    MAX_BYTES = 0x7FFFFFFFFFFFFFFF  # of an array; numpy counts in signed 64-bit numbers


@cython.final
cdef class Region:
    """A run of readable bytes, held for as long as anything refers to it."""

    def __cinit__(self, data):
        PyObject_GetBuffer(data, &self.held, PyBUF_SIMPLE)
        self.is_held = True

    def __dealloc__(self):
        if self.is_held:
            PyBuffer_Release(&self.held)

    def __len__(self):
        return self.held.len

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        fill_buffer(buffer, self, self.held.buf, self.held.len, True, flags)


@cython.final
cdef class WritableRegion:
    """A run of bytes that may be written to: a private mapping, a copy, or the buffer of a caller who may write."""

    def __cinit__(self, data):
        PyObject_GetBuffer(data, &self.held, PyBUF_WRITABLE)
        self.is_held = True

    def __dealloc__(self):
        if self.is_held:
            PyBuffer_Release(&self.held)

    def __len__(self):
        return self.held.len

    @property
    def address(self):
        """Where the bytes lie in memory."""
        return <size_t>self.held.buf

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        fill_buffer(buffer, self, self.held.buf, self.held.len, False, flags)


cdef int raise_shape(Index index, size_t row, str why) except -1:
    raise UnsupportedError(f"tensor {index.entry(row).name!r} cannot be a numpy array: {why}")


cdef int raise_outside(Index index, size_t row) except -1:
    raise TruncatedError(f"the bytes of tensor {index.entry(row).name!r} lie beyond the end of the data")


def view(Index index not None, size_t row, Region region not None, cnp.dtype dtype not None, bint whole=False):
    """The array of one tensor over *region*.

    Parameters
    ----------
    index, row
        The tensor.
    region : Region
        The bytes of the whole source, or, where *whole*, of the tensor's storage alone.
    dtype : numpy.dtype
        Of an element, of half a complex one (the array then has a last axis of 2), or uint8 for a packed dtype.

    Raises
    ------
    UnsupportedError
        numpy has no such array, or the tensor has no data.
    TruncatedError
        The region is shorter than the storage.
    """
    return make_view(index, row, region, &region.held, dtype, whole, 0)


def writable_view(Index index not None, size_t row, WritableRegion region not None, cnp.dtype dtype not None):
    """The writable array of one tensor over *region*, which has the bytes of its storage; checked as `view` does."""
    return make_view(index, row, region, &region.held, dtype, True, cnp.NPY_ARRAY_WRITEABLE)


cdef cnp.ndarray make_view(
    Index index, size_t row, object region, const Py_buffer *held, cnp.dtype dtype, bint whole, int flags
):
    cdef const Row *described
    cdef const Extent *extent
    cdef cnp.npy_intp shape[65]
    cdef cnp.npy_intp strides[65]
    cdef uint64_t position = 0, total, item, bits, length, size
    cdef int ndim, i
    cdef char *data
    cdef cnp.ndarray array
    if row >= index.names.count:
        raise IndexError(row)
    described = &index.rows[row]
    if described.storage == NO_STORAGE:
        raise UnsupportedError(
            f"{index.entry(row).name!r} is a meta tensor: the file holds its shape {index.entry(row).shape} and no data"
        )
    extent = index.extent(described.storage)
    length = held.len
    if not whole:
        if not index.is_located(described.storage):
            raise ValueError(f"the record of tensor {index.entry(row).name!r} has not been located yet")
        position = index.position_of(described.storage)
    if position > length or extent.size > length - position or described.offset > extent.size:
        raise_outside(index, row)
    data = (<char *>held.buf if held.len else <char *>&NOTHING) + position + described.offset

    ndim = 0 if described.flags & OPAQUE else described.ndim
    bits = index.dtypes.bits[described.dtype]
    item = dtype.itemsize
    if ndim + (bits > item * 8) > NUMPY_DIMENSIONS:
        raise_shape(index, row, f"it has {ndim} dimensions and numpy stops at {NUMPY_DIMENSIONS}")
    total = max(item if bits < 8 else bits // 8, 1)
    for i in range(ndim):
        size = index.dims[described.dims + i]
        # numpy multiplies the sizes even of an array without elements, leaving out only the zeros.
        if size > MAX_BYTES or (size and total > MAX_BYTES // size):
            raise_shape(index, row, f"its shape {index.entry(row).shape} is beyond what numpy can count")
        if size:
            total *= size
        shape[i] = <cnp.npy_intp>size
        if described.flags & STRIDED:
            strides[i] = <cnp.npy_intp>index.dims[described.dims + ndim + i]
    if described.flags & OPAQUE:
        shape[0] = <cnp.npy_intp>extent.size  # no more than the region, as was seen above
        ndim = 1
    elif described.flags & PACKED:
        # Logical elements, several to a byte and without regard to rows: one run of bytes.
        if described.flags & STRIDED:
            raise_shape(index, row, "its elements are packed, and not contiguous")
        bits = index.dtypes.packed[described.dtype]
        shape[0] = <cnp.npy_intp>((total + bits - 1) // bits) if contains_elements(shape, ndim) else 0
        ndim = 1
    elif 0 < bits < 8:
        ndim = pack(shape, ndim, bits, extent.size)
    elif bits > item * 8:
        strides[ndim] = <cnp.npy_intp>item
        shape[ndim] = 2
        ndim += 1
    if dtype.hasobject:
        raise_shape(index, row, "its elements would be Python objects")
    if item == 0:            # the call below would make elements of a byte or more, beyond the end of the data
        return np.ndarray([shape[i] for i in range(ndim)], dtype, region)
    Py_INCREF(dtype)         # the call below takes it over
    array = PyArray_NewFromDescr(
        cnp.ndarray, dtype, ndim, shape, strides if described.flags & STRIDED else NULL, data, flags, NULL
    )
    cnp.set_array_base(array, region)
    return array


def direct_view(Index index not None, size_t row, Region region not None, list dtypes not None):
    """`view` of a tensor that needs nothing else: no copy, no search for its place, no dtype but those in *dtypes*.

    None where it does. It stands before everything else, since an array by name takes a quarter of a microsecond.
    """
    cdef const Row *described
    if row >= index.names.count:
        raise IndexError(row)
    described = &index.rows[row]
    if described.dtype >= len(dtypes) or not is_view(index, described) or not index.is_located(described.storage):
        return None
    dtype = dtypes[described.dtype]
    return None if dtype is None else make_view(index, row, region, &region.held, dtype, False, 0)


def arrays_of(Layout layout not None, cnp.ndarray memory not None):
    """The writable arrays of the tensors of a Layout over its block of memory, in the order they were asked for in.

    `lay_out` has seen that each has so many bytes, in C order.
    """
    cdef cnp.npy_intp shape[NUMPY_DIMENSIONS]
    cdef const Row *row
    cdef const Laid *laid
    cdef cnp.dtype dtype
    cdef cnp.ndarray array
    cdef list arrays = []
    cdef size_t number
    cdef int i
    if not cnp.PyArray_ISCARRAY(memory) or <uint64_t>cnp.PyArray_NBYTES(memory) < layout.size:
        raise ValueError(f"the block is {layout.size:,} bytes that can be written to")
    for number in range(layout.laid_count):
        laid = &layout.laid[number]
        row = &layout.index.rows[laid.row]
        for i in range(row.ndim):
            shape[i] = <cnp.npy_intp>layout.index.dims[row.dims + i]
        dtype = layout.dtypes[laid.code]
        Py_INCREF(dtype)     # the call below takes it over
        array = PyArray_NewFromDescr(
            cnp.ndarray, dtype, row.ndim, shape, NULL, <char *>cnp.PyArray_DATA(memory) + laid.start,
            cnp.NPY_ARRAY_CARRAY, NULL
        )
        cnp.set_array_base(array, memory)
        arrays.append(array)
    return arrays


def direct_run(Index index not None, size_t row, uint64_t length):
    """Where a tensor that is a view of its source lies, counted in its elements as torch counts.

    Parameters
    ----------
    index, row
        The tensor.
    length
        The size of the source, in bytes.

    Returns
    -------
    tuple or None
        (code of the dtype, number of the storage, where that begins and its size in bytes, then in elements: the
        first from there on, the shape and the strides). None where an array has to be made first: the bytes do not lie
        in the source as they are, or it is not known where, there are none, elements are smaller than a byte, or they
        do not lie a whole number of elements apart, forwards.
    """
    cdef const Row *described
    cdef const Extent *extent
    cdef uint64_t position, item, size, step, total
    cdef int i
    if row >= index.names.count:
        raise IndexError(row)
    described = &index.rows[row]
    item = index.dtypes.bits[described.dtype] // 8
    if index.dtypes.bits[described.dtype] % 8 or item == 0 or described.flags & (PACKED | OPAQUE):
        return None
    if not is_view(index, described) or not index.is_located(described.storage):
        return None
    extent = index.extent(described.storage)
    position = index.position_of(described.storage)
    if position > length or extent.size > length - position or described.offset > extent.size:
        return None                          # and whoever makes the array says what is wrong
    if described.offset % item or described.ndim > NUMPY_DIMENSIONS:
        return None
    shape, steps = PyTuple_New(described.ndim), PyTuple_New(described.ndim)
    total = item
    for i in range(described.ndim - 1, -1, -1):
        size = index.dims[described.dims + i]
        if size == 0 or total > MAX_BYTES // size:
            return None
        step = total // item
        total *= size
        if described.flags & STRIDED:
            step = index.dims[described.dims + described.ndim + i]
            if <int64_t>step < 0 or step % item:
                return None
            step //= item
        set_number(shape, i, size)
        set_number(steps, i, step)
    return described.dtype, described.storage, position, extent.size, described.offset // item, shape, steps


cdef int set_number(tuple made, Py_ssize_t place, uint64_t value) except -1:
    cdef object number = value
    Py_INCREF(number)                        # SET_ITEM takes a reference over
    PyTuple_SET_ITEM(made, place, number)
    return 0


cdef bint contains_elements(const cnp.npy_intp *shape, int ndim) noexcept:
    cdef int i
    for i in range(ndim):
        if shape[i] == 0:
            return False
    return True


cdef int pack(cnp.npy_intp *shape, int ndim, uint64_t bits, uint64_t nbytes) noexcept:
    """Turn a shape in elements of *bits* into one of packed bytes; returns its number of dimensions.

    The last axis is counted in bytes where a row fills whole ones, as torch counts its packed dtypes; else all is one
    run.
    """
    if ndim and <uint64_t>shape[ndim - 1] * bits % 8 == 0:
        shape[ndim - 1] = <cnp.npy_intp>(<uint64_t>shape[ndim - 1] * bits // 8)
        return ndim
    shape[0] = <cnp.npy_intp>nbytes
    return 1
