"""Gaps in the indices of names, closed: the work of the plan's `contiguous_indices`, linear in the length of all names.

Every segment of a name up to its last index has a number, by the number of what stands before it and its own text; so
no prefix is ever looked up as a whole. The names are texts; what is looked at are their bytes in UTF-8.
"""

cimport cython
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdio cimport snprintf
from libc.stdlib cimport free, qsort
from libc.string cimport memcmp, memcpy

from fastload._native.names cimport Names, add_name, find_name, free_names
from fastload._native.utf8 cimport utf8_of
from fastload._native.vector cimport reserve

cdef enum:
    RANK_BYTES = 24              # room for a rank in digits
    TOP = 0xFFFFFFFF             # the number of what stands before the first segment

cdef struct Node:                # a segment and all before it
    uint32_t parent
    bint is_ranked               # an index that is renumbered
    uint64_t value
    uint64_t rank

cdef struct Ranked:              # for sorting
    uint32_t parent
    uint32_t node
    uint64_t value

cdef struct Segment:             # of the name at hand
    size_t start, length
    bint is_index
    uint64_t value


cdef int compare(const void *left, const void *right) noexcept nogil:
    cdef const Ranked *a = <const Ranked *>left
    cdef const Ranked *b = <const Ranked *>right
    if a.parent != b.parent:
        return -1 if a.parent < b.parent else 1
    return -1 if a.value < b.value else a.value > b.value


cdef bint read_index(const char *text, size_t length, uint64_t *value) noexcept nogil:
    """Whether a segment is ASCII digits, with at most one `+` before them, whose value fits 64 bits."""
    cdef size_t first = 1 if length and text[0] == c"+" else 0, i = first
    cdef uint64_t digit
    value[0] = 0
    if first == length:
        return False
    while i < length:
        digit = <uint64_t><unsigned char>text[i] - c"0"  # wraps, and so is over 9, for what is no digit
        if digit > 9 or (i - first >= 19 and value[0] > (<uint64_t>-1 - digit) // 10):  # 19 digits always fit
            return False
        value[0] = value[0] * 10 + digit
        i += 1
    return True


@cython.final
cdef class Numbering:
    """What the indices of some names become."""
    cdef Names keys              # the number of a parent in four bytes, and a segment
    cdef Node *nodes             # by number of the key; the parent of the first segments is TOP
    cdef size_t nodes_capacity
    cdef Segment *segments
    cdef size_t count, segments_capacity
    cdef char *key
    cdef size_t key_capacity
    cdef char *made              # the new name
    cdef size_t made_capacity
    cdef object only, never

    def __cinit__(self, only, never):
        self.only = only
        self.never = never

    def __dealloc__(self):
        free_names(&self.keys)
        free(self.nodes)
        free(self.segments)
        free(self.key)
        free(self.made)

    cdef int cut(self, const char *text, size_t length) except -1 nogil:
        """Find the segments of a name up to its last index."""
        cdef size_t start = 0, end = 0, number = 0
        cdef Segment *segment
        self.count = 0
        while start <= length:
            while end < length and text[end] != c".":
                end += 1
            reserve(<void **>&self.segments, &self.segments_capacity, number + 1, sizeof(Segment))
            segment = &self.segments[number]
            segment.start = start
            segment.length = end - start
            segment.is_index = read_index(text + start, end - start, &segment.value)
            number += 1
            if segment.is_index:
                self.count = number
            end += 1
            start = end
        return 0

    cdef int bounds(self, str name, size_t *first, size_t *end) except -1:
        """From which segment on the indices of a name are renumbered, and from which on not any more."""
        first[0] = 0
        end[0] = self.count
        if self.only is not None:
            first[0] = min([count for path, count in self.only if name.startswith(path)], default=self.count)
        for path, count in self.never:
            if count < end[0] and name.startswith(path):
                end[0] = count
        return 0

    cdef size_t write_key(self, uint32_t parent, const char *text, const Segment *segment) except 0 nogil:
        """Put the key of a segment together; returns its length."""
        reserve(<void **>&self.key, &self.key_capacity, sizeof(parent) + segment.length, 1)
        memcpy(self.key, &parent, sizeof(parent))
        memcpy(self.key + sizeof(parent), text + segment.start, segment.length)
        return sizeof(parent) + segment.length

    cdef int learn(self, const char *text, size_t first, size_t end) except -1 nogil:
        """Number the segments of the name at hand, and note its indices."""
        cdef uint32_t parent = TOP
        cdef int64_t number
        cdef size_t place, length
        cdef Node *node
        for place in range(self.count):
            length = self.write_key(parent, text, &self.segments[place])
            number = find_name(&self.keys, self.key, length)
            if number < 0:
                number = add_name(&self.keys, self.key, length)
                reserve(<void **>&self.nodes, &self.nodes_capacity, <size_t>number + 1, sizeof(Node))
                node = &self.nodes[number]
                node.parent = parent
                node.value = self.segments[place].value
                node.is_ranked = False
            if self.segments[place].is_index and first <= place < end:
                self.nodes[number].is_ranked = True
            parent = <uint32_t>number
        return 0

    cdef int rank(self) except -1 nogil:
        """Number the values under each prefix from 0; those that are equal, as 7 and 007 are, alike."""
        cdef Ranked *ranked = NULL
        cdef size_t room = 0, count = 0, i
        cdef uint64_t rank = 0
        try:
            for i in range(self.keys.count):
                if self.nodes[i].is_ranked:
                    reserve(<void **>&ranked, &room, count + 1, sizeof(Ranked))
                    ranked[count].parent = self.nodes[i].parent
                    ranked[count].node = <uint32_t>i
                    ranked[count].value = self.nodes[i].value
                    count += 1
            if count:
                qsort(ranked, count, sizeof(Ranked), compare)
            for i in range(count):
                if i == 0 or ranked[i].parent != ranked[i - 1].parent:
                    rank = 0
                elif ranked[i].value != ranked[i - 1].value:
                    rank += 1
                self.nodes[ranked[i].node].rank = rank
        finally:
            free(ranked)
        return 0

    cdef size_t rewrite(self, const char *text, size_t length, size_t first, size_t end) except? 0 nogil:
        """Put the new name together; returns its length, or 0 where nothing changes."""
        cdef uint32_t parent = TOP
        cdef int64_t number
        cdef size_t place, written = 0, done = 0, digits, written_key
        cdef const Segment *segment
        cdef const Node *node
        cdef bint changes = False
        for place in range(self.count):
            segment = &self.segments[place]
            written_key = self.write_key(parent, text, segment)
            number = find_name(&self.keys, self.key, written_key)
            if number < 0:                       # of a name that was left out: nothing is known of its prefix
                break
            node = &self.nodes[number]
            parent = <uint32_t>number
            if not (node.is_ranked and first <= place < end):
                continue
            reserve(<void **>&self.made, &self.made_capacity, written + (segment.start - done) + RANK_BYTES, 1)
            memcpy(self.made + written, text + done, segment.start - done)
            written += segment.start - done
            digits = <size_t>snprintf(self.made + written, RANK_BYTES, "%llu", <unsigned long long>node.rank)
            changes = changes or digits != segment.length or memcmp(
                self.made + written, text + segment.start, digits
            ) != 0
            written += digits
            done = segment.start + segment.length
        if not changes:
            return 0
        reserve(<void **>&self.made, &self.made_capacity, written + (length - done), 1)
        memcpy(self.made + written, text + done, length - done)
        return written + (length - done)


cdef int learn_all(Numbering numbering, list names) except -1:
    cdef Py_ssize_t length = 0
    cdef const char *text = NULL
    cdef object _held                            # for as long as its text is looked at
    cdef size_t first = 0, end = 0
    for name in names:
        _held = utf8_of(name, &text, &length)
        numbering.cut(text, <size_t>length)
        if numbering.count:
            numbering.bounds(name, &first, &end)
            numbering.learn(text, first, end)
    return numbering.rank()


cdef list renumbered(Numbering numbering, list names):
    """The names with their new numbers."""
    cdef list made = []
    cdef Py_ssize_t length = 0
    cdef const char *text = NULL
    cdef object _held                            # for as long as its text is looked at
    cdef size_t first = 0, end = 0, written
    for name in names:
        _held = utf8_of(name, &text, &length)
        numbering.cut(text, <size_t>length)
        written = 0
        if numbering.count:
            numbering.bounds(name, &first, &end)
            written = numbering.rewrite(text, <size_t>length, first, end)
        made.append(PyUnicode_DecodeUTF8(numbering.made, written, "surrogatepass") if written else name)
    return made


def renumber(list names not None, list others not None, list only, list never not None):
    """*names* with the gaps in their indices closed, and *others* renumbered as these are.

    Parameters
    ----------
    only, never : list of (str, int)
        Paths with a dot at their end, and the number of their segments: indices below one of *only* alone are
        renumbered (None: all), and none below one of *never*.
    """
    cdef Numbering numbering = Numbering(only, never)
    learn_all(numbering, names)
    return renumbered(numbering, names), renumbered(numbering, others)
