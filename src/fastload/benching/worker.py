"""A process of its own for one measurement: its memory and its caches are nobody else's.

It takes a request as JSON from its input, and its answer is the last line of its output. What libraries say goes to
standard error.
"""

from __future__ import annotations

import gc
import json
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from typing import Any

from fastload.benching import kernel, limits
from fastload.benching.readers import FASTLOAD, READERS, Job, arrays_in
from fastload.errors import FastloadError

__all__ = ["REPEATED_BELOW"]

# What is over sooner than this, in seconds, is done a few times more in the same process, and the median counts: a
# single call of a millisecond is mostly chance. Memory is then used again, which is in favour of those who copy.
REPEATED_BELOW = 0.01
MORE_CALLS = 9


def _read(request: dict[str, Any]) -> dict[str, Any]:
    """One measurement of a reader."""
    reader = next(reader for reader in READERS if reader.name == request["reader"])
    job = Job(request["source"], request["paths"], request["dtype"], request["threads"], request["member"])
    reader.warm_up(job)
    gc.collect()
    if request["cold"]:
        reason = kernel.evict(job.paths)
        if reason:
            return {"not_cold": reason}
    answer = reader.answers[request["question"]]
    measured, result = _first_call(answer, job)
    counted = list(arrays_in(result)) if request["question"] in ("views", "touch", "load", "cast") else []
    measured |= {"tensors": len(counted), "nbytes": sum(array.nbytes for array in counted)} if counted else {}
    del result, counted
    if measured["seconds"] < REPEATED_BELOW and not request["cold"]:
        measured |= _further_calls(answer, job)
    return measured


def _first_call(answer: Callable[[Job], Any], job: Job) -> tuple[dict[str, Any], Any]:
    """Time and memory of the first call, and what it returned."""
    peak_is_new = kernel.forget_peak()
    before, faults_before = kernel.memory(), kernel.faults()
    start = time.perf_counter()
    result = answer(job)
    seconds = time.perf_counter() - start
    faults, after = kernel.faults(), kernel.memory()
    measured: dict[str, Any] = {"seconds": seconds, "calls": 1, "memory": None, "faults": None}
    if before and after:
        held = before.private + before.page_cache
        measured["memory"] = {
            "private": max(after.private - before.private, 0),
            "page_cache": max(after.page_cache - before.page_cache, 0),
            "peak": max(after.peak - held, 0) if peak_is_new else None,
        }
    if faults and faults_before:
        measured["faults"] = {"minor": faults[0] - faults_before[0], "major": faults[1] - faults_before[1]}
    return measured, result


def _further_calls(answer: Callable[[Job], Any], job: Job) -> dict[str, Any]:
    seconds = []
    for _ in range(MORE_CALLS):
        gc.collect()
        start = time.perf_counter()
        result = answer(job)
        seconds.append(time.perf_counter() - start)
        del result
    return {"seconds": sorted(seconds)[MORE_CALLS // 2], "calls": MORE_CALLS}


def _find_limits(request: dict[str, Any]) -> dict[str, Any]:
    """One measurement of what the machine can do."""
    if not request["cold"]:
        return {"limits": limits.measure_memory(request["nbytes"], request["threads"])}
    found = limits.measure_disk(request["paths"])
    return {"not_cold": found} if isinstance(found, str) else {"limits": [found]}


def _warm(request: dict[str, Any]) -> dict[str, Any]:
    """Read files once, so that they lie in the page cache; the least share of one that does."""
    return {"resident": limits.read_through(request["paths"])}


TASKS = {"read": _read, "limits": _find_limits, "warm": _warm}


def _why(error: BaseException) -> str:
    text = str(error).strip()
    first = text.splitlines()[0] if text else ""
    return first if isinstance(error, FastloadError) else f"{type(error).__name__}: {first}".removesuffix(": ")


def main() -> None:
    """Answer the request that this process was started with."""
    request = json.load(sys.stdin)
    # A peer may refuse a file with any exception, and its row says so; of ours any other than these is a bug.
    is_peer = request["task"] == "read" and request["reader"] != FASTLOAD
    refusals: tuple[type[Exception], ...] = (Exception,) if is_peer else (FastloadError, OSError, MemoryError)
    try:
        with redirect_stdout(sys.stderr):
            answer = TASKS[request["task"]](request)
    except refusals as error:
        answer = {"refused": _why(error)}
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
