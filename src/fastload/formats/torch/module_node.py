"""ModuleNode: what a file says of one module, and of those below it; its text is that of `print(model)` in torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from fastload._native import Record
from fastload.entry import TensorEntry
from fastload.errors import LimitError, printable
from fastload.formats.torch.module_reprs import arguments

__all__ = ["ModuleNode"]

# A module in a hundred places is printed in each, and deep ones are indented; no model comes near, but a file can.
MAX_TEXT_CHARACTERS = 50_000_000

LIST = "torch.nn.modules.container.ModuleList"  # which folds equal neighbours when it is printed


class ModuleNode:
    """One module of a file whose program is not here: its class by name, its attributes, and its submodules.

    Attributes
    ----------
    name : str
        The dotted name, "" for the root; of a module in several places, the first one, as `named_modules()` has it.
    type : str
        The dotted name of its class, such as ``"torch.nn.modules.conv.Conv2d"``; of TorchScript without its mangling.
        "" for what is no module itself and only holds some, such as a dict.
    raw_type : str
        The same as the file has it.
    hyperparameters : dict
        The attributes that are plain values (numbers, texts, None, and tuples, lists and dicts of them), in the order
        of the file; functions, classes and dtypes by their dotted names.
    parameters, buffers, tensors : dict of str to TensorEntry
        Its own tensors by their names in it; *tensors* are those that are plain attributes. Of TorchScript, whatever
        is not known to be a parameter or a buffer. A tensor of some sort that has no entry is a `Record`.
    non_persistent : frozenset of str
        The names of the buffers that its state dict leaves out.
    children : dict of str to ModuleNode
        Its submodules by their names in it. One that is shared is the same object in each place.
    slots : tuple of str
        The names of all submodules, with those that are None.
    source, source_file : str or None
        The text of its class, and where it lay when the file was saved; only old PyTorch files have them.
    has_custom_hooks : bool
        Whether functions of its program change the state dict that it makes, which cannot be reproduced without them.
    """

    __slots__ = (
        "__weakref__",
        "buffers",
        "children",
        "has_custom_hooks",
        "hyperparameters",
        "name",
        "non_persistent",
        "parameters",
        "raw_type",
        "slots",
        "source",
        "source_file",
        "tensors",
        "type",
    )

    def __init__(self, name: str, type: str = "", raw_type: str | None = None) -> None:
        self.name = name
        self.type = type
        self.raw_type = type if raw_type is None else raw_type
        self.hyperparameters: dict[str, Any] = {}
        self.parameters: dict[str, TensorEntry | Record] = {}
        self.buffers: dict[str, TensorEntry | Record] = {}
        self.tensors: dict[str, TensorEntry | Record] = {}
        self.non_persistent: frozenset[str] = frozenset()
        self.children: dict[str, ModuleNode] = {}
        self.slots: tuple[str, ...] = ()
        self.source: str | None = None
        self.source_file: str | None = None
        self.has_custom_hooks = False

    def __iter__(self) -> Iterator[ModuleNode]:
        """Itself and all below it, each once, a module before its submodules: the order of `named_modules()`."""
        return (node for _, node in self._walk(again=False))

    def walk(self) -> Iterator[tuple[str, ModuleNode]]:
        """(dotted name, node) for every place below and including this one; a shared module comes once for each.

        These are the prefixes of the names in the state dict. Where sharing is nested there may be very many.
        """
        return self._walk(again=True)

    def _walk(self, again: bool) -> Iterator[tuple[str, ModuleNode]]:
        seen = {id(self)}  # with *again*, only those on the way down, which would go round for ever
        yield self.name, self
        stack = [(self.name, self, iter(self.children.items()))]
        while stack:
            prefix, parent, children = stack[-1]
            for key, node in children:
                if id(node) not in seen:
                    seen.add(id(node))
                    name = f"{prefix}.{key}" if prefix else key
                    yield name, node
                    stack.append((name, node, iter(node.children.items())))
                    break
            else:
                stack.pop()
                if again:
                    seen.discard(id(parent))

    def __repr__(self) -> str:
        what = self.type or "no module, but what holds modules"
        return printable(f"<ModuleNode {self.name!r}: {what}, {len(self.children):,} children>")

    def __str__(self) -> str:
        """The text that `print(model)` gives in torch, where its class is one of torch.nn.

        Raises
        ------
        LimitError
            It is too long to be read by anybody.
        """
        return _Printer().text(self)


class _Run(NamedTuple):
    """Children that print alike, the keys of the first and the last of them, and how many they are."""

    first: str
    last: str
    number: int
    text: str
    is_module: bool

    @property
    def label(self) -> str:
        """The keys as they are printed."""
        return printable(self.first) if self.number == 1 else f"{self.first}-{self.last}"

    @property
    def count_text(self) -> str:
        """How many they are, where they are several."""
        return "" if self.number == 1 else f"{self.number} x "


class _Printer:
    """One walk from the leaves up: the text of every node, each made once."""

    def __init__(self) -> None:
        self.texts: dict[int, str] = {}
        self.left = MAX_TEXT_CHARACTERS

    def text(self, root: ModuleNode) -> str:
        begun = {id(root)}
        stack = [(root, iter(root.children.values()))]
        while stack:
            node, children = stack[-1]
            for child in children:
                if id(child) not in begun:
                    begun.add(id(child))
                    stack.append((child, iter(child.children.values())))
                    break
            else:
                stack.pop()
                self.texts[id(node)] = self.of_module(node) if node.type else self.of_group(node)
        return self.texts[id(root)]

    def of_module(self, node: ModuleNode) -> str:
        name = printable(_short(node))
        extra = _parameter_lines(node) or arguments(node.type, node.hyperparameters, node.parameters)
        self.spend(len(extra))
        lines = [f"({run.label}): {run.count_text}{run.text}" for run in self.runs(node, folded=node.type == LIST)]
        if lines:
            return f"{name}(\n{_indented([extra, *lines] if extra else lines)}\n)"
        return f"{name}(\n{_indented([extra])}\n)" if "\n" in extra else f"{name}({extra})"

    def of_group(self, node: ModuleNode) -> str:
        """What is no module has no parentheses: its tensors and children, a line each."""
        lines = [f"{printable(key)}: {_described(value)}" for key, value in node.tensors.items()]
        self.spend(sum(map(len, lines)))
        for run in self.runs(node, folded=True):
            head = f"({run.label}): {run.count_text}"
            lines.append(head + run.text if run.is_module else f"{head.rstrip()}\n{_indented([run.text])}")
        return "\n".join(lines)

    def runs(self, node: ModuleNode, folded: bool) -> list[_Run]:
        """The children in order; where *folded*, numbered neighbours of one text are one: (0-5): 6 x …."""
        runs: list[_Run] = []
        for key in node.slots:
            child = node.children.get(key)
            text = "None" if child is None else self.texts.get(id(child), f"{printable(_short(child))}(…)")
            if folded and runs and _follows(key, runs[-1].last) and text == runs[-1].text:
                runs[-1] = runs[-1]._replace(last=key, number=runs[-1].number + 1)
            else:
                self.spend(len(key) + len(text) + 2 * text.count("\n"))
                runs.append(_Run(key, key, 1, text, child is None or bool(child.type)))
        return runs

    def spend(self, characters: int) -> None:
        self.left -= characters
        if self.left < 0:
            raise LimitError(
                f"the tree of modules comes to more than {MAX_TEXT_CHARACTERS:,} characters as text: take it as JSON"
            )


def _follows(key: str, before: str) -> bool:
    """Whether two keys are numbers, one after the other."""
    if not (len(key) < 10 and key.isascii() and key.isdigit() and before.isascii() and before.isdigit()):
        return False
    return len(before) < 10 and int(key) == int(before) + 1


def _indented(texts: Sequence[str]) -> str:
    return "  " + "\n".join(texts).replace("\n", "\n  ")


def _short(node: ModuleNode) -> str:
    return node.type.rpartition(".")[2]


def _parameter_lines(node: ModuleNode) -> str:
    """The contents of a ParameterList, which torch prints a line each."""
    if node.type != "torch.nn.modules.container.ParameterList":
        return ""
    lines = []
    for key, value in node.parameters.items():
        if isinstance(value, TensorEntry):
            size = "x".join(map(str, value.shape))
            lines.append(f"  ({printable(key)}): Parameter containing: [torch.{value.dtype} of size {size}]")
        else:
            lines.append(f"  ({printable(key)}): {printable(value.name)}")
    return "\n".join(lines)


def _described(value: TensorEntry | Record) -> str:
    return f"{value.dtype} {value.shape}" if isinstance(value, TensorEntry) else printable(str(value))
