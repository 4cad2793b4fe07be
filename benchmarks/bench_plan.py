"""What do the steps of a plan cost on 200,000 names, beside the substitutions alone that they must do?"""

import re

import pytest

import fastload
import inputs

COUNT = 1_000 if inputs.QUICK else 200_000
ROUNDS = 5


@pytest.fixture(scope="module")
def checkpoint(files):
    return fastload.open(files.many(COUNT, "safetensors"))


@pytest.mark.benchmark(group=f"a plan on {COUNT:,} names")
def test_fastload(benchmark, results, checkpoint):
    def plan():
        return checkpoint.select(exclude="*.running_mean").remap(inputs.RULES).contiguous_indices()

    planned = benchmark.pedantic(plan, rounds=ROUNDS)

    assert len(planned) == len(checkpoint)
    results.add_time(benchmark, "fastload", "selects, renames by 5 patterns, closes gaps, finds collisions")


@pytest.mark.benchmark(group=f"a plan on {COUNT:,} names")
def test_re_sub(benchmark, results, checkpoint):
    names = list(checkpoint)
    compiled = [(re.compile(pattern), replacement) for pattern, replacement in inputs.RULES]

    def substitute():
        made = names
        for pattern, replacement in compiled:
            made = [pattern.sub(replacement, name) for name in made]
        return made

    made = benchmark.pedantic(substitute, rounds=ROUNDS)

    assert len(made) == COUNT
    results.add_time(benchmark, "bare re.sub", "the 5 substitutions alone, over a list of names")
