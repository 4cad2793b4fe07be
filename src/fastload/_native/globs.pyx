"""Globs without a wildcard but `*`, matched on the bytes of names: in an Index before any text is made, or in texts.

Such a glob is the pieces between its stars: the first begins the name, the last ends it, and the others follow each
other between. Taking each as early as it comes finds a match if there is one, so that nothing is ever tried again.
UTF-8 begins no character within another, so pieces are found among bytes where they are among characters.
"""

cimport cython
from cpython.bytearray cimport PyByteArray_AS_STRING
from libc.stdlib cimport free
from libc.string cimport memchr, memcmp

from fastload._native.index cimport Index
from fastload._native.names cimport Span
from fastload._native.utf8 cimport text_at, utf8_of
from fastload._native.vector cimport reserve

cdef struct Piece:
    const char *start
    size_t length

cdef struct Glob:
    size_t first, end            # of its pieces


cdef const char *find_piece(const char *text, size_t length, const Piece *piece) noexcept nogil:
    """Where a piece first stands in a text; NULL if nowhere."""
    cdef const char *end = text + length
    if piece.length == 0:
        return text
    while <size_t>(end - text) >= piece.length:
        text = <const char *>memchr(text, piece.start[0], <size_t>(end - text) - piece.length + 1)
        if text == NULL or memcmp(text, piece.start, piece.length) == 0:
            return text
        text += 1
    return NULL


cdef bint matches(const Piece *pieces, const Glob *glob, const char *text, size_t length) noexcept nogil:
    cdef const Piece *piece = &pieces[glob.first]
    cdef const Piece *last = &pieces[glob.end - 1]
    cdef const char *found
    if length < piece.length or memcmp(text, piece.start, piece.length) != 0:
        return False
    if piece == last:                        # no star
        return length == piece.length
    text += piece.length
    length -= piece.length
    if length < last.length or memcmp(text + (length - last.length), last.start, last.length) != 0:
        return False
    length -= last.length
    piece += 1
    while piece < last:
        found = find_piece(text, length, piece)
        if found == NULL:
            return False
        length -= <size_t>(found - text) + piece.length
        text = found + piece.length
        piece += 1
    return True


@cython.final
cdef class Globs:
    """Several globs, of which a name has to match one.

    Parameters
    ----------
    globs : list of str
        ``*`` stands for anything; every other character, ``?`` and ``[`` too, for itself.
    """
    cdef list held               # bytes that the pieces are in
    cdef Piece *pieces
    cdef size_t pieces_count, pieces_capacity
    cdef Glob *globs
    cdef size_t globs_count, globs_capacity

    def __init__(self, list globs not None):
        cdef Glob *made
        cdef Piece *piece
        cdef bytes text
        if self.held is not None:
            raise TypeError("Globs are made once")
        self.held = []
        for glob in globs:
            reserve(<void **>&self.globs, &self.globs_capacity, self.globs_count + 1, sizeof(Glob))
            made = &self.globs[self.globs_count]
            made.first = self.pieces_count
            for text in (<str>glob).encode("utf-8", "surrogatepass").split(b"*"):
                reserve(<void **>&self.pieces, &self.pieces_capacity, self.pieces_count + 1, sizeof(Piece))
                piece = &self.pieces[self.pieces_count]
                piece.start = text
                piece.length = len(text)
                self.held.append(text)
                self.pieces_count += 1
            made.end = self.pieces_count
            self.globs_count += 1

    def __dealloc__(self):
        free(self.pieces)
        free(self.globs)

    cdef bint is_any(self, const char *text, size_t length) noexcept nogil:
        """Whether any of the globs matches a text."""
        cdef size_t i
        for i in range(self.globs_count):
            if matches(self.pieces, &self.globs[i], text, length):
                return True
        return False

    def marks_in(self, Index index not None, rows not None):
        """A byte for each of *rows*, a sequence of numbers: 1 where any of the globs matches the name of that row."""
        cdef bytearray marks = bytearray(len(rows))
        cdef char *mark = PyByteArray_AS_STRING(marks)
        cdef size_t place, row, count = len(marks)
        cdef Span span
        if isinstance(rows, range) and rows == range(index.names.count):
            with nogil:                      # nobody else has the marks yet
                for place in range(count):
                    span = index.names.spans[place]
                    mark[place] = self.is_any(index.names.text + span.start, span.length)
            return marks
        place = 0
        for row in rows:
            if row >= index.names.count or place >= count:
                raise IndexError(row)
            span = index.names.spans[row]
            mark[place] = self.is_any(index.names.text + span.start, span.length)
            place += 1
        return marks

    @staticmethod
    def mark_found(Index index not None, rows not None, search, bytearray marks not None):
        """Set those of *marks*, a byte for each of *rows*, that are 0 and where *search* finds something in the name.

        Each name is let go before the next is made, so that all are made in the same place, which the processor has at
        hand; to keep them takes longer than most searches.
        """
        cdef size_t place = 0, row, count = len(marks)
        cdef Span span
        for row in rows:
            if row >= index.names.count or place >= count:
                raise IndexError(row)
            if not PyByteArray_AS_STRING(marks)[place]:
                span = index.names.spans[row]
                found = search(text_at(index.names.text + span.start, span.length))
                if found is not None and place < <size_t>len(marks):  # whatever was done meanwhile
                    PyByteArray_AS_STRING(marks)[place] = 1
            place += 1

    def marks(self, list names not None):
        """A byte for each of *names*: 1 where any of the globs matches it."""
        cdef bytearray marks = bytearray(len(names))
        cdef char *mark = PyByteArray_AS_STRING(marks)
        cdef size_t place = 0, count = len(marks)
        cdef Py_ssize_t length = 0
        cdef const char *text = NULL
        cdef object _held                    # for as long as its text is looked at
        for name in names:
            if place >= count:
                raise IndexError(place)
            _held = utf8_of(name, &text, &length)
            mark[place] = self.is_any(text, length)
            place += 1
        return marks
