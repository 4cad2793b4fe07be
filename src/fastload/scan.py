"""What a real unpickler would do at each global that a pickle names. fastload itself does none of it.

Unpickling a global imports its module, and most often calls it with arguments of the file. So a file is harmless only
if everything it names is known to be; what is unknown may be a class of the file's own program, or a trap.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple

from fastload.dtypes import DTYPES
from fastload.formats.torch.values import MAKERS
from fastload.formats.torch.vocabulary import GLOBALS

__all__ = ["PickledGlobal", "classify"]

MAX_STEPS = 10  # dots in a name that are looked at; those of real files have three

Verdict = Literal["harmless", "imports", "dangerous"]


class PickledGlobal(NamedTuple):
    """A global that a pickle names, and what a real unpickler would do with it.

    Attributes
    ----------
    module, name : str
        Of the class or function.
    verdict : {"harmless", "imports", "dangerous"}
        "harmless": it makes a tensor or a plain value, and nothing else. "imports": it is unknown, so its module would
        be imported and it might be called. "dangerous": it runs code, starts programs, or reaches files, the network
        or the inside of the interpreter.
    reason : str
        Why.
    """

    module: str
    name: str
    verdict: Verdict
    reason: str


UNKNOWN = "not known: its module would be imported, and it would be called as the file says"
TENSORS = "makes tensors"
PLAIN = "makes a plain value"
DUNDER = "reaches into the inside of objects"

RUNS_CODE = "runs code"
RUNS_PROGRAMS = "runs programs"
IMPORTS_BY_NAME = "imports modules by name"
UNPICKLES = "reads another pickle, and runs what that says"
MAKES_CODE = "makes code of data"
MEMORY = "reaches into memory and system libraries"
NETWORK = "reaches the network"
FILES = "reads, writes or removes files"
INTERPRETER = "reaches into the interpreter"
ATTRIBUTES = "fetches or calls any attribute of anything"
CALLS = "calls what it is given"

# Whole modules, those within them included.
_MODULES = {
    RUNS_PROGRAMS: "os posix nt subprocess _posixsubprocess pty commands popen2 platform multiprocessing concurrent"
    " sched pip setuptools distutils ensurepip venv torch.utils.cpp_extension torch.utils.collect_env torch._inductor"
    " numpy.f2py numpy.distutils",
    RUNS_CODE: "code codeop runpy timeit profile cProfile trace doctest unittest bdb pdb idlelib lib2to3 pydoc test"
    " _testcapi _testinternalcapi torch.package torch._dynamo torch.fx torch.jit numpy.testing",
    IMPORTS_BY_NAME: "importlib imp _imp pkgutil zipimport site _frozen_importlib _frozen_importlib_external",
    UNPICKLES: "pickle _pickle cPickle dill cloudpickle joblib shelve jsonpickle",
    MAKES_CODE: "marshal types new dis opcode py_compile compileall",
    MEMORY: "ctypes _ctypes cffi mmap _winapi msvcrt winreg _winreg numpy.ctypeslib",
    NETWORK: "socket _socket socketserver ssl http httplib urllib urllib2 urllib3 requests aiohttp httpx ftplib smtplib"
    " poplib imaplib telnetlib webbrowser xmlrpc asyncio asyncore paramiko torch.hub torch.distributed.rpc",
    FILES: "shutil tempfile io _io fileinput linecache glob zipfile tarfile sqlite3 dbm fsspec numpy.lib.npyio",
    INTERPRETER: "sys gc inspect atexit signal threading _thread thread faulthandler tracemalloc",
    ATTRIBUTES: "operator _operator",
    CALLS: "functools",
}
DANGEROUS_MODULES = {module: reason for reason, modules in _MODULES.items() for module in modules.split()}

_OF_BUILTINS = {
    **dict.fromkeys(["eval", "exec", "execfile", "compile", "breakpoint", "help"], RUNS_CODE),
    **dict.fromkeys(["__import__", "reload"], IMPORTS_BY_NAME),
    **dict.fromkeys(["getattr", "setattr", "delattr", "hasattr"], ATTRIBUTES),
    **dict.fromkeys(["apply", "map", "filter", "reduce", "sorted", "min", "max", "sum"], CALLS),
    **dict.fromkeys(["open", "file", "input", "raw_input", "print"], FILES),
    **dict.fromkeys(["globals", "locals", "vars", "dir", "exit", "quit", "memoryview", "super"], INTERPRETER),
}

DANGEROUS = {
    **{(module, name): why for module in ("builtins", "__builtin__") for name, why in _OF_BUILTINS.items()},
    ("codecs", "open"): FILES,
    ("_codecs", "lookup"): IMPORTS_BY_NAME,
    ("_codecs", "register"): INTERPRETER,
    ("uuid", "_get_command_stdout"): RUNS_PROGRAMS,
    ("uuid", "_popen"): RUNS_PROGRAMS,
    ("copyreg", "pickle"): INTERPRETER,
    ("copyreg", "add_extension"): INTERPRETER,
    ("collections", "namedtuple"): MAKES_CODE,
    ("itertools", "starmap"): CALLS,
    ("torch", "load"): UNPICKLES,
    ("torch", "compile"): RUNS_CODE,
    ("torch.serialization", "load"): UNPICKLES,
    # Only the pickle within says what it does, and `list_globals` does not look into it.
    ("numpy", "load"): UNPICKLES,
    ("numpy", "fromfile"): FILES,
    ("numpy", "memmap"): FILES,
    ("numpy", "save"): FILES,
    ("numpy", "savetxt"): FILES,
    ("pandas", "read_pickle"): UNPICKLES,
    ("pandas", "eval"): RUNS_CODE,
    ("yaml", "load"): RUNS_CODE,
    ("yaml", "unsafe_load"): RUNS_CODE,
}

_NUMPY_TYPES = (
    "bool_ bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 float32 float64 longdouble complex64"
    " complex128 clongdouble str_ bytes_ void record datetime64 timedelta64 ndarray intc uintc longlong ulonglong"
)

# Beside what the vocabulary of tensors and the makers of plain values know.
_HARMLESS = {
    ("builtins", PLAIN): "object int float bool str tuple NoneType None True False",
    ("__builtin__", PLAIN): "object int long float bool str unicode tuple NoneType None True False",
    ("io", PLAIN): "BytesIO",
    ("_io", PLAIN): "BytesIO",
    ("numpy", PLAIN): _NUMPY_TYPES,
    ("numpy.random._pickle", PLAIN): "__randomstate_ctor __generator_ctor __bit_generator_ctor",
    ("numpy.random._mt19937", PLAIN): "MT19937",
    ("numpy.random._pcg64", PLAIN): "PCG64 PCG64DXSM",
    ("numpy.random._philox", PLAIN): "Philox",
    ("numpy.random._sfc64", PLAIN): "SFC64",
    ("ml_dtypes", PLAIN): " ".join(row.numpy for row in DTYPES if row.numpy.isidentifier()),
    ("torch", TENSORS): "Tensor Generator dtype strided sparse_coo sparse_csr per_tensor_affine per_channel_affine"
    " per_tensor_symmetric per_channel_symmetric per_channel_affine_float_qparams",
    ("torch.jit._pickle", PLAIN): "build_intlist build_doublelist build_boollist build_tensorlist restore_type_tag",
}
HARMLESS = {(module, name): reason for (module, reason), names in _HARMLESS.items() for name in names.split()}


def _known() -> dict[tuple[str, str], str]:
    tensors = {(row.module, row.name): TENSORS for row in GLOBALS if row.module is not None}
    return {**dict.fromkeys(MAKERS, PLAIN), **tensors, **HARMLESS}


_KNOWN = _known()
_STORAGES = frozenset(row.name for row in GLOBALS if row.module is None)
_STORAGE_MODULES = frozenset(["torch", "torch.cuda", "torch.storage"])


def classify(names: Iterable[tuple[str, str]]) -> list[PickledGlobal]:
    """What a real unpickler would do at each (module, name), in order."""
    return [PickledGlobal(module, name, *_judge(module, name)) for module, name in names]


def _judge(module: str, name: str) -> tuple[Verdict, str]:
    reason = _danger(module, name)
    if reason is not None:
        return "dangerous", reason
    if (module, name) in _KNOWN:
        return "harmless", _KNOWN[module, name]
    if module in _STORAGE_MODULES and name in _STORAGES:
        return "harmless", TENSORS
    return "imports", UNKNOWN


def _danger(module: str, name: str) -> str | None:
    """Why a global is dangerous; None if nothing says so.

    A name may have dots: `torch`, `serialization.os.system` is fetched step by step, so every step is looked at.
    """
    if (module, name) in _KNOWN and (module, name) not in DANGEROUS:
        return None
    steps = name.split(".", MAX_STEPS)
    if len(steps) > MAX_STEPS or (len(steps) > 1 and any(step.startswith("__") for step in steps)):
        return DUNDER
    for i in range(len(steps)):
        places = [".".join([module, *steps[:i]])] + ([".".join(steps[j:i]) for j in range(i)])
        for place in places:
            if (place, steps[i]) in DANGEROUS:
                return DANGEROUS[place, steps[i]]
            parts = place.split(".")
            for end in range(1, min(len(parts), MAX_STEPS) + 1):
                reason = DANGEROUS_MODULES.get(".".join(parts[:end]))
                if reason is not None:
                    return reason
    return None
