"""fastload: read tensors out of model checkpoints as zero-copy numpy views, executing nothing.

>>> with fastload.open("model.safetensors") as checkpoint:  # doctest: +SKIP
...     array = checkpoint["encoder.weight"]
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from fastload._native import Record
from fastload.checkpoint import Checkpoint
from fastload.entry import TensorEntry
from fastload.errors import (
    ConfigError,
    FastloadError,
    FormatError,
    LimitError,
    MemberNotFoundError,
    NotInstalledError,
    PlanError,
    SaveError,
    TensorNotFoundError,
    TruncatedError,
    UnknownFormatError,
    UnsupportedError,
)
from fastload.opening import open
from fastload.options import CheckpointSource

if TYPE_CHECKING:
    from fastload.config import read_config
    from fastload.converting import SplitReport, convert, merge, split
    from fastload.embed import EmbeddedModel, EmbedReport, embed_c, embed_into, list_embedded, remove_embedded
    from fastload.formats.torch.modules import ModuleNode
    from fastload.loading import load
    from fastload.packing import PackReport, pack
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
    from fastload.resource import open_embedded, open_resource
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
    "CheckpointSource",
    "Concat",
    "ConfigError",
    "EmbedReport",
    "EmbeddedModel",
    "FastloadError",
    "FormatError",
    "LimitError",
    "LoadError",
    "LoadProblem",
    "LoadReport",
    "MemberNotFoundError",
    "ModuleNode",
    "Modules",
    "NotInstalledError",
    "PackReport",
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
    "embed_c",
    "embed_into",
    "list_embedded",
    "load",
    "merge",
    "open",
    "open_embedded",
    "open_resource",
    "pack",
    "read_config",
    "remove_embedded",
    "save",
    "split",
]

# Where the names are that opening a checkpoint does not need: each is imported when it is first asked for.
_LATER = {
    "config": ["read_config"],
    "converting": ["SplitReport", "convert", "merge", "split"],
    "embed": ["EmbedReport", "EmbeddedModel", "embed_c", "embed_into", "list_embedded", "remove_embedded"],
    "formats.torch.modules": ["ModuleNode"],
    "loading": ["load"],
    "packing": ["PackReport", "pack"],
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
    "resource": ["open_embedded", "open_resource"],
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


def _name_all() -> None:
    """Never called: it shows the tools that freeze programs which modules the table above names as text."""
    from fastload import config, converting, embed, loading, packing, ref, report, resource, saving, scan  # noqa: F401
    from fastload.formats.torch import modules  # noqa: F401
    from fastload.plan import adapt, fuse, module_types  # noqa: F401
