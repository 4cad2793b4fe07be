"""The long run of the fuzzer: damaged files of every layout, read to the full, with an account at the end.

    python tests/fuzz.py [mutations] [first number] [layout ...]

What is neither read nor refused in our own words is printed with the layout and the number that make it again, and
fails the run; so do a file that takes too long, and memory or descriptors that are not given back.
"""

import collections
import faulthandler
import os
import pathlib
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings

from layouts import layouts
from mutations import Layout
from reading import read_all

SECONDS = 20  # for one file, which takes milliseconds
LEAKED_BYTES = 64 << 20  # of resident memory, from the first tenth of the run to its end
WATCHDOG_FILES = 500  # after so many the clock that ends a hung process is set again


class Slow(BaseException):
    """A file took too long."""


class Fuzzer:
    """Reads damaged files and keeps count.

    Attributes
    ----------
    counts : Counter
        How many were "read" and "refused".
    findings : list of str
        What was neither.
    slowest : tuple of float, str
        The longest that one took, and which.
    """

    def __init__(self, chosen=()):
        self.layouts = [Layout(name, whole) for name, whole in layouts().items() if not chosen or name in chosen]
        self.counts = collections.Counter()
        self.findings = []
        self.slowest = (0.0, "")
        self.folder = tempfile.TemporaryDirectory()
        self.sources = {layout.name: self._source(number, layout) for number, layout in enumerate(self.layouts)}

    def _source(self, number, layout):
        if not layout.is_folder:
            return None
        path = pathlib.Path(self.folder.name) / str(number)
        path.mkdir()
        for name, raw in layout.files.items():
            (path / name).write_bytes(raw)
        return path

    def check(self, layout, number):
        """Read mutation *number* of a layout."""
        file, raw = layout.mutation(number)
        source, path = raw, self.sources[layout.name]
        if path is not None:
            (path / file).write_bytes(raw)
            source = path
        start = time.monotonic()
        try:
            self.counts["read" if read_all(source) else "refused"] += 1
        except (Slow, Exception) as error:
            where = traceback.format_exc(limit=-6)
            self.findings.append(f"{layout.name!r} {number} {file}: {type(error).__name__}: {error!s:.300}\n{where}")
        finally:
            if path is not None:
                (path / file).write_bytes(layout.files[file])
        self.slowest = max(self.slowest, (time.monotonic() - start, f"{layout.name!r} {number}"))


def too_slow(signal_number, frame):
    raise Slow(f"more than {SECONDS} s")


def resident():
    """Bytes of memory that this process has now."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def run(mutations, first, chosen):
    """Fuzz, and print the account; the status of the process."""
    warnings.simplefilter("ignore")
    fuzzer = Fuzzer(chosen)
    signal.signal(signal.SIGALRM, too_slow)
    shown, memory, descriptors, begun = 0, 0, len(os.listdir("/proc/self/fd")), time.monotonic()
    for step in range(mutations):
        if step % WATCHDOG_FILES == 0:
            faulthandler.dump_traceback_later(WATCHDOG_FILES * 2 + SECONDS, exit=True)
        if step == mutations // 10:
            memory = resident()
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        fuzzer.check(fuzzer.layouts[step % len(fuzzer.layouts)], first + step // len(fuzzer.layouts))
        signal.setitimer(signal.ITIMER_REAL, 0)
        for finding in fuzzer.findings[shown:]:
            print(finding, flush=True)
        shown = len(fuzzer.findings)
        if step % 20_000 == 0:
            print(f"… {step:,} in {time.monotonic() - begun:,.0f} s", file=sys.stderr, flush=True)
    faulthandler.cancel_dump_traceback_later()
    grown, opened = resident() - memory, len(os.listdir("/proc/self/fd")) - descriptors
    troubles = [f"{len(fuzzer.findings):,} findings"] * bool(fuzzer.findings)
    if grown > LEAKED_BYTES and "asan" not in os.environ.get("LD_PRELOAD", ""):  # which keeps what is freed
        troubles.append(f"{grown >> 20:,} MiB not given back")
    troubles += [f"{opened} descriptors left open"] * (opened > 0)
    took, which = fuzzer.slowest
    print(f"slowest: {took:.2f} s, {which}")
    verdict = ", ".join(troubles) or "no crash, hang, foreign exception or leak"
    counts = fuzzer.counts
    print(f"{mutations:,} mutated files: {counts['refused']:,} refused, {counts['read']:,} read; {verdict}")
    return bool(troubles)


if __name__ == "__main__":
    numbers = [int(argument) for argument in sys.argv[1:3]]
    sys.exit(run(*(numbers + [1_000_000, 0][len(numbers) :]), sys.argv[3:]))
