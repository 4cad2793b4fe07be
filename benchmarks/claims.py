"""Does fastload keep what it promises? Each claim beside its peer, in pairs that are taken in turn, in one run.

A pair is one run of each, the order changing from pair to pair, so that a busy moment of the machine falls on both. The
ratio of a claim is the median over its pairs, shown with the lowest and the highest. Every answer is checked before the
timing. The exit status is 1 where a claim is not kept.

    python benchmarks/claims.py [--pairs N] [WORD ...]     # claims that have one of the words in their name
"""

from __future__ import annotations

import argparse
import fnmatch
import mmap
import re
import statistics
import sys
import timeit
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np

import child
import fastload
import inputs
import readers
from pairs import Side, in_turn, timed

LAST_SAFETENSORS = inputs.SAFETENSORS_COUNTS[-1]
LAST_TORCH = inputs.TORCH_COUNTS[-1]
MAX_GROWTH = 1.3
MAX_SECONDS_OF_ARRAYS = 1e-3
MAX_RATIO_OF_VIEW = 2
MAX_SECONDS_OF_IMPORT = 10e-3
MAX_SECONDS_BESIDE_SCALARS = 15e-3
VIEWS_A_RUN = 20_000
INDEX = re.compile(r"(?:(?<=\.)|^)\d+(?=\.|$)")
UNWANTED = "*.mlp.down.weight"


class Verdict(NamedTuple):
    """What a claim came to."""

    measured: str
    kept: bool


Claim = Callable[[inputs.Inputs, int], Verdict]


def stopwatch(run: Callable[[], object], count: int = 1) -> Callable[[], float]:
    """What takes the seconds of one run, for each of *count*."""
    return partial(timed, Side("", "", run, count=count))


def in_pairs(ours: Callable[[], float], theirs: Callable[[], float], pairs: int) -> list[tuple[float, float]]:
    """Both in turn, the order changing from pair to pair."""
    return list(zip(*in_turn([ours, theirs], pairs), strict=True))


def spread(values: list[float], unit: str) -> str:
    """Median, lowest and highest."""
    return f"{statistics.median(values):.2f} {unit} [{min(values):.2f} to {max(values):.2f}]"


def times_faster(table: str, ours: str, theirs: str, count: int, target: float) -> Claim:
    """The claim that one reader of a table is *target* times as fast as another on a file of *count* tensors."""

    def judge(files: inputs.Inputs, pairs: int) -> Verdict:
        question, suffix = table.split()
        path = files.many(count, suffix)
        expected = {"open": inputs.names, "list": inputs.listing}[question](inputs.many(count))
        watches = []
        for name in (ours, theirs):
            reader = readers.reader(table, name)
            source = reader.prepare(path)
            assert reader.answer(reader.read(source)) == expected, f"{name}: wrong answer"
            watches.append(stopwatch(partial(reader.read, source)))
        inputs.freeze()
        return faster(in_pairs(*watches, pairs), target)

    return judge


def times_faster_apart(ours: str, theirs: str, count: int, target: float) -> Claim:
    """The same of a whole module, each reader in a process of its own: only torch's can import the module's class."""

    def judge(files: inputs.Inputs, pairs: int) -> Verdict:
        path, expected = files.module(count), inputs.fingerprint(inputs.listing_of_module(count))
        servers = [child.Server("list module", name, path) for name in (ours, theirs)]
        assert [server.fingerprint for server in servers] == [expected, expected], "wrong answer"
        found = in_pairs(servers[0].seconds, servers[1].seconds, pairs)
        for server in servers:
            server.close()
        return faster(found, target)

    return judge


def faster(found: list[tuple[float, float]], target: float) -> Verdict:
    """What pairs of times come to."""
    ratios = [second / first for first, second in found]
    medians = (statistics.median(side) * 1e3 for side in zip(*found, strict=True))
    what = "{:.2f} ms against {:.2f} ms".format(*medians)
    return Verdict(f"{spread(ratios, '×')}   {what}", statistics.median(ratios) >= target)


def beside_scalars(files: inputs.Inputs, pairs: int) -> Verdict:
    """The claim that a few tensors among very many numbers and texts are listed in no time."""
    reader, path = readers.reader("list scalars", "fastload"), files.scalars()
    expected = [(f"model.{name}", shape, dtype) for name, shape, dtype in inputs.listing(inputs.beside_scalars())]
    assert reader.answer(reader.read(path)) == expected, "wrong answer"
    inputs.freeze()
    watch = stopwatch(partial(reader.read, path))
    times = [watch() for _ in range(pairs)]
    size = len(readers.pickle_of(path)) / 1e6
    measured = f"{spread([one * 1e3 for one in times], 'ms')}   a pickle of {size:.1f} MB"
    return Verdict(measured, statistics.median(times) < MAX_SECONDS_BESIDE_SCALARS)


def renumbered(names: list[str]) -> list[str]:
    """Names whose indices have no gaps below any prefix, as one would write it with `re` and dicts."""
    values: dict[str, set[int]] = {}
    for name in names:
        for found in INDEX.finditer(name):
            values.setdefault(name[: found.start()], set()).add(int(found[0]))
    places = {
        prefix: {value: str(place) for place, value in enumerate(sorted(held))} for prefix, held in values.items()
    }
    return [INDEX.sub(lambda found: places[found.string[: found.start()]][int(found[0])], name) for name in names]


def plan_faster(with_loops: bool, target: float) -> Claim:
    """The claim that a plan is *target* times as fast as the obvious loops, or as its substitutions alone."""

    def judge(files: inputs.Inputs, pairs: int) -> Verdict:
        checkpoint = fastload.open(files.many(LAST_SAFETENSORS, "safetensors"))
        names = list(checkpoint)
        unwanted = re.compile(fnmatch.translate(UNWANTED))
        rules = [(re.compile(pattern), replacement) for pattern, replacement in inputs.RULES]

        def planned() -> fastload.Checkpoint:
            return checkpoint.select(exclude=UNWANTED).remap(inputs.RULES).contiguous_indices()

        def substituted(made: list[str]) -> list[str]:
            for pattern, replacement in rules:
                made = [pattern.sub(replacement, name) for name in made]
            return made

        def looped() -> list[str]:
            return renumbered(substituted([name for name in names if not unwanted.match(name)]))

        assert list(planned()) == looped(), "wrong answer"
        inputs.freeze()
        theirs = stopwatch(looped if with_loops else lambda: substituted(names))
        return faster(in_pairs(stopwatch(lambda: list(planned())), theirs, pairs), target)

    return judge


def grows(what: str) -> Claim:
    """The claim that a tensor of the largest file takes little longer than one of a file of a tenth."""

    def judge(files: inputs.Inputs, pairs: int) -> Verdict:
        watches = []
        for count in inputs.SAFETENSORS_COUNTS[-2:]:
            path = files.many(count, "safetensors")
            checkpoint = fastload.open(path)
            acts: dict[str, Callable[[], object]] = {
                "open": partial(fastload.open, path),
                "list": partial(readers.fastload_listing, path),
                "select": partial(checkpoint.select, exclude=UNWANTED),
            }
            watches.append(stopwatch(acts[what], count))
        inputs.freeze()
        found = in_pairs(*watches, pairs)
        ratios = [many / few for few, many in found]
        medians = (statistics.median(side) * 1e9 for side in zip(*found, strict=True))
        each = "{:.0f} ns a tensor, and {:.0f} ns".format(*medians)
        return Verdict(f"{spread(ratios, '×')}   {each}", statistics.median(ratios) <= MAX_GROWTH)

    return judge


def all_arrays(suffix: str) -> Claim:
    """The claim that opening the large file and making every array takes less than a millisecond."""

    def judge(files: inputs.Inputs, pairs: int) -> Verdict:
        path = files.large(suffix)
        reader = readers.reader(f"arrays {suffix}", "fastload")
        assert reader.answer(reader.read(path)) == inputs.checksums(inputs.large()), "wrong values"
        inputs.freeze()
        watch = stopwatch(partial(reader.read, path))
        together = [watch() * 1e3 for _ in range(pairs)]
        fresh = [child.run("measure", f"arrays {suffix}", "fastload", path)["seconds"] * 1e3 for _ in range(3)]
        kept = statistics.median(together) < MAX_SECONDS_OF_ARRAYS * 1e3
        return Verdict(f"{spread(together, 'ms')}   first of a process: {spread(fresh, 'ms')}", kept)

    return judge


def nothing_touched(suffix: str) -> Claim:
    """The claim that making every array copies no byte of tensor data and touches no page of it."""

    def judge(files: inputs.Inputs, pairs: int) -> Verdict:
        path = files.large(suffix)
        counted = child.run("count-pages", path)
        guarded = child.run("read-guarded", path)  # would have died of it
        allowed = 2 * inputs.LARGE_COUNT if suffix == "pt" else 0  # the local headers of an archive's records
        measured = (
            f"{counted['copied']} bytes copied; 0 of {guarded['guarded_pages']:,} guarded pages of tensor data touched"
            f" of {guarded['pages']:,} of the file; {counted['touched_pages']} other pages touched by the arrays"
        )
        return Verdict(measured, counted["copied"] == 0 and counted["touched_pages"] <= allowed)

    return judge


def one_view(files: inputs.Inputs, pairs: int) -> Verdict:
    """The claim that an array by name costs little more than a bare call of numpy."""
    count = inputs.SAFETENSORS_COUNTS[1]
    name = list(inputs.many(count))[count // 2]
    checkpoint = fastload.open(files.many(count, "safetensors"))
    entry = checkpoint.entry(name)
    with open(checkpoint.path, "rb") as file:
        mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    numbers = {"shape": entry.shape, "dtype": np.dtype(entry.dtype), "offset": entry.offset, "strides": entry.strides}
    scope = {"ndarray": np.ndarray, "ckpt": checkpoint, "name": name, "mapping": mapping, **numbers}
    bare = "ndarray(shape, dtype, mapping, offset, strides)"
    assert np.array_equal(checkpoint[name], eval(bare, scope))

    by_name, by_numpy = timeit.Timer("ckpt[name]", globals=scope), timeit.Timer(bare, globals=scope)
    found = in_pairs(lambda: by_name.timeit(VIEWS_A_RUN), lambda: by_numpy.timeit(VIEWS_A_RUN), pairs)
    ratios = [ours / theirs for ours, theirs in found]
    medians = (statistics.median(side) / VIEWS_A_RUN * 1e9 for side in zip(*found, strict=True))
    what = "{:.0f} ns against {:.0f} ns".format(*medians)
    return Verdict(f"{spread(ratios, '×')}   {what}", statistics.median(ratios) <= MAX_RATIO_OF_VIEW)


def import_time(files: inputs.Inputs, pairs: int) -> Verdict:
    """The claim that the import takes little more than that of numpy."""

    def seconds(module: str) -> float:
        return child.run("import", module)["seconds"]

    seconds("fastload")
    pairs *= 3  # the difference is small beside either
    found = in_pairs(lambda: seconds("fastload"), lambda: seconds("numpy"), pairs)
    more = [(ours - theirs) * 1e3 for ours, theirs in found]
    medians = (statistics.median(side) * 1e3 for side in zip(*found, strict=True))
    what = "{:.1f} ms against {:.1f} ms".format(*medians)
    return Verdict(f"{spread(more, 'ms more')}   {what}", statistics.median(more) <= MAX_SECONDS_OF_IMPORT * 1e3)


SAFE_OPEN, LISTED, MMAP, STUBS = "safe_open", "safe_open, get_slice", "torch.load mmap", "C unpickler, stubs"
TRUSTING = "torch.load trusting"
CLAIMS: dict[str, Claim] = {
    f"open {LAST_SAFETENSORS:,} safetensors: 10 × safe_open": times_faster(
        "open safetensors", "fastload", SAFE_OPEN, LAST_SAFETENSORS, 10
    ),
    f"list {LAST_SAFETENSORS:,} safetensors, entries(): 8 × safe_open, get_slice": times_faster(
        "list safetensors", "fastload entries()", LISTED, LAST_SAFETENSORS, 8
    ),
    f"list {LAST_SAFETENSORS:,} safetensors, each name, shape, dtype read: 8 × the same": times_faster(
        "list safetensors", "fastload", LISTED, LAST_SAFETENSORS, 8
    ),
    f"open {LAST_TORCH:,} .pt, keys(): 200 × torch.load(mmap, weights_only)": times_faster(
        "open pt", "fastload", MMAP, LAST_TORCH, 200
    ),
    f"open {LAST_TORCH:,} .pt, keys(): 5 × C unpickler with stubs alone": times_faster(
        "open pt", "fastload", STUBS, LAST_TORCH, 5
    ),
    f"list {LAST_TORCH:,} .pt, entries(): 150 × torch.load(mmap, weights_only)": times_faster(
        "list pt", "fastload entries()", MMAP, LAST_TORCH, 150
    ),
    f"list {LAST_TORCH:,} .pt, each name, shape, dtype read: 150 × the same": times_faster(
        "list pt", "fastload", MMAP, LAST_TORCH, 150
    ),
    f"list {LAST_TORCH:,} .pt, entries(): 5 × C unpickler with stubs alone": times_faster(
        "list pt", "fastload entries()", STUBS, LAST_TORCH, 5
    ),
    f"list {LAST_TORCH:,} .pt, each name, shape, dtype read: 5 × the same": times_faster(
        "list pt", "fastload", STUBS, LAST_TORCH, 5
    ),
    f"list {LAST_TORCH:,} legacy, entries(): 100 × torch.load(weights_only)": times_faster(
        "list legacy", "fastload entries()", "torch.load", LAST_TORCH, 100
    ),
    f"list {LAST_TORCH:,} legacy, each name, shape, dtype read: 100 × the same": times_faster(
        "list legacy", "fastload", "torch.load", LAST_TORCH, 100
    ),
    f"list {LAST_TORCH:,} legacy, entries(): 100 × torch.load(weights_only=False)": times_faster(
        "list legacy", "fastload entries()", TRUSTING, LAST_TORCH, 100
    ),
    f"list {LAST_TORCH:,} legacy, each name, shape, dtype read: 100 × torch.load(weights_only=False)": times_faster(
        "list legacy", "fastload", TRUSTING, LAST_TORCH, 100
    ),
    f"list a module of {LAST_TORCH:,}, entries(): 100 × torch.load(weights_only=False)": times_faster_apart(
        "fastload entries()", TRUSTING, LAST_TORCH, 100
    ),
    f"list a module of {LAST_TORCH:,}, each name, shape, dtype read: 100 × the same": times_faster_apart(
        "fastload", TRUSTING, LAST_TORCH, 100
    ),
    f"list a pickle of {LAST_TORCH:,} torch tensors: 10 × pickle.load": times_faster(
        "list torch-pickle", "fastload", "pickle.load", LAST_TORCH, 10
    ),
    f"list a pickle of {LAST_TORCH:,} arrays: as fast as pickle.load": times_faster(
        "list numpy-pickle", "fastload", "pickle.load", LAST_TORCH, 1
    ),
    f"list 22 tensors beside {inputs.SCALARS:,} scalars: below 15 ms": beside_scalars,
    f"plan on {LAST_SAFETENSORS:,} names: 3 × the obvious loops": plan_faster(True, 3),
    f"plan on {LAST_SAFETENSORS:,} names: 1.5 × its substitutions alone": plan_faster(False, 1.5),
    "growth of open: at most 1.3 × for each tensor": grows("open"),
    "growth of list: at most 1.3 × for each tensor": grows("list"),
    "growth of select: at most 1.3 × for each tensor": grows("select"),
    "arrays of safetensors: open and all below 1 ms": all_arrays("safetensors"),
    "arrays of .pt: open and all below 1 ms": all_arrays("pt"),
    "arrays of safetensors: nothing copied or touched": nothing_touched("safetensors"),
    "arrays of .pt: nothing copied or touched": nothing_touched("pt"),
    "view by name: at most 2 × bare np.ndarray": one_view,
    "import: at most 10 ms more than numpy": import_time,
}


def main() -> None:
    """Judge the claims that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("words", nargs="*", help="only claims that have one of these in their name")
    parser.add_argument("--pairs", type=int, default=9, help="runs of each side (default: %(default)s)")
    options = parser.parse_args()

    broken = 0
    with inputs.folder() as files:
        for name, judge in CLAIMS.items():
            if options.words and not any(word in name for word in options.words):
                continue
            verdict = judge(files, options.pairs)
            broken += not verdict.kept
            print(f"{'kept  ' if verdict.kept else 'BROKEN'}  {name}\n        {verdict.measured}", flush=True)
    sys.exit(bool(broken))


if __name__ == "__main__":
    main()
