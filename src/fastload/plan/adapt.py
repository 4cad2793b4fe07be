"""Adapters: how one framework's parameters are named and laid out, turned into another's, by tables of rules.

A rule says of which module types a parameter is meant, by the last segment of its name and its rank; what it is then
called, and how its axes are ordered. The first rule of an adapter that fits counts; a tensor that none fits stays as it
is. Permuted axes are strides: the array stays a view.

The type of a module is told by the caller (`types`, which may be the model that is to be filled), or else by the module
tree of a file that has one. A rule for any type needs none. Where a rule might apply, the type is unknown and no rule
for any type fits, that is an error: to hand out a matrix that should have been transposed would be worse. So say in
`types` which modules are depthwise, where their kernels are called as those of ordinary convolutions are.

To make one's own: ``Adapter("mine", (Rule("Linear", "weight", rank=2, axes=(1, 0)), Rule("*", "g", rename="gain")))``.

Sources: burn-store's adapters; Keras' and Flax' layers; MMdnn's IR. Layouts: a channels-last kernel is
``[spatial…, in, out]``, a channels-first one ``[out, in, spatial…]``, a depthwise one ``[spatial…, in, multiplier]``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from fastload.errors import PlanError
from fastload.plan.making import Making, Permuted, Rows, check_divisible
from fastload.plan.module_types import ModuleTypes, Types, is_of, undecided
from fastload.plan.table import Table, described, renamed

__all__ = [
    "BURN_TO_PYTORCH",
    "CHANNELS_FIRST_TO_LAST",
    "CHANNELS_LAST_TO_FIRST",
    "FLAX_TO_PYTORCH",
    "KERAS_TO_PYTORCH",
    "MMDNN_TO_PYTORCH",
    "PYTORCH_TO_BURN",
    "PYTORCH_TO_FLAX",
    "Adapter",
    "Rule",
    "adapt",
]

TO_FIRST = "last to first"  # [spatial…, in, out] to [out, in, spatial…], of any rank
TO_LAST = "first to last"
DEPTHWISE_TO_FIRST = "depthwise last to first"  # [spatial…, in, multiplier] to [in, multiplier, spatial…]
DEPTHWISE_TO_LAST = "depthwise first to last"


class Rule(NamedTuple):
    """What becomes of one parameter of some module types.

    Attributes
    ----------
    types : str
        Globs of class names without their modules, divided by ``|``; ``*`` is any, known or not.
    parameter : str
        The last segment of the name.
    rank : int or None
        The number of dimensions it must have; any, if None.
    least_rank : int
        The number of dimensions it must have at least.
    axes : tuple of int, str or None
        The order of axes it gets: numbers, or `TO_FIRST` and the like, which suit any rank. None leaves them.
    rename : str or None
        The last segment it gets; None leaves it.
    """

    types: str
    parameter: str
    rank: int | None = None
    least_rank: int = 0
    axes: tuple[int, ...] | str | None = None
    rename: str | None = None

    def fits(self, parameter: str, rank: int) -> bool:
        """Whether a parameter of this name and rank is meant, of whatever module."""
        return parameter == self.parameter and rank >= self.least_rank and self.rank in (None, rank)

    def is_for(self, type: str) -> bool:
        """Whether a module of this class is meant."""
        return is_of(type, self.types)

    def order(self, rank: int) -> tuple[int, ...] | None:
        """The order of axes for a tensor of this rank; None where it stays."""
        axes = self.axes
        if not isinstance(axes, str):
            return axes
        spatial = tuple(range(rank - 2))
        if axes == TO_FIRST:
            return (rank - 1, rank - 2, *spatial)
        if axes == TO_LAST:
            return (*range(2, rank), 1, 0)
        if axes == DEPTHWISE_TO_FIRST:
            return (rank - 2, rank - 1, *spatial)
        return (*range(2, rank), 0, 1)

    def inverse(self) -> Rule:
        """The rule that undoes this one."""
        opposite = {
            TO_FIRST: TO_LAST,
            TO_LAST: TO_FIRST,
            DEPTHWISE_TO_FIRST: DEPTHWISE_TO_LAST,
            DEPTHWISE_TO_LAST: DEPTHWISE_TO_FIRST,
        }
        axes = self.axes
        if isinstance(axes, str):
            axes = opposite[axes]
        elif axes is not None:
            axes = tuple(axes.index(axis) for axis in range(len(axes)))
        rename = self.parameter if self.rename is not None else None
        return self._replace(parameter=self.rename or self.parameter, rename=rename, axes=axes)


class Adapter(NamedTuple):
    """A table of rules.

    Attributes
    ----------
    name : str
    rules : tuple of Rule
    """

    name: str
    rules: tuple[Rule, ...]

    def inverse(self, name: str) -> Adapter:
        """The adapter that undoes this one."""
        return Adapter(name, tuple(rule.inverse() for rule in self.rules))


_NORMS = "BatchNorm*|LayerNorm|GroupNorm|RMSNorm|RmsNorm"

PYTORCH_TO_BURN = Adapter(
    "PyTorch to Burn",
    (
        Rule("Linear", "weight", rank=2, axes=(1, 0)),
        Rule(_NORMS, "weight", rename="gamma"),
        Rule(_NORMS, "bias", rename="beta"),
    ),
)
BURN_TO_PYTORCH = PYTORCH_TO_BURN.inverse("Burn to PyTorch")

CHANNELS_LAST_TO_FIRST = Adapter(
    "channels last to first",
    (
        Rule("*", "depthwise_kernel", least_rank=3, axes=DEPTHWISE_TO_FIRST),
        Rule("Depthwise*", "kernel", least_rank=3, axes=DEPTHWISE_TO_FIRST),
        Rule("Depthwise*", "weights", least_rank=3, axes=DEPTHWISE_TO_FIRST),
        Rule("*", "kernel", least_rank=2, axes=TO_FIRST),
        Rule("*", "weights", least_rank=2, axes=TO_FIRST),
    ),
)
CHANNELS_FIRST_TO_LAST = CHANNELS_LAST_TO_FIRST.inverse("channels first to last")

KERAS_TO_PYTORCH = Adapter(
    "Keras to PyTorch",
    (
        Rule("*", "depthwise_kernel", least_rank=3, axes=DEPTHWISE_TO_FIRST, rename="weight"),
        Rule("Depthwise*", "kernel", least_rank=3, axes=DEPTHWISE_TO_FIRST, rename="weight"),  # since Keras 3
        Rule("*", "kernel", least_rank=2, axes=TO_FIRST, rename="weight"),
        Rule("*", "gamma", rename="weight"),
        Rule("*", "beta", rename="bias"),
        Rule("*", "moving_mean", rename="running_mean"),
        Rule("*", "moving_variance", rename="running_var"),
        Rule("*", "embeddings", rename="weight"),
    ),
)
MMDNN_TO_PYTORCH = Adapter(
    "MMdnn to PyTorch",
    (
        Rule("Depthwise*", "weights", least_rank=3, axes=DEPTHWISE_TO_FIRST, rename="weight"),
        Rule("*", "weights", least_rank=2, axes=TO_FIRST, rename="weight"),
        Rule("*", "weights", rename="weight"),
        Rule("*", "scale", rename="weight"),
        Rule("*", "gamma", rename="weight"),
        Rule("*", "beta", rename="bias"),
        Rule("*", "mean", rename="running_mean"),
        Rule("*", "var", rename="running_var"),
    ),
)
FLAX_TO_PYTORCH = Adapter(
    "Flax to PyTorch",
    (
        Rule("*", "kernel", least_rank=2, axes=TO_FIRST, rename="weight"),
        Rule("*", "scale", rename="weight"),
        Rule("*", "embedding", rename="weight"),
        Rule("*", "mean", rename="running_mean"),
        Rule("*", "var", rename="running_var"),
    ),
)
PYTORCH_TO_FLAX = Adapter(
    "PyTorch to Flax",
    (
        Rule("Linear|Dense", "weight", rank=2, axes=TO_LAST, rename="kernel"),
        Rule("Conv[123]d|Conv", "weight", least_rank=3, axes=TO_LAST, rename="kernel"),
        Rule("Embedding|Embed", "weight", rank=2, rename="embedding"),
        Rule(f"{_NORMS}|InstanceNorm*", "weight", rename="scale"),
        Rule("*", "running_mean", rename="mean"),
        Rule("*", "running_var", rename="var"),
    ),
)


def adapt(
    table: Table,
    rows: Rows,
    adapters: Adapter | Iterable[Adapter],
    *,
    types: Types | None = None,
    known: Callable[[], Mapping[str, str]] | None = None,
) -> Table:
    """Apply adapters, one after the other.

    Parameters
    ----------
    types, known
        As for `ModuleTypes`.

    Raises
    ------
    PlanError
        The type of a module is needed and not known, or two tensors come to one name.
    """
    modules = ModuleTypes(types, known)
    for adapter in [adapters] if isinstance(adapters, Adapter) else adapters:
        table = _adapt_once(table, rows, adapter, modules)
    return table


def _adapt_once(table: Table, rows: Rows, adapter: Adapter, modules: ModuleTypes) -> Table:
    names = list(table.names)
    makings: list[Making] = list(table.makings)
    open_cases: list[tuple[str, tuple[int, ...]]] = []
    parameters = {rule.parameter for rule in adapter.rules}
    for place, name in enumerate(table.names):
        path, dot, parameter = name.rpartition(".")
        if parameter not in parameters:
            continue
        entry = described(table, place, rows)
        fitting = [rule for rule in adapter.rules if rule.fits(parameter, len(entry.shape))]
        if not fitting:
            continue
        type = modules.of(name, makings[place], rows)
        rule = next((one for one in fitting if one.types == "*" or (type is not None and one.is_for(type))), None)
        if rule is None and type is None:
            open_cases.append((name, entry.shape))
        if rule is None:
            continue
        order = rule.order(len(entry.shape))
        if order is not None:
            if sorted(order) != list(range(len(entry.shape))):
                raise PlanError(f"adapt: {name!r} of shape {entry.shape} cannot have its axes ordered as {order}")
            if len(order) > 1:
                check_divisible(entry, "adapt")
            makings[place] = Permuted(makings[place], order)
        if rule.rename is not None:
            names[place] = f"{path}{dot}{rule.rename}"
    if open_cases:
        raise undecided(adapter.name, open_cases)
    dropped = [
        _other_name(name, adapter, modules) if name.rpartition(".")[2] in parameters else name
        for name in table.dropped
    ]  # fmt: skip
    return renamed(Table(table.names, makings), names, dropped, "adapt")


def _other_name(name: str, adapter: Adapter, modules: ModuleTypes) -> str:
    """What a tensor that was left out would be called."""
    path, dot, parameter = name.rpartition(".")
    type = modules.of_dropped(name)
    for rule in adapter.rules:
        if rule.parameter == parameter and rule.rename and (rule.types == "*" or (type and rule.is_for(type))):
            return f"{path}{dot}{rule.rename}"
    return name
