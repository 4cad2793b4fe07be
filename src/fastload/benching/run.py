"""Asking every reader every question, in turn and in rounds, each time in a process of its own."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from fastload import opening
from fastload.benching import kernel, limits
from fastload.benching.readers import FASTLOAD, PEERS, QUESTIONS, Reader
from fastload.benching.report import Found, LimitFound, Machine, Refusal, Report, SourceRead, spread_of
from fastload.casting import FLOATS
from fastload.checkpoint import tensors_of
from fastload.errors import FastloadError, UnsupportedError

__all__ = ["Subject", "choose", "look_at", "machine", "measure"]

READ_IN_FULL = ("touch", "load", "cast")  # the questions that read every byte
WARM, COLD = "warm", "cold"
MUCH_MEMORY = 3  # the files, what is read of them and a copy: of so many times the bytes, more is told

Watch = Callable[[int, int], object]  # (measurements done, in all)


class Subject(NamedTuple):
    """What is to be read."""

    source: SourceRead
    paths: list[str]  # of the files that hold the tensors
    dtypes: frozenset[str]


class Task(NamedTuple):
    """One measurement that is made in every round."""

    question: str
    state: str
    reader: str


def look_at(path: str, member: str | None = None) -> Subject:
    """Open a checkpoint, or a member of an archive, and see what it is.

    Raises
    ------
    FastloadError, OSError
        It is bad, or cannot be read.
    UnsupportedError
        It holds nothing that could be measured.
    """
    with opening.open(path, member=member) as opened:
        tensors = tensors_of(opened)
        sources = {tensors.source_of(row) for row in range(len(opened))}
        entries = opened.entries()
        format = opened.format
    found = sorted({source.path for source in sources if source is not None and source.path is not None})
    paths = found or ([path] if os.path.isfile(path) else [])
    nbytes = sum(entry.nbytes for entry in entries)
    if not nbytes or not paths:
        raise UnsupportedError("holds no bytes of tensors: there is nothing to measure", path=path)
    source: SourceRead = {
        "path": path,
        "member": member,
        "format": format,
        "files": len(paths),
        "tensors": len(entries),
        "nbytes": nbytes,
        "file_nbytes": sum(map(os.path.getsize, paths)),
    }
    return Subject(source, paths, frozenset(entry.dtype for entry in entries))


def choose(names: Sequence[str] | None, format: str, member: str | None = None) -> tuple[list[Reader], list[Refusal]]:
    """The readers to measure beside fastload, and those that were asked for in vain.

    Parameters
    ----------
    names : sequence of str or None
        Of `PEERS`; None takes all that are installed and made for the format.
    format : str
    member : str, optional
        What is read of a file, which no peer can.
    """
    if names is None:
        known = PEERS.values() if member is None else []
        return [reader for reader in known if reader.reads(format) and reader.version], []
    chosen, refused = [], []
    for name in dict.fromkeys(names):
        reader = PEERS[name]
        if not reader.version:
            refused.append(_refusal(reader, f"is not installed: pip install {reader.distribution}"))
        elif member is not None:
            refused.append(_refusal(reader, "reads whole files, and this is a member of one"))
        elif not reader.reads(format):
            refused.append(_refusal(reader, f"reads {', '.join(reader.formats)}, and this is {format}"))
        else:
            chosen.append(reader)
    return chosen, refused


def measure(
    subject: Subject,
    peers: Sequence[Reader],
    *,
    repeat: int,
    threads: int | None = None,
    dtype: str | None = None,
    cold: bool = False,
    watch: Watch | None = None,
) -> Report:
    """Measure fastload and its peers, and the machine, in *repeat* rounds.

    Parameters
    ----------
    subject : Subject
    peers : sequence of Reader
    repeat : int
        Rounds. Within each all readers have their turn, the order turned round from one to the next.
    threads : int, optional
        That readers may use; the limits are measured with one and with these, or with as many as there are processors.
    dtype : str, optional
        That floats are cast to; if not given, float32, or bfloat16 where all are float32 already.
    cold : bool
        Measure with files that are not in the page cache, too.
    watch : callable, optional
        Called with the measurements that are done and those in all.
    """
    target = dtype or _other_dtype(subject.dtypes)
    bench = _Bench(subject, [FASTLOAD, *peers], repeat, threads, target, watch)
    bench.run(cold)
    return {
        "source": subject.source,
        "machine": machine(),
        "settings": {"repeat": repeat, "threads": threads, "cold": cold and not bench.not_cold, "dtype": target},
        "notes": bench.notes(),
        "limits": bench.limits(),
        "readers": [
            {
                "name": reader.name,
                "version": reader.version,
                "work": reader.work,
                "views_are_copies": reader.copies,
                "executes": reader.executes,
            }
            for reader in bench.readers
        ],
        "results": bench.results(),
        "refused": bench.refused,
    }


class _Bench:
    """One run: what was asked, and what came back."""

    def __init__(
        self,
        subject: Subject,
        readers: Sequence[Reader],
        repeat: int,
        threads: int | None,
        dtype: str | None,
        watch: Watch | None,
    ) -> None:
        self.subject = subject
        self.readers = readers
        self.repeat = repeat
        self.threads = threads or len(_processors())
        self.not_cold: str | None = None
        self.resident: float | None = None
        self.refused: list[Refusal] = []  # in each case the first question that a reader refused
        self._dtype = dtype
        self._trouble: str | None = None
        self._request = {
            "source": subject.source["path"],
            "member": subject.source["member"],
            "paths": subject.paths,
            "dtype": dtype or "float32",
            "threads": threads,
        }
        self._found: dict[Task, list[dict[str, Any]]] = defaultdict(list)
        self._limits: dict[tuple[str, int, int], list[float]] = defaultdict(list)
        self._watch = watch

    def run(self, cold: bool) -> None:
        """Take all measurements: first the warm ones, since reading cold files changes how the cache holds them."""
        self.resident = _answer({**self._request, "task": "warm"}).get("resident")
        states = [WARM, COLD] if cold else [WARM]
        rounds = {state: list(self._tasks(state)) for state in states}
        total = self.repeat * sum(len(tasks) + 1 for tasks in rounds.values())
        done = 0
        for state, tasks in rounds.items():
            for number in range(self.repeat):
                if state == COLD and self.not_cold:
                    break
                self._find_limits(state)
                for task in reversed(tasks) if number % 2 else tasks:
                    self._measure(task)
                    done += 1
                    if self._watch:
                        self._watch(done, total)
                done += 1

    def _tasks(self, state: str) -> Iterator[Task]:
        for question in QUESTIONS:
            if question == "cast" and self._dtype is None:
                continue
            for reader in self.readers:
                if question in reader.answers:
                    yield Task(question, state, reader.name)

    def _measure(self, task: Task) -> None:
        cold = task.state == COLD
        if (cold and self.not_cold) or self._has_refused(task):
            return
        request = {"task": "read", "reader": task.reader, "question": task.question, "cold": cold}
        answer = _answer({**self._request, **request})
        if "refused" in answer:
            self.refused.append({"reader": task.reader, "question": task.question, "why": answer["refused"]})
        elif "not_cold" in answer:
            self.not_cold = answer["not_cold"]
        else:
            self._found[task].append(answer)

    def _has_refused(self, task: Task) -> bool:
        """Whether its reader has refused this question, or one that asks for less."""
        order = list(QUESTIONS)
        refused = [row["question"] for row in self.refused if row["reader"] == task.reader]
        return any(question and order.index(question) <= order.index(task.question) for question in refused)

    def _find_limits(self, state: str) -> None:
        request = {"task": "limits", "cold": state == COLD, "nbytes": self.subject.source["nbytes"]}
        answer = _answer({**self._request, **request, "threads": self.threads})
        self.not_cold = answer.get("not_cold", self.not_cold)
        if "refused" in answer:
            self._trouble = f"the machine's limits are missing: {answer['refused']}"
        for name, threads, nbytes, seconds in answer.get("limits", []):
            self._limits[name, threads, nbytes].append(seconds)

    def limits(self) -> list[LimitFound]:
        """The limits of the machine, over all rounds."""
        works = dict([*limits.LIMITS, limits.DISK])
        return [
            {
                "name": name,
                "work": works[name],
                "threads": threads,
                "nbytes": nbytes,
                "seconds": spread_of(seconds),
                "gb_per_s": spread_of([nbytes / second / 1e9 for second in seconds]),
            }
            for (name, threads, nbytes), seconds in self._limits.items()
        ]

    def results(self) -> list[Found]:
        """What every reader took, over all rounds."""
        order = {name: number for number, name in enumerate(QUESTIONS)}
        places = {reader.name: number for number, reader in enumerate(self.readers)}
        tasks = sorted(self._found, key=lambda task: (task.state == COLD, order[task.question], places[task.reader]))
        return [self._result(task) for task in tasks]

    def _result(self, task: Task) -> Found:
        answers = self._found[task]
        seconds = [answer["seconds"] for answer in answers]
        ours = [answer["seconds"] for answer in self._found.get(task._replace(reader=FASTLOAD.name), [])]
        middle = sorted(answers, key=lambda answer: answer["seconds"])[len(answers) // 2]
        nbytes = self.subject.source["nbytes"]
        is_full = task.question in READ_IN_FULL
        return {
            "question": task.question,
            "state": task.state,
            "reader": task.reader,
            "seconds": spread_of(seconds),
            "gb_per_s": spread_of([nbytes / second / 1e9 for second in seconds]) if is_full else None,
            "ratio": spread_of([theirs / our for theirs, our in zip(seconds, ours, strict=False)]) if ours else None,
            "tensors": middle.get("tensors"),
            "nbytes": middle.get("nbytes"),
            "memory": middle["memory"],
            "faults": middle["faults"],
        }

    def notes(self) -> list[str]:
        """What a reader of the figures should know."""
        source, notes = self.subject.source, [self._trouble] if self._trouble else []
        if self.not_cold:
            notes.append(f"nothing was measured cold: {self.not_cold}")
        if self.resident is not None and self.resident < 1:
            notes.append(f"warm is not quite: {100 * self.resident:.0f} % of the files stay in memory")
        total = _total_memory()
        if total is not None and MUCH_MEMORY * source["nbytes"] > total:
            notes.append("the tensors take more than a third of the memory: readers that copy may not find room")
        if self._dtype is None:
            notes.append("no cast was measured: the tensors hold no floats")
        for task, answers in self._found.items():
            found = answers[0].get("tensors")
            if task.question == "views" and task.state == WARM and found is not None and found != source["tensors"]:
                notes.append(f"{task.reader} gave {found:,} arrays where the file has {source['tensors']:,} tensors")
        return notes


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    """What a process of its own says to a request."""
    import subprocess  # 5 ms, which the other verbs can do without

    # -P: whatever lies in the current folder is data, and no module of ours.
    command = [sys.executable, "-P", "-m", "fastload.benching.worker"]
    told = json.dumps(request)  # not as an argument: the paths of a thousand shards are longer than one may be
    finished = subprocess.run(command, input=told, capture_output=True, text=True, errors="replace")
    lines = finished.stdout.splitlines()
    if finished.returncode or not lines:
        talk = finished.stderr.strip().splitlines()
        why = f"its process ended with status {finished.returncode}{f': {talk[-1]}' if talk else ''}"
        if request["task"] != "read":
            raise FastloadError(f"the machine could not be measured: {why}")
        return {"refused": why}
    answer: dict[str, Any] = json.loads(lines[-1])
    return answer


def _other_dtype(dtypes: frozenset[str]) -> str | None:
    """What to cast to, of the two that people want; None where there are no floats."""
    floats = dtypes & FLOATS.keys()
    if not floats:
        return None
    return "bfloat16" if floats == {"float32"} else "float32"


def _refusal(reader: Reader, why: str) -> Refusal:
    return {"reader": reader.name, "question": None, "why": why}


def machine() -> Machine:
    """What this machine is, by nothing that tells whose it is."""
    return {
        "cpu": kernel.cpu_name(),
        "cores": len(_processors()),
        "memory": _total_memory(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "huge_pages": kernel.huge_pages(),
        "python": platform.python_version(),
        "numpy": np.__version__,
    }


def _processors() -> Sequence[int]:
    """The processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return range(os.cpu_count() or 1)


def _total_memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
