"""Arrays of one dtype as arrays of another, by canonical names.

Floats to floats are correctly rounded, to nearest and to even, once. Infinities, NaNs, subnormal numbers and what
overflows become what PyTorch's `tensor.to(dtype)` makes of them on a CPU:

* What is too large becomes infinity, and NaN in the dtypes that have none (`fnuz` and `float8_e8m0fnu`). But in
  `float8_e4m3fn` it becomes 448, the largest number; infinity does so too.
* NaN stays NaN. Its sign and the first bits of its payload stay where PyTorch keeps them, as between float16, float32
  and float64. In bfloat16 it is 0x7FC0, or 0xFFFF if it was float32 or float64 (where PyTorch has either, by the length
  and strides of the tensor).
* `float8_e8m0fnu` has powers of two alone: the sign is dropped, zero becomes 2**-127, and halfway goes up.

In one thing PyTorch is not followed: it rounds float64 to float32 first, and then that to the smaller dtype. Such a
result is now and then (once in 2**14 for float16) not the nearest number; here it always is.

Integers and bool only where they are asked for. No value is bent: a float is truncated toward zero, and one that is
then out of range, infinite or NaN is an error, as is an integer that does not fit (PyTorch wraps the second, and leaves
undefined what becomes of the first). An integer is rounded once to the float. To bool, all but zero is true.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from fastload import _native
from fastload.dtypes import CODES, numpy_dtype
from fastload.errors import PlanError, UnsupportedError

__all__ = ["cast", "cast_chunks", "check_cast", "is_cast"]

Array = np.ndarray[Any, np.dtype[Any]]

FLOATS = {name: number for number, name in enumerate(_native.FLOATS)}
INTEGERS = frozenset(("bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"))
COMPLEX = {"complex32": "float16", "complex64": "float32", "complex128": "float64"}  # and the dtype of their parts
BLOCK_BYTES = 1 << 20  # what is gathered of a strided array at a time: it should stay in the second cache
EXACT_IN_FLOAT64 = 1 << 53
STICKY_BITS = 11  # that float64 lacks for 64-bit integers


def check_cast(source: str, target: str, *, allow_integers: bool = False) -> None:
    """Raise unless arrays of one dtype can be cast to the other.

    Raises
    ------
    PlanError
        There is no such dtype, or integers would be cast though they were not asked for.
    UnsupportedError
        One of them is packed or quantised, or the one is complex and the other is not.
    """
    for name in (source, target):
        if name not in CODES:
            raise PlanError(f"there is no dtype {name!r}; there are {', '.join(CODES)}")
    if source == target:
        return
    for name in (source, target):
        if name not in FLOATS and name not in INTEGERS and name not in COMPLEX:
            raise UnsupportedError(
                f"cannot cast {source} to {target}: the numbers of {name} are packed or quantised; "
                "keep its bytes, or unpack them first"
            )
    if (source in COMPLEX) != (target in COMPLEX):
        raise UnsupportedError(
            f"cannot cast {source} to {target}: complex numbers are cast among each other alone; "
            "take .real or .imag of the array"
        )
    if not allow_integers and (source in INTEGERS or target in INTEGERS):
        raise PlanError(f"will not cast {source} to {target}: integers and bool are cast only with allow_integers=True")


def is_cast(source: str, target: str, *, allow_integers: bool = False) -> bool:
    """Whether arrays of one dtype can be cast to the other; True where they are the same."""
    try:
        check_cast(source, target, allow_integers=allow_integers)
    except (PlanError, UnsupportedError):
        return False
    return True


def cast(array: Array, source: str, target: str, *, out: Array | None = None, allow_integers: bool = False) -> Array:
    """The same numbers in another dtype.

    Parameters
    ----------
    array : numpy.ndarray
        As fastload gives arrays of dtype *source*; of any strides, alignment and byte order.
    source, target : str
        Canonical names of dtypes.
    out : numpy.ndarray, optional
        Where to put the result: a writable array of its dtype and shape that does not overlap with *array*.
    allow_integers : bool
        Whether integers and bool may be cast as well.

    Returns
    -------
    numpy.ndarray
        C-contiguous and new; *out* if that was given; *array* itself where the dtypes are the same.

    Raises
    ------
    PlanError
        There is no such dtype, integers were not asked for, or a number does not fit (see above).
    UnsupportedError
        A dtype is packed or quantised, or one alone is complex.
    ValueError
        An array is not of the dtype or shape that is said.
    """
    check_cast(source, target, allow_integers=allow_integers)
    check_array(array, source)
    shape = shape_of(array, source, target)
    if out is None:
        if source == target:
            return array
        out = np.empty(shape, numpy_dtype(CODES[target]))
    else:
        check_array(out, target)
        if out.shape != shape:
            raise ValueError(f"out is of shape {out.shape}, and the result of shape {shape}")
        if not out.flags.writeable:
            raise ValueError("out is read-only")
        if np.may_share_memory(array, out):
            raise ValueError("out overlaps with the array")
    fill(parts(out, target), parts(array, source), COMPLEX.get(source, source), COMPLEX.get(target, target))
    return out


def cast_chunks(
    array: Array, source: str, target: str, chunk_bytes: int, *, allow_integers: bool = False
) -> Iterator[memoryview]:
    """The bytes of the cast array, C-contiguous and little-endian, a run at a time.

    Nothing is read before the first is asked for, and no more than about two runs are in memory. Where neither dtype
    nor order changes, they are views of *array*.

    Parameters
    ----------
    array, source, target, allow_integers
        As for `cast`, and with its errors: those of the dtypes and the array come at once, a number that does not fit
        where it lies.
    chunk_bytes : int
        The longest run of bytes, unless one element is longer.

    Yields
    ------
    memoryview
        Of bytes; each its own, so that it may be kept.
    """
    check_cast(source, target, allow_integers=allow_integers)
    check_array(array, source)
    return chunks_of(parts(array, source), COMPLEX.get(source, source), COMPLEX.get(target, target), chunk_bytes)


def chunks_of(array: Array, source: str, target: str, chunk_bytes: int) -> Iterator[memoryview]:
    """The generator within `cast_chunks`, which checks before it is first asked."""
    dtype = numpy_dtype(CODES[target])
    for (block,) in blocks((array,), chunk_bytes // max(dtype.itemsize, array.itemsize)):
        if source == target:
            chunk = words(block)
        else:
            chunk = np.empty(block.shape, dtype)
            fill(chunk, block, source, target)
            chunk = words(chunk)
        yield flat_bytes(np.ascontiguousarray(chunk, f"<u{chunk.itemsize}"))


def check_array(array: Array, name: str) -> None:
    """Raise unless *array* is one of dtype *name*."""
    dtype = numpy_dtype(CODES[name])
    if array.dtype.newbyteorder("=") != dtype:
        raise ValueError(f"the array is of dtype {array.dtype}, and {name} is given as {dtype}")
    if name == "complex32" and array.shape[-1:] != (2,):
        raise ValueError(f"complex32 is given with a last axis of 2, and the array is of shape {array.shape}")


def shape_of(array: Array, source: str, target: str) -> tuple[int, ...]:
    """The shape of the cast array: complex32 alone has an axis for its parts."""
    shape = array.shape[:-1] if source == "complex32" else array.shape
    return (*shape, 2) if target == "complex32" else shape


def parts(array: Array, name: str) -> Array:
    """A view of complex numbers as pairs along a new last axis; an array of others as it is."""
    if name not in COMPLEX or name == "complex32":
        return array
    return array[..., np.newaxis].view(np.dtype(f"{array.dtype.byteorder}f{array.itemsize // 2}"))


def words(array: Array) -> Array:
    """The same elements as unsigned integers, of which numpy knows to copy and to swap any."""
    return array.view(np.dtype(f"{array.dtype.byteorder}u{array.itemsize}"))


def flat_bytes(array: Array) -> memoryview:
    """The bytes of a C-contiguous array, where they lie."""
    return array.reshape(-1).view(np.uint8).data


def is_plain(array: Array) -> bool:
    """Whether its elements lie side by side in the order of this machine; they need not be aligned."""
    return array.flags.c_contiguous and array.dtype.isnative


def blocks(arrays: tuple[Array, ...], limit: int) -> Iterator[tuple[Array, ...]]:
    """Views of arrays of one shape, one after the other in C order, of *limit* elements at most, or of one."""
    limit = max(limit, 1)
    first = arrays[0]
    if first.size <= limit:
        if first.size:
            yield arrays
        return
    if all(array.flags.c_contiguous for array in arrays):
        arrays = tuple(array.reshape(-1) for array in arrays)
    length = len(arrays[0])
    inner = first.size // length
    if inner > limit:
        for row in range(length):
            yield from blocks(tuple(array[row] for array in arrays), limit)
    else:
        rows = limit // inner
        for start in range(0, length, rows):
            yield tuple(array[start : start + rows] for array in arrays)


def fill(out: Array, array: Array, source: str, target: str) -> None:
    """Put the numbers of *array* into *out*, of the same shape: at once where that needs no room, else by blocks."""
    if source == target:
        words(out)[...] = words(array)
    elif source in FLOATS and target in FLOATS and is_plain(array) and is_plain(out):
        convert(array, source, out, target)
    else:
        for place, block in blocks((out, array), BLOCK_BYTES // max(array.itemsize, out.itemsize)):
            words(place)[...] = words(converted(block, source, target))


def convert(array: Array, source: str, out: Array, target: str) -> None:
    """Floats to floats, both plain."""
    _native.convert(flat_bytes(array), FLOATS[source], flat_bytes(out), FLOATS[target])


def converted(block: Array, source: str, target: str) -> Array:
    """The numbers of one block, in a new plain array."""
    block = np.ascontiguousarray(words(block), f"u{block.itemsize}").view(numpy_dtype(CODES[source]))
    if source == "bool":  # a byte of a file may be another than 0 and 1
        block, source = (words(block) != 0).view(np.uint8), "uint8"
    if source in INTEGERS:
        if target in INTEGERS or target in ("float32", "float64"):
            return to_numpy(block, target)
        block, source = float64_of(block), "float64"
    middle = "float64" if target in INTEGERS else target
    if source != middle:
        out = np.empty(block.shape, numpy_dtype(CODES[middle]))
        convert(block, source, out, middle)
        block = out
    return block if middle == target else to_numpy(block, target)


def to_numpy(block: Array, target: str) -> Array:
    """Integers or float64 in a dtype for which numpy's own cast is right, if all of them fit."""
    dtype = numpy_dtype(CODES[target])
    if target == "bool":
        flags: Array = block != 0
        return flags
    if target in INTEGERS:
        refuse_misfits(block, target, np.iinfo(dtype))
    return block.astype(dtype)


def refuse_misfits(block: Array, target: str, limits: np.iinfo[Any]) -> None:
    """Raise if a number, without its fraction, is none of the integers that there are."""
    if block.dtype.kind == "f":
        whole = np.trunc(block)  # the bounds are powers of two, so float64 has them
        fits = (whole >= float(limits.min)) & (whole < float(limits.max + 1))
    else:
        fits = (block >= limits.min) & (block <= limits.max)
    if not fits.all():
        misfit = block[~fits][0]
        raise PlanError(
            f"{misfit} is no {target}, which goes from {limits.min} to {limits.max}; "
            "choose a dtype that holds it, or leave this tensor out of the cast"
        )


def float64_of(block: Array) -> Array:
    """Integers as floats that round to the same small float as they do: what 64 bits lose is kept as one sticky bit."""
    if block.itemsize == 8:
        low = block.dtype.type((1 << STICKY_BITS) - 1)
        large = block > block.dtype.type(EXACT_IN_FLOAT64)
        if block.dtype.kind == "i":
            large |= block < block.dtype.type(-EXACT_IN_FLOAT64)
        sticky = ((block & low) != 0).astype(block.dtype) << block.dtype.type(STICKY_BITS)
        block = np.where(large, (block & ~low) | sticky, block)
    return block.astype(np.float64)
