"""A drop-in for the safetensors package: change the line of the import, and keep the program.

>>> from fastload.safetensors import safe_open  # doctest: +SKIP
>>> from fastload.safetensors.torch import load_file, save_file  # doctest: +SKIP

What is saved is the package's to the byte (it writes several metadata in any order; here they keep theirs). What is
loaded may be written to, and is pages of the file until then: it costs neither time nor memory to load, and the file
never changes. It must not be written to in place, or cut, while they are in use; replacing it, as `save_file` does, is
fine, and ``backend="pread"`` reads into memory of one's own.
"""

from __future__ import annotations

from fastload.safetensors.failure import SafetensorError
from fastload.safetensors.opening import SafeSlice, deserialize, safe_open
from fastload.safetensors.writing import TensorSpec, serialize, serialize_file

__all__ = ["SafeSlice", "SafetensorError", "TensorSpec", "deserialize", "safe_open", "serialize", "serialize_file"]
