"""Builds fastload._native. Everything else is declared in pyproject.toml."""

import glob
import os

import numpy
from Cython.Build import cythonize
from setuptools import Extension, setup

SANITIZE = bool(os.environ.get("FASTLOAD_SANITIZE"))  # address and undefined-behaviour checks
COVERAGE = bool(os.environ.get("FASTLOAD_COVERAGE"))  # line tracing of .pyx files; not on CPython 3.12

MODULES = [
    "arrays",
    "blob",
    "burnpack",
    "calls",
    "cast",
    "cbor",
    "contents",
    "cursor",
    "filesystem",
    "geometry",
    "globs",
    "graph",
    "harvest",
    "index",
    "json",
    "keys",
    "layout",
    "machine",
    "modules",
    "names",
    "objects",
    "order",
    "outgoing",
    "pages",
    "pickle",
    "pickling",
    "readinto",
    "recipe",
    "registers",
    "renumber",
    "safetensors",
    "stream",
    "tables",
    "textargs",
    "utf8",
    "vector",
    "view",
    "zip",
]

flags = ["-O1", "-g", "-fsanitize=address,undefined", "-fno-omit-frame-pointer", "-fno-wrapv"] if SANITIZE else []
# Vectors, whatever optimisation Python was built with. No handler of floating-point traps is ever set, and the mere
# possibility of one keeps compilers from making vectors of a loop that adds.
module_flags = {"cast": ["-O3", "-fno-trapping-math"]} if os.name != "nt" and not SANITIZE else {}
macros = [("NPY_NO_DEPRECATED_API", "NPY_2_0_API_VERSION"), ("NPY_TARGET_VERSION", "NPY_2_0_API_VERSION")]
if COVERAGE:
    # Not CYTHON_TRACE_NOGIL: with it an error that is raised without the GIL crashes (Cython 3.3, CPython 3.11).
    macros += [("CYTHON_TRACE", "1"), ("CYTHON_USE_SYS_MONITORING", "0")]

setup(
    ext_modules=cythonize(
        [
            Extension(
                f"fastload._native.{module}",
                [f"src/fastload/_native/{module}.pyx"],
                define_macros=macros,
                include_dirs=[numpy.get_include(), "src/fastload/_native"],
                depends=glob.glob("src/fastload/_native/kernels/*.h") if module == "cast" else [],
                extra_compile_args=flags + module_flags.get(module, []),
                extra_link_args=flags,
            )
            for module in MODULES
        ],
        compiler_directives={
            "language_level": 3,
            "freethreading_compatible": True,
            "auto_pickle": False,
            "embedsignature": True,
            "embedsignature.format": "python",
            "boundscheck": True,
            "wraparound": False,
            "initializedcheck": True,
            "cdivision": False,
            "binding": True,
            "linetrace": COVERAGE,
        },
        build_dir="build/cython" if not COVERAGE else None,
    ),
    options={"build_ext": {"parallel": os.cpu_count()}},
)
