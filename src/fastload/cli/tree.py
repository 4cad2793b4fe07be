"""`fastload tree`: the modules of a model that was saved whole, or else the names of a state dict, grouped."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable, Iterator
from typing import Any

from fastload.cli import flags
from fastload.cli.document import document, jsonable
from fastload.cli.table import counted, terminal_width, wrap
from fastload.entry import TensorEntry
from fastload.errors import UnsupportedError, printable
from fastload.formats.torch.modules import ModuleNode

ABOUT = """\
Show the modules of a model that was saved whole, as print(model) does in torch, without
its code: their classes, by name, and their attributes. Of a file that holds tensors and
no modules, such as a state dict, show the names of the tensors, grouped at their dots.
Exit status: 0 fine, 2 wrong usage, 3 bad or unreadable file."""
EXAMPLE = "fastload tree model.pt"

SCHEMA = "fastload.tree/1"
HANGING = 4  # columns by which a line that goes on is moved in
MAX_GROUPS = 64  # below one another; real names have a dozen dots, and hostile ones may have a million


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `tree`."""
    flags.add_source(parser)
    flags.add_json(parser, SCHEMA)


def run(arguments: argparse.Namespace) -> int:
    """Show the tree of a checkpoint."""
    with flags.open_source(arguments) as opened:
        format, entries = opened.format, opened.entries()
        try:
            root = opened.module_tree()
        except UnsupportedError:
            root = _grouped(entries)
        is_grouped = not any(node.type for node in root)
        if arguments.json:
            print(_json(arguments.path, format, root, is_grouped, entries))
        else:
            lines = _text(f"{printable(arguments.path)}: {format}", root, is_grouped, entries)
            print("\n".join(_fitted("\n".join(lines), terminal_width())))
    return 0


def _fitted(text: str, limit: int | None) -> Iterator[str]:
    """The lines of *text*; those that are too long for *limit* columns go on below, further to the right."""
    for line in text.split("\n"):
        if limit is None or len(line) * 2 <= limit:  # no character takes more than two columns
            yield line
            continue
        words = line.lstrip(" ")
        begin = min(len(line) - len(words), limit // 2)  # of a tree so deep, what is in it has half of the room
        hanging = min(begin + HANGING, limit // 2)
        first, *more = wrap(words, limit - begin, limit - hanging)
        yield " " * begin + first
        yield from (" " * hanging + rest for rest in more)


def _grouped(entries: Iterable[TensorEntry]) -> ModuleNode:
    """A tree from the dots in the names of tensors."""
    root = ModuleNode("")
    for entry in entries:
        node = root
        *path, last = entry.name.split(".", MAX_GROUPS)
        for key in path:
            child = node.children.get(key)
            if child is None:
                child = node.children[key] = ModuleNode(f"{node.name}.{key}" if node is not root else key)
            node = child
        node.tensors[last] = entry
    for node in root:
        node.slots = tuple(node.children)
    return root


def _text(title: str, root: ModuleNode, is_grouped: bool, entries: list[TensorEntry]) -> Iterator[str]:
    text = str(root)
    if text:
        yield from (text, "")
    if is_grouped:
        elements = sum(math.prod(entry.shape) for entry in entries)
        yield f"{title}, {counted(len(entries), 'tensor')}, {counted(elements, 'parameter')}"
        yield "note: no modules are in the file: these are the names of its tensors, grouped at their dots"
        return
    modules = [node for node in root if node.type]
    yield f"{title}, {counted(len(modules), 'module')}, {counted(_parameters(modules), 'parameter')}"
    hooked = [node for node in modules if node.has_custom_hooks]
    if hooked:
        yield (
            f"note: {counted(len(hooked), 'module')} would change the state dict by functions of the program,"
            f" such as {printable(hooked[0].name) or 'the root'}"
        )


def _parameters(modules: list[ModuleNode]) -> int:
    """The elements of all parameters; one that several modules share counts once, as in torch's `parameters()`.

    Of TorchScript where nothing says which tensors those are, of all tensors.
    """
    is_told = any(node.parameters or node.buffers for node in modules)
    held = [node.parameters if is_told else node.tensors for node in modules]
    shapes = {id(value): _shape(value) for tensors in held for value in tensors.values()}
    return sum(math.prod(shape) for shape in shapes.values() if shape is not None)


def _shape(value: object) -> tuple[int, ...] | None:
    return value.shape if isinstance(value, TensorEntry) else None


def _json(path: str, format: str, root: ModuleNode, is_grouped: bool, entries: list[TensorEntry]) -> str:
    modules = [node for node in root if node.type]
    elements = sum(math.prod(entry.shape) for entry in entries) if is_grouped else _parameters(modules)
    fields = {
        "path": path,
        "format": format,
        "grouped": is_grouped,  # by the names of tensors, since there are no modules
        "totals": {"modules": len(modules), "parameters": elements},
    }
    return document(SCHEMA, fields, modules=map(_description, root if is_grouped else modules))


def _description(node: ModuleNode) -> dict[str, Any]:
    return {
        "name": node.name,
        "type": node.type or None,
        "hyperparameters": jsonable(node.hyperparameters),
        "parameters": _tensors(node.parameters),
        "buffers": _tensors(node.buffers),
        "tensors": _tensors(node.tensors),
        "non_persistent": sorted(node.non_persistent),
        "children": {key: child.name for key, child in node.children.items()},
        "source_file": node.source_file,
        "source": node.source,
        "has_custom_hooks": node.has_custom_hooks,
    }


def _tensors(held: dict[str, Any]) -> dict[str, Any]:
    return {
        key: {"dtype": value.dtype, "shape": value.shape} if isinstance(value, TensorEntry) else None
        for key, value in held.items()
    }
