"""read_config: what a checkpoint holds beside its tensors, as plain values or as a dataclass.

Three steps: `_Plain` takes the objects of the file to dicts, lists and scalars; `_go_to` follows a dotted path through
them; `_Filler` fills the dataclass and collects everything that does not fit.
"""

from __future__ import annotations

import dataclasses
import datetime
import enum
import pathlib
import types
import typing
from collections.abc import Iterable, Mapping, MutableMapping, MutableSequence, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, overload

from fastload import opening
from fastload._native import Record
from fastload.checkpoint import Checkpoint
from fastload.errors import ConfigError, ConfigProblem, FastloadError, LimitError, located

if typing.TYPE_CHECKING:
    import os

    from typing_extensions import Buffer

__all__ = ["read_config"]

T = TypeVar("T")
Source = Union[str, "os.PathLike[str]", "Buffer", Checkpoint]

MAX_VALUES = 1_000_000  # that are looked at to fill a dataclass: a file may repeat one list in itself endlessly
MAX_DEPTH = 100  # dataclasses and lists within each other, which are filled by recursion
MAX_ITEMS = 4_000_000  # of all dicts and lists: thousands of objects may share one of them as their state
MAX_WRAPPINGS = 100  # of an object that stands for an object
MAX_SHOWN_PROBLEMS = 20
MAX_SHOWN_VALUE = 60  # characters
MAX_COMPARED_KEYS = 1000  # when near names are looked for


@overload
def read_config(source: Source, key: str | None = None) -> Any: ...
@overload
def read_config(source: Source, key: str | None = None, *, into: type[T]) -> T: ...
@overload
def read_config(source: Source, key: str | None, into: type[T]) -> T: ...
def read_config(source: Source, key: str | None = None, into: Any = None) -> Any:
    """Read settings, hyperparameters and the like out of a checkpoint.

    Parameters
    ----------
    source : path, buffer or Checkpoint
        As for `fastload.open`.
    key : str, optional
        Where it lies: keys, attributes and positions joined by dots, as in ``"hyper_parameters.model"``; everything if
        not given.
    into : type, optional
        A dataclass to fill, or any annotation that one of its fields could have. Fields may be dataclasses, enums (by
        value or name), Literal, Optional, Union, and lists, tuples, sets and dicts of them. An int does for a float,
        and nothing else is converted: a bool is no int. A field that the file lacks takes its default; what the file
        has beyond the fields is ignored.

    Returns
    -------
    dict, list, scalar, or an instance of *into*
        Without *into*: an object of a class that is not here, as the dict of its attributes (its items, where it is a
        sort of dict or list; its one argument, such as the value of an enum); a namespace or an omegaconf container as
        a dict or list; a class or dtype as its dotted name. Tensors stay their `TensorEntry`.

    Raises
    ------
    ConfigError
        There is nothing at *key*, or it does not fit: then the message and `problems` tell every field that is
        missing or of another type. Or the values hold themselves.

    Examples
    --------
    >>> fastload.read_config("model.ckpt", "hyper_parameters", into=NetConfig)  # doctest: +SKIP
    NetConfig(n_head=2, n_layer=3)
    """
    if isinstance(source, Checkpoint):
        return _read(source, key, into)
    with opening.open(source) as opened:
        return _read(opened, key, into)


def _read(opened: Checkpoint, key: str | None, into: Any) -> Any:
    try:
        value = _Plain().convert(_go_to(opened.objects, key) if key else opened.objects)
        return value if into is None else _fill(into, value, key or "")
    except FastloadError as error:
        raise located(error, opened.path, opened.format) from None


# Objects to plain values.


def _unwrap(value: Any) -> Any:
    """*value* itself; of an object, the dict, list or scalar that it stands for, whose items are as they were."""
    for _ in range(MAX_WRAPPINGS):
        if isinstance(value, types.SimpleNamespace):
            return vars(value)
        if not isinstance(value, Record):
            return value
        value = _unwrap_record(value)
    raise ConfigError(f"an object stands for itself, or for another more than {MAX_WRAPPINGS} times over")


def _unwrap_record(record: Record) -> Any:
    """What a record stands for; that may be a record again."""
    if record.args is None:
        return str(record)
    state = _attributes(record.state)
    if record.module.split(".")[0] == "omegaconf" and isinstance(state, dict):
        for content in ("_content", "_val"):  # a container's, and a scalar's
            if content in state:
                return state[content]
    if record.is_mapping:
        return {
            pair[0]: pair[1] for pair in record.items if isinstance(pair, tuple) and len(pair) == 2 and _is_key(pair[0])
        }
    if record.items:
        return record.items
    if state is not None:
        return state
    if record.kwargs:
        return record.kwargs
    if (record.module, record.name) in (("builtins", "getattr"), ("__builtin__", "getattr")) and len(record.args) == 2:
        return record.args[1]  # the name of an enum's member, as Python 3.11 pickles it
    if len(record.args) == 1:
        return record.args[0]
    return list(record.args) if record.args else {}


def _attributes(state: Any) -> Any:
    """The attributes in what `__setstate__` was handed: a dict, or that and a dict of slots."""
    if isinstance(state, tuple) and len(state) == 2 and isinstance(state[1], dict):
        if state[0] is None:
            return state[1]
        if isinstance(state[0], dict):
            return {**state[0], **state[1]}
    return state


def _is_key(key: object) -> bool:
    try:
        hash(key)
    except TypeError:
        return False
    return True


class _Plain:
    """One walk over the objects of a file, each of which is converted once, without recursion."""

    def __init__(self) -> None:
        self.made: dict[int, Any] = {}
        self.kept: list[Any] = []  # what was unwrapped, so that no number of `made` is given twice
        self.left = MAX_ITEMS

    def convert(self, root: Any) -> Any:
        on_path: set[int] = set()
        stack = [(root, False)]
        while stack:
            value, is_done = stack.pop()
            number = id(value)
            if is_done:
                on_path.discard(number)
                self.made[number] = self.rebuild(self.unwrapped(value))
                continue
            if number in self.made or not isinstance(value, _HOLDERS):
                continue
            if number in on_path:
                raise ConfigError("the values hold themselves, so they are no tree: name a part of them by its key")
            on_path.add(number)
            stack.append((value, True))
            children = _children(self.unwrapped(value))
            self.left -= len(children)
            if self.left < 0:
                raise LimitError(f"written out, the values have more than {MAX_ITEMS:,} items: name a part by its key")
            stack.extend((child, False) for child in children)
        return self.get(root)

    def unwrapped(self, value: Any) -> Any:
        found = self.made.get(~id(value), value)
        if found is value and isinstance(value, (Record, types.SimpleNamespace)):
            found = self.made[~id(value)] = _unwrap(value)
            self.kept.append(found)
        return found

    def get(self, value: Any) -> Any:
        return self.made.get(id(value), value) if isinstance(value, _HOLDERS) else value

    def rebuild(self, value: Any) -> Any:
        """A container whose items are converted already, or a scalar."""
        if isinstance(value, dict):
            return {self.key(key): self.get(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self.get(item) for item in value]
        if isinstance(value, tuple):
            return tuple(self.get(item) for item in value)
        if isinstance(value, (set, frozenset)):
            items = [self.get(item) for item in value]
            return type(value)(items) if all(map(_is_key, items)) else items
        return value

    def key(self, key: Any) -> Any:
        """A dict key; an object that has no value of its own as a key is called by its text."""
        if not isinstance(key, _HOLDERS):
            return key
        found = self.get(key)
        return found if _is_key(found) else str(key)


_HOLDERS = (dict, list, tuple, set, frozenset, Record, types.SimpleNamespace)


def _children(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [*value.keys(), *value.values()]
    return list(value) if isinstance(value, (list, tuple, set, frozenset)) else []


# Following a path.


def _go_to(value: Any, key: str) -> Any:
    """What lies at a dotted path of keys, attributes and positions. A key that has dots itself is tried first."""
    steps = key.split(".")
    at = 0
    while at < len(steps):
        value = _unwrap(value)
        for end in range(len(steps), at, -1):
            found, value_there = _step(value, ".".join(steps[at:end]))
            if found:
                value, at = value_there, end
                break
        else:
            raise _nothing_at(".".join(steps[:at]), steps[at], value)
    return value


def _step(value: Any, name: str) -> tuple[bool, Any]:
    """Whether *value* has an item called so, and that."""
    if isinstance(value, dict):
        if name in value:
            return True, value[name]
        if name.isascii() and name.removeprefix("-").isdigit() and len(name) < 20 and int(name) in value:
            return True, value[int(name)]
        for other in (None, True, False):
            if name == str(other) and other in value:
                return True, value[other]
    elif isinstance(value, (list, tuple)):
        at = int(name) if name.isascii() and name.isdigit() and len(name) < 20 else len(value)
        if at < len(value):
            return True, value[at]
    return False, None


def _nothing_at(place: str, name: str, value: Any) -> ConfigError:
    import difflib  # only for a message

    where = f"in {place!r}" if place else "at the top"
    if isinstance(value, dict):
        names = [str(key) for key in list(value)[:MAX_COMPARED_KEYS] if isinstance(key, (str, int))]
        near = difflib.get_close_matches(name, names, n=3) or names[:5]
        hint = f"; there are {', '.join(map(repr, near))}" if near else "; it is empty"
    elif isinstance(value, (list, tuple)):
        hint = f"; it is a {type(value).__name__} of {len(value):,}"
    else:
        hint = f"; it is {_show(value)}"
    return ConfigError(f"there is no {name!r} {where}{hint}")


# Filling a dataclass.


def _fill(into: Any, value: Any, key: str) -> Any:
    filler = _Filler()
    made = filler.fill(into, value, key)
    if not filler.problems:
        return made
    lines = [
        f"{problem.path or 'the whole'}: expected {problem.expected}, found {problem.found}"
        for problem in filler.problems[:MAX_SHOWN_PROBLEMS]
    ]
    more = len(filler.problems) - MAX_SHOWN_PROBLEMS
    lines += [f"and {more:,} more"] if more > 0 else []
    count = f"{len(filler.problems):,} field{'s' if len(filler.problems) > 1 else ''}"
    raise ConfigError(f"{count} of {_spell(into)} cannot be filled: {'; '.join(lines)}", tuple(filler.problems))


class _Filler:
    """One filling: everything that does not fit is noted, and the rest goes on."""

    def __init__(self) -> None:
        self.problems: list[ConfigProblem] = []
        self.left = MAX_VALUES
        self.depth = 0
        self.is_exact = False  # no int for a float, no keys beyond the fields: which member of a Union is meant

    def fill(self, hint: Any, value: Any, path: str) -> Any:
        """*value* as the annotation *hint* has it; None, with a note, where it does not fit."""
        self.left -= 1
        if self.left < 0 or self.depth > MAX_DEPTH:
            limit = f"{MAX_VALUES:,} values" if self.left < 0 else f"{MAX_DEPTH} levels"
            raise LimitError(f"filling {path!r} takes more than {limit}")
        self.depth += 1
        try:
            return self._fill(hint, value, path)
        finally:
            self.depth -= 1

    def _fill(self, hint: Any, value: Any, path: str) -> Any:
        origin = get_origin(hint)
        if origin is typing.Annotated or origin is typing.Final:
            return self.fill(get_args(hint)[0], value, path)
        if isinstance(hint, typing.NewType):
            return self.fill(hint.__supertype__, value, path)
        if hint is Any or hint is object or isinstance(hint, TypeVar):
            return value
        if hint is None or hint is type(None):
            return None if value is None else self.refuse(path, "None", value)
        if origin is Union or origin is types.UnionType:
            return self.union(hint, value, path)
        if origin is Literal:
            fits = any(type(value) is type(choice) and value == choice for choice in get_args(hint))
            return value if fits else self.member_or_refuse(hint, value, path)
        if origin in _ITEMS or hint in _ITEMS:
            return self.items(hint, value, path)
        if origin in _MAPPINGS or hint in _MAPPINGS:
            return self.mapping(hint, value, path)
        if dataclasses.is_dataclass(hint):
            return self.dataclass(hint, value, path)
        if isinstance(hint, type):
            return self.scalar(hint, value, path)
        raise TypeError(f"read_config cannot fill {path!r}: {hint!r} is no annotation that it knows")

    def refuse(self, path: str, expected: str, value: Any) -> None:
        self.problems.append(ConfigProblem(path, expected, _show(value)))

    def scalar(self, hint: type, value: Any, path: str) -> Any:
        if issubclass(hint, enum.Enum):
            return self.enum(hint, value, path)
        if hint is float and type(value) is int and not self.is_exact:
            try:
                return float(value)
            except OverflowError:
                return self.refuse(path, "float", value)
        if hint is pathlib.Path and isinstance(value, (str, pathlib.PurePath)):
            return pathlib.Path(value)
        if isinstance(value, bool) and hint is not bool and issubclass(hint, (int, float, complex)):
            return self.refuse(path, _spell(hint), value)
        if hint is datetime.date and isinstance(value, datetime.datetime):
            return self.refuse(path, "date", value)
        return value if isinstance(value, hint) else self.refuse(path, _spell(hint), value)

    def enum(self, hint: type[enum.Enum], value: Any, path: str) -> Any:
        for member in hint:
            if type(member.value) is type(value) and member.value == value:
                return member
        if isinstance(value, str) and value in hint.__members__:
            return hint.__members__[value]
        return self.refuse(path, f"one of {', '.join(repr(member.value) for member in hint)}", value)

    def member_or_refuse(self, hint: Any, value: Any, path: str) -> Any:
        """A Literal may have members of enums, which a file gives by their value."""
        for choice in get_args(hint):
            if isinstance(choice, enum.Enum) and type(choice.value) is type(value) and choice.value == value:
                return choice
        return self.refuse(path, f"one of {', '.join(map(repr, get_args(hint)))}", value)

    def union(self, hint: Any, value: Any, path: str) -> Any:
        """The first member that fits exactly; else the first that fits."""
        members = get_args(hint)
        if value is None and type(None) in members:
            return None
        members = tuple(member for member in members if member is not type(None))
        if len(members) == 1:
            return self.fill(members[0], value, path)
        noted, was_exact = self.problems, self.is_exact
        for self.is_exact in (True,) if was_exact else (True, False):
            for member in members:
                self.problems = []
                made = self.fill(member, value, path)
                if not self.problems:
                    self.problems, self.is_exact = noted, was_exact
                    return made
        self.problems, self.is_exact = noted, was_exact
        return self.refuse(path, _spell(hint), value)

    def items(self, hint: Any, value: Any, path: str) -> Any:
        """A list, tuple or set of a hint."""
        make = _ITEMS[get_origin(hint) or hint]
        hints = get_args(hint)
        if not isinstance(value, (list, tuple, set, frozenset)):
            return self.refuse(path, _spell(hint), value)
        if make is tuple and hints and hints[-1] is not Ellipsis:
            hints = () if hints == ((),) else hints
            if len(value) != len(hints):
                return self.refuse(path, f"{_spell(hint)}, {len(hints)} items", value)
            return tuple(
                self.fill(each, item, f"{path}.{i}") for i, (each, item) in enumerate(zip(hints, value, strict=True))
            )
        each = hints[0] if hints else Any
        made = [self.fill(each, item, f"{path}.{i}") for i, item in enumerate(value)]
        if make in (set, frozenset) and not all(map(_is_key, made)):
            return self.refuse(path, _spell(hint), value)
        return make(made)

    def mapping(self, hint: Any, value: Any, path: str) -> Any:
        of_key, of_value = get_args(hint) or (Any, Any)
        if not isinstance(value, dict):
            return self.refuse(path, _spell(hint), value)
        made = {}
        for key, item in value.items():
            place = f"{path}.{key}" if path else str(key)
            filled = self.fill(of_key, key, f"{place} (the key)")
            if not _is_key(filled):
                self.refuse(f"{place} (the key)", _spell(of_key), key)
                continue
            made[filled] = self.fill(of_value, item, place)
        return made

    def dataclass(self, hint: Any, value: Any, path: str) -> Any:
        if not isinstance(value, dict):
            return self.refuse(path, _spell(hint), value)
        hints = typing.get_type_hints(hint, include_extras=True)
        fields = [field for field in dataclasses.fields(hint) if field.init]
        before, made = len(self.problems), {}
        for field in fields:
            place = f"{path}.{field.name}" if path else field.name
            if field.name in value:
                made[field.name] = self.fill(hints[field.name], value[field.name], place)
            elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
                self.problems.append(ConfigProblem(place, _spell(hints[field.name]), "nothing"))
        if self.is_exact and value.keys() - {field.name for field in fields}:
            self.refuse(path, f"{_spell(hint)} and no more", value)
        return hint(**made) if len(self.problems) == before else None


_ITEMS: dict[Any, Any] = {
    **{kind: list for kind in (list, Sequence, MutableSequence, Iterable)},
    tuple: tuple,
    set: set,
    AbstractSet: set,
    frozenset: frozenset,
}
_MAPPINGS = frozenset([dict, Mapping, MutableMapping])


def _spell(hint: Any) -> str:
    """An annotation for a message."""
    if hint is type(None):
        return "None"
    if isinstance(hint, type) and get_origin(hint) is None:
        return hint.__name__
    return str(hint).replace("typing.", "")


def _show(value: Any) -> str:
    """A value for a message: short, and of what may be large only its type and size."""
    if isinstance(value, (dict, list, tuple, set, frozenset)):
        return f"{type(value).__name__} of {len(value):,}"
    if isinstance(value, int) and value.bit_length() > 200:
        return "an int of many digits"
    text = repr(value[:MAX_SHOWN_VALUE] if isinstance(value, (str, bytes)) else value)
    text = text if len(text) <= MAX_SHOWN_VALUE + 10 else f"{text[:MAX_SHOWN_VALUE]}…"
    return text if value is None or isinstance(value, bool) else f"{type(value).__name__} {text}"
