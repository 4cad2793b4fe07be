"""The texts of dict keys: what a tensor is called by.

A text is called by itself, an int by its digits, anything else by its `str`.
"""

cimport cython
from libc.stdint cimport uint8_t, uint32_t
from libc.stdio cimport snprintf
from libc.stdlib cimport free
from libc.string cimport memcmp, memcpy, strlen

from fastload._native.graph cimport FALSE, INT, LONG, STR8, TEXT, TRUE, Graph, Node, Slice, bytes_of, int_of
from fastload._native.index cimport BOOL_KEY, INT_KEY, TEXT_KEY
from fastload._native.names cimport hash_text
from fastload._native.objects cimport Record, key_text, key_value
from fastload._native.calls cimport Vocabulary
from fastload._native.utf8 cimport is_utf8, put_utf8
from fastload._native.vector cimport reserve

cdef const char *WORDS[15]
WORDS[0] = b"indices"
WORDS[1] = b"values"
WORDS[2] = b"crow_indices"
WORDS[3] = b"col_indices"
WORDS[4] = b"ccol_indices"
WORDS[5] = b"row_indices"
WORDS[6] = b"sizes"
WORDS[7] = b"strides"
WORDS[8] = b"offsets"
WORDS[9] = b"state"
WORDS[10] = b"callable"
WORDS[11] = b"data"
WORDS[12] = b"mask"
WORDS[13] = b"fill_value"
WORDS[14] = b"_orig_mod"


@cython.final
cdef class Keys:
    """Reads the keys of one graph."""

    def __cinit__(self, Graph graph, Vocabulary vocabulary):
        self.graph = graph
        self.vocabulary = vocabulary

    def __dealloc__(self):
        free(self.made)

    cdef int read(self, uint32_t node, Text *text) except -1 nogil:
        """The text of a dict key; it holds until the next call."""
        cdef const Node *found = &self.graph.nodes[node]
        cdef Slice data
        cdef size_t i, length = 0
        text.kind = TEXT_KEY
        if found.kind == TEXT or found.kind == STR8:
            data = bytes_of(self.graph, found)
            if found.kind == STR8 and not is_utf8(data.start, data.length, False):
                reserve(<void **>&self.made, &self.made_capacity, data.length * 2 + 4, 1)
                for i in range(data.length):         # Python 2 bytes that are no UTF-8 are taken for Latin-1
                    length += put_utf8(self.made + length, <uint8_t>data.start[i])
                data.start, data.length = self.made, length
            text.start, text.length = data.start, data.length
            return 0
        reserve(<void **>&self.made, &self.made_capacity, 32, 1)
        text.start = self.made
        if found.kind == INT:
            text.length = <size_t>snprintf(self.made, 32, "%lld", <long long>int_of(found))
            text.kind = INT_KEY
        elif found.kind == TRUE or found.kind == FALSE:
            text.length = 4 if found.kind == TRUE else 5
            memcpy(self.made, b"True" if found.kind == TRUE else b"False", text.length)
            text.kind = BOOL_KEY
        else:
            return self.read_unusual(node, text)
        return 0

    cdef int read_unusual(self, uint32_t node, Text *text) except -1 with gil:
        """A key that is neither text nor a small number is called by its str."""
        cdef bytes shown = key_text(self.graph, self.vocabulary, node).encode("utf-8", "surrogatepass")
        reserve(<void **>&self.made, &self.made_capacity, len(shown) + 1, 1)
        memcpy(self.made, <const char *>shown, len(shown))
        text.start, text.length = self.made, len(shown)
        if self.graph.nodes[node].kind == LONG:
            text.kind = INT_KEY
        return 0

    cdef int read_position(self, uint32_t position, Text *text) except -1 nogil:
        """The text of a place in a list."""
        reserve(<void **>&self.made, &self.made_capacity, 32, 1)
        text.start = self.made
        text.length = <size_t>snprintf(self.made, 32, "%u", position)
        text.kind = INT_KEY
        return 0

    cdef int read_word(self, uint32_t word, Text *text) except -1 nogil:
        """The text of a name that the file does not spell out."""
        text.start = WORDS[word]
        text.length = strlen(WORDS[word])
        text.kind = TEXT_KEY
        return 0

    cdef int read_tensor_key(self, uint32_t number, Text *text) except -1 nogil:
        """What stands for a tensor that is the key of a dict, as in the optimizers of torch 0.1 to 1.1."""
        reserve(<void **>&self.made, &self.made_capacity, 32, 1)
        text.start = self.made
        text.length = <size_t>snprintf(self.made, 32, "<tensor-key %u>", number)
        text.kind = TEXT_KEY
        return 0

    cdef bint equal(self, uint32_t left, uint32_t right) except -1 nogil:
        """Whether two nodes are one key, as Python has it: 1, True and 1.0 are, and None and "None" are not."""
        cdef const Node *one = &self.graph.nodes[left]
        cdef const Node *other = &self.graph.nodes[right]
        if left == right:
            return True
        if one.kind == TEXT and other.kind == TEXT:
            return text_equals(self.graph, left, right)
        if one.kind == INT and other.kind == INT:
            return int_of(one) == int_of(other)
        return self.equal_values(left, right)

    cdef bint equal_values(self, uint32_t left, uint32_t right) except -1 with gil:
        """`equal` of other keys. An object that only its program knows equals itself alone."""
        return key_value(self.graph, self.vocabulary, left) == key_value(self.graph, self.vocabulary, right)

    cdef uint32_t hash(self, uint32_t node) except? 0 nogil:
        """A hash that is equal for equal keys."""
        cdef Slice data
        if self.graph.nodes[node].kind == TEXT:
            data = bytes_of(self.graph, &self.graph.nodes[node])
            return hash_text(data.start, data.length)
        return self.hash_value(node)

    cdef uint32_t hash_value(self, uint32_t node) except? 0 with gil:
        cdef Py_hash_t value = 0
        made = key_value(self.graph, self.vocabulary, node)
        if isinstance(made, str):            # of Python 2
            text = made.encode("utf-8", "surrogatepass")
            return hash_text(text, len(text))
        # A Record equals itself alone, and is made anew each time: only its node tells it from others.
        value = node if isinstance(made, Record) else hash(made)
        return hash_text(<const char *>&value, sizeof(value))


cdef bint text_equals(Graph graph, uint32_t left, uint32_t right) noexcept nogil:
    cdef Slice a = bytes_of(graph, &graph.nodes[left])
    cdef Slice b = bytes_of(graph, &graph.nodes[right])
    return a.length == b.length and memcmp(a.start, b.start, a.length) == 0
