"""The distributions: what the sdist and the wheel hold, and that the wheel works in an empty environment."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest

from builders import safetensors_file

ROOT = Path(__file__).resolve().parents[1]
NOT_IN_A_CHECKOUT = (
    ".git",
    ".venv*",
    "build",
    "dist",
    "demo",
    "*.egg-info",
    "*.so",
    "*.c",
    "__pycache__",
    ".*_cache",
    ".hypothesis",
)

OPEN_A_FILE = """
import sys, fastload
with fastload.open(sys.argv[1]) as checkpoint:
    print(checkpoint["w"].tolist(), fastload.__version__)
"""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def distributions(tmp_path_factory):
    """The folder of an sdist and of the wheel that was built from it."""
    folder = tmp_path_factory.mktemp("packaging")
    shutil.copytree(ROOT, folder / "checkout", ignore=shutil.ignore_patterns(*NOT_IN_A_CHECKOUT))
    run(sys.executable, "-m", "build", "--outdir", folder / "dist", folder / "checkout")
    return folder / "dist"


def test_sdist_holds_all_that_a_checkout_holds(distributions):
    with tarfile.open(only(distributions, "*.tar.gz")) as archive:
        members = {name.partition("/")[2] for name in archive.getnames()}

    wanted = {"Makefile", "LICENSE-MIT", "LICENSE-APACHE", ".ci/run", "mkdocs.yml"}
    wanted |= {"README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"}
    suffixes = {".py", ".pyi", ".pyx", ".pxd", ".h", ".css", ".js", ".md", ".svg"}
    for folder in ("src", "tests", "benchmarks", "docs"):
        paths = [path for path in (ROOT / folder).rglob("*") if path.suffix in suffixes or path.name == "py.typed"]
        wanted |= {path.relative_to(ROOT).as_posix() for path in paths}
    assert wanted - members == set()
    assert [name for name in members if name.endswith((".c", ".so", ".pyc"))] == []


def test_wheel_holds_the_package_and_nothing_else(distributions):
    with zipfile.ZipFile(only(distributions, "*.whl")) as archive:
        members = archive.namelist()

    assert {name.partition("/")[0].partition("-")[0] for name in members} == {"fastload", "fastload_ckpt"}
    assert {"fastload/py.typed", "fastload/_native/__init__.pyi"} <= set(members)
    page = {f"fastload/page/{path.name}" for path in (ROOT / "src" / "fastload" / "page").iterdir()}
    assert page and page <= set(members)
    assert [name for name in members if name.endswith((".c", ".html", ".pyc")) and name not in page] == []
    compiled = {name.partition(".")[0] for name in members if name.endswith((".so", ".pyd"))}
    assert compiled == {name.partition(".")[0] for name in members if name.endswith(".pyx")}
    assert compiled


def test_wheel_opens_a_file_in_a_fresh_environment(distributions, tmp_path):
    file = safetensors_file({"w": ("F32", (2,), np.float32([1.5, -2]).tobytes())})
    (tmp_path / "model.safetensors").write_bytes(file)
    run(sys.executable, "-m", "venv", tmp_path / "venv")
    scripts = tmp_path / "venv" / ("Scripts" if sys.platform == "win32" else "bin")

    run(scripts / "python", "-m", "pip", "install", "--quiet", only(distributions, "*.whl"))

    printed = run(scripts / "python", "-c", OPEN_A_FILE, "model.safetensors", cwd=tmp_path)
    assert printed == f"[1.5, -2.0] {version('fastload-ckpt')}\n"
    assert "float32" in run(scripts / "fastload", "ls", "model.safetensors", cwd=tmp_path)


def only(folder, pattern):
    """The one file of *folder* that matches."""
    (path,) = folder.glob(pattern)
    return path


def run(*command, cwd=None):
    """What *command* prints; its errors are the test's where it fails."""
    environment = {name: value for name, value in os.environ.items() if name not in {"LD_PRELOAD", "PYTHONPATH"}}
    done = subprocess.run(command, cwd=cwd, env=environment, check=False, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout
