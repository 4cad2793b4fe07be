"""The Index as the other parts of the core see it: its structs, and the checked arithmetic of filling them."""

cimport cython
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from fastload._native.names cimport Names
from fastload._native.tables cimport DtypeTable

cdef extern from *:
    """
    #if defined(__GNUC__) || defined(__clang__)
    #define fastload_multiply_overflows(a, b, product) __builtin_mul_overflow(a, b, product)
    #define fastload_add_overflows(a, b, sum) __builtin_add_overflow(a, b, sum)
    #else
    static int fastload_multiply_overflows(uint64_t a, uint64_t b, uint64_t *product) {
        *product = a * b;
        return a && *product / a != b;
    }
    static int fastload_add_overflows(uint64_t a, uint64_t b, uint64_t *sum) {
        *sum = a + b;
        return *sum < a;
    }
    #endif
    """
    bint multiply_overflows "fastload_multiply_overflows"(uint64_t, uint64_t, uint64_t *) noexcept nogil
    bint add_overflows "fastload_add_overflows"(uint64_t, uint64_t, uint64_t *) noexcept nogil

cdef enum Flag:
    STRIDED = 1              # byte strides follow the shape; without it the tensor is C-contiguous
    CONJUGATED = 2           # the values are the complex conjugates of the stored ones
    NEGATED = 4              # the values are the negatives of the stored ones
    SWAPPED = 8              # the stored bytes are big-endian, whatever those of the rest are
    PACKED = 16              # several elements lie in one byte; the storage holds as many bytes as that takes
    OPAQUE = 32              # the storage is the tensor's own encoding of any size, which only its maker can read
    IDENTIFIED = 64          # it has a param_id

cdef extern from *:
    """
    #define FASTLOAD_NOWHERE 0xFFFFFFFFFFFFFFFFu
    #define FASTLOAD_ELSEWHERE 0xFFFFFFFFFFFFFFFEu
    """
    const uint64_t NOWHERE "FASTLOAD_NOWHERE"
    const uint64_t ELSEWHERE "FASTLOAD_ELSEWHERE"

cdef enum:
    NO_STORAGE = 0xFFFFFFFF  # of a meta tensor: described, not stored
    MAX_DIMENSIONS = 0xFFFF  # they are counted in 16 bits; of numpy's 64, view.pyx knows

cdef enum:                   # rows of KINDS
    KIND_TENSOR
    KIND_PARAMETER
    KIND_BUFFER
    KIND_STORAGE
    KIND_META
    KIND_COMPONENT
    KIND_QUANTISED
    KIND_NUMPY

cdef struct Row:             # one tensor
    uint64_t offset          # of its first element, in bytes from the start of its storage
    uint32_t dims            # where its shape begins in `dims`; as many strides follow where STRIDED
    uint32_t storage
    uint16_t ndim
    uint8_t dtype            # row of the dtype table
    uint8_t kind             # row of KINDS
    uint8_t flags

cdef struct Extent:          # one storage, or one record of an archive
    uint64_t position        # of its bytes, or of its local header; from the start of the source
    uint64_t size            # in bytes, once inflated

cdef struct Member:          # what a zip directory says of a record beside its extent
    uint64_t stored          # bytes in the archive
    uint32_t crc
    uint16_t flags
    uint16_t method

cdef enum KeyKind:
    TEXT_KEY, INT_KEY, BOOL_KEY  # a key that is none of these is named, and given, by its text

cdef struct Segment:         # one key on the way to a tensor
    uint32_t length          # of its text within the tensor's name
    uint8_t kind

cdef struct Path:            # the keys of one tensor; none where its whole name is its only key
    uint32_t first           # in `segments`
    uint32_t count
    bint whole               # the name is the one key, a text


@cython.final
cdef class Records:
    cdef Names names
    cdef Extent *extents     # by number of the name
    cdef size_t extents_capacity
    cdef Member *members     # NULL where the runs are bare bytes without a local header
    cdef size_t members_capacity
    # Where the bytes of a record begin, once its local header has been read and checked; 0 before. The one thing here
    # that is written after the table is made: each is a single store, of a number that any thread may find.
    cdef uint64_t *places
    cdef bint are_headed     # a header stands before the bytes of each: it tells where they begin, and is checked
    cdef uint64_t *counts    # of a legacy stream: the number that must stand in those 8 bytes; NULL elsewhere
    cdef uint64_t limit      # where the directory of an archive begins; no record reaches past it

    cdef bint is_stored(self, uint32_t number) noexcept nogil


@cython.final
cdef class Index:
    cdef Names names         # numbered as the rows are
    cdef Row *rows
    cdef size_t rows_capacity
    cdef uint64_t *dims
    cdef size_t dims_count, dims_capacity
    # Of the storages that no Records hold: their numbers follow those of the records. At the position
    # NOWHERE lie those whose bytes are not in the source as they are: `held` knows what gives them; and ELSEWHERE those
    # in a file within the source that is opened only when asked for: the source's `entry_of(row)` describes them there.
    cdef Extent *extents
    cdef size_t extents_count, extents_capacity
    cdef dict held           # number of such a storage: what gives its bytes
    cdef Path *paths         # parallel to rows; NULL where every name is a single key of text
    cdef size_t paths_capacity
    cdef Segment *segments
    cdef size_t segments_count, segments_capacity
    cdef uint64_t *param_ids  # parallel to rows, and only those of rows that are IDENTIFIED mean something
    cdef size_t param_ids_capacity
    cdef dict _metadata
    cdef dict quantizations  # row: Quantization, or what makes it
    cdef readonly DtypeTable dtypes
    cdef readonly Records records
    cdef readonly object source
    cdef readonly bint swapped
    cdef public uint32_t shard

    cdef bint is_located(self, uint32_t storage) noexcept nogil
    cdef int add_dims(self, const uint64_t *items, size_t count) except -1 nogil
    cdef int expect(self, size_t rows) except -1 nogil
    cdef int add_row(self, const Row *row) except -1 nogil
    cdef int add_path(self, const Segment *segments, size_t count, bint renamed) except -1 nogil
    cdef int64_t add_extent(self, uint64_t position, uint64_t size, bint held) except -1 nogil
    cdef uint32_t records_count(self) noexcept nogil
    cdef const Extent *extent(self, uint32_t storage) noexcept nogil
    cdef uint64_t position_of(self, uint32_t storage) noexcept nogil
    cdef bint is_held(self, uint32_t storage) noexcept nogil


@cython.final
cdef class TensorEntry:
    cdef Index index
    cdef uint32_t row
    cdef dict changes        # what a step of a plan, or a shard, made other than the row has it; None for nothing

    cdef bint is_changed(self, str what) except? True


cdef bint is_view(Index index, const Row *row) noexcept
cdef int size_in_bytes(const uint64_t *shape, size_t ndim, uint64_t bits, uint64_t *size) noexcept nogil
