"""The rules of the house that a machine can check: imports, printing, opening files, how long a file is."""

import ast
import importlib
import pathlib
import re
import subprocess
import sys

import pytest

from builders import smallest_file

TESTS = pathlib.Path(__file__).parent
ROOT = TESTS.parent
PACKAGE = ROOT / "src" / "fastload"
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted([*PACKAGE.rglob("*.py"), *PACKAGE.rglob("*.pyx")])
}
SOURCES = [*sorted(PACKAGE.rglob("*.p[yx]*")), *sorted(TESTS.rglob("*.py"))]
SOURCES = [path for path in SOURCES if path.suffix in {".py", ".pyx", ".pxd", ".pyi"}]

# From the top down; a module imports only from rows below its own, or from its own part of the house.
# `_native` stands below `dtypes`, which hands it the table: the core knows codes and bits, and no spelling.
LAYERS = [
    ["__main__"],
    ["cli"],
    ["doctor"],
    ["benching"],  # uses the package as anybody does
    ["_pyinstaller"],
    ["__init__"],
    ["config"],
    ["html"],
    ["histograms", "comparing"],
    ["resource", "embed"],
    ["converting", "safetensors"],
    ["packing"],
    ["saving"],
    ["sums"],
    ["outgoing"],
    ["differences"],
    ["statistics"],
    ["loading"],
    ["opening"],
    ["checkpoint"],
    ["scan"],
    ["target"],
    ["handover"],
    ["page_cache"],
    ["ref"],
    ["extents"],
    ["planned", "display"],
    ["plan"],
    ["folders"],
    ["tensors"],
    ["table"],
    ["formats"],
    ["crew"],
    ["moving"],
    ["executables", "members"],
    ["elf"],
    ["csource"],
    ["source", "atomic"],
    ["deflate"],
    ["report"],
    ["options"],
    ["casting"],
    ["entry", "dtypes"],
    ["_native"],
    ["errors"],
]
RANK = {name: len(LAYERS) - row for row, names in enumerate(LAYERS) for name in names}


def part(module):
    """The part of the house that a module belongs to: its first name below the package."""
    return module.split(".")[0] or "__init__"


def imports(path):
    """Names within fastload that a file imports anywhere, as dotted paths below the package; "" is the package."""
    if path.suffix == ".py":
        return imports_of_python(path)
    text = path.read_text()
    found = re.findall(
        r"^\s*(?:from\s+fastload([\w.]*)\s+c?import\s+([\w, ()]+)|c?import\s+fastload([\w.]+))", text, re.MULTILINE
    )
    names = set()
    for module, imported, plain in found:
        names |= {plain.strip(".")} if plain else targets(module.strip("."), re.findall(r"\w+", imported))
    return names


def imports_of_python(path):
    return imports_of_tree(ast.parse(path.read_text()), path)


def imports_of_tree(tree, path):
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {
                alias.name.removeprefix("fastload").strip(".")
                for alias in node.names
                if alias.name.split(".")[0] == "fastload"
            }
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            if node.module and node.module.split(".")[0] == "fastload":
                names |= targets(node.module.removeprefix("fastload").strip("."), [alias.name for alias in node.names])
    return names


def targets(module, imported):
    """`from fastload.x import y` is an import of x.y if that is a module, else of x."""
    whole = {f"{module}.{name}".strip(".") for name in imported}
    return {name if name in MODULES else module for name in whole}


def test_every_part_of_the_house_has_its_layer():
    assert {part(module) for module in MODULES} <= RANK.keys()


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down(module):
    own = part(module)
    for imported in imports(MODULES[module]) - {module}:
        other = part(imported)
        inside = own == other and own != "__init__"
        assert inside or RANK[other] < RANK[own], f"{module or 'fastload'} imports {imported or 'fastload'}"


def imports_seen_by_freezers(path):
    """What a file imports, but for the sake of types: tools that freeze programs leave that out."""
    if path.suffix != ".py":
        return set()  # nothing can look into what is compiled
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = [ast.Pass()]
    return imports_of_tree(tree, path)


COMMAND_LINE = {
    "__main__", "_pyinstaller", "benching", "cli", "comparing", "crew", "differences", "doctor", "histograms", "html",
    "statistics", "sums",
}  # fmt: skip


def test_tools_that_freeze_programs_find_every_module_by_its_import():
    found, waiting = set(), ["__init__", "safetensors.numpy", "safetensors.torch"]  # what a program imports by name
    while waiting:
        module = waiting.pop()
        if module in MODULES.keys() - found:
            found.add(module)
            waiting += [module.rpartition(".")[0], *imports_seen_by_freezers(MODULES[module])]

    library = [module for module in MODULES if part(module) not in COMMAND_LINE]
    used = {name for module in library for name in imports(MODULES[module])} & MODULES.keys()
    assert used - found == set()


def test_no_tuple_that_is_taken_apart_makes_a_memoryview():
    """Nuitka 4.3 copies the parts of such a tuple, and gives up the whole program at a copied call of memoryview."""
    taken_apart = [
        ast.unparse(node.value)
        for path in MODULES.values()
        if path.suffix == ".py"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Tuple) and isinstance(node.value, ast.Tuple)
    ]

    assert taken_apart and not [text for text in taken_apart if "memoryview(" in text]


def test_formats_and_plan_do_not_know_each_other():
    for module, path in MODULES.items():
        if part(module) in {"formats", "plan"}:
            assert {"formats", "plan"} - {part(module)} & {part(name) for name in imports(path)} != {part(module)}
            assert not {part(name) for name in imports(path)} & ({"formats", "plan"} - {part(module)})


def test_there_are_no_cycles():
    waiting = {
        module: {name for name in imports(path) if name in MODULES and name != module}
        for module, path in MODULES.items()
    }
    while waiting:
        free = {module for module, needed in waiting.items() if not needed & waiting.keys()}
        assert free, f"a cycle among {sorted(waiting)}"
        waiting = {module: needed for module, needed in waiting.items() if module not in free}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_is_longer_than_600_lines(path):
    assert len(path.read_text().splitlines()) <= 600


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_module_says_what_it_is_for(path):
    text = path.read_text()
    if path.suffix in {".py", ".pyi"}:
        assert ast.get_docstring(ast.parse(text))
    else:
        first = next(line for line in text.splitlines() if line.strip())
        assert first.startswith(('"""', "#")), f"{path}: begin with a docstring (a comment in a .pxd)"


def calls(path, names):
    """Lines on which a Python file calls one of *names*, written as "print" or "sys.stdout.write"."""
    tree = ast.parse(path.read_text())
    defined = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if (called in names and called not in defined) or (
                isinstance(node.func, ast.Attribute) and f".{node.func.attr}" in names
            ):
                found.append(f"{path.relative_to(ROOT)}:{node.lineno} {called}")
    return found


PYTHON = [path for path in MODULES.values() if path.suffix == ".py"]


@pytest.mark.parametrize(
    "path", [path for path in PYTHON if "cli" not in path.parts], ids=lambda path: str(path.relative_to(ROOT))
)
def test_only_the_command_line_prints(path):
    assert not calls(path, {"print", "sys.stdout.write", "sys.stderr.write", "warnings.warn"})


BARE = {  # what measures the machine reads as bare as it can, and asks the system about this process
    PACKAGE / "benching" / "kernel.py",
    PACKAGE / "benching" / "limits.py",
}
OPENERS = {
    "open",
    "io.open",
    "os.open",
    "os.fdopen",
    "mmap.mmap",
    "FileMapping",
    ".read_bytes",
    ".read_text",
    ".open",
    "np.fromfile",
    "np.memmap",
}


@pytest.mark.parametrize(
    "path",
    [path for path in PYTHON if path not in BARE and path.name not in {"source.py", "atomic.py"}],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_only_sources_open_files_for_reading(path):
    ours = {"fastload.open", "opening.open"}

    assert [line for line in calls(path, OPENERS) if line.split()[1] not in ours] == []


def test_views_are_made_in_one_place():
    makers = {"PyArray_NewFromDescr", "PyArray_New", "PyArray_SimpleNewFromData"}
    users = {path.name for path in MODULES.values() if makers & set(re.findall(r"\w+", path.read_text()))}

    assert users <= {"view.pyx"}


@pytest.mark.parametrize("path", PYTHON, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_from_a_file_can_be_imported_or_run(path):
    dangerous = {
        "__import__",
        "importlib.import_module",
        "eval",
        "exec",
        "pickle.load",
        "pickle.loads",
        "pickle.Unpickler",
    }

    assert not calls(path, dangerous)


def test_import_brings_nothing_heavier_than_numpy():
    def loaded(statement):
        code = f"import sys; {statement}; print(*sys.modules)"
        return set(
            subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
        )

    brought = loaded("import numpy, fastload") - loaded("import numpy")
    heavy = {
        "torch",
        "ml_dtypes",
        "rich",
        "ctypes",
        "fsspec",
        "safetensors",
        "pickle",
        "zipfile",
        "tarfile",
        "argparse",
        "json",
    }

    assert not {module.split(".")[0] for module in brought} & heavy
    assert {module for module in brought if module.startswith("fastload")}


@pytest.mark.parametrize("format", ["safetensors", "pytorch-zip", "torchscript", "npy", "burnpack", "pytorch-legacy"])
def test_opening_a_file_brings_no_other_format(format, tmp_path):
    (tmp_path / "file").write_bytes(smallest_file(format))
    code = f"import sys, fastload; fastload.open({str(tmp_path / 'file')!r}); print(*sys.modules)"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    modules = [importlib.import_module(name) for name in done.stdout.split() if name.startswith("fastload.formats")]
    assert [module.NAME for module in modules if hasattr(module, "NAME")] == [format]


def test_all_public_names_are_there_and_documented():
    import fastload

    for name in fastload.__all__:
        value = getattr(fastload, name)
        assert isinstance(value, str) or value.__doc__, name


def test_the_package_ships_its_types():
    assert (PACKAGE / "py.typed").exists() and (PACKAGE / "_native" / "__init__.pyi").exists()
