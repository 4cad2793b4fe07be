"""What the frozen programs need: tools, a model, an application that holds it; and the table of what was found."""

import shutil
import sys
from pathlib import Path
from statistics import median

import numpy as np
import pytest

import fastload
from frozen.making import start

HERE = Path(__file__).parent
# Programs of the system, and Debian's packages of them; PyInstaller itself needs those of binutils.
SYSTEM = {"gcc": "gcc", "objcopy": "binutils", "objdump": "binutils", "ldd": "libc-bin", "unzip": "unzip"}
MODEL_BYTES = 128 << 20
STARTS = 7  # of each program, of which the median counts
ROWS = []


def pytest_sessionstart(session):
    """Nothing here can be skipped: without its tools, the whole run fails."""
    missing = sorted({package for program, package in SYSTEM.items() if not shutil.which(program)})
    if missing or sys.platform != "linux":
        raise pytest.UsageError(f"the frozen programs need Linux and: apt-get install {' '.join(missing)}")


def pytest_terminal_summary(terminalreporter):
    """Print the table."""
    columns = "{:<36} {:>16} {:>16} {:>12} {:>8} {:>9}"
    terminalreporter.write_line(columns.format("program", "start s", "without", "private MiB", "without", "unpacked"))
    for name, with_model, without in ROWS:
        cells = [
            _told(with_model["starts"]),
            _told(without["starts"]),
            f"{with_model['private'] / 2**20:.1f}",
            f"{without['private'] / 2**20:.1f}",
            f"{with_model['unpacked'] - without['unpacked']:,}",
        ]
        terminalreporter.write_line(columns.format(name, *cells))


def _told(seconds):
    return f"{median(seconds):.2f} [{min(seconds):.2f}–{max(seconds):.2f}]"


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """A model of 128 MiB of noise, which nothing can compress, whose last tensor is known."""
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    noise = np.random.default_rng(0).integers(0, 256, MODEL_BYTES, np.uint8)
    fastload.save({"noise": noise, "last": np.array([1, 2, 3], np.float32)}, path)
    return path


@pytest.fixture(scope="session")
def application(model, tmp_path_factory):
    """A folder with the program, and the package that has the model."""
    folder = tmp_path_factory.mktemp("application")
    shutil.copy(HERE / "program.py", folder)
    (folder / "appmodel").mkdir()
    (folder / "appmodel" / "__init__.py").write_text('"""The package of the model."""\n')
    (folder / "appmodel" / "model.safetensors").hardlink_to(model)
    return folder


@pytest.fixture
def measure(tmp_path):
    """Start a program with its model and one without, see that the model is mapped, and note both for the table."""

    def measured(name, command, how, *, kind, holder=None, without=None, **environment):
        temporary = tmp_path / "temporary"
        pairs = [
            (
                start(command, how, temporary, **environment),
                start(without or command, "none", temporary, **environment),
            )
            for _ in range(STARTS)  # by turns, since other work on the machine comes and goes
        ]
        found, plain = ({**each[-1], "starts": [run["start"] for run in each]} for each in zip(*pairs, strict=True))
        ROWS.append((name, found, plain))
        assert found["kind"] == kind
        assert found["zero_copy"]
        unpacked = found["unpacked"] - plain["unpacked"]
        if holder is None:  # it lay in the folder for temporary files, and is gone with the process
            assert Path(found["mapped"]).is_relative_to(temporary) and not Path(found["mapped"]).exists()
            assert unpacked > MODEL_BYTES
        else:
            assert Path(found["mapped"]).samefile(holder)
            assert unpacked < MODEL_BYTES // 100
        assert found["private"] - plain["private"] < MODEL_BYTES // 10

    return measured
