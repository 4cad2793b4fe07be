"""`read_config`: the settings in a checkpoint, as plain values or as a dataclass with every mistake told at once."""

# ruff: noqa: UP007, UP045 - the older spellings are what many dataclasses have

import argparse
import collections
import dataclasses
import enum
import pathlib
import types
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, NewType, Optional, Union

import pytest

import fastload
from builders import smallest_file, tensor, torch_file, torch_file_with
from fastload import ConfigError, LimitError, config, read_config
from pickles import OPCODES, Call, Global, Pickle

WEIGHT = tensor("float32", (2,), [1, 2])


def checkpoint(**more):
    return fastload.open(torch_file({"w": WEIGHT, **more}))


class Mode(enum.Enum):
    FAST = "fast"
    EXACT = 2


class Attributes:
    def __init__(self, **attributes):
        vars(self).update(attributes)


class Dict(dict):
    pass


class List(list):
    pass


class Slotted:
    __slots__ = ("a", "b")


SETTINGS = {
    "n_head": 2, "lr": 0.5, "flag": True, "name": "x", "ints": [1, 2], "floats": [0.5], "texts": ["a"],
    "table": {"a": "b"}, "nested": {"deep": [{"x": 1}]}, "none": None, 3: "three", "a.b": 1, "betas": (0.9, 0.99),
}  # fmt: skip


# Plain values.


def test_a_path_a_buffer_and_a_checkpoint_are_read_alike(tmp_path):
    file = torch_file({"w": WEIGHT, "config": SETTINGS})
    (tmp_path / "m.pt").write_bytes(file)

    for source in (tmp_path / "m.pt", str(tmp_path / "m.pt"), file, fastload.open(file)):
        assert read_config(source, "config") == SETTINGS


def test_without_a_key_it_is_everything_and_tensors_are_their_entries():
    found = read_config(checkpoint(epoch=3))

    assert found["epoch"] == 3 and found["w"].shape == (2,)


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("config.n_head", 2), ("config.nested.deep.0.x", 1), ("config.3", "three"), ("config.a.b", 1),
        ("config.none", None), ("config.betas.1", 0.99),
    ],
)  # fmt: skip
def test_a_dotted_path_goes_through_dicts_lists_and_keys_with_dots(key, expected):
    assert read_config(checkpoint(config=SETTINGS), key) == expected


def test_a_dotted_path_goes_through_objects():
    opened = checkpoint(args=argparse.Namespace(model=Attributes(size=3, more=Dict(a=[1]))))

    assert read_config(opened, "args.model.size") == 3
    assert read_config(opened, "args.model.more.a.0") == 1


def test_a_wrong_key_offers_near_ones():
    opened = checkpoint(hyper_parameters={"learning_rate": 1})

    with pytest.raises(ConfigError, match="no 'hyper_paramters' at the top; there are 'hyper_parameters'"):
        read_config(opened, "hyper_paramters")
    with pytest.raises(ConfigError, match="no 'rate' in 'hyper_parameters'; there are 'learning_rate'"):
        read_config(opened, "hyper_parameters.rate")
    with pytest.raises(ConfigError, match="int 1"):
        read_config(opened, "hyper_parameters.learning_rate.x")


def test_objects_become_the_dict_of_their_attributes():
    slotted = Slotted()
    slotted.a, slotted.b = 1, Attributes(c=2)

    assert read_config(checkpoint(v=slotted), "v") == {"a": 1, "b": {"c": 2}}
    assert read_config(checkpoint(v=argparse.Namespace(a=types.SimpleNamespace(b=1))), "v") == {"a": {"b": 1}}
    assert read_config(checkpoint(v=Attributes()), "v") == {}


def test_sorts_of_dicts_and_lists_become_their_items():
    value = [Dict(a=(1, 2)), List([1, (2, 3)]), collections.OrderedDict(a=1), {1, 2}, (3,)]

    assert read_config(checkpoint(v=value), "v") == [{"a": (1, 2)}, [1, (2, 3)], {"a": 1}, {1, 2}, (3,)]


def test_enums_classes_and_dtypes_become_their_value_or_name():
    value = {"mode": Mode.FAST, "dtype": Global("torch", "bfloat16"), "act": Global("torch.nn", "ReLU"), Mode.EXACT: 1}

    found = read_config(checkpoint(v=value), "v")

    assert found == {"mode": "fast", "dtype": "torch.bfloat16", "act": "torch.nn.ReLU", 2: 1}


def omega(kind, **state):
    return Call(Global("omegaconf." + kind.lower(), kind), (), {"_metadata": None, "_parent": None, **state})


def test_omegaconf_containers_become_plain():
    def node(value):
        return omega("AnyNode", _val=value)

    tree = omega("DictConfig", _content={
        "lr": node(0.1), "sizes": omega("ListConfig", _content=[node(1), node(2)]),
        "none": omega("DictConfig", _content=None),
        "missing": node("???"),
    })  # fmt: skip

    assert read_config(checkpoint(cfg=tree), "cfg") == {"lr": 0.1, "sizes": [1, 2], "none": None, "missing": "???"}
    assert read_config(checkpoint(cfg=tree), "cfg.sizes.1") == 2


def test_values_that_hold_themselves_are_refused():
    loop: list = [1]
    loop.append(loop)
    space = argparse.Namespace()
    space.me = space

    for value in (loop, space, Attributes(x=loop)):
        with pytest.raises(ConfigError, match="hold themselves"):
            read_config(checkpoint(v=value), "v")
    assert read_config(checkpoint(v=loop), "v.1.1.1.0") == 1


def test_shared_values_are_converted_once():
    value: list = [1]
    for _ in range(60):
        value = [value, value]

    found = read_config(checkpoint(v=value), "v")

    assert found[0] is found[1]


def test_deep_nesting_needs_no_recursion():
    stream = Pickle(None).op("EMPTY_LIST").stream * 100_000 + OPCODES["APPEND"] * 99_999

    found = read_config(torch_file_with(bytes(stream)), "v")

    assert len(found) == 1 and len(found[0]) == 1


def test_a_format_without_objects_has_none():
    assert read_config(smallest_file("safetensors")) == {}


# Dataclasses.


@dataclasses.dataclass
class Layer:
    size: int
    scale: float = 1.0


UserId = NewType("UserId", int)


@dataclasses.dataclass
class Settings:
    n_head: int
    lr: float
    flag: bool
    name: str
    ints: list[int]
    floats: Sequence[float]
    table: dict[str, str]
    layers: tuple[Layer, ...]
    pair: tuple[int, str]
    mode: Mode
    by_name: Mode
    choice: Literal["a", 1]
    maybe: Layer | None
    either: int | str
    modern: float | None
    path: pathlib.Path
    user: UserId
    noted: Annotated[int, "positive"]
    anything: Any
    kinds: set[str]
    lookup: Mapping[str, list[int]]
    nested: "Layer"
    default: int = 7
    factory: list[int] = dataclasses.field(default_factory=list)
    derived: int = dataclasses.field(init=False, default=9)


GOOD = {
    "n_head": 2, "lr": 1, "flag": True, "name": "x", "ints": [1], "floats": (0.5, 1), "table": {"a": "b"},
    "layers": [{"size": 1}, {"size": 2, "scale": 3}], "pair": [1, "a"], "mode": "fast", "by_name": "EXACT",
    "choice": 1, "maybe": None, "either": "x", "modern": 2.5, "path": "/a", "user": 5, "noted": 1, "anything": [1],
    "kinds": ["a"], "lookup": {"a": [1]}, "nested": Attributes(size=4), "extra": "ignored",
}  # fmt: skip


def test_a_dataclass_is_filled():
    found = read_config(checkpoint(config=GOOD), "config", into=Settings)

    assert found == Settings(
        2, 1.0, True, "x", [1], [0.5, 1.0], {"a": "b"}, (Layer(1), Layer(2, 3.0)), (1, "a"), Mode.FAST, Mode.EXACT, 1,
        None, "x", 2.5, pathlib.Path("/a"), UserId(5), 1, [1], {"a"}, {"a": [1]}, Layer(4),
    )  # fmt: skip
    assert type(found.lr) is float and type(found.layers[1].scale) is float and found.default == 7


def test_a_member_of_an_enum_is_filled_from_a_member_in_the_file():
    assert read_config(checkpoint(v=[Mode.FAST, Mode.EXACT]), "v", into=list[Mode]) == [Mode.FAST, Mode.EXACT]


def test_every_mistake_is_told_at_once():
    wrong = {"n_head": True, "lr": "x", "layers": [{"size": 1.5}, {}], "mode": "slow", "pair": [1], "choice": True}

    with pytest.raises(ConfigError) as caught:
        read_config(checkpoint(config=wrong), "config", into=Settings)

    found = {problem.path: (problem.expected, problem.found) for problem in caught.value.problems}
    assert found["config.n_head"] == ("int", "True")
    assert found["config.lr"] == ("float", "str 'x'")
    assert found["config.layers.0.size"] == ("int", "float 1.5")
    assert found["config.layers.1.size"] == ("int", "nothing")
    assert found["config.mode"] == ("one of 'fast', 2", "str 'slow'")
    assert found["config.pair"][1] == "list of 1"
    assert found["config.choice"] == ("one of 'a', 1", "True")
    assert found["config.flag"] == ("bool", "nothing") and found["config.ints"][1] == "nothing"
    assert "config.default" not in found and "config.maybe" in found
    assert str(caught.value).startswith(
        "23 fields of Settings cannot be filled: config.n_head: expected int, found True;"
    )
    assert "and 3 more" in str(caught.value)


@pytest.mark.parametrize(
    ("hint", "value"),
    [
        (int, True), (int, 1.0), (int, "1"), (float, True), (float, "1"), (float, 10**400), (bool, 1), (bool, None),
        (str, 1), (str, b"a"), (list[int], "12"), (list[int], {"a": 1}), (list[int], [1, "a"]), (dict[str, int], [1]),
        (dict[str, int], {1: 1}), (tuple[int, int], (1, 2, 3)), (Optional[int], "x"), (Union[int, str], 1.5),
        (Literal[1], True), (type(None), 0), (Layer, 1), (Layer, None), (set[int], [[1]]), (set[Any], [[1]]),
    ],
)  # fmt: skip
def test_what_is_of_another_type_is_not_converted(hint, value):
    with pytest.raises(ConfigError) as caught:
        read_config(checkpoint(v=value), "v", into=hint)

    assert caught.value.problems and caught.value.problems[0].path.startswith("v")


def test_a_union_takes_the_member_that_fits_exactly():
    @dataclasses.dataclass
    class Wide:
        size: int
        depth: int = 0

    def read(hint, value):
        return read_config(checkpoint(v=value), "v", into=hint)

    assert type(read(Union[float, int], 3)) is int
    assert type(read(Union[float, str], 3)) is float
    assert read(Union[Layer, Wide], {"size": 1, "depth": 2}) == Wide(1, 2)
    assert read(Union[Layer, Wide], {"size": 1, "unknown": 2}) == Layer(1)
    assert read(Union[list[int], list[str], None], ["a"]) == ["a"]


@dataclasses.dataclass
class Tree:
    left: Optional["Tree"] = None
    right: Optional["Tree"] = None


def test_a_dataclass_may_hold_itself_and_the_file_cannot_make_that_endless():
    value: dict = {"left": None}
    for _ in range(3):
        value = {"left": value, "right": value}
    assert read_config(checkpoint(v=value), "v", into=Tree).left.right == Tree(Tree(), Tree())

    for _ in range(40):
        value = {"left": value, "right": value}
    with pytest.raises(LimitError, match="1,000,000 values"):
        read_config(checkpoint(v=value), "v", into=Tree)


def test_dataclasses_within_each_other_have_a_limit():
    value: dict = {}
    for _ in range(150):
        value = {"left": value}

    with pytest.raises(LimitError, match="100 levels"):
        read_config(checkpoint(v=value), "v", into=Tree)


def test_an_annotation_that_nothing_can_fill_is_the_callers_mistake():
    with pytest.raises(TypeError, match="no annotation"):
        read_config(checkpoint(v=1), "v", into="nothing")


def test_a_state_that_many_objects_share_has_a_limit(monkeypatch):
    state = {f"k{i}": i for i in range(100)}
    opened = checkpoint(v=[Call(Global("m", "C"), (i,), state) for i in range(20)])

    monkeypatch.setattr(config, "MAX_ITEMS", 20 * 201 - 1)  # of keys and values, and the list's own, less one
    with pytest.raises(LimitError, match="more than 4,019 items"):
        read_config(opened, "v")
    monkeypatch.setattr(config, "MAX_ITEMS", 20 * 201)
    assert len(read_config(opened, "v")) == 20


def test_the_error_names_the_file(tmp_path):
    (tmp_path / "m.pt").write_bytes(torch_file({"w": WEIGHT}))

    with pytest.raises(ConfigError, match=r"m\.pt: there is no 'x'"):
        read_config(tmp_path / "m.pt", "x")
