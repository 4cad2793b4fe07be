"""Layout: where tensors that are bytes of a file, as they are or cast, come to lie in one block of memory.

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
    MAX_CAST_BYTES = 0x0FFFFFFFFFFFFFFF  # of a tensor that is cast, since a byte may become eight


cdef int compare_places(const void *one, const void *other) noexcept nogil:
    """By position, size and result, so that the same come together; then in the order in which they were asked for."""
    cdef const Place *a = <const Place *>one
    cdef const Place *b = <const Place *>other
    if a.position != b.position:
        return -1 if a.position < b.position else 1
    if a.nbytes != b.nbytes:
        return -1 if a.nbytes < b.nbytes else 1
    if a.to_float != b.to_float:
        return -1 if a.to_float < b.to_float else 1
    return -1 if a.number < b.number else 1


@cython.final
cdef class Layout:
    """Places in a block of memory for tensors of one source, each at a multiple of an alignment, in the file's order.

    Tensors that are the same bytes, and become the same, have one place. Made by `lay_out`.

    Attributes
    ----------
    nbytes : int
        That are read.
    filled : int
        Bytes of the block that are filled with them.
    size : int
        Of the block, in bytes.
    """

    def __init__(self):
        raise TypeError("layouts are made by lay_out")

    def __dealloc__(self):
        free(self.places)
        free(self.laid)

    cdef bint add(
        self, size_t row, int target, object find_dtype, list floats, uint64_t origin, uint64_t length
    ) except -1:
        """Take a tensor that is to be of the dtype *target*, or of its own where that is -1; False if it cannot be."""
        cdef Index index = self.index
        cdef const Row *described
        cdef const Extent *extent
        cdef uint64_t position, width
        cdef Place place
        if row >= index.names.count:
            raise IndexError(row)
        described = &index.rows[row]
        if described.dtype >= len(floats) or target >= len(floats):
            return False
        width = index.dtypes.bits[described.dtype] // 8
        if index.dtypes.bits[described.dtype] % 8 or width == 0 or described.flags & (PACKED | OPAQUE):
            return False
        if not is_view(index, described) or described.ndim > NUMPY_DIMENSIONS or not is_c_order(index, described):
            return False
        if size_in_bytes(index.dims + described.dims, described.ndim, 8 * width, &place.nbytes):
            return False
        if not index.is_located(described.storage):
            index.source.locate(index.records, described.storage)
        extent = index.extent(described.storage)
        position = index.position_of(described.storage)
        if place.nbytes == 0 or position > length or extent.size > length - position or (
            described.offset > extent.size or place.nbytes > extent.size - described.offset
        ):
            return False                     # and whoever makes its array says what is wrong, if anything is
        place.position = origin + position + described.offset
        place.size = place.nbytes
        place.from_float = place.to_float = -1
        if target < 0 or target == described.dtype:
            target = described.dtype
        else:
            place.from_float, place.to_float = floats[described.dtype], floats[target]
            if place.from_float < 0 or place.to_float < 0 or place.nbytes > MAX_CAST_BYTES:
                return False
            place.size = place.nbytes // width * (index.dtypes.bits[target] // 8)
        dtype = self.dtypes[target]
        if dtype is None:
            dtype = self.dtypes[target] = find_dtype(target)
        if <uint64_t>dtype.itemsize * 8 != index.dtypes.bits[target]:
            return False
        place.start, place.number = 0, self.laid_count
        reserve(<void **>&self.places, &self.places_capacity, self.laid_count + 1, sizeof(Place))
        reserve(<void **>&self.laid, &self.laid_capacity, self.laid_count + 1, sizeof(Laid))
        self.places[self.laid_count] = place
        self.laid[self.laid_count].row = row
        self.laid[self.laid_count].code = target
        self.laid_count += 1
        return True

    cdef bint place(self, uint64_t alignment) except -1:
        """Sort the places, leave one of the same, and say where each begins; False where they are too large."""
        cdef Place *place
        cdef Place *last = NULL
        cdef size_t i
        if self.laid_count:                  # qsort takes no NULL
            qsort(self.places, self.laid_count, sizeof(Place), compare_places)
        for i in range(self.laid_count):
            place = &self.places[i]
            if last == NULL or last.position != place.position or last.nbytes != place.nbytes or (
                last.to_float != place.to_float
            ):
                if place.size > MAX_BYTES - alignment - self.size:
                    return False
                place.start = self.size
                self.size += (place.size + alignment - 1) // alignment * alignment
                self.nbytes += place.nbytes
                self.filled += place.size
                last = &self.places[self.places_count]
                last[0] = place[0]
                self.places_count += 1
            self.laid[place.number].start = last.start
        return True

    def samples(self, uint64_t step):
        """Positions in the file that are evenly spread over what is read, *step* bytes of that apart."""
        cdef list positions = []
        cdef uint64_t passed = 0, at = 0
        cdef size_t i
        for i in range(self.places_count):
            while at < passed + self.places[i].nbytes:
                positions.append(self.places[i].position + (at - passed))
                at += step
            passed += self.places[i].nbytes
        return positions

    def number_at(self, uint64_t position):
        """Which of the tensors has the byte at a position of the file, counted as they were asked for."""
        cdef size_t i
        for i in range(self.places_count):
            if self.places[i].position <= position < self.places[i].position + self.places[i].nbytes:
                return self.places[i].number
        raise IndexError(position)


def lay_out(
    Index index not None, rows not None, targets, find_dtype not None, list floats not None, uint64_t origin,
    uint64_t length, uint64_t alignment,
):
    """The Layout of some tensors of an index, or None where one of them is not just bytes of the source.

    Parameters
    ----------
    index, rows
        The tensors.
    targets : list of int or None
        The code of the dtype that each is cast to, or -1.
    find_dtype : callable
        Gives NumPy's dtype for a code.
    floats : list of int
        By code: its position in `FLOATS`, or -1. A tensor of any other code has no place.
    origin, length : int
        Where the source begins in its file, and its size, in bytes.
    alignment : int
        Of each tensor in memory, in bytes.
    """
    cdef Layout layout = Layout.__new__(Layout)
    cdef size_t number
    if alignment == 0 or alignment > MAX_ALIGNMENT or length > MAX_BYTES or origin > MAX_BYTES - length:
        raise ValueError(f"{length:,} bytes at {origin:,}, each tensor at a multiple of {alignment}")
    if targets is not None and len(targets) != len(rows):
        raise ValueError(f"{len(targets):,} dtypes for {len(rows):,} tensors")
    layout.index = index
    layout.dtypes = [None] * len(floats)
    for number, row in enumerate(rows):
        if not layout.add(row, -1 if targets is None else targets[number], find_dtype, floats, origin, length):
            return None
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
