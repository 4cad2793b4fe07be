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
    PlanError,
    SaveError,
    TensorNotFoundError,
    TruncatedError,
    UnknownFormatError,
    UnsupportedError,
)
from fastload.formats.torch.modules import ModuleNode
from fastload.plan.adapt import (
    BURN_TO_PYTORCH,
    CHANNELS_FIRST_TO_LAST,
    CHANNELS_LAST_TO_FIRST,
    FLAX_TO_PYTORCH,
    KERAS_TO_PYTORCH,
    MMDNN_TO_PYTORCH,
    PYTORCH_TO_BURN,
    PYTORCH_TO_FLAX,
    Adapter,
    Rule,
)
from fastload.plan.fuse import Concat, Split
from fastload.report import LoadError, LoadProblem, LoadReport
from fastload.save import SaveReport, save
from fastload.scan import PickledGlobal

__version__ = "0.1.0"

__all__ = [
    "BURN_TO_PYTORCH",
    "CHANNELS_FIRST_TO_LAST",
    "CHANNELS_LAST_TO_FIRST",
    "FLAX_TO_PYTORCH",
    "KERAS_TO_PYTORCH",
    "MMDNN_TO_PYTORCH",
    "PYTORCH_TO_BURN",
    "PYTORCH_TO_FLAX",
    "Adapter",
    "Checkpoint",
    "Concat",
    "ConfigError",
    "FastloadError",
    "FormatError",
    "LimitError",
    "LoadError",
    "LoadProblem",
    "LoadReport",
    "ModuleNode",
    "PickledGlobal",
    "PlanError",
    "Record",
    "Rule",
    "SaveError",
    "SaveReport",
    "Split",
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
