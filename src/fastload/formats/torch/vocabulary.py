"""The globals that PyTorch's pickles name, and what each means. Knows no opcodes; imports nothing that it names.

Sources: `torch/_utils.py`, `torch/storage.py` and `torch/serialization.py` of torch 2.13. A global that is not listed
is inert: it is recorded, never resolved, and stops no tensor.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fastload._native import Vocabulary
from fastload.dtypes import TORCH_DTYPES, TORCH_STORAGES
from fastload.entry import Quantization
from fastload.formats.torch.numpy_values import mask_dtype_of, numpy_dtype_of, table_dtype
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


def _tensor(name: str, arguments: str) -> Global:
    return Global("torch._utils", name, "tensor", arguments=arguments)


def _wrapper(module: str, name: str, arguments: str, kind: str = "tensor") -> Global:
    return Global(module, name, "wrapper", kind=kind, arguments=arguments)


_NUMPY_CORES = ("numpy.core", "numpy._core")  # before and since NumPy 2
_BUILTINS = ("builtins", "__builtin__")  # of Python 3 and 2
_OLD_TENSORS = ("Double", "Float", "Half", "Long", "Int", "Short", "Char", "Byte", "Bool", "BFloat16")

GLOBALS = (
    # Functions that make a tensor. `requires_grad` and `hooks` concern training and are ignored.
    _tensor("_rebuild_tensor", "storage offset size stride"),
    _tensor("_rebuild_tensor_v2", "storage offset size stride requires_grad hooks metadata?"),
    _tensor("_rebuild_tensor_v3", "storage offset size stride requires_grad hooks dtype metadata?"),
    _tensor("_rebuild_qtensor", "storage offset size stride quantizer requires_grad hooks"),
    Global("torch._utils", "_rebuild_meta_tensor_no_storage", "meta", arguments="dtype size stride requires_grad"),
    Global(
        "torch._utils",
        "_rebuild_wrapper_subclass",
        "subclass",
        arguments="class dtype size stride start layout device requires_grad",
    ),
    # Functions that make a tensor of tensors.
    Global("torch._utils", "_rebuild_sparse_tensor", "sparse", arguments="layout parts"),
    Global("torch._utils", "_rebuild_sparse_csr_tensor", "sparse", arguments="layout parts"),
    Global("torch._utils", "_rebuild_nested_tensor", "nested"),
    Global("torch.nested._internal.nested_tensor", "_rebuild_njt", "ragged", arguments="parts"),
    # Functions that add something to a tensor.
    _wrapper("torch._utils", "_rebuild_parameter", "tensor requires_grad hooks", "parameter"),
    _wrapper("torch._utils", "_rebuild_parameter_with_state", "tensor requires_grad hooks state", "parameter"),
    _wrapper("torch._utils", "_rebuild_device_tensor_from_numpy", "tensor dtype device requires_grad"),
    _wrapper("torch._utils", "_rebuild_xla_tensor", "tensor dtype device requires_grad"),
    _wrapper("torch._utils", "_rebuild_device_tensor_from_cpu_tensor", "tensor dtype device requires_grad"),
    *(
        _wrapper(module, "Parameter", "tensor? requires_grad?", "parameter")  # of torch 0.1 to 0.4
        for module in ("torch.nn.parameter", "torch.nn")
    ),
    _wrapper("torch.nn.parameter", "Buffer", "tensor? requires_grad?", "buffer"),
    _wrapper("torch.autograd.variable", "Variable", "tensor? requires_grad?"),  # of torch 0.1 to 0.3
    Global("torch._tensor", "_rebuild_from_type_v2", "from_type", arguments="function class arguments state"),
    Global("torch._tensor", "_rebuild_from_type", "from_type", arguments="function class arguments state"),
    Global("torch.tensor", "_rebuild_from_type", "from_type", arguments="function class arguments state"),
    # Classes of tensors of torch 0.1.
    *(Global(module, f"{name}Tensor", "old_tensor") for module in ("torch", "torch.cuda") for name in _OLD_TENSORS),
    # A storage of a plain pickle: its bytes are a whole file.
    Global("torch.storage", "_load_from_bytes", "loader", arguments="data"),
    # Arrays of NumPy, and the bytes of their elements.
    *(Global(f"{core}.multiarray", "_reconstruct", "array") for core in _NUMPY_CORES),
    Global("numpy.ma.core", "_mareconstruct", "masked"),
    Global("numpy.ma.mrecords", "_mrreconstruct", "masked"),
    *(
        Global(f"{core}.numeric", "_frombuffer", "from_buffer", arguments="data dtype size order axes?")
        for core in _NUMPY_CORES
    ),
    Global("_codecs", "encode", "encode"),
    *(Global(module, name, "encode") for module in _BUILTINS for name in ("bytes", "bytearray")),
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
        for module in _BUILTINS
        for name, role in (("dict", "mapping"), ("list", "sequence"), ("set", "sequence"), ("frozenset", "sequence"))
    ),
    # Typed containers of TorchScript.
    *(
        Global("torch.jit._pickle", name, "sequence")
        for name in (
            "build_intlist",
            "build_doublelist",
            "build_boollist",
            "build_tensorlist",
            "build_complexlist",
            "restore_type_tag",
        )
    ),
    # An instance of a class that is a dict, list or the like, as protocols 0 and 1 write it.
    *(Global(module, "_reconstructor", "rebuild") for module in ("copyreg", "copy_reg")),
    *(Global(module, "__newobj__", "new") for module in ("copyreg", "copy_reg")),
    # The packed weights of a quantised module: (what it holds, the name of its class).
    Global("torch", "ScriptObject", "native"),
    # What `torch.compile` makes of a module.
    Global("torch._dynamo.eval_frame", "OptimizedModule", "optimised"),
    # Its state is a tensor, and nobody's weights.
    Global("torch._C", "Generator", "opaque"),
)


def _array_dtype(args: tuple[Any, ...], state: object, is_mask: bool) -> tuple[str, np.dtype[Any], int, bool] | None:
    """What the core is to take a pickled NumPy dtype for: the name of a row of `DTYPES` where one describes it.

    Returns
    -------
    tuple or None
        (name, dtype, unit in bytes that is reversed in big-endian data, whether its bytes are big-endian); None for a
        dtype that cannot be had. Fields of records are shown in the order of bytes that they have.
    """
    dtype = mask_dtype_of(args, state) if is_mask else numpy_dtype_of(args, state)
    return None if dtype is None else table_dtype(dtype)


VOCABULARY = Vocabulary(GLOBALS, MAKERS, mapping, _array_dtype, Quantization)
