"""The zip directory: end records, central directory, and the local header of one record.

Only the central directory is read when an archive is opened. Where a record's bytes begin stands in its local header,
and 20,000 of those lie on 20,000 pages, so `locate` reads one when its record is asked for, and checks it then.

Format: APPNOTE.TXT 6.3.10 of PKWARE (4.3 and 4.5.3).
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.exc cimport PyErr_SetFromErrno
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcmp

from fastload._native.cursor cimport (
    Cursor, left, point_at, raise_format, read_u16, read_u32, read_u64, take, tell, u16_at, u32_at,
)
from fastload._native.index cimport Extent, Member, Records, add_overflows
from fastload._native.names cimport Span, append_name, index_names, reserve_texts
from fastload._native.vector cimport reserve, zeroed

from types import MappingProxyType

from fastload.errors import FormatError, TruncatedError, UnsupportedError

cdef extern from *:
    """
    #if defined(_WIN32)
    #include <io.h>
    static int64_t read_at(int fd, void *target, size_t count, uint64_t offset) {
        return _lseeki64(fd, (int64_t)offset, 0) < 0 ? -1 : _read(fd, target, (unsigned)count);
    }
    #else
    #include <unistd.h>
    static int64_t read_at(int fd, void *target, size_t count, uint64_t offset) {
        return pread(fd, target, count, (off_t)offset);
    }
    #endif
    """
    int64_t read_at(int fd, void *target, size_t count, uint64_t offset) noexcept nogil

cdef enum:
    CENTRAL_SIGNATURE = 0x02014B50
    LOCAL_SIGNATURE = 0x04034B50
    END_SIGNATURE = 0x06054B50
    END64_SIGNATURE = 0x06064B50
    LOCATOR64_SIGNATURE = 0x07064B50
    CENTRAL_BYTES = 46       # of a directory entry, without its name, extra field and comment
    LOCAL_BYTES = 30         # of a local header, likewise
    COUNT_BYTES = 8          # before a storage of a legacy stream
    END_BYTES = 22
    END64_BYTES = 56
    LOCATOR64_BYTES = 20
    ZIP64_EXTRA = 0x0001
    ENCRYPTED = 0x2041       # flag bits 0 (encrypted), 6 (strong), 13 (names masked)
    STREAMED = 0x0008        # sizes and CRC stand behind the data, and are 0 in the local header
    DEFLATED = 8
    DEFLATE_RATIO = 1032     # no deflate stream inflates to more
    SATURATED16 = 0xFFFF     # "the value stands in the ZIP64 record"
    SATURATED32 = 0xFFFFFFFF

# Where the end record can lie: it has a comment of at most 65,535 bytes.
END_SEARCH_BYTES = END64_BYTES + LOCATOR64_BYTES + END_BYTES + 65_535

cdef struct End:             # what the end records say
    uint64_t position        # of the end record, or of its ZIP64 twin where there is one: the directory ends here
    uint64_t directory
    uint64_t size
    uint64_t count


# What zip calls by a number, for messages.
METHODS = MappingProxyType({
    1: "shrink", 6: "implode", 9: "deflate64", 12: "bzip2", 14: "lzma", 20: "zstd (20)", 93: "zstd", 94: "mp3",
    95: "xz", 96: "jpeg", 97: "wavpack", 98: "ppmd", 99: "AES encryption",
})


cdef int raise_unreadable() except -1 with gil:
    PyErr_SetFromErrno(OSError)
    return -1


cdef object shown(Records records, uint32_t number):
    """The name of a record, for a message."""
    return repr(records.name(number))


cdef int raise_record(Records records, uint32_t number, const char *message, uint64_t origin) except -1 with gil:
    raise FormatError(f"record {shown(records, number)} {message.decode()}", offset=origin)


cdef int raise_encrypted(Records records, uint32_t number) except -1 with gil:
    raise UnsupportedError(f"record {shown(records, number)} is encrypted; decrypt the archive first")


cdef int raise_beyond(Records records, uint32_t number, uint64_t file_size) except -1 with gil:
    cdef uint64_t need = records.members[number].stored, at = records.extents[number].position
    message = f"record {shown(records, number)} needs {need:,} bytes from byte {at:#x} on"
    if at >= file_size or need > file_size - at:
        raise TruncatedError(f"{message}, and the file ends at {file_size:#x}: it is incomplete or damaged")
    raise FormatError(f"{message}, which reaches into the directory of the archive")


cdef int agree(const Cursor *cursor, uint64_t short, uint64_t saturated, uint64_t long) except -1 nogil:
    """Two spellings of one number: the short one may only say "see the long one"."""
    if short != saturated and short != long:
        return raise_format(cursor, "the end record of the archive and its ZIP64 twin disagree")
    return 0


cdef int raise_split() except -1 with gil:
    raise UnsupportedError("is one volume of a zip archive that was split over several; join them first")


cdef int raise_gap(uint64_t position, uint64_t directory, uint64_t size, uint64_t origin) except -1:
    """Say where the directory of an archive ought to end and does not."""
    promised, message = int(directory) + size, "the directory does not end where the end record begins"
    if promised > position:
        missing = promised - position
        message = f"{message}: {missing:,} bytes are missing before it, or it is damaged; fetch the file again"
    else:
        message = f"{message}: {position - promised:,} bytes too many stand before it or before the archive"
    raise FormatError(message, offset=origin)


cdef int read_end(const Cursor *tail, size_t at, End *end) except -1 nogil:
    """Read the end record *at* bytes into *tail*, and its ZIP64 twin if it has one."""
    cdef Cursor cursor = tail[0]
    cdef uint16_t disk = 0, directory_disk = 0, count_here = 0, count = 0, comment = 0
    cdef uint32_t size = 0, offset = 0, signature = 0, disk32 = 0
    cdef uint64_t record = 0, record_size = 0, count_here64 = 0
    cursor.next = tail.start + at
    end.position = tell(&cursor)
    take(&cursor, 4)
    read_u16(&cursor, &disk)
    read_u16(&cursor, &directory_disk)
    read_u16(&cursor, &count_here)
    read_u16(&cursor, &count)
    read_u32(&cursor, &size)
    read_u32(&cursor, &offset)
    read_u16(&cursor, &comment)
    if comment > left(&cursor):
        return raise_format(&cursor, "the comment of the archive is longer than the file")
    end.directory, end.size, end.count = offset, size, count
    if at >= LOCATOR64_BYTES:
        cursor.next = tail.start + at - LOCATOR64_BYTES
        read_u32(&cursor, &signature)
    if signature != LOCATOR64_SIGNATURE:
        if disk or directory_disk or count_here != count:
            return raise_split()
        return 0
    read_u32(&cursor, &disk32)
    read_u64(&cursor, &record)
    if disk32 != 0:
        return raise_split()
    if record < tail.origin or record - tail.origin > at - LOCATOR64_BYTES:
        return raise_format(&cursor, "the ZIP64 locator points to the wrong place")
    cursor.next = tail.start + (record - tail.origin)
    read_u32(&cursor, &signature)
    read_u64(&cursor, &record_size)
    if signature != END64_SIGNATURE or record_size != end.position - LOCATOR64_BYTES - record - 12:
        return raise_format(&cursor, "the ZIP64 locator points to no ZIP64 end record")
    take(&cursor, 4)                             # versions
    read_u32(&cursor, &disk32)
    if disk32 != 0:
        return raise_split()
    read_u32(&cursor, &disk32)
    read_u64(&cursor, &count_here64)
    read_u64(&cursor, &end.count)
    read_u64(&cursor, &end.size)
    read_u64(&cursor, &end.directory)
    if disk32 != 0 or count_here64 != end.count:
        return raise_split()
    agree(&cursor, count, SATURATED16, end.count)
    agree(&cursor, size, SATURATED32, end.size)
    agree(&cursor, offset, SATURATED32, end.directory)
    end.position = record
    return 0


cdef bint find_mark_before(const Cursor *cursor, size_t *at) noexcept nogil:
    """Move *at* to the last place below it where the mark of an end record stands; False where there is none."""
    cdef const uint8_t *b
    while at[0]:
        at[0] -= 1
        b = cursor.start + at[0]
        if b[0] == c"P" and b[1] == c"K" and b[2] == 5 and b[3] == 6:
            return True
    return False


def find_directory(tail, uint64_t origin):
    """Where the central directory of an archive lies.

    Parameters
    ----------
    tail : buffer
        The last bytes of the file, `END_SEARCH_BYTES` or all.
    origin : int
        Where *tail* begins in the file.

    Returns
    -------
    (offset, size, count)
        The directory's place and size in bytes, and how many records it lists.

    Raises
    ------
    TruncatedError
        Without an end record: it is the last thing of an archive, so a download cut short lacks it.
    """
    cdef Py_buffer held
    cdef Cursor cursor
    cdef End end
    cdef size_t at
    cdef uint64_t directory_end = 0
    PyObject_GetBuffer(tail, &held, PyBUF_SIMPLE)
    try:
        point_at(&cursor, <const uint8_t *>held.buf, held.len, origin)
        trouble = None
        at = held.len - END_BYTES + 1 if held.len >= END_BYTES else 0
        while find_mark_before(&cursor, &at):
            # The bytes of an end record may stand in a comment or in data too: the one that counts is the one whose
            # directory ends where it begins.
            try:
                read_end(&cursor, at, &end)
                if add_overflows(end.directory, end.size, &directory_end) or directory_end != end.position:
                    raise_gap(end.position, end.directory, end.size, origin + at)
            except (FormatError, UnsupportedError) as error:
                trouble = trouble or error
                continue
            return end.directory, end.size, end.count
        raise trouble or TruncatedError(
            f"is a zip archive cut short: the {origin + <uint64_t>held.len:,} bytes that are there lack its end, where"
            " the directory stands; the download or copy is incomplete, fetch it again"
        )
    finally:
        PyBuffer_Release(&held)


def find_prefix(tail, uint64_t origin):
    """How many bytes stand before an archive that counts places from its own first byte; 0 where none is found.

    That is what `cat start archive` makes, and how tools put an archive behind a program. It is asked of a file whose
    end records do not agree with where they lie, and of those without ZIP64 alone. Parameters as of `find_directory`.
    """
    cdef Py_buffer held
    cdef Cursor cursor
    cdef End end
    cdef size_t at
    cdef uint64_t whole = 0
    PyObject_GetBuffer(tail, &held, PyBUF_SIMPLE)
    try:
        point_at(&cursor, <const uint8_t *>held.buf, held.len, origin)
        at = held.len - END_BYTES + 1 if held.len >= END_BYTES else 0
        while find_mark_before(&cursor, &at):
            try:
                read_end(&cursor, at, &end)
            except (FormatError, UnsupportedError):
                continue
            if end.count and not add_overflows(end.directory, end.size, &whole) and whole < end.position:
                return end.position - whole
        return 0
    finally:
        PyBuffer_Release(&held)


cdef int read_zip64_extra(Cursor *extra, uint64_t *size, uint64_t *stored, uint64_t *position) except -1 nogil:
    """Replace the saturated ones of the three numbers by those of the ZIP64 field."""
    cdef uint16_t tag = 0, length = 0
    cdef const uint8_t *field
    cdef Cursor cursor
    while left(extra) >= 4:                      # fewer are padding, as zipalign leaves it
        read_u16(extra, &tag)
        read_u16(extra, &length)
        field = take(extra, length)
        if tag != ZIP64_EXTRA:
            continue
        point_at(&cursor, field, length, tell(extra) - length)
        if size[0] == SATURATED32:
            read_u64(&cursor, size)
        if stored[0] == SATURATED32:
            read_u64(&cursor, stored)
        if position[0] == SATURATED32:
            read_u64(&cursor, position)
        return 0
    if size[0] == SATURATED32 or stored[0] == SATURATED32 or position[0] == SATURATED32:
        return raise_format(extra, "a record's size or place is too large for its field, and no ZIP64 field gives it")
    return 0


cdef int read_central(Cursor *cursor, Records records, uint64_t file_size) except -1 nogil:
    """One entry of the directory."""
    cdef Extent extent
    cdef Member member
    cdef Cursor extra
    cdef const uint8_t *entry = take(cursor, CENTRAL_BYTES)
    cdef uint16_t name_length = u16_at(entry + 28), extra_length = u16_at(entry + 30)
    cdef uint16_t comment_length = u16_at(entry + 32), disk = u16_at(entry + 34)
    cdef uint64_t end
    cdef const uint8_t *name
    cdef size_t number
    if u32_at(entry) != CENTRAL_SIGNATURE:
        return raise_format(cursor, "an entry of the archive's directory lacks its signature")
    member.flags = u16_at(entry + 8)
    member.method = u16_at(entry + 10)
    member.crc = u32_at(entry + 16)
    member.stored = u32_at(entry + 20)
    extent.size = u32_at(entry + 24)
    extent.position = u32_at(entry + 42)
    name = take(cursor, name_length)
    point_at(&extra, take(cursor, extra_length), extra_length, tell(cursor) - extra_length)
    take(cursor, comment_length)
    if disk != 0 and disk != SATURATED16:
        return raise_split()
    read_zip64_extra(&extra, &extent.size, &member.stored, &extent.position)
    append_name(&records.names, <const char *>name, name_length)
    number = records.names.count - 1
    reserve(<void **>&records.extents, &records.extents_capacity, number + 1, sizeof(Extent))
    reserve(<void **>&records.members, &records.members_capacity, number + 1, sizeof(Member))
    records.extents[number] = extent
    records.members[number] = member
    if member.method == 0 and member.stored != extent.size:
        return raise_record(records, <uint32_t>number, "is stored and has two sizes", tell(cursor))
    if (
        add_overflows(extent.position, LOCAL_BYTES + <uint64_t>name_length, &end)
        or add_overflows(end, member.stored, &end)
        or end > records.limit
    ):
        return raise_beyond(records, <uint32_t>number, file_size)
    return 0


def read_directory(data, uint64_t origin, uint64_t count, uint64_t file_size):
    """The records of an archive.

    Parameters
    ----------
    data : buffer
        The whole central directory.
    origin, count : int
        Its place in the file and the number of its entries, as `find_directory` gave them.
    file_size : int
        In bytes; records that reach past it are told from those that are merely damaged.
    """
    cdef Py_buffer held
    cdef Cursor cursor
    cdef Records records = Records()
    cdef uint64_t _i
    cdef int64_t twice
    PyObject_GetBuffer(data, &held, PyBUF_SIMPLE)
    try:
        point_at(&cursor, <const uint8_t *>held.buf, held.len, origin)
        records.limit = origin
        if count > <uint64_t>held.len // CENTRAL_BYTES:
            raise_format(&cursor, "the archive's directory is too short for the records that it counts")
        with nogil:
            reserve(<void **>&records.extents, &records.extents_capacity, count, sizeof(Extent))
            reserve(<void **>&records.members, &records.members_capacity, count, sizeof(Member))
            reserve_texts(&records.names, count, held.len - count * CENTRAL_BYTES)
            for _i in range(count):
                read_central(&cursor, records, file_size)
            records.are_headed = True
            records.places = <uint64_t *>zeroed(records.names.count + 1, sizeof(uint64_t))
            twice = index_names(&records.names)
            if twice >= 0:
                raise_record(records, <uint32_t>twice, "stands twice in the directory of the archive", origin)
        if left(&cursor):
            raise_format(&cursor, "the archive's directory holds more than the records that it counts")
        return records
    finally:
        PyBuffer_Release(&held)


cdef int raise_count(Records records, uint32_t number, uint64_t count) except -1 with gil:
    raise FormatError(
        f"storage {records.name(number)!r} has {records.counts[number]:,} elements in the pickle and {count:,} where it"
        " lies",
        offset=records.extents[number].position - COUNT_BYTES,
    )


cdef int locate_counted(
    Records records, uint32_t number, const uint8_t *header, uint64_t available, uint64_t *position
) except -1 nogil:
    """The same of a storage before which stands its number of elements."""
    cdef Cursor cursor
    cdef uint64_t count = 0
    point_at(&cursor, header, available, records.extents[number].position - COUNT_BYTES)
    read_u64(&cursor, &count)
    if count != records.counts[number]:
        return raise_count(records, number, count)
    position[0] = records.extents[number].position
    return 0


cdef inline void find_header(Records records, uint32_t number, uint64_t *position, size_t *size) noexcept nogil:
    """Where what `locate` must be given stands, and how long it is."""
    if records.counts != NULL:
        position[0] = records.extents[number].position - COUNT_BYTES
        size[0] = COUNT_BYTES
    else:
        position[0] = records.extents[number].position
        size[0] = LOCAL_BYTES + records.names.spans[number].length


cdef int locate(
    Records records, uint32_t number, const uint8_t *header, uint64_t available, uint64_t *position
) except -1 nogil:
    """Where the bytes of a record begin in the file, from its local *header*, once it agrees with the directory."""
    cdef Cursor cursor
    cdef uint64_t origin = records.extents[number].position
    cdef const Member *member
    cdef Span span = records.names.spans[number]
    cdef uint16_t flags = 0, method = 0, name_length = 0, extra_length = 0
    cdef uint32_t signature = 0, crc = 0, stored = 0, size = 0
    cdef const uint8_t *name
    if records.counts != NULL:
        return locate_counted(records, number, header, available, position)
    member = &records.members[number]
    point_at(&cursor, header, available, origin)
    read_u32(&cursor, &signature)
    if signature != LOCAL_SIGNATURE:
        return raise_record(records, number, "has no local header where the directory says", origin)
    take(&cursor, 2)                             # version
    read_u16(&cursor, &flags)
    read_u16(&cursor, &method)
    take(&cursor, 4)                             # time and date
    read_u32(&cursor, &crc)
    read_u32(&cursor, &stored)
    read_u32(&cursor, &size)
    read_u16(&cursor, &name_length)
    read_u16(&cursor, &extra_length)
    if (flags | member.flags) & ENCRYPTED:
        return raise_encrypted(records, number)
    if name_length != span.length:
        return raise_record(records, number, "has another name in its local header", origin)
    name = take(&cursor, name_length)
    if memcmp(name, records.names.text + span.start, name_length) != 0:
        return raise_record(records, number, "has another name in its local header", origin)
    if method != member.method:
        return raise_record(records, number, "has another compression method in its local header", origin)
    if not flags & STREAMED and (
        crc != member.crc
        or (stored != SATURATED32 and stored != member.stored)
        or (size != SATURATED32 and size != records.extents[number].size)
    ):
        return raise_record(records, number, "has another size or checksum in its local header", origin)
    position[0] = origin + LOCAL_BYTES + name_length + extra_length
    # The directory promised that header and bytes fit below its own place; the extra field may have moved them.
    if position[0] > records.limit or member.stored > records.limit - position[0]:
        return raise_record(records, number, "reaches into the directory of the archive", origin)
    return 0


cdef int raise_method(Records records, uint32_t number) except -1 with gil:
    cdef uint16_t method = records.members[number].method
    name = METHODS.get(method, f"method {method}")
    raise UnsupportedError(
        f"record {shown(records, number)} is compressed with {name}; fastload reads stored and deflated ones: unpack"
        " the archive and zip it again"
    )


cdef int check_record(Records records, uint32_t number) except -1 nogil:
    """See that a record is one that can be read, as far as the directory tells."""
    cdef const Member *member
    if records.members == NULL:
        return 0
    member = &records.members[number]
    if member.flags & ENCRYPTED:
        return raise_encrypted(records, number)
    if member.method != 0 and member.method != DEFLATED:
        return raise_method(records, number)
    if member.method == DEFLATED and records.extents[number].size // DEFLATE_RATIO > member.stored:
        return raise_record(
            records, number, "claims to inflate to more than its bytes can hold", records.extents[number].position
        )
    return 0


def check(Records records not None, uint32_t number):
    """Raise what `check_record` finds: a record that is encrypted, or compressed as we cannot read or believe it."""
    if number >= records.names.count:
        raise IndexError(number)
    check_record(records, number)


def local_header(Records records not None, uint32_t number):
    """(position, size) of what `locate_record` must be given: a record's local header but for its extra field."""
    if number >= records.names.count:
        raise IndexError(number)
    cdef uint64_t position = 0
    cdef size_t size = 0
    if not records.are_headed:
        return records.extents[number].position, 0
    find_header(records, number, &position, &size)
    return position, size


def locate_record(Records records not None, uint32_t number, header):
    """Check the local *header* of a record, and keep and return where the record's bytes begin in the file."""
    cdef Py_buffer held
    cdef uint64_t place = 0
    if number >= records.names.count:
        raise IndexError(number)
    if not records.are_headed:
        return records.extents[number].position
    PyObject_GetBuffer(header, &held, PyBUF_SIMPLE)
    try:
        locate(records, number, <const uint8_t *>held.buf, held.len, &place)
    finally:
        PyBuffer_Release(&held)
    records.places[number] = place
    return place


def locate_in_file(Records records not None, uint32_t number, int descriptor, uint64_t origin=0):
    """`locate_record` with the header read from an open file, in which the source begins at byte *origin*."""
    cdef uint64_t place = 0, position = 0
    cdef uint8_t *header = NULL
    cdef size_t room = 0, size = 0
    cdef int64_t count
    if number >= records.names.count:
        raise IndexError(number)
    if not records.are_headed:
        return records.extents[number].position
    find_header(records, number, &position, &size)
    reserve(<void **>&header, &room, size, 1)
    try:
        with nogil:
            count = read_at(descriptor, header, size, origin + position)
            if count < 0:
                raise_unreadable()
            locate(records, number, header, <uint64_t>count, &place)
    finally:
        free(header)
    records.places[number] = place
    return place
