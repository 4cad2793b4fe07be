"""Layout: where tensors whose bytes are wanted as they are in the file come to lie in one block of memory.

That is what nearly every load does. With thousands of small tensors it would take longer to speak of each in Python
than to copy it, so that no object is made for one but its array.
"""

cimport cython
from libc.stdint cimport uint64_t
from libc.stdlib cimport free, qsort

from fastload._native.index cimport OPAQUE, PACKED, STRIDED, Extent, Index, Row, is_view, size_in_bytes
from fastload._native.vector cimport reserve

cdef enum:
    NUMPY_DIMENSIONS = 64
    MAX_BYTES = 0x7FFFFFFFFFFFFFFF  # of a block; numpy counts in signed 64-bit numbers
    MAX_ALIGNMENT = 4096


cdef int compare_places(const void *one, const void *other) noexcept nogil:
    """By position, then by size, then in the order in which they were asked for."""
    cdef const Place *a = <const Place *>one
    cdef const Place *b = <const Place *>other
    if a.position != b.position:
        return -1 if a.position < b.position else 1
    if a.nbytes != b.nbytes:
        return -1 if a.nbytes < b.nbytes else 1
    return -1 if a.number < b.number else 1


@cython.final
cdef class Layout:
    """Places in a block of memory for tensors of one source, each at a multiple of an alignment, in the file's order.

    Tensors that are the same bytes have one place. Made by `lay_out`.

    Attributes
    ----------
    nbytes : int
        That are read.
    size : int
        Of the block, in bytes.
    """

    def __init__(self):
        raise TypeError("layouts are made by lay_out")

    def __dealloc__(self):
        free(self.places)
        free(self.rows)
        free(self.starts)

    cdef bint place(self, uint64_t alignment) except -1:
        """Sort the places, leave one of each run of bytes, and say where it begins; False where they are too large."""
        cdef Place *place
        cdef Place *last = NULL
        cdef size_t i, kept = 0
        reserve(<void **>&self.starts, &self.starts_capacity, self.numbers, sizeof(uint64_t))
        qsort(self.places, self.count, sizeof(Place), compare_places)
        for i in range(self.count):
            place = &self.places[i]
            if last == NULL or last.position != place.position or last.nbytes != place.nbytes:
                place.start = self.size
                if place.nbytes > MAX_BYTES - alignment - self.size:
                    return False
                self.size += (place.nbytes + alignment - 1) // alignment * alignment
                self.nbytes += place.nbytes
                self.places[kept] = place[0]
                last = &self.places[kept]
                kept += 1
            self.starts[place.number] = last.start
        self.count = kept
        return True

    def samples(self, uint64_t step):
        """Positions in the file that are evenly spread over what is read, *step* bytes of that apart."""
        cdef list positions = []
        cdef uint64_t passed = 0, at = 0
        cdef size_t i
        for i in range(self.count):
            while at < passed + self.places[i].nbytes:
                positions.append(self.places[i].position + (at - passed))
                at += step
            passed += self.places[i].nbytes
        return positions

    def number_at(self, uint64_t position):
        """Which of the tensors has the byte at a position of the file, counted as they were asked for."""
        cdef size_t i
        for i in range(self.count):
            if self.places[i].position <= position < self.places[i].position + self.places[i].nbytes:
                return self.places[i].number
        raise IndexError(position)


def lay_out(
    Index index not None, rows not None, list dtypes not None, find_dtype not None, uint64_t origin, uint64_t length,
    uint64_t alignment,
):
    """The Layout of some tensors of an index, or None where one of them is not just bytes of the source.

    Parameters
    ----------
    index, rows
        The tensors.
    dtypes : list of numpy.dtype or None
        By code; a tensor of any other code is none of these.
    find_dtype : callable
        Gives the dtype of a code that the list has None for, and puts it there.
    origin, length : int
        Where the source begins in its file, and its size, in bytes.
    alignment : int
        Of each tensor in memory, in bytes.
    """
    cdef Layout layout = Layout.__new__(Layout)
    cdef const Row *described
    cdef const Extent *extent
    cdef Place place
    cdef uint64_t position, size = 0
    cdef size_t row
    if alignment == 0 or alignment > MAX_ALIGNMENT or length > MAX_BYTES or origin > MAX_BYTES - length:
        raise ValueError(f"{length:,} bytes at {origin:,}, each tensor at a multiple of {alignment}")
    layout.index = index
    layout.dtypes = dtypes
    for making in rows:
        if not isinstance(making, int):
            return None
        row = making
        if row >= index.names.count:
            raise IndexError(row)
        described = &index.rows[row]
        if described.dtype >= len(dtypes) or not is_view(index, described) or described.flags & (PACKED | OPAQUE):
            return None
        dtype = dtypes[described.dtype]
        if dtype is None:
            dtype = find_dtype(described.dtype)
        if described.ndim > NUMPY_DIMENSIONS or not is_c_order(index, described):
            return None
        if <uint64_t>dtype.itemsize * 8 != index.dtypes.bits[described.dtype]:
            return None
        if size_in_bytes(index.dims + described.dims, described.ndim, index.dtypes.bits[described.dtype], &size):
            return None
        if not index.is_located(described.storage):
            index.source.locate(index.records, described.storage)
        extent = index.extent(described.storage)
        position = index.position_of(described.storage)
        if size == 0 or position > length or extent.size > length - position or described.offset > extent.size or (
            size > extent.size - described.offset
        ):
            return None                      # and whoever makes its array says what is wrong, if anything is
        reserve(<void **>&layout.places, &layout.places_capacity, layout.count + 1, sizeof(Place))
        reserve(<void **>&layout.rows, &layout.rows_capacity, layout.count + 1, sizeof(size_t))
        place.position, place.nbytes = origin + position + described.offset, size
        place.start, place.number = 0, layout.count
        layout.places[layout.count] = place
        layout.rows[layout.count] = row
        layout.count += 1
    layout.numbers = layout.count
    return layout if layout.place(alignment) else None


cdef bint is_c_order(Index index, const Row *row) noexcept:
    """Whether the elements of a tensor lie one after the other."""
    cdef const uint64_t *shape = index.dims + row.dims
    cdef uint64_t expected = index.dtypes.bits[row.dtype] // 8
    cdef int i
    if row.flags & STRIDED:
        for i in range(row.ndim - 1, -1, -1):
            if shape[i] != 1 and shape[row.ndim + i] != expected:
                return False
            expected *= shape[i]
    return True
