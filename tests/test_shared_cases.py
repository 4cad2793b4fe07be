"""The cases beside the repository, where they are: golden values, and malformed files that must be refused."""

import json
import pathlib
import re
import subprocess
import sys

import pytest

SHARED = pathlib.Path(__file__).parents[2] / "shared"
pytestmark = pytest.mark.skipif(not SHARED.is_dir(), reason="the shared cases are not beside this repository")


def run(*command):
    found = subprocess.run([sys.executable, *map(str, command)], capture_output=True, text=True, timeout=600)
    return found.returncode, found.stdout + found.stderr


def with_plain_layouts(folder, path):
    """*folder* again at *path*, by links: check_golden.py stumbles over a layout that is an object and not a word."""
    golden = json.loads((folder / "golden.json").read_text())
    for case in golden["files"].values():
        if not isinstance(case.get("layout"), str):
            case.pop("layout", None)
    for entry in folder.iterdir():
        if entry.name != "golden.json":
            (path / entry.name).symlink_to(entry)
    (path / "golden.json").write_text(json.dumps(golden))
    return path


@pytest.mark.parametrize("folder", ["checkpoints", "burn", "torch"])
def test_golden_values(folder, tmp_path):
    cases = with_plain_layouts(SHARED / "cases" / folder, tmp_path)

    status, output = run(SHARED / "tools/check_golden.py", cases, "--unsupported-ok")

    passed, failed = map(int, re.search(r"^(\d+) passed, (\d+) failed", output, re.MULTILINE).groups())
    assert (status, failed) == (0, 0), output
    assert passed > 0


# Good files that hold what a later version reads: open() refuses them as unsupported, which is not what they expect.
FOR_LATER = re.compile(r"(?i)numpy|module|legacy|quanti|sparse|nested|script|pickle is")


@pytest.mark.parametrize("kind", ["safetensors", "burnpack", "pytorch-zip", "pickle", "whole"])
def test_malformed_files(kind):
    tools = SHARED / "tools"
    _, output = run(tools / "run_malformed.py", "--format", kind, "--worker", tools / "worker_fastload.py")

    outcomes = re.search(r"outcomes: (.*)", output).group(1)
    assert "canary imported: 0" in output
    for bad in ("crash", "timeout", "oom", "traceback", "wrong-data", "memory", "canary"):
        assert bad not in outcomes, output
    disagreements = [line for line in output.splitlines() if line.startswith("DISAGREE")]
    surprising = [line for line in disagreements if not ("UnsupportedError" in line and FOR_LATER.search(line))]
    assert not surprising, "\n".join(surprising)
