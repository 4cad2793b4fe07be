"""fastload: read tensors out of model checkpoints as zero-copy numpy views, executing nothing.

>>> with fastload.open("model.safetensors") as checkpoint:  # doctest: +SKIP
...     array = checkpoint["encoder.weight"]
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from fastload._native import Record
from fastload.checkpoint import Checkpoint, open
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

if TYPE_CHECKING:
    from fastload.config import read_config
    from fastload.converting import SplitReport, convert, merge, split
    from fastload.formats.torch.modules import ModuleNode
    from fastload.loading import load
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
    from fastload.plan.module_types import HALF_PRECISION, Modules
    from fastload.ref import TensorRef
    from fastload.report import LoadError, LoadProblem, LoadReport
    from fastload.saving import SaveReport, save
    from fastload.scan import PickledGlobal

__version__ = "0.1.0"

__all__ = [
    "BURN_TO_PYTORCH",
    "CHANNELS_FIRST_TO_LAST",
    "CHANNELS_LAST_TO_FIRST",
    "FLAX_TO_PYTORCH",
    "HALF_PRECISION",
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
    "Modules",
    "PickledGlobal",
    "PlanError",
    "Record",
    "Rule",
    "SaveError",
    "SaveReport",
    "Split",
    "SplitReport",
    "TensorEntry",
    "TensorNotFoundError",
    "TensorRef",
    "TruncatedError",
    "UnknownFormatError",
    "UnsupportedError",
    "__version__",
    "convert",
    "load",
    "merge",
    "open",
    "read_config",
    "save",
    "split",
]

# Where the names are that opening a checkpoint does not need: each is imported when it is first asked for.
_LATER = {
    "config": ["read_config"],
    "converting": ["SplitReport", "convert", "merge", "split"],
    "formats.torch.modules": ["ModuleNode"],
    "loading": ["load"],
    "plan.adapt": [
        "BURN_TO_PYTORCH",
        "CHANNELS_FIRST_TO_LAST",
        "CHANNELS_LAST_TO_FIRST",
        "FLAX_TO_PYTORCH",
        "KERAS_TO_PYTORCH",
        "MMDNN_TO_PYTORCH",
        "PYTORCH_TO_BURN",
        "PYTORCH_TO_FLAX",
        "Adapter",
        "Rule",
    ],
    "plan.fuse": ["Concat", "Split"],
    "plan.module_types": ["HALF_PRECISION", "Modules"],
    "ref": ["TensorRef"],
    "report": ["LoadError", "LoadProblem", "LoadReport"],
    "saving": ["SaveReport", "save"],
    "scan": ["PickledGlobal"],
}
_MODULES = {name: module for module, names in _LATER.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
