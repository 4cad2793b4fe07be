"""The cold half of cursor.pxd: what is said when the bytes run out or make no sense."""

from fastload.errors import FormatError, TruncatedError


cdef int raise_truncated(const Cursor *cursor, uint64_t count) except -1 with gil:
    raise TruncatedError(f"{count} more bytes needed, {left(cursor)} left", offset=tell(cursor))


cdef int raise_format(const Cursor *cursor, const char *message) except -1 with gil:
    raise FormatError(message.decode(), offset=tell(cursor))
