"""The C source of an extension module whose read-only data is a file, and its building.

The file comes in by the assembler's `.incbin`, since compilers take minutes for an array of numbers. A file of more
than a gigabyte goes into a section of its own beyond the two that code can reach, which x86-64 calls `.lrodata`.
"""

from __future__ import annotations

import keyword
import os
import shlex
import sys
import sysconfig
from string import Template

from fastload import atomic
from fastload.errors import NotInstalledError, UnsupportedError, printable
from fastload.source import Source

__all__ = ["build", "check_compiler", "module_name", "source"]

# Code reaches 2 GiB far, and the rest of the module has to lie within that, too.
LARGE_BYTES = 1 << 30
SHOWN_CHARACTERS = 1000  # of what a compiler says

TEXT = Template("""\
/* $module: the bytes of a model as read-only data of an extension module. Written by `fastload embed --c`.

       import fastload, $module
       checkpoint = fastload.open($module.data)  # no copy

   Build it as any extension; with setuptools:

       Extension("$module", ["$file"], py_limited_api=True)
*/
#include <pyconfig.h>
#if !defined(Py_LIMITED_API) && !defined(Py_GIL_DISABLED)
#define Py_LIMITED_API 0x030B0000
#endif
#include <Python.h>

#if defined(__APPLE__)
#define SECTION "__TEXT,__const"
#define SYMBOL(name) "_" name
#define RESUME ".text"
#elif defined(__ELF__) && $large && defined(__x86_64__)
#define SECTION ".lrodata.$module,\\"al\\",%progbits"
#define SYMBOL(name) name
#define RESUME ".text"
#elif defined(__ELF__)
#define SECTION ".rodata.$module,\\"a\\",%progbits"
#define SYMBOL(name) name
#define RESUME ".text"
#else
#error "this needs an assembler with .incbin: gcc or clang for Linux or macOS"
#endif

/* With default visibility, so that their addresses come from a table: they may lie further away than code can reach. */
__asm__(
    ".section " SECTION "\\n"
    ".balign 4096\\n"
    ".globl " SYMBOL("${module}_begin") "\\n"
    SYMBOL("${module}_begin") ":\\n"
    ".incbin \\"$path\\"\\n"
    ".globl " SYMBOL("${module}_end") "\\n"
    SYMBOL("${module}_end") ":\\n"
    ".byte 0\\n"
    RESUME "\\n"
);
extern const unsigned char ${module}_begin[];
extern const unsigned char ${module}_end[];

static int get_buffer(PyObject *self, Py_buffer *view, int flags) {
    return PyBuffer_FillInfo(view, self, (void *)${module}_begin, (Py_ssize_t)(${module}_end - ${module}_begin), 1,
                             flags);
}

static void deallocate(PyObject *self) {
    PyTypeObject *type = Py_TYPE(self);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type);
}

static PyType_Slot data_slots[] = {
    {Py_tp_doc, (void *)"The bytes of a model, read-only, by the buffer protocol."},
    {Py_tp_dealloc, (void *)deallocate},
    {Py_bf_getbuffer, (void *)get_buffer},
    {0, NULL},
};

static PyType_Spec data_spec = {
    "$module.Data", (int)sizeof(PyObject), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION, data_slots,
};

static int execute(PyObject *module) {
    int failed;
    PyObject *data;
    PyObject *type = PyType_FromSpec(&data_spec);
    if (type == NULL) {
        return -1;
    }
    data = ((allocfunc)PyType_GetSlot((PyTypeObject *)type, Py_tp_alloc))((PyTypeObject *)type, 0);
    Py_DECREF(type);
    if (data == NULL) {
        return -1;
    }
    failed = PyModule_AddObjectRef(module, "data", data);
    Py_DECREF(data);
    return failed;
}

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, (void *)execute},
#ifdef Py_mod_multiple_interpreters
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
#endif
#ifdef Py_mod_gil
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0, NULL},
};

static struct PyModuleDef module_definition = {
    PyModuleDef_HEAD_INIT, "$module", "The bytes of a model: `data`.", 0, NULL, module_slots, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit_$module(void) { return PyModuleDef_Init(&module_definition); }
""")


def module_name(path: str) -> str:
    """The module that the source at *path* makes.

    Raises
    ------
    ValueError
        It is not the path of a C source whose name can be that of a module.
    """
    name, ending = os.path.splitext(os.path.basename(path))
    if ending != ".c" or not (name.isascii() and name.isidentifier()) or keyword.iskeyword(name):
        raise ValueError(f"the source is to be called MODULE.c, where MODULE can be imported, not {path!r}")
    return name


def source(module: str, path: str, size: int) -> str:
    """The source of *module* with the *size* bytes of the file at *path*."""
    return TEXT.substitute(module=module, file=f"{module}.c", path=_quoted(path), large=int(size >= LARGE_BYTES))


def _quoted(path: str) -> str:
    """A path as the assembler's text within C's: what is no plain letter is a number in both."""
    plain = b"/._-+=@,"
    encoded = os.fsencode(path)
    return "".join(chr(c) if (chr(c).isalnum() and c < 0x80) or c in plain else f"\\\\{c:03o}" for c in encoded)


def check_compiler() -> list[str]:
    """The command of the compiler that this Python was built with.

    Raises
    ------
    NotInstalledError
        There is none on this machine.
    """
    import shutil

    command = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")
    if os.name == "nt" or not command or shutil.which(command[0]) is None:
        named = repr(command[0]) if command else "none"
        raise NotInstalledError(
            f"needs a C compiler, and there is none here (Python names {named}): install gcc or clang, set CC, or build"
            " the source elsewhere"
        )
    return command


def build(path: str, module: str, *, overwrite: bool) -> str:
    """Compile the source at *path* into *module* beside it, and return the path of that.

    Raises
    ------
    NotInstalledError
        There is no compiler.
    UnsupportedError
        It fails.
    """
    import subprocess
    from tempfile import TemporaryDirectory

    is_stable = not sysconfig.get_config_var("Py_GIL_DISABLED")
    suffix = ".abi3.so" if is_stable else sysconfig.get_config_var("EXT_SUFFIX")
    target = os.path.join(os.path.dirname(path), module + suffix)
    text = os.path.abspath(path)
    includes = {f"-I{sysconfig.get_path(name)}" for name in ("include", "platinclude")}
    flags = ["-bundle", "-undefined", "dynamic_lookup"] if sys.platform == "darwin" else ["-shared"]
    with TemporaryDirectory(dir=os.path.dirname(text)) as folder:  # where there is room, as there is not in memory
        made = os.path.join(folder, "made")
        command = [*check_compiler(), "-O2", "-fPIC", *flags, *sorted(includes), text, "-o", made]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        if done.returncode:
            said = printable(done.stderr.strip()[:SHOWN_CHARACTERS])
            raise UnsupportedError(f"cannot be compiled by {command[0]}: {said}", path=path)
        result = Source.of(made)
        with atomic.publish(target, overwrite=overwrite, size=result.size) as file:
            for at in range(0, result.size, 1 << 22):
                file.write(result.fetch(at, min(1 << 22, result.size - at)))
    return target
