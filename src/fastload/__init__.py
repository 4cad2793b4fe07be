"""fastload: read tensors out of model checkpoints as zero-copy numpy views, executing nothing.

>>> with fastload.open("model.safetensors") as checkpoint:  # doctest: +SKIP
...     array = checkpoint["encoder.weight"]
"""

from fastload._native import Record
from fastload.checkpoint import Checkpoint, open
from fastload.entry import TensorEntry
from fastload.errors import (
    FastloadError,
    FormatError,
    LimitError,
    TensorNotFoundError,
    TruncatedError,
    UnknownFormatError,
    UnsupportedError,
)
from fastload.formats.torch.modules import ModuleNode

__version__ = "0.1.0"

__all__ = [
    "Checkpoint",
    "FastloadError",
    "FormatError",
    "LimitError",
    "ModuleNode",
    "Record",
    "TensorEntry",
    "TensorNotFoundError",
    "TruncatedError",
    "UnknownFormatError",
    "UnsupportedError",
    "__version__",
    "open",
]
