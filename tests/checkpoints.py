"""Checkpoints in memory for the tests of the plan, from arrays by name."""

import struct

import numpy as np

import fastload
from builders import safetensors_file

SPELLED = {"float32": "F32", "float16": "F16", "float64": "F64", "int64": "I64", "uint8": "U8", "bool": "BOOL"}


def checkpoint_of(arrays, **options):
    """A checkpoint of NumPy arrays."""
    tensors = {name: (SPELLED[array.dtype.name], array.shape, array.tobytes()) for name, array in arrays.items()}
    return fastload.open(safetensors_file(tensors), **options)


def named(*names, **options):
    """A checkpoint of one number a name: its place, so that a test sees which tensor has come under a name."""
    tensors = {name: ("F32", (1,), struct.pack("<f", place)) for place, name in enumerate(names)}
    return fastload.open(safetensors_file(tensors), **options)


def places(checkpoint):
    """Of a checkpoint made by `named`: the number of each tensor, by its name now."""
    return {name: int(array[0]) for name, array in checkpoint.items()}


def numbers(*shape, dtype="float32"):
    """An array of that shape whose elements are all different."""
    return np.arange(1, 1 + int(np.prod(shape)), dtype=dtype).reshape(shape)
