"""`fastload pack`: a folder as an archive that Python runs."""

import subprocess
import sys

import pytest

from fastload.cli import main


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "hello.py").write_text("def run():\n    print('hello')\n")
    (tmp_path / "app" / "fast.so").write_bytes(b"")
    return tmp_path / "app"


def test_a_folder_is_packed_and_run(folder, tmp_path, capsys):
    archive = str(tmp_path / "app.pyz")

    assert main(["pack", str(folder), "-o", archive, "--main", "hello:run"]) == 0

    said = capsys.readouterr()
    assert said.out.startswith(f"wrote {archive}: 3 files, ")
    assert said.err == "fastload: fast.so cannot be imported out of an archive: install it beside\n"
    assert subprocess.run([sys.executable, archive], capture_output=True, check=True).stdout == b"hello\n"
    assert main(["pack", str(folder), "-o", archive, "--main", "hello:run"]) == 2
    assert main(["pack", str(folder), "-o", archive, "--main", "hello:run", "--overwrite"]) == 0


def test_what_cannot_be_called_is_wrong_usage(folder, tmp_path, capsys):
    assert main(["pack", str(folder), "-o", str(tmp_path / "a.pyz"), "--main", "hello"]) == 2

    assert "package.module:function" in capsys.readouterr().err


def test_a_folder_that_is_not_there_is_told(tmp_path, capsys):
    assert main(["pack", str(tmp_path / "none"), "-o", str(tmp_path / "a.zip")]) == 3

    assert "No such file" in capsys.readouterr().err
