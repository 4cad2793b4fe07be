"""Fragments of pickles that would be huge, deep or endless if anyone expanded them, and a process to read them in."""

import subprocess
import sys

from pickles import Pickle, assemble

SECONDS = 20
READ_IN_A_CHILD = """if True:
    import os, resource, sys
    if "asan" not in os.environ.get("LD_PRELOAD", ""):  # whose shadow memory takes terabytes of addresses
        resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
    sys.path[:0] = sys.argv[2:]
    from reading import read_all
    print(read_all(open(sys.argv[1], "rb").read()))
"""
LEVELS = 60


def answer(file, path):
    """Whether *file* is read ("True") or refused ("False"); anything else is a failure."""
    path.write_bytes(file)
    command = [sys.executable, "-c", READ_IN_A_CHILD, path, *sys.path]
    child = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert child.returncode == 0, f"status {child.returncode}\n{child.stderr[-2000:]}"
    return child.stdout.strip()


def doubled(inner, wrap):
    """*inner* in *wrap* twice, LEVELS times over: 2**LEVELS paths."""
    stream = inner + Pickle(None).put(500).stream
    for level in range(500, 500 + LEVELS):
        twice = bytes(Pickle(None).get(level).get(level).stream)
        stream += assemble("POP") + wrap(twice) + Pickle(None).put(level + 1).stream
    return bytes(stream)


TUPLES = doubled(b")", lambda twice: twice + assemble("TUPLE2"))
LISTS = doubled(b"]", lambda twice: assemble("MARK") + twice + assemble("LIST"))
FROZENSETS = doubled(b")", lambda twice: assemble("MARK") + twice + assemble("FROZENSET"))
DICTS = doubled(b"}", lambda twice: assemble("MARK 1") + twice[:5] + assemble("2") + twice[5:] + assemble("DICT"))
CALLS = doubled(b")", lambda twice: b"cinert\nThing\n" + twice + assemble("TUPLE2 REDUCE"))
DEEP_TUPLE = assemble("EMPTY_TUPLE") + assemble("TUPLE1") * 300_000
DEEP_LIST = assemble("EMPTY_LIST") * 300_000 + assemble("NONE") + assemble("APPEND") * 300_000
DEEP_DICT = assemble("EMPTY_DICT 1") * 300_000 + assemble("NONE") + assemble("SETITEM") * 300_000
DEEP_CALL = b"cinert\nThing\n" + assemble("EMPTY_TUPLE REDUCE") * 100_000
DEEP_STATE = b"cinert\nThing\n)R" * 100_000 + b"N" + b"b" * 100_000
