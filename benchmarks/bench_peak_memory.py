"""How much memory does it take to list all tensors, and to have all of a 2 GiB file as arrays?

Each reader has a process of its own. What it needs is imported before the counting begins. Memory of the file is clean
page cache, which the kernel can take back and processes share; anonymous memory is the process's own. The time that
pytest-benchmark shows is that of the whole process and means nothing: the figures are in `extra_info` and in the table
at the end of the run.
"""

import pytest

import child
import inputs
from readers import TABLES

CASES = [(table, reader) for table, readers in TABLES.items() for reader in readers]
COUNTS = dict.fromkeys(inputs.WRITERS_OF_MANY, inputs.TORCH_COUNTS[-1]) | {"safetensors": inputs.SAFETENSORS_COUNTS[-1]}


@pytest.fixture(scope="module")
def fingerprints():
    """Of the right answers, by what was asked for and the format; found when first needed."""
    found = {}

    def fingerprint(question, suffix):
        if (question, suffix) not in found:
            tensors = inputs.large() if question == "arrays" else inputs.many(COUNTS[suffix])
            answer = {"open": inputs.names, "list": inputs.listing, "arrays": inputs.checksums}[question]
            found[question, suffix] = inputs.fingerprint(answer(tensors))
        return found[question, suffix]

    return fingerprint


@pytest.mark.parametrize(("table", "reader"), CASES, ids=[f"{table}-{reader.name}" for table, reader in CASES])
def test_peak_memory(benchmark, results, files, fingerprints, table, reader):
    question, suffix = table.split()
    path = files.large(suffix) if question == "arrays" else files.many(COUNTS[suffix], suffix)
    what = f"{path.stat().st_size >> 20:,} MiB" if question == "arrays" else f"{COUNTS[suffix]:,} tensors"

    benchmark.group = "memory (these times mean nothing)"
    figures = benchmark.pedantic(child.run, args=("measure", table, reader.name, path))

    assert figures["fingerprint"] == fingerprints(question, suffix)
    benchmark.extra_info.update(figures, work=reader.work)
    results.memory.setdefault(f"{question} .{suffix}, {what}", {})[reader.name] = figures
