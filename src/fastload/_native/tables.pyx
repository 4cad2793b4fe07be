"""The dtypes as the core needs them, and how a format spells them."""

cimport cython
from libc.string cimport memcpy

from fastload.errors import LimitError


@cython.final
cdef class DtypeTable:
    """The rows of `fastload.dtypes.DTYPES` as the core needs them: name, bits, unit of swapping, elements a byte.

    Attributes
    ----------
    names : tuple of str
    extra : tuple of numpy.dtype
        Behind the rows that every table has: those of one file's NumPy arrays that none of them describes.
    """

    def __init__(self, rows, extra=()):
        cdef size_t code
        if len(rows) > 256:
            raise LimitError("the arrays of the file have more than 200 unusual dtypes")
        self.rows = tuple(rows)
        self.extra = tuple(extra)
        self.names = tuple(row[0] for row in rows)
        self.count = len(rows)
        for code, (_, bits, swap, packed) in enumerate(rows):
            self.bits[code] = bits
            self.swap[code] = swap
            self.packed[code] = packed

    cdef DtypeTable extended(self, str name, dtype, int swap):
        """The same table with one more row, for a dtype of NumPy's; *swap* is the unit in bytes to be reversed."""
        return DtypeTable((*self.rows, (name, dtype.itemsize * 8, swap, 1)), (*self.extra, dtype))


@cython.final
cdef class Spellings:
    """How one format spells dtypes: a mapping of text to code."""

    def __init__(self, dict codes):
        if len(codes) > 64 or any(len(text) > 16 for text in codes):
            raise ValueError("at most 64 spellings of at most 16 bytes")
        for text, code in codes.items():
            encoded = text.encode("ascii")
            memcpy(self.rows[self.count].text, <const char *>encoded, len(encoded))
            self.rows[self.count].length = len(encoded)
            self.rows[self.count].code = code
            self.count += 1
