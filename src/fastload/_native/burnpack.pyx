"""The metadata of a Burnpack file: CBOR, scanned straight into the Index.

    {"tensors": {name: {"dtype": …, "shape": [n, …], "data_offsets": [begin, end], "param_id": n}, …},
     "metadata": {text: text, …}, "scalars": {text: {"Int": n}, …}}

One pass, no Python object a tensor. Stricter than Burn's own reader where the format is: no key twice, nothing behind
the item, every extent that of its dtype and shape, no overlap, padding of zeros. Unknown keys are skipped as serde
skips them, but must be CBOR.
"""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcmp

from fastload._native.cbor cimport (
    ARRAY, MAP, NEGATIVE, SIMPLE, TEXT, UNSIGNED, Item, another, open_items, read_count, read_item, read_string,
    read_text, simple_value, skip_value,
)
from fastload._native.cursor cimport Cursor, left, point_at, raise_format, read_u16, read_u32, take, tell
from fastload._native.index cimport (
    IDENTIFIED, KIND_QUANTISED, MAX_DIMENSIONS, OPAQUE, Extent, Index, Row, size_in_bytes,
)
from fastload._native.tables cimport DtypeTable, Spellings, code_of
from fastload._native.json cimport Text, is_text
from fastload._native.names cimport append_name
from fastload._native.order cimport arrange, make_room, name_of, raise_layout
from fastload._native.vector cimport reserve

from functools import partial

from fastload._native.cbor import decode
from fastload.errors import FormatError, LimitError, TruncatedError, UnsupportedError

MAX_TENSORS = 100_000        # Burn's own limit
MAX_TEXTS = 100_000          # of metadata, and of scalars: short ones take 50 times their length as Python objects
MAX_SCHEME_BYTES = 1 << 16   # of one quantisation scheme, for the same reason; Burn's take some 100 bytes

cdef enum:
    ALIGN = 256              # in bytes: of the data, and of every tensor in it
    HEADER_LENGTH = 10       # in bytes, before the CBOR: a mark, the version, the length of the CBOR

ALIGNMENT = ALIGN
HEADER_BYTES = HEADER_LENGTH

cdef enum Field:
    NO_FIELD = 0
    DTYPE = 1
    SHAPE = 2
    DATA_OFFSETS = 4
    NEEDED_FIELDS = 7
    PARAM_ID = 8


@cython.final
cdef class Header:
    """What is known while a header is being read."""

    cdef Cursor cursor
    cdef Text text           # the text read last
    cdef uint64_t *shape     # of the tensor being read
    cdef size_t shape_capacity
    cdef bint in_tensor      # the tensor whose name was added last is being read
    cdef Spellings plain, bools
    cdef int opaque          # dtype code of tensors in an encoding of their own
    cdef list schemes        # of their quantisation, as CBOR; a row has the number of its own in `offset`
    cdef dict decoded        # schemes that were found to be sound
    cdef uint64_t file_size

    def __dealloc__(self):
        free(self.text.start)
        free(self.shape)


cdef str text_of(const Text *text):
    return PyUnicode_DecodeUTF8(text.start, text.length, NULL)


cdef int raise_dtype(Header header) except -1 with gil:
    raise UnsupportedError(
        f"its dtype {text_of(&header.text)!r} is none that fastload knows; a newer one may"
    )


cdef int read_field(Header header) except -1 nogil:
    """The name of a field: one of Field, or NO_FIELD for an unknown one."""
    cdef Cursor *cursor = &header.cursor
    cdef Text *text = &header.text
    if left(cursor) >= 13:                       # as every writer spells them
        if memcmp(cursor.next, b"\x65dtype", 6) == 0:
            cursor.next += 6
            return DTYPE
        if memcmp(cursor.next, b"\x65shape", 6) == 0:
            cursor.next += 6
            return SHAPE
        if memcmp(cursor.next, b"\x6Cdata_offsets", 13) == 0:
            cursor.next += 13
            return DATA_OFFSETS
    read_text(cursor, text, "the name of a field is no text")
    if is_text(text, "dtype", 5):
        return DTYPE
    if is_text(text, "shape", 5):
        return SHAPE
    if is_text(text, "data_offsets", 12):
        return DATA_OFFSETS
    if is_text(text, "param_id", 8):
        return PARAM_ID
    return NO_FIELD


cdef int add_scheme(Header header, const uint8_t *start, size_t length) except -1 with gil:
    if length > MAX_SCHEME_BYTES:
        raise LimitError(f"its quantisation scheme takes more than {MAX_SCHEME_BYTES:,} bytes")
    cdef bytes scheme = start[:length]           # a copy, and only that is looked at from now on
    if scheme not in header.decoded:
        if not isinstance(decode(scheme), dict):
            raise FormatError("its quantisation scheme is no CBOR map", offset=tell(&header.cursor))
        header.decoded[scheme] = scheme
    header.schemes.append(header.decoded[scheme])
    return 0


cdef int read_dtype(Header header, Row *row, int *code) except -1 nogil:
    """A dtype: its name alone, {"Bool": how it is stored}, or {"QFloat": its scheme}."""
    cdef Cursor *cursor = &header.cursor
    cdef const uint8_t *start
    cdef Item item
    cdef uint64_t remaining = 0
    read_item(cursor, &item)
    if item.major == TEXT:
        read_string(cursor, &item, &header.text)
        code[0] = code_of(header.plain.rows, header.plain.count, header.text.start, header.text.length)
        if code[0] < 0:
            return raise_dtype(header)
        return 0
    if item.major != MAP:
        return raise_format(cursor, "a dtype is neither a text nor a map")
    open_items(cursor, &item, &remaining)
    if not another(cursor, &remaining):
        return raise_format(cursor, "a dtype is an empty map")
    read_text(cursor, &header.text, "the name of a dtype is no text")
    if is_text(&header.text, "Bool", 4):
        read_text(cursor, &header.text, "how a Bool is stored is no text")
        code[0] = code_of(header.bools.rows, header.bools.count, header.text.start, header.text.length)
        if code[0] < 0:
            return raise_dtype(header)
    elif is_text(&header.text, "QFloat", 6):
        start = cursor.next
        skip_value(cursor)
        code[0] = header.opaque
        row.kind = KIND_QUANTISED
        row.flags |= OPAQUE
        add_scheme(header, start, cursor.next - start)
    else:
        return raise_dtype(header)
    if another(cursor, &remaining):
        return raise_format(cursor, "a dtype is a map of several")
    return 0


cdef int read_shape(Header header, size_t *ndim) except -1 nogil:
    cdef Cursor *cursor = &header.cursor
    cdef Item item
    cdef uint64_t remaining = 0
    read_item(cursor, &item)
    if item.major != ARRAY:
        return raise_format(cursor, "a shape is no array")
    open_items(cursor, &item, &remaining)
    while another(cursor, &remaining):
        if ndim[0] == MAX_DIMENSIONS:
            return raise_format(cursor, "a shape has more than 65535 dimensions")
        reserve(<void **>&header.shape, &header.shape_capacity, ndim[0] + 1, sizeof(uint64_t))
        read_count(cursor, &header.shape[ndim[0]], "a size in a shape is no whole number of 64 bits without sign")
        ndim[0] += 1
    return 0


cdef int read_offsets(Header header, uint64_t *begin, uint64_t *end) except -1 nogil:
    cdef Cursor *cursor = &header.cursor
    cdef Item item
    cdef uint64_t remaining = 0
    read_item(cursor, &item)
    if item.major != ARRAY:
        return raise_format(cursor, "data_offsets are no array")
    open_items(cursor, &item, &remaining)
    if not another(cursor, &remaining):
        return raise_format(cursor, "data_offsets are not two")
    read_count(cursor, begin, "a data offset is no whole number of 64 bits without sign")
    if not another(cursor, &remaining):
        return raise_format(cursor, "data_offsets are not two")
    read_count(cursor, end, "a data offset is no whole number of 64 bits without sign")
    if another(cursor, &remaining):
        return raise_format(cursor, "data_offsets are not two")
    return 0


cdef int read_param_id(Header header, Index index, Row *row) except -1 nogil:
    """A number, or null where there is none."""
    cdef Item item
    cdef size_t number = index.names.count - 1   # of the row to be
    read_item(&header.cursor, &item)
    if item.major == UNSIGNED:
        reserve(<void **>&index.param_ids, &index.param_ids_capacity, number + 1, sizeof(uint64_t))
        index.param_ids[number] = item.value
        row.flags |= IDENTIFIED
    elif item.major != SIMPLE or (item.info != 22 and item.info != 23):
        return raise_format(&header.cursor, "a param_id is no whole number of 64 bits without sign")
    return 0


cdef int read_tensor(Header header, Index index) except -1 nogil:
    """The map that describes one tensor, checked in itself; its row is added."""
    cdef Cursor *cursor = &header.cursor
    cdef Item item
    cdef Row row
    cdef int seen = 0, field, code = 0
    cdef size_t ndim = 0
    cdef uint64_t remaining = 0, begin = 0, end = 0, size = 0
    row.offset = 0
    row.kind = 0
    row.flags = 0
    read_item(cursor, &item)
    if item.major != MAP:
        return raise_format(cursor, "the description of a tensor is no map")
    open_items(cursor, &item, &remaining)
    while another(cursor, &remaining):
        field = read_field(header)
        if seen & field:
            return raise_format(cursor, "a field stands twice")
        seen |= field
        if field == DTYPE:
            read_dtype(header, &row, &code)
        elif field == SHAPE:
            read_shape(header, &ndim)
        elif field == DATA_OFFSETS:
            read_offsets(header, &begin, &end)
        elif field == PARAM_ID:
            read_param_id(header, index, &row)
        else:
            skip_value(cursor)
    if seen & NEEDED_FIELDS != NEEDED_FIELDS:
        return raise_format(cursor, "its description lacks dtype, shape or data_offsets")
    if end < begin:
        return raise_format(cursor, "data_offsets end before they begin")
    if size_in_bytes(header.shape, ndim, index.dtypes.bits[code], &size):
        return raise_format(cursor, "a tensor's size does not fit 64 bits")
    if row.flags & OPAQUE:
        row.offset = number_of_schemes(header) - 1
    elif size != end - begin:
        return raise_format(cursor, "data_offsets do not fit the dtype and shape")
    row.dims = <uint32_t>index.dims_count
    row.ndim = <uint16_t>ndim
    row.dtype = <uint8_t>code
    index.add_dims(header.shape, ndim)
    # Of the data for now; of the file once `place_data` has found where that begins.
    row.storage = <uint32_t>index.add_extent(begin, end - begin, False)
    index.add_row(&row)
    return 0


cdef uint64_t number_of_schemes(Header header) except? 0 with gil:
    return len(header.schemes)


cdef int raise_tensors() except -1 with gil:
    raise LimitError(f"the file describes more than {MAX_TENSORS:,} tensors, which is Burn's own limit")


cdef int read_tensors(Header header, Index index, size_t limit) except -1 nogil:
    cdef Cursor *cursor = &header.cursor
    cdef Item item
    cdef uint64_t remaining = 0
    read_item(cursor, &item)
    if item.major != MAP:
        return raise_format(cursor, "tensors is no map")
    open_items(cursor, &item, &remaining)
    while another(cursor, &remaining):
        if index.names.count == limit:
            return raise_tensors()
        read_text(cursor, &header.text, "the name of a tensor is no text")
        append_name(&index.names, header.text.start, header.text.length)
        header.in_tensor = True
        read_tensor(header, index)
        header.in_tensor = False
    return 0


cdef object read_scalar(Header header, dict makers):
    """{"Int": n}, {"UInt": n}, {"Float": x} or {"Bool": b}."""
    cdef Cursor *cursor = &header.cursor
    cdef Item item
    cdef uint64_t remaining = 0
    read_item(cursor, &item)
    if item.major != MAP:
        raise_format(cursor, "a scalar is no map")
    open_items(cursor, &item, &remaining)
    if not another(cursor, &remaining):
        raise_format(cursor, "a scalar is an empty map")
    read_text(cursor, &header.text, "the kind of a scalar is no text")
    kind = text_of(&header.text)
    if kind not in makers:
        raise UnsupportedError(f"a scalar of the kind {kind!r} is none that fastload knows; a newer one may")
    read_item(cursor, &item)
    value = None
    if item.major <= NEGATIVE or item.major == SIMPLE:
        value = simple_value(cursor, &item)
    if another(cursor, &remaining):
        raise_format(cursor, "a scalar is a map of several")
    made = makers[kind](value)
    if made is None:
        raise_format(cursor, "a scalar does not fit its kind")
    return made


cdef dict read_texts(Header header, dict makers):
    """The map of text to text under "metadata"; that of text to scalar where there are *makers*."""
    cdef Cursor *cursor = &header.cursor
    cdef Item item
    cdef uint64_t remaining = 0
    cdef dict found = {}
    read_item(cursor, &item)
    if item.major != MAP:
        raise_format(cursor, "metadata or scalars is no map")
    open_items(cursor, &item, &remaining)
    while another(cursor, &remaining):
        if len(found) == MAX_TEXTS:
            raise LimitError(f"metadata or scalars have more than {MAX_TEXTS:,} entries", offset=tell(cursor))
        read_text(cursor, &header.text, "a key of metadata or scalars is no text")
        key = text_of(&header.text)
        if key in found:
            raise FormatError(f"the key {key!r} of metadata or scalars stands twice", offset=tell(cursor))
        if makers is None:
            read_text(cursor, &header.text, "a value of metadata is no text")
            found[key] = text_of(&header.text)
        else:
            found[key] = read_scalar(header, makers)
    return found


cdef int raise_short(Header header, uint64_t start, uint64_t farthest) except -1 with gil:
    promised = <object>start + <object>farthest
    raise TruncatedError(
        f"the file has {header.file_size:,} bytes and its metadata promise {promised:,}:"
        " the download or copy is incomplete; fetch it again"
    )


cdef int raise_padding(uint64_t start) except -1 with gil:
    raise FormatError("the padding before the data is not of zeros", offset=start)


cdef int raise_ambiguous(uint64_t start) except -1 with gil:
    raise TruncatedError(
        "is either cut short, or of Burn 0.19 with data that begin with zeros, and nothing tells which: fetch it again,"
        " or write it again with a newer Burn", offset=start
    )


cdef bint is_zero(const uint8_t *bytes, size_t count) noexcept nogil:
    cdef uint8_t seen = 0
    cdef size_t i
    for i in range(count):
        seen |= bytes[i]
    return seen == 0


cdef int check_order(Index index, bint *aligned, bint *packed, uint64_t *farthest) except -1 nogil:
    """See that no name stands twice and no two tensors overlap; tell how they are laid out.

    *aligned*: each begins at a multiple of 256 bytes. *packed*: each begins where the one before it ends.
    """
    cdef size_t count = index.names.count, i
    cdef uint64_t run = 0, end = 0       # where the last tensor with bytes begins and ends
    cdef Extent *extent
    arrange(index)
    aligned[0] = packed[0] = True
    farthest[0] = 0
    for i in range(count):
        extent = &index.extents[i]
        if extent.position % ALIGN:
            aligned[0] = False
        if extent.position > end:
            packed[0] = False
        if extent.size == 0:
            # Nothing lies there, so it may share its place with the next one that has bytes.
            if run < extent.position < end:
                return raise_layout(index, i, "is empty and lies inside another's data")
        elif extent.position < end:
            return raise_layout(index, i, "overlaps the one before it")
        else:
            run = extent.position
            end = run + extent.size      # an end of 64 bits, as it was read
        farthest[0] = max(farthest[0], extent.position + extent.size)
    return 0


cdef int find_start(
    Header header, Index index, uint64_t after, const uint8_t *following, uint64_t *start
) except -1 nogil:
    """Where the data begins: behind padding to 256 bytes, or at once (*after*) as Burn 0.19 wrote it.

    The version is the same, so the extents and the size of the file must tell.
    """
    cdef bint aligned = True, packed = True, fits, exact, blank
    cdef uint64_t farthest = 0, padded = (after + ALIGN - 1) // ALIGN * ALIGN
    cdef uint64_t rest = header.file_size - after
    cdef size_t i
    check_order(index, &aligned, &packed, &farthest)
    fits = padded - after <= rest and farthest <= rest - (padded - after)
    exact = farthest == rest
    blank = is_zero(following, min(padded - after, rest))
    start[0] = padded
    if packed and not aligned and padded != after:
        if fits and (blank or farthest == rest - (padded - after)):
            aligned = packed = False     # of the later layout, and against its rules
        elif farthest > rest:
            return raise_short(header, after, farthest)
        else:
            start[0] = after
            return 0
    if not aligned and not (packed and padded == after):
        for i in range(index.names.count):
            if index.extents[i].position % ALIGN:
                return raise_layout(index, i, "does not begin at a multiple of 256 bytes")
    if packed and exact and padded != after:
        # Nothing but its zeros tells the padding of a file that was cut from the data of an old one.
        if blank and farthest:
            return raise_ambiguous(after)
        start[0] = after
        return 0
    if not fits:
        return raise_short(header, padded, farthest)
    if not blank:
        return raise_padding(after)
    return 0


cdef int place_data(Header header, Index index, uint64_t after, const uint8_t *following) except -1 nogil:
    """Check the extents, and count them from the start of the file."""
    cdef uint64_t start = 0
    cdef size_t i
    find_start(header, index, after, following, &start)
    for i in range(index.names.count):
        index.extents[i].position += start
    return 0


cdef int keep_schemes(Header header, Index index) except -1:
    """Give each quantised row its scheme, which is decoded again when it is asked for."""
    cdef size_t i
    for i in range(index.names.count):
        if index.rows[i].flags & OPAQUE:
            index.quantizations[i] = partial(decode, header.schemes[index.rows[i].offset])
            index.rows[i].offset = 0
    return 0


def read_burnpack_start(data):
    """(version, bytes of metadata) of a Burnpack file, from its first 10 bytes."""
    cdef Py_buffer held
    cdef Cursor cursor
    cdef uint16_t version = 0
    cdef uint32_t metadata_size = 0
    PyObject_GetBuffer(data, &held, PyBUF_SIMPLE)
    try:
        point_at(&cursor, <const uint8_t *>held.buf, held.len, 0)
        take(&cursor, 4)
        read_u16(&cursor, &version)
        read_u32(&cursor, &metadata_size)
        return version, metadata_size
    finally:
        PyBuffer_Release(&held)


def read_burnpack(
    data, source, DtypeTable dtypes not None, Spellings plain not None, Spellings bools not None, int opaque,
    dict scalars not None, uint64_t metadata_size, uint64_t file_size,
):
    """The Index of a Burnpack file; `metadata` of it has the texts, and the scalars under a key of their own.

    Parameters
    ----------
    data : buffer
        The file from its tenth byte on: the CBOR, and what follows it as far as padding may reach.
    source : object
        Kept in the Index.
    dtypes, plain, bools, opaque
        The dtype table, the format's names for its rows, its names for how a bool is stored, and the code of tensors
        in an encoding of their own.
    scalars : dict of str to callable
        By kind, what makes a number or bool of the CBOR that scalar, or None of what does not fit.
    metadata_size, file_size : int
        Of the CBOR and of the whole file, in bytes.
    """
    cdef Py_buffer held
    cdef Header header = Header.__new__(Header)
    cdef Cursor *cursor = &header.cursor
    cdef Index index = Index(source, dtypes)
    cdef Item item
    cdef uint64_t remaining = 0
    cdef size_t limit = MAX_TENSORS
    cdef set seen = set()
    header.plain, header.bools, header.opaque = plain, bools, opaque
    header.schemes, header.decoded = [], {}
    header.file_size = file_size
    if not HEADER_BYTES <= file_size:
        raise ValueError("a file is longer than its header")
    PyObject_GetBuffer(data, &held, PyBUF_SIMPLE)
    try:
        if metadata_size > <uint64_t>held.len or <uint64_t>held.len < min(
            file_size - HEADER_BYTES, (metadata_size + HEADER_BYTES + ALIGN - 1) // ALIGN * ALIGN - HEADER_BYTES
        ):
            raise ValueError("the data end before the padding does")
        point_at(cursor, <const uint8_t *>held.buf, metadata_size, HEADER_BYTES)
        reserve(<void **>&header.shape, &header.shape_capacity, 8, sizeof(uint64_t))
        reserve(<void **>&header.text.start, &header.text.capacity, 64, 1)
        make_room(index, min(metadata_size // 64, limit), metadata_size // 2)
        read_item(cursor, &item)
        if item.major != MAP:
            raise_format(cursor, "the metadata are no map")
        open_items(cursor, &item, &remaining)
        while another(cursor, &remaining):
            read_text(cursor, &header.text, "a key of the metadata is no text")
            key = text_of(&header.text) if header.text.length <= 8 else ""
            if key in seen:
                raise FormatError(f"{key!r} stands twice in the metadata", offset=tell(cursor))
            if key == "tensors":
                with nogil:
                    read_tensors(header, index, limit)
            elif key == "metadata":
                index._metadata.update(read_texts(header, None))
            elif key == "scalars":
                found = read_texts(header, scalars)
            else:
                skip_value(cursor)
                continue
            seen.add(key)
        if left(cursor):
            raise_format(cursor, "something follows the CBOR of the metadata")
        if "tensors" not in seen:
            raise_format(cursor, "the metadata lack the tensors")
        if "scalars" in seen and found:
            index._metadata["scalars" if "scalars" not in index._metadata else "scalars#2"] = found
        with nogil:
            place_data(header, index, HEADER_LENGTH + metadata_size, <const uint8_t *>held.buf + metadata_size)
        keep_schemes(header, index)
        return index
    except (FormatError, UnsupportedError) as error:
        if header.in_tensor:
            error.message = f"tensor {name_of(index, index.names.count - 1)!r}: {error.message}"
        raise
    finally:
        PyBuffer_Release(&held)
