"""Checkpoint: the tensors of a file as a mapping from name to numpy array."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, KeysView, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from fastload import display
from fastload.entry import TensorEntry
from fastload.errors import FastloadError, TensorNotFoundError, located, near_hint
from fastload.options import CheckpointSource, Options
from fastload.tensors import Tensors

if TYPE_CHECKING:
    from types import TracebackType

    from fastload.formats.torch.modules import ModuleNode
    from fastload.plan import fuse
    from fastload.plan.adapt import Adapter
    from fastload.plan.cast import CastRules
    from fastload.plan.match import Patterns
    from fastload.plan.module_types import Types
    from fastload.plan.remap import Rules
    from fastload.plan.table import Table
    from fastload.planned import Explanation
    from fastload.ref import TensorRef
    from fastload.report import LoadReport
    from fastload.scan import PickledGlobal
    from fastload.target import Strict

__all__ = ["Checkpoint", "tensors_of"]

DEFAULTS = Options()


class Names(KeysView[str]):
    """The names of a checkpoint, in order: what `keys()` gives, as of a dict."""

    __slots__ = ()
    _mapping: Checkpoint

    def __iter__(self) -> Iterator[str]:
        return iter(self._mapping)  # and no generator around it, which takes as long as to make the names


class Checkpoint(Mapping[str, np.ndarray]):
    """The tensors of a checkpoint: a mapping from dotted name to a read-only numpy array.

    Made by `fastload.open`. An array is made when it is asked for, each time anew; it is a view of the file wherever
    the bytes lie there as numpy can use them, and it stays valid after the checkpoint is closed. A checkpoint never
    changes and may be used by several threads at once.
    """

    __slots__ = ("__weakref__", "_options", "_source", "_tensors")

    def __init__(self, tensors: Tensors, options: Options = DEFAULTS, source: CheckpointSource | None = None) -> None:
        self._tensors: Tensors | None = tensors
        self._options = options
        self._source = source

    # The mapping.

    def __getitem__(self, name: str) -> np.ndarray:
        tensors = self._tensors
        if tensors is None:
            tensors = self._open_tensors()
        row = tensors.find(name)
        if row < 0:
            raise self._not_found(name)
        return tensors.array(row)

    def __iter__(self) -> Iterator[str]:
        return iter(self._open_tensors().list_names())

    def keys(self) -> Names:
        """The names of the tensors, in order."""
        return Names(self)

    def __len__(self) -> int:
        return len(self._open_tensors())

    def __contains__(self, name: object) -> bool:
        return self._open_tensors().find(name) >= 0

    # A mapping of arrays has no useful equality: `==` would compare arrays element by element.
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    # What it is.

    @property
    def format(self) -> str:
        """The name of the format, such as ``"safetensors"`` or ``"pytorch-zip"``."""
        return self._open_tensors().format

    @property
    def path(self) -> str | None:
        """The file or folder; None for a buffer."""
        return self._open_tensors().path

    @property
    def source(self) -> CheckpointSource:
        """What the bytes came from: a file, a member of an archive, a section of the program, a buffer."""
        path = self.path
        if self._source is None:
            return CheckpointSource("buffer" if path is None else "folder" if os.path.isdir(path) else "file", path)
        return self._source

    @property
    def metadata(self) -> dict[str, Any]:
        """What the format keeps about the tensors as a whole.

        Of safetensors: the texts under ``__metadata__``. Of Burnpack: its texts, and under ``scalars`` a dict of the
        numbers and bools beside them. Of a PyTorch file: its version, byte order and the like, and
        ``_metadata`` of the state dict, which has the versions of its modules. Of an index of shards: its ``metadata``.
        """
        return self._open_tensors().metadata()

    @property
    def objects(self) -> Any:
        """What else the file holds, as plain Python values, made anew each time.

        Tensors stand there as their `TensorEntry`, classes and functions of other programs as inert `Record`: nothing
        of the file is imported or called.

        Raises
        ------
        LimitError
            There are more objects than can be shown.
        """
        return self._open_tensors().objects()

    def module_tree(self) -> ModuleNode:
        """The modules of a model that was saved whole, with their classes by name and their attributes; made anew.

        Returns
        -------
        ModuleNode
            The model's own node; where the file holds it within a dict or the like, one whose children are the models,
            by their dotted paths. Printing it gives the text that `print(model)` gives in torch.

        Raises
        ------
        UnsupportedError
            The file holds no modules: it is a state dict, or of a format that has none.
        LimitError
            There are more objects than can be shown.
        """
        from fastload.formats.torch import modules

        tensors = self._open_tensors()
        try:
            return modules.tree(tensors.objects())
        except FastloadError as error:
            raise located(error, tensors.path, tensors.format) from None

    def globals(self) -> list[PickledGlobal]:
        """Every class and function that the file's pickles name, in order, and what unpickling them would do.

        fastload itself imports and calls none of them. A format without pickles has none.
        """
        from fastload.scan import classify

        return classify(self._open_tensors().list_globals())

    def entry(self, name: str) -> TensorEntry:
        """The description of one tensor; its data is not read.

        Raises
        ------
        TensorNotFoundError
            There is no tensor of that name; the message offers near ones.
        """
        tensors, row = self._row(name)
        return tensors.entry(row)

    def entries(self) -> list[TensorEntry]:
        """The descriptions of all tensors in order: the cheap way to list names, shapes and dtypes."""
        return self._open_tensors().entries()

    def verify(self) -> None:
        """Check every structure and extent of the file that opening leaves until it is needed; no tensor data is read.

        Raises
        ------
        FormatError
            Something is not where, or not what, the file says.
        """
        self._open_tensors().verify()

    def still_valid(self) -> bool:
        """Whether the file at the path is still the one that was opened: not replaced, cut or written to since.

        Of a mapped file that was cut, whatever lies beyond its new end cannot be read: the system kills a process
        that tries. Files that were replaced by renaming another over them, as fastload writes them, stay readable.
        """
        return self._open_tensors().still_valid()

    def prefetch(self, names: str | Iterable[str] | None = None) -> int:
        """Have the system read some tensors, or all, into its page cache meanwhile; returns how many bytes that is.

        Buffers, and tensors that are no views of a file, cannot be read ahead, and count for nothing.
        """
        from fastload import page_cache

        return page_cache.prefetch(*self._rows(names))

    def advise(self, advice: str, names: str | Iterable[str] | None = None) -> None:
        """Tell the system how some tensors, or all, will be used; says nothing of buffers and of what is no view.

        "sequential" and "random" settle how much is read ahead of what is touched, of mapped files alone; "willneed" is
        `prefetch`; "dontneed" takes out of the cache what is on the disk and mapped by no one else: arrays stay valid.
        """
        from fastload import page_cache

        page_cache.advise(*self._rows(names), advice)

    def residency(self) -> dict[str, float | None]:
        """The share, 0 to 1, of each tensor's bytes (of a planned one, of all that it needs) that is in the page cache.

        1 for buffers, and on Linux for files of others; None for what is no view of a file, or where nobody tells.
        """
        from fastload import page_cache

        return page_cache.residency(self._open_tensors())

    # The plan: each step gives a new checkpoint over the same file, and reads nothing. What a step needs is imported
    # with the first one, since opening a file needs none of it.

    def subtree(self, path: str) -> Checkpoint:
        """The tensors whose names begin with *path* and a dot, without those.

        Raises
        ------
        TensorNotFoundError
            There are none; the message offers near paths.
        """
        from fastload.plan import select

        return self._after("subtree", lambda table, rows: select.subtree(table, path))

    def select(
        self,
        include: Patterns | None = None,
        exclude: Patterns | None = None,
        where: Callable[[TensorEntry], object] | None = None,
        *,
        strict: bool = False,
    ) -> Checkpoint:
        """The tensors that any of *include* matches (all, if not given), none of *exclude*, and *where* is true of.

        A string is an exact name, else a glob in which ``*`` crosses dots; a compiled `re.Pattern` is searched for.
        *where* is a function of a `TensorEntry`. Where *strict*, a pattern that matches nothing is an error.

        Raises
        ------
        PlanError
            A pattern is none, or matches nothing where that is an error.
        """
        from fastload.plan import select
        from fastload.plan.match import patterns_of

        include, exclude = patterns_of(include) if include is not None else None, patterns_of(exclude)
        choose = partial(select.select, include=include, exclude=exclude, where=where, strict=strict)
        return self._after("select", choose)

    def drop_segments(self, segments: Iterable[str]) -> Checkpoint:
        """The same tensors with certain segments, the pieces between dots, left out of their names.

        Raises
        ------
        PlanError
            Two tensors would come to one name.
        """
        from fastload.plan import remap

        kept = {segments} if isinstance(segments, str) else set(segments)
        return self._after("drop_segments", lambda table, rows: remap.drop_segments(table, kept))

    def rename(self, mapping: Mapping[str, str], *, strict: bool = True) -> Checkpoint:
        """The same tensors, some under other names, each exactly as it stands.

        Raises
        ------
        PlanError
            Two tensors would come to one name, or, where *strict*, a name is not there.
        """
        from fastload.plan import remap

        fixed = dict(mapping)
        return self._after("rename", lambda table, rows: remap.rename(table, fixed, strict=strict))

    def remap(self, rules: Rules, *, strict: bool = False) -> Checkpoint:
        r"""The same tensors, renamed by patterns in Python's `re` syntax, or by a function of a name.

        Each (pattern, replacement) pair is applied to all matches in what the pairs before it have made; groups are
        ``\\1`` or ``\\g<name>``. Where *strict*, a pattern that matches nothing is an error.

        Raises
        ------
        PlanError
            A pattern or replacement is bad, or two tensors would come to one name: both are named.
        """
        from fastload.plan import remap

        fixed = rules if callable(rules) else list(rules.items() if isinstance(rules, Mapping) else rules)
        return self._after("remap", lambda table, rows: remap.remap(table, fixed, strict=strict))

    def contiguous_indices(
        self, *, under: str | Iterable[str] | None = None, except_under: str | Iterable[str] | None = None
    ) -> Checkpoint:
        """The same tensors with the gaps in the indices of their names closed: ``fc.3, fc.5`` become ``fc.0, fc.1``.

        *under* and *except_under* are dotted paths that limit it to indices below some, or keep it from those below
        others.

        Raises
        ------
        PlanError
            Two tensors would come to one name, as ``w.7`` and ``w.007`` would.
        """
        from fastload.plan import contiguous

        only, never = (path if path is None or isinstance(path, str) else list(path) for path in (under, except_under))
        return self._after(
            "contiguous_indices",
            lambda table, rows: contiguous.contiguous_indices(table, under=only, except_under=never),
        )

    def split(self, *rules: fuse.Split | tuple[Any, ...]) -> Checkpoint:
        """Fused tensors taken apart into views: each rule is a `Split` (pattern, names of the parts, axis, sizes).

        Raises
        ------
        PlanError
            A pattern is bad or matches nothing, the sizes do not come to the tensor's, or names collide.
        """
        from fastload.plan import fuse

        return self._after("split", lambda table, rows: fuse.split(table, rows, rules))

    def concat(self, *rules: fuse.Concat | tuple[Any, ...]) -> Checkpoint:
        """Tensors put together: each rule is a `Concat` (patterns of the parts, name of the whole, axis).

        Raises
        ------
        PlanError
            A pattern is bad or matches nothing, a part is missing, parts do not fit, or names collide.
        """
        from fastload.plan import fuse

        return self._after("concat", lambda table, rows: fuse.concat(table, rows, rules))

    def cast(
        self,
        rules: CastRules,
        where: Callable[[TensorEntry], object] | None = None,
        *,
        integers: bool = False,
        strict: bool = False,
        types: Types | None = None,
    ) -> Checkpoint:
        """The same tensors in another dtype: all floats, or by patterns to dtypes, of which the first counts.

        Floats become floats, and complex numbers complex ones. Everything else stays as it is; naming such a tensor in
        full is an error. With *integers*, integers and bools are cast too. A pattern may be of types of modules, such
        as `HALF_PRECISION`, the modules that bear float16: ``cast({HALF_PRECISION: "float16"})``; *types* tells these
        as for `adapt`.

        Raises
        ------
        PlanError
            A dtype is unknown, or one to which a tensor cannot be cast; or the type of a module is needed, and not
            known.
        """
        from fastload.plan import cast

        fixed = rules if isinstance(rules, str) else dict(rules)
        return self._after(
            "cast",
            lambda table, rows: cast.cast(
                table, rows, fixed, where=where, integers=integers, strict=strict, types=types, known=_types_in(rows)
            ),
        )

    def adapt(self, adapters: Adapter | Iterable[Adapter], types: Types | None = None) -> Checkpoint:
        """The same tensors as another framework names them and lays them out; permuted axes are views.

        *types* maps patterns of dotted module paths to class names, such as ``{"fc*": "Linear"}``, or is a function of
        a path, or the model of torch that is to be filled; modules that it leaves open are looked up in the file's own
        module tree, where it has one.

        Raises
        ------
        PlanError
            A rule may apply and the type of its module is not known: the tensors are named. Or names would collide.
        """
        from fastload.plan import adapt
        from fastload.plan.adapt import Adapter

        fixed = (adapters,) if isinstance(adapters, Adapter) else tuple(adapters)
        return self._after(
            "adapt", lambda table, rows: adapt.adapt(table, rows, fixed, types=types, known=_types_in(rows))
        )

    def explain(self) -> list[Explanation]:
        """How every tensor came to be what it is: its name, dtype and shape after each step that changed them.

        In the order of the result; then the tensors that a step has left out. Each prints as one line.
        """
        from fastload.planned import PlannedTensors

        tensors = self._open_tensors()
        planned = tensors if isinstance(tensors, PlannedTensors) else PlannedTensors(tensors)
        return planned.explain()

    # Pouring out.

    def torch(self, name: str | None = None) -> Any:
        """A tensor as one of torch, to be written to at will: no copy until then, and the file never changes.

        Without a name: a dict of all, in which those that share a storage go on sharing it. One without data is a
        "meta" tensor, and quantised ones are their integers. A writable buffer that was opened is shared.
        """
        from fastload import handover

        return handover.to_torch_dict(self._open_tensors()) if name is None else handover.to_torch(*self._row(name))

    def jax(self, name: str) -> Any:
        """A tensor as an array of JAX, without a copy where JAX can do without."""
        from fastload import handover

        return handover.to_jax(*self._row(name))

    def dlpack(self, name: str) -> Any:
        """A tensor for the `from_dlpack` of any framework, to be written to as that of `torch`."""
        from fastload import handover

        return handover.to_dlpack(*self._row(name))

    def ref(self, name: str) -> TensorRef:
        """A tensor as where its bytes lie in the file: small, and to be sent to other processes, which map them.

        Raises
        ------
        UnsupportedError
            It is no view of a file.
        """
        from fastload.ref import ref_of

        return ref_of(*self._row(name), None if self._source is None else self._source.member)

    def load_into(
        self, target: Any, *, strict: Strict = True, staged: bool = False, assign: bool = False
    ) -> LoadReport:
        """Fill a target: a dict of arrays (also nested), a torch Module, or a mapping of names to shapes and dtypes.

        Names, shapes and dtypes are checked before the first write; use `cast`, `remap` and the like to make them fit.

        Parameters
        ----------
        strict : bool or "both"
            True fails on missing tensors and errors, "both" on unused ones too, False on errors alone.
        staged : bool
            Whether everything is read before the first write, at the price of a copy, so that no error of reading can
            leave a target half filled.
        assign : bool
            Whether the parameters of a torch Module are replaced, by those that `torch` gives, and not written to.

        Raises
        ------
        LoadError
            Something is missing or does not fit; its `report` has everything.
        """
        from fastload.target import load_into

        return load_into(self._open_tensors(), target, strict=strict, staged=staged, assign=assign)

    def _after(self, name: str, apply: Callable[[Table, Tensors], Table]) -> Checkpoint:
        from fastload.planned import PlannedTensors, Step

        step = Step(name, apply)
        after = PlannedTensors.after(self._open_tensors(), step, self._options.allow_copy)
        return Checkpoint(after, self._options, self._source)

    # Closing.

    def close(self) -> None:
        """Let go of the file. Arrays that were taken from it stay valid, and hold it for as long as they live."""
        self._tensors = None

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # For a person.

    def __repr__(self) -> str:
        return "<fastload.Checkpoint, closed>" if self._tensors is None else display.as_text(self._tensors)

    def _repr_html_(self) -> str:
        return "&lt;fastload.Checkpoint, closed&gt;" if self._tensors is None else display.as_html(self._tensors)

    # Errors.

    def _open_tensors(self) -> Tensors:
        if self._tensors is None:
            raise ValueError("the checkpoint is closed")
        return self._tensors

    def _row(self, name: str) -> tuple[Tensors, int]:
        row = (tensors := self._open_tensors()).find(name)
        if row < 0:
            raise self._not_found(name)
        return tensors, row

    def _rows(self, names: str | Iterable[str] | None) -> tuple[Tensors, Iterable[int]]:
        tensors = self._open_tensors()
        chosen = [names] if isinstance(names, str) else names
        return tensors, range(len(tensors)) if chosen is None else [self._row(name)[1] for name in chosen]

    def _not_found(self, name: object) -> TensorNotFoundError:
        tensors = self._open_tensors()
        hint = near_hint(name, self) if isinstance(name, str) else ""
        return TensorNotFoundError(f"no tensor {name!r} among {len(tensors):,}{hint}", path=tensors.path)


def tensors_of(checkpoint: Checkpoint) -> Tensors:
    """The tensors behind a checkpoint, for the rooms that write them out; a ValueError if it is closed."""
    return checkpoint._open_tensors()


def _types_in(tensors: Tensors) -> Callable[[], Mapping[str, str]]:
    """A function that gives the types of the modules in a file's own tree, by their dotted paths."""
    from fastload.formats.torch import modules

    return lambda: modules.types_by_path(tensors.objects)
