"""Killed at any moment of a save, its target is the old file or the new one, whole."""

import random
import signal
import subprocess
import sys

import numpy as np
import pytest

import fastload

# Saves two contents in turn over one file for as long as the test lives, and says that it begins.
SAVER = """
import os
import sys
import numpy as np
import fastload

parent = os.getppid()
contents = [{"w": np.full(1 << 20, value, np.float32), "x": np.arange(value)} for value in (1, 2)]
fastload.save(contents[0], sys.argv[1], overwrite=True)
print(flush=True)
while os.getppid() == parent:
    for content in reversed(contents):
        fastload.save(content, sys.argv[1], overwrite=True)
"""


def assert_kills_leave_it_whole(path, kills):
    rng = random.Random(7)
    for _ in range(kills):
        saver = subprocess.Popen([sys.executable, "-c", SAVER, path], stdout=subprocess.PIPE)
        try:
            saver.stdout.readline()
            with pytest.raises(subprocess.TimeoutExpired):
                saver.wait(rng.random() * 0.05)
        finally:
            saver.send_signal(signal.SIGKILL)
            saver.wait()
            saver.stdout.close()
        found = fastload.open(path)
        found.verify()
        value = int(found["w"][0])
        assert np.array_equal(found["w"], np.full(1 << 20, value)) and found["x"].tolist() == list(range(value))
        abandoned = [other for other in path.parent.iterdir() if other != path]
        assert len(abandoned) <= 1  # that of this kill; those of earlier ones are cleared
    fastload.save({}, path, overwrite=True)
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("name", ["m.safetensors", "m.pt"])
def test_twenty_kills_leave_the_old_file_or_the_new(tmp_path, name):
    assert_kills_leave_it_whole(tmp_path / name, 10)


@pytest.mark.slow
def test_two_hundred_kills_leave_the_old_file_or_the_new(tmp_path):
    assert_kills_leave_it_whole(tmp_path / "m.pt", 200)
