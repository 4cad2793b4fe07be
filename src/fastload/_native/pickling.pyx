"""A pickle that is being written, opcode by opcode: protocol 2, with the memo of Python's own pickler."""

cimport cython
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport free
from libc.string cimport memcpy

from fastload._native.vector cimport reserve

cdef enum:                   # opcodes
    MARK = 0x28
    STOP = 0x2E
    EMPTY_TUPLE = 0x29
    BININT = 0x4A
    BININT1 = 0x4B
    BININT2 = 0x4D
    REDUCE = 0x52
    BINUNICODE = 0x58
    GLOBAL = 0x63
    BINGET = 0x68
    LONG_BINGET = 0x6A
    BINPUT = 0x71
    LONG_BINPUT = 0x72
    TUPLE = 0x74
    PROTO = 0x80
    TUPLE1 = 0x85            # and behind it those of two and of three
    LONG1 = 0x8A

cdef enum:
    SHORT_TUPLE = 3          # items of a tuple that has an opcode of its own
    MAX_LONG_BYTES = 255
    MAX_NUMBER = 0xFFFFFFFF


@cython.final
cdef class PickleWriter:
    """What is written so far is the beginning of a pickle; `finish` ends it."""

    cdef char *start
    cdef size_t length, capacity
    cdef dict memo           # key: number
    cdef uint32_t count      # of numbers in the memo

    def __cinit__(self):
        self.memo = {}
        self.add_byte(PROTO)
        self.add_byte(2)

    def __dealloc__(self):
        free(self.start)

    cdef int add_byte(self, uint8_t value) except -1:
        reserve(<void **>&self.start, &self.capacity, self.length + 1, 1)
        self.start[self.length] = <char>value
        self.length += 1
        return 0

    cdef int add(self, const char *start, size_t length) except -1:
        if length:
            reserve(<void **>&self.start, &self.capacity, self.length + length, 1)
            memcpy(self.start + self.length, start, length)
            self.length += length
        return 0

    cdef int add_little(self, uint32_t number, int count) except -1:
        """The lowest *count* bytes of a number."""
        for _ in range(count):
            self.add_byte(<uint8_t>(number & 0xFF))
            number >>= 8
        return 0

    cdef int add_numbered(self, uint8_t brief, uint8_t full, uint32_t number) except -1:
        """An opcode of a number of the memo, in its short or its long form."""
        if number < 256:
            self.add_byte(brief)
            return self.add_little(number, 1)
        self.add_byte(full)
        return self.add_little(number, 4)

    def finish(self):
        """The whole pickle."""
        self.add_byte(STOP)
        return PyBytes_FromStringAndSize(self.start, <Py_ssize_t>self.length)

    cpdef int raw(self, bytes opcodes) except -1:
        """Opcodes as they are."""
        return self.add(opcodes, len(opcodes))

    cpdef int put(self, key=None) except -1:
        """Give what is on top of the stack the next number of the memo; under a *key*, it is found again."""
        if self.count == MAX_NUMBER:
            raise OverflowError("a pickle numbers at most four thousand million things")
        self.add_numbered(BINPUT, LONG_BINPUT, self.count)
        if key is not None:
            self.memo[key] = self.count
        self.count += 1
        return 0

    cpdef bint get(self, key) except *:
        """Put what is known under a *key* onto the stack; False if nothing is."""
        number = self.memo.get(key)
        if number is None:
            return False
        self.add_numbered(BINGET, LONG_BINGET, number)
        return True

    cpdef int known(self, str module, str name) except -1:
        """A class or function."""
        key = (module, name)
        if not self.get(key):
            self.add_byte(GLOBAL)
            self.raw(f"{module}\n{name}\n".encode())
            self.put(key)
        return 0

    cpdef int interned(self, str text, str of="text") except -1:
        """A text that may come again; Python's pickler knows it by its identity, and we by what it is *of*."""
        key = (of, text)
        if not self.get(key):
            self.text(text, key)
        return 0

    cpdef int text(self, str text, key=None) except -1:
        """A text."""
        cdef bytes encoded = text.encode("utf-8", "surrogatepass")
        if len(encoded) > MAX_NUMBER:
            raise OverflowError("a text of a pickle of protocol 2 has at most 4 GiB")
        self.add_byte(BINUNICODE)
        self.add_little(<uint32_t>len(encoded), 4)
        self.raw(encoded)
        return self.put(key)

    cpdef int integer(self, number) except -1:
        """An int."""
        if 0 <= number < 1 << 8:
            self.add_byte(BININT1)
            return self.add_little(number, 1)
        if 0 <= number < 1 << 16:
            self.add_byte(BININT2)
            return self.add_little(number, 2)
        if -1 << 31 <= number < 1 << 31:
            self.add_byte(BININT)
            return self.add_little(number & 0xFFFFFFFF, 4)
        encoded = number.to_bytes(number.bit_length() // 8 + 1, "little", signed=True)
        if len(encoded) > MAX_LONG_BYTES:
            raise OverflowError(f"a whole number of {len(encoded):,} bytes")
        self.add_byte(LONG1)
        self.add_byte(<uint8_t>len(encoded))
        return self.raw(encoded)

    cpdef int integers(self, tuple numbers) except -1:
        """A tuple of ints."""
        cdef Py_ssize_t count = len(numbers)
        if count > SHORT_TUPLE:
            self.add_byte(MARK)
        for number in numbers:
            self.integer(number)
        if count == 0:
            return self.add_byte(EMPTY_TUPLE)
        if count > SHORT_TUPLE:
            return self.end_tuple()
        self.add_byte(<uint8_t>(TUPLE1 + count - 1))
        return self.put()

    cpdef int end_tuple(self) except -1:
        """Close a tuple that MARK has opened."""
        self.add_byte(TUPLE)
        return self.put()

    cpdef int ordered_dict(self) except -1:
        """An empty OrderedDict."""
        self.known("collections", "OrderedDict")
        self.add_byte(EMPTY_TUPLE)
        self.add_byte(REDUCE)
        return self.put()
