"""The globals that PyTorch's pickles name, and what each means. Knows no opcodes; imports nothing that it names.

Sources: `torch/_utils.py`, `torch/storage.py` and `torch/serialization.py` of torch 2.13. A global that is not listed
is inert: it is recorded, never resolved, and stops no tensor.
"""

from __future__ import annotations

from typing import NamedTuple

from fastload._native import Vocabulary
from fastload.dtypes import TORCH_DTYPES, TORCH_STORAGES
from fastload.formats.torch.values import MAKERS, mapping

__all__ = ["GLOBALS", "VOCABULARY"]


class Global(NamedTuple):
    """One global: its role in finding tensors, and what the role needs; see `_native.Vocabulary`."""

    module: str | None
    name: str
    role: str
    dtype: int = 0
    kind: str = "tensor"
    arguments: str = ""
    label: str = ""


def _tensor(module: str, name: str, arguments: str) -> Global:
    return Global(module, name, "tensor", arguments=arguments)


def _parameter(module: str, name: str, arguments: str) -> Global:
    return Global(module, name, "wrapper", kind="parameter", arguments=arguments)


def _later(module: str, name: str, label: str) -> Global:
    return Global(module, name, "later", label=label)


GLOBALS = (
    # Functions that make a tensor. `requires_grad` and `hooks` concern training and are ignored.
    _tensor("torch._utils", "_rebuild_tensor", "storage offset size stride"),
    _tensor("torch._utils", "_rebuild_tensor_v2", "storage offset size stride requires_grad hooks metadata?"),
    _tensor("torch._utils", "_rebuild_tensor_v3", "storage offset size stride requires_grad hooks dtype metadata?"),
    Global("torch._utils", "_rebuild_meta_tensor_no_storage", "meta", arguments="dtype size stride requires_grad"),
    _parameter("torch._utils", "_rebuild_parameter", "tensor requires_grad hooks"),
    _parameter("torch._utils", "_rebuild_parameter_with_state", "tensor requires_grad hooks state"),
    # Tensors of other sorts: each must be known, since its parts would else be listed as if they were it.
    _later("torch._utils", "_rebuild_qtensor", "a quantised tensor"),
    _later("torch._utils", "_rebuild_sparse_tensor", "a sparse tensor"),
    _later("torch._utils", "_rebuild_sparse_csr_tensor", "a sparse tensor"),
    _later("torch._utils", "_rebuild_nested_tensor", "a nested tensor"),
    _later("torch._utils", "_rebuild_wrapper_subclass", "a tensor of a wrapper subclass"),
    _later("torch._utils", "_rebuild_device_tensor_from_numpy", "a device tensor kept as a numpy array"),
    _later("torch._utils", "_rebuild_xla_tensor", "a device tensor kept as a numpy array"),
    _later("torch._utils", "_rebuild_device_tensor_from_cpu_tensor", "a device tensor kept as a CPU tensor"),
    _later("torch._tensor", "_rebuild_from_type_v2", "a tensor subclass, or a tensor with attributes"),
    _later("torch._tensor", "_rebuild_from_type", "a tensor subclass, or a tensor with attributes"),
    _later("torch.tensor", "_rebuild_from_type", "a tensor subclass, or a tensor with attributes"),
    _later("torch.storage", "_load_from_bytes", "a tensor of a plain pickle"),
    _later("torch.nn.parameter", "UninitializedParameter", "an uninitialised parameter"),
    _later("torch.nn.parameter", "UninitializedBuffer", "an uninitialised buffer"),
    *(
        _later(f"numpy.{core}.{module}", name, "a numpy array")
        for core in ("core", "_core")
        for module, name in (("multiarray", "_reconstruct"), ("numeric", "_frombuffer"))
    ),
    # Classes of storages. Their module is ignored, as torch does: `torch.cuda.FloatStorage` holds floats too.
    *(Global(None, name, "storage", code) for name, code in TORCH_STORAGES.items()),
    Global(None, "UntypedStorage", "storage", TORCH_DTYPES["uint8"]),
    Global(None, "_UntypedStorage", "storage", TORCH_DTYPES["uint8"]),  # torch 1.11 and 1.12
    *(Global("torch", name, "dtype", code) for name, code in TORCH_DTYPES.items()),
    Global("torch", "Size", "size"),
    # Containers by another name.
    Global("collections", "OrderedDict", "mapping"),
    Global("collections", "defaultdict", "mapping"),
    Global("collections", "Counter", "mapping"),
    Global("collections", "deque", "sequence"),
    *(
        Global(module, name, role)
        for module in ("builtins", "__builtin__")
        for name, role in (("dict", "mapping"), ("list", "sequence"), ("set", "sequence"), ("frozenset", "sequence"))
    ),
)


VOCABULARY = Vocabulary(GLOBALS, MAKERS, mapping)
