"""fastload: read tensors out of model checkpoints as zero-copy numpy views, executing nothing.

>>> with fastload.open("model.safetensors") as checkpoint:  # doctest: +SKIP
...     array = checkpoint["encoder.weight"]
"""

from fastload._native import Record
from fastload.checkpoint import Checkpoint, open
from fastload.config import read_config
from fastload.entry import TensorEntry
from fastload.errors import (
    ConfigError,
    FastloadError,
    FormatError,
    LimitError,
    SaveError,
    TensorNotFoundError,
    TruncatedError,
    UnknownFormatError,
    UnsupportedError,
)
from fastload.formats.torch.modules import ModuleNode
from fastload.save import SaveReport, save
from fastload.scan import PickledGlobal

__version__ = "0.1.0"

__all__ = [
    "Checkpoint",
    "ConfigError",
    "FastloadError",
    "FormatError",
    "LimitError",
    "ModuleNode",
    "PickledGlobal",
    "Record",
    "SaveError",
    "SaveReport",
    "TensorEntry",
    "TensorNotFoundError",
    "TruncatedError",
    "UnknownFormatError",
    "UnsupportedError",
    "__version__",
    "open",
    "read_config",
    "save",
]
