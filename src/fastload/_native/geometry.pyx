"""Sizes and strides of a tensor, checked against its storage before they come into the Index."""

from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free

from fastload._native.index cimport (
    ELSEWHERE, MAX_DIMENSIONS, NO_STORAGE, PACKED, STRIDED, SWAPPED, TEXT_KEY, INT_KEY, Index, Row, Segment,
    add_overflows, multiply_overflows, size_in_bytes,
)
from fastload._native.names cimport add_name, append_name, index_names
from fastload._native.vector cimport reserve

from fastload._native.index import KINDS
from fastload.errors import FormatError, LimitError, TruncatedError

EMPTY_ROW.offset = 0
EMPTY_ROW.dims = 0
EMPTY_ROW.storage = NO_STORAGE
EMPTY_ROW.ndim = 0
EMPTY_ROW.dtype = 0
EMPTY_ROW.kind = 0
EMPTY_ROW.flags = 0


cdef int raise_extent(uint64_t end, uint64_t declared) except -1 with gil:
    raise FormatError(f"its last element ends at byte {end:,} of a storage of {declared:,} bytes")


cdef int raise_too_large() except -1 with gil:
    raise LimitError("its size does not fit 63 bits")


cdef int add_geometry(
    Index index, Row *row, uint64_t *sizes, uint64_t *strides, size_t ndim, uint64_t base, uint64_t start,
    uint64_t declared,
) except -1 nogil:
    """Check sizes and strides, in elements, against *declared* bytes of storage; store them with *row*.

    The part of the storage that counts begins *base* bytes into it, and the tensor *start* elements into that part.
    The stride of a dimension of length 1 means nothing, and neither does anything of a tensor without elements. The
    strides are changed on the way.
    """
    cdef uint64_t item = index.dtypes.bits[row.dtype] // 8
    cdef uint64_t nbytes = 0, step = 0, end, dense
    cdef bint contiguous = True, empty = False
    cdef size_t i
    for i in range(ndim):
        empty = empty or sizes[i] == 0
    if not empty and (size_in_bytes(sizes, ndim, item * 8, &nbytes) or nbytes > MAX_BYTES):
        return raise_too_large()
    if empty:
        start = 0
    else:
        end = start + 1                          # start is at most 2**63
        dense = 1
        i = ndim
        while i:
            i -= 1
            if sizes[i] == 1:
                strides[i] = dense
            elif strides[i] != dense:
                contiguous = False
            if multiply_overflows(sizes[i] - 1, strides[i], &step) or add_overflows(end, step, &end):
                return raise_too_large()
            dense *= sizes[i]                    # their product was found to fit
        if row.flags & PACKED:
            end = (end + index.dtypes.packed[row.dtype] - 1) // index.dtypes.packed[row.dtype]
        if multiply_overflows(end, item, &end):
            return raise_too_large()
        if row.storage != NO_STORAGE and end > declared:
            return raise_extent(end, declared)
    row.offset = base + start * item
    row.ndim = <uint16_t>ndim
    row.dims = <uint32_t>index.dims_count
    index.add_dims(sizes, ndim)
    if not contiguous:
        row.flags |= STRIDED
        for i in range(ndim):
            strides[i] *= item                   # a stride that leads to no second element was replaced above
        index.add_dims(strides, ndim)
    return 0


cdef uint64_t counted(value, str what) except? 0:
    # MAX_BYTES is an enum's, which becomes -1 where Python compares it with an object.
    if isinstance(value, int) and value >= 0 and value.bit_length() < 64:
        return value
    raise FormatError(f"its {what} is no count: {value!r}")


cdef bint add_free_name(Index index, bytes name) except? True:
    """Name the next row: as is, or, in an Index that finds names at once, by the first free variant; whether by one."""
    cdef bytes variant = name
    number = 1
    if index.names.slots == NULL:
        append_name(&index.names, name, len(name))
        return False
    while add_name(&index.names, variant, len(variant)) < 0:
        number += 1
        variant = b"%b#%d" % (name, number)
    return number > 1


def append(
    Index index not None, tuple key_path not None, int dtype, shape, *, strides=None, storage=None, offset=0,
    size_t kind=0, bint swapped=False,
):
    """Add one tensor to an Index that is being made in Python; the name is the keys joined by dots.

    Parameters
    ----------
    key_path : tuple of str and int
        The keys from the root.
    dtype : int
        Row of the dtype table.
    shape : sequence of int
    strides : sequence of int, optional
        In elements; C-contiguous if not given.
    storage : int, optional
        A number that `add_storage` gave, or that of a record; None for a tensor without data.
    offset : int
        Of the first element, in elements.
    kind : int
        Its place in KINDS.
    swapped : bool
        Whether the bytes are big-endian, of a storage that is no record.

    Raises
    ------
    FormatError
        The geometry makes no sense, or reaches beyond the storage.
    """
    cdef uint64_t *scratch = NULL
    cdef size_t room = 0, ndim = len(shape), i, length
    cdef Segment *segments = NULL
    cdef size_t segments_room = 0
    cdef Row row = EMPTY_ROW
    cdef uint64_t declared = 0, dense = 1
    cdef bytes name = ".".join(str(key) for key in key_path).encode("utf-8", "surrogatepass")
    if ndim > MAX_DIMENSIONS:
        raise LimitError(f"it has {ndim:,} dimensions")
    if strides is not None and len(strides) != ndim:
        raise FormatError("it has not as many strides as dimensions")
    if not 0 <= kind < len(KINDS):
        raise IndexError(kind)
    if not 0 <= dtype < index.dtypes.count:
        raise IndexError(dtype)
    row.dtype = dtype
    row.kind = kind
    row.flags = SWAPPED if swapped else 0
    if storage is not None:
        row.storage = storage
        if row.storage >= index.records_count() + index.extents_count:
            raise IndexError(storage)
        declared = index.extent(row.storage).size
    try:
        reserve(<void **>&scratch, &room, 2 * ndim + 1, sizeof(uint64_t))
        reserve(<void **>&segments, &segments_room, len(key_path) + 1, sizeof(Segment))
        for i in range(ndim):
            scratch[i] = counted(shape[i], "shape")
        for i in range(ndim):
            if strides is not None:
                scratch[ndim + i] = counted(strides[i], "stride")
            else:
                scratch[2 * ndim - 1 - i] = dense
                # A product that overflows is refused below, where the sizes are multiplied with a check.
                dense = (dense * max(scratch[ndim - 1 - i], 1)) & 0xFFFFFFFFFFFFFFFF
        for i in range(<size_t>len(key_path)):
            key = key_path[i]
            length = len(str(key).encode("utf-8", "surrogatepass"))
            segments[i].length = <uint32_t>length
            segments[i].kind = INT_KEY if isinstance(key, int) else TEXT_KEY
        add_geometry(index, &row, scratch, scratch + ndim, ndim, 0, counted(offset, "offset"), declared)
        index.add_path(segments, len(key_path), add_free_name(index, name))
        index.add_row(&row)
    finally:
        free(scratch)
        free(segments)


def add_storage(Index index not None, uint64_t position, uint64_t size, uint64_t limit):
    """Note a run of *size* bytes at *position* of a source that has *limit*; returns its number for `append`."""
    if position > limit or size > limit - position:
        raise TruncatedError(
            f"a storage of {size:,} bytes at byte {position:,} ends beyond the {limit:,} bytes of the file:"
            " the download or copy is incomplete; fetch it again"
        )
    return index.add_extent(position, size, False)


def promise_storage(Index index not None, uint64_t size, bint is_view, make=None):
    """Note a storage of *size* bytes that is not looked for now; returns its number for `append`.

    Where *is_view*, it lies in a file within the source, and the source's `entry_of(row)` gives the entry that the
    tensor has there; else it must be put together: *make* gives its bytes, or, without that, the arrays of such tensors
    are not for `view` to make.
    """
    number = index.add_extent(0, size, True)
    if is_view:
        index.extents[index.extents_count - 1].position = ELSEWHERE
    if make is not None:
        index.held[number] = make
    return number


def finish(Index index not None):
    """Make the names of an Index that was filled by `append` findable.

    Raises
    ------
    FormatError
        Two tensors came to one name.
    """
    cdef object twice = index_names(&index.names)
    if twice >= 0:
        raise FormatError(f"two tensors of the file are named {index.entry(twice).name!r}")
