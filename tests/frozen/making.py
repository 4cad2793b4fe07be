"""Running the tools that make programs, and starting those programs."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import time


def make(*command, folder, **environment):
    """Run a tool in *folder*; what it says is the test's where it fails."""
    done = subprocess.run(
        [sys.executable, "-m", *map(str, command)],
        cwd=folder,
        env={**os.environ, "PATH": f"{sysconfig.get_path('scripts')}{os.pathsep}{os.environ['PATH']}", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"


def start(command, how, temporary, **environment):
    """What a program prints that is started as its user would, without this Python's environment, and its seconds."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    begin = time.perf_counter()
    done = subprocess.run(
        [*map(str, command), how],
        cwd="/",
        env={**kept, "TMPDIR": str(temporary), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    seconds = time.perf_counter() - begin
    assert done.returncode == 0, done.stderr
    return {**json.loads(done.stdout), "start": seconds}
