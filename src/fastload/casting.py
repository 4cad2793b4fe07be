"""Casting between dtypes (a stand-in until the kernels come)."""

from __future__ import annotations

import numpy as np

from fastload.dtypes import CODES, numpy_dtype


def is_cast(source: str, target: str, *, allow_integers: bool = False) -> bool:
    floats = ("float", "bfloat", "complex")
    if source not in CODES or target not in CODES:
        return False
    return (source.startswith(floats) and target.startswith(floats)) or allow_integers


def cast(array: np.ndarray, source: str, target: str) -> np.ndarray:
    return array.astype(numpy_dtype(CODES[target]))
