"""Whole modules, as `torch.save(model)` and `torch.jit.save` keep them: their tree, without any of their classes.

A pickled module is an object whose state has `_parameters`, `_buffers` and `_modules` (torch/nn/modules/module.py); of
torch.fx, a function is called with that state. One of TorchScript is an object of a class below `__torch__`, whose
state holds everything side by side. All are read from what `Checkpoint.objects` gives: plain values and inert records.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from fastload._native import Record
from fastload.entry import TensorEntry
from fastload.errors import LimitError, UnsupportedError
from fastload.formats.torch.module_node import ModuleNode

__all__ = ["ModuleNode", "tree", "types_by_path"]

# Where modules share their attributes, a small file can name a great many. A real module has some 25, and a real model
# fewer than 100,000 modules.
MAX_ATTRIBUTES = 5_000_000
MAX_NAME_CHARACTERS = 100_000_000  # of the names and classes of all modules

SCRIPT = "__torch__"
MANGLED = re.compile(r"___torch_mangle_\d+\Z")
PARTS = ("_parameters", "_buffers", "_modules")
OPTIMISED = ("torch._dynamo.eval_frame", "OptimizedModule")  # what torch.compile makes; it is called with the module
GRAPH = "torch.fx.graph_module"  # where the functions are that make a module of torch.fx
UNBUILT = {("copy_reg", "_reconstructor"), ("copyreg", "_reconstructor"), ("copyreg", "__newobj__")}

Link = tuple[Any, str]  # the way to an object: that to its parent, and its key there

_NOT_PLAIN = object()


def tree(objects: Any) -> ModuleNode:
    """The modules in what `Checkpoint.objects` gives.

    Returns
    -------
    ModuleNode
        The root's own node where it is a module; else one of type "", whose children are the modules that it holds, by
        the dotted path to each.

    Raises
    ------
    UnsupportedError
        There are no modules.
    LimitError
        There are more than any model has.
    """
    forest = _Forest()
    if _is_module(objects):
        return forest.grow(objects, "")
    root = ModuleNode("")
    for link, record in _roots(objects, forest):
        name = forest.path(link)
        root.children[name] = forest.grow(record, name)
    if not root.children:
        raise UnsupportedError(
            "holds no modules: only a model that was saved whole (torch.save(model), torch.jit.save) has a tree of"
            " them; of a state dict, the names and the shapes are all there is"
        )
    root.slots = tuple(root.children)
    return root


def _roots(objects: Any, forest: _Forest) -> Iterator[tuple[Link, Record]]:
    """The outermost modules, in order, and the way to each; what is met twice counts once."""
    seen: set[int] = set()
    stack: list[tuple[Link, Any]] = [((None, ""), objects)]
    while stack:
        link, value = stack.pop()
        if not isinstance(value, (dict, list, tuple, set, frozenset, Record)) or id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, Record) and _is_module(value):
            yield link, value
            continue
        held = [((link, str(key)), item) for key, item in _held(value) if not isinstance(item, (str, TensorEntry))]
        forest.spend(len(held))
        stack.extend(reversed(held))


def _held(value: Any) -> Iterable[tuple[Any, Any]]:
    """(key, object) of all that an object holds: items by their keys or numbers, attributes by their names."""
    if isinstance(value, dict):
        return value.items()
    if not isinstance(value, Record):
        return enumerate(value)
    state = value.state
    attributes = _state(value)
    held: list[tuple[Any, Any]] = list(attributes.items()) if attributes is not None else []
    if attributes is None and state is not None:
        held = list(_held(state)) if isinstance(state, (list, tuple)) else [("", state)]
    held += _pairs(value) if all(map(_is_pair, value.items)) else list(enumerate(value.items))
    return [*held, *value.kwargs.items(), *enumerate(value.args or ())]


def _state(value: Any) -> dict[Any, Any] | None:
    """The attributes of an object; None where it has none that have names."""
    if not isinstance(value, Record) or value.args is None:
        return None
    state = value.state
    if isinstance(state, tuple) and len(state) == 2 and isinstance(state[1], dict):
        state = state[0]  # and the other has its __slots__
    if isinstance(state, dict) and (state.keys() >= set(PARTS) or not value.args):
        return state
    module, name, args = _made_by(value)
    if (module, name) == OPTIMISED and args:
        return {"_parameters": {}, "_buffers": {}, "_modules": {"_orig_mod": args[0]}}
    made_of = next((arg for arg in args if isinstance(arg, dict) and arg.keys() >= set(PARTS)), None)
    return made_of or (state if isinstance(state, dict) else None)


def _made_by(record: Record) -> tuple[str, str, tuple[Any, ...]]:
    """The (module, name) of the function that makes an object, and its arguments; a package has them in an id."""
    module, name, args = record.module, record.name, record.args
    if not module and args and isinstance(args[0], tuple) and len(args[0]) > 2 and args[0][0] == "reduce_package":
        *_, function, args = args[0]
        if isinstance(function, Record):
            module, name = function.module, function.name
    return module, name, args if isinstance(args, tuple) else ()


def _is_pair(item: Any) -> bool:
    return isinstance(item, tuple) and len(item) == 2


def _pairs(mapping: Any) -> list[tuple[Any, Any]]:
    """(key, value) of a dict, or of the record of a class that is like one."""
    if isinstance(mapping, dict):
        return list(mapping.items())
    return [item for item in mapping.items if _is_pair(item)] if isinstance(mapping, Record) else []


def _is_script(value: Any) -> bool:
    return isinstance(value, Record) and (value.module == SCRIPT or value.module.startswith(f"{SCRIPT}."))


def _is_module(value: Any) -> bool:
    state = _state(value)
    if state is None:
        return False
    if _is_script(value):
        return True
    return all(
        isinstance(state.get(name), dict) or (isinstance(state.get(name), Record) and state[name].args is not None)
        for name in PARTS
    )


class _Forest:
    """The nodes of all modules, by the identity of their records, and what is left of the limits."""

    def __init__(self) -> None:
        self.nodes: dict[int, ModuleNode] = {}
        self.values: dict[int, Any] = {}  # lists, tuples and dicts by their identity, with plain values within
        self.attributes_left = MAX_ATTRIBUTES
        self.characters_left = MAX_NAME_CHARACTERS

    def spend(self, attributes: int, characters: int = 0) -> None:
        self.attributes_left -= attributes
        self.characters_left -= characters
        if self.attributes_left < 0:
            raise LimitError(f"the modules and what is beside them have more than {MAX_ATTRIBUTES:,} attributes in all")
        if self.characters_left < 0:
            raise LimitError(f"the names of the modules come to more than {MAX_NAME_CHARACTERS:,} characters")

    def path(self, link: Link) -> str:
        """The dotted name of what lies at the end of *link*."""
        keys = []
        while link[0] is not None:
            link, key = link
            self.spend(1, len(key) + 1)
            keys.append(key)
        return ".".join(key for key in reversed(keys) if key)

    def grow(self, root: Record, name: str) -> ModuleNode:
        """The node of a module, and of all below it that are not there yet."""
        if id(root) in self.nodes:
            return self.nodes[id(root)]
        stack = [self.planted(root, name)]
        first = stack[0][0]
        while stack:
            node, children = stack[-1]
            for key, record in children:
                child = self.nodes.get(id(record))
                if child is None:
                    stack.append(self.planted(record, f"{node.name}.{key}" if node.name else key))
                    child = stack[-1][0]
                    node.children[key] = child
                    break
                node.children[key] = child
            else:
                stack.pop()
        return first

    def planted(self, record: Record, name: str) -> tuple[ModuleNode, Iterator[tuple[str, Record]]]:
        """The node of one module without its children, and those."""
        state = _state(record)
        assert state is not None
        raw_type = _type(record)
        self.spend(len(state), len(name) + len(raw_type))
        node = ModuleNode(name, _unmangled(raw_type) if _is_script(record) else raw_type, raw_type)
        self.nodes[id(record)] = node
        children = self.fill_script(node, state) if _is_script(record) else self.fill(node, state)
        node.slots = tuple(key for key, _ in children)
        called = _class_of(record)
        for source in (record, called):
            node.source = node.source or _text(getattr(source, "source", None))
            node.source_file = node.source_file or _text(getattr(source, "source_file", None))
        return node, iter([(key, child) for key, child in children if child is not None])

    def fill(self, node: ModuleNode, state: dict[Any, Any]) -> list[tuple[str, Record | None]]:
        """Give a node what a pickled module has, and return its submodules."""
        left_out = state.get("_non_persistent_buffers_set")  # absent before torch 1.6
        for target, held in ((node.parameters, state["_parameters"]), (node.buffers, state["_buffers"])):
            pairs = _pairs(held)
            self.spend(len(pairs))
            target.update((str(key), value) for key, value in pairs if isinstance(value, (TensorEntry, Record)))
        if isinstance(left_out, (set, frozenset)):
            node.non_persistent = frozenset(name for name in node.buffers if name in left_out)
        node.has_custom_hooks = bool(_pairs(state.get("_state_dict_hooks")))
        self.add_attributes(node, state)
        modules = _pairs(state["_modules"])
        self.spend(len(modules))
        return [(str(key), value if _is_module(value) else None) for key, value in modules]

    def fill_script(self, node: ModuleNode, state: dict[Any, Any]) -> list[tuple[str, Record | None]]:
        """Give a node what a module of TorchScript has, and return its submodules."""
        known = {"parameter": node.parameters, "buffer": node.buffers}  # where the walk could tell
        left: dict[Any, Any] = {}
        for key, value in state.items():
            target = known.get(value.kind, left) if isinstance(value, TensorEntry) else left
            target[key] = value
        self.add_attributes(node, left)
        return [(str(key), value) for key, value in state.items() if _is_script(value) and _is_module(value)]

    def add_attributes(self, node: ModuleNode, state: dict[Any, Any]) -> None:
        for key, value in state.items():
            if not isinstance(key, str):
                continue
            if isinstance(value, TensorEntry):
                node.tensors[key] = value
            elif not key.startswith("_"):
                plain = self.plain(value)
                if plain is not _NOT_PLAIN:
                    node.hyperparameters[key] = plain

    def plain(self, root: Any) -> Any:
        """A value in which every object is a plain one; _NOT_PLAIN where something else is in it, or it itself."""
        stack = [(root, False)]
        while stack:
            value, are_parts_done = stack.pop()
            parts = _parts(value)
            if parts is None:
                continue
            if are_parts_done:
                self.values[id(value)] = self.remade(value, parts)
            elif id(value) not in self.values:
                self.values[id(value)] = _NOT_PLAIN  # as long as it is not done
                self.spend(len(parts))
                stack.append((value, True))
                stack.extend((part, False) for part in parts)
        return self.leaf(root)

    def remade(self, value: Any, parts: list[Any]) -> Any:
        """A list, tuple or dict of the plain values of its parts."""
        made = list(map(self.leaf, parts))
        if any(part is _NOT_PLAIN for part in made):
            return _NOT_PLAIN
        if isinstance(value, dict):
            return dict(zip(value, made, strict=True))
        return made[0] if isinstance(value, Record) else type(value)(made)

    def leaf(self, value: Any) -> Any:
        if value is None or isinstance(value, (bool, int, float, complex, str)):
            return value
        if isinstance(value, Record) and value.args is None:  # a function, a class, a dtype
            return _type(value)
        return self.values.get(id(value), _NOT_PLAIN)


def _parts(value: Any) -> list[Any] | None:
    """What a list, a tuple or a dict is made of; None for everything else."""
    if isinstance(value, dict):
        return list(value.values()) if all(isinstance(key, (str, int, float, type(None))) for key in value) else None
    if isinstance(value, (list, tuple)):
        return list(value)
    if isinstance(value, Record) and value.module == "torch.jit._pickle" and value.args:
        return [value.args[0]]  # build_intlist([…]), restore_type_tag(value, type)
    return None


def _class_of(record: Record) -> Record:
    """The record of a module's class, or its own, which names it as well."""
    if (record.module, record.name) in UNBUILT and record.args and isinstance(record.args[0], Record):
        return record.args[0]
    return record


def _type(record: Record) -> str:
    called = _class_of(record)
    if _made_by(called)[0] == GRAPH:
        return f"{GRAPH}.GraphModule"
    return f"{called.module}.{called.name}" if called.module else called.name


def _unmangled(raw_type: str) -> str:
    """`__torch__.a.___torch_mangle_5.B` as it was before it was scripted: `a.B`."""
    parts = raw_type.split(".")[1:]
    return ".".join(part for part in parts if not MANGLED.match(part))


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def types_by_path(objects: Callable[[], Any]) -> dict[str, str]:
    """The classes, without their modules, of the modules in what *objects* gives, by dotted path; {} if none."""
    try:
        root = tree(objects())
    except UnsupportedError:
        return {}
    return {path: node.type.rpartition(".")[2] for path, node in root.walk()}
