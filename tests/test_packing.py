"""Folders as archives: stored, aligned, valid to every tool, and the same each time."""

import os
import stat
import subprocess
import sys
import zipfile

import numpy as np
import pytest

import fastload
from fastload import FormatError, UnsupportedError


@pytest.fixture
def folder(tmp_path):
    """A package that prints what its model says."""
    app = tmp_path / "folder"
    (app / "applied" / "__pycache__").mkdir(parents=True)
    (app / "applied" / "__pycache__" / "x.pyc").write_bytes(b"x")
    (app / "applied" / "__init__.py").write_text("")
    (app / "applied" / "größe.txt").write_text("ß")
    (app / "applied" / "cli.py").write_text(
        "import fastload\n"
        "def main():\n"
        "    c = fastload.open_resource('applied', 'model.safetensors')\n"
        "    print(c.source.kind, c['w'].tolist(), c['w'].ctypes.data % 64)\n"
    )
    fastload.save({"w": np.float32([1, 2])}, app / "applied" / "model.safetensors")
    return app


def test_every_file_is_stored_and_aligned_and_valid_to_others(folder, tmp_path):
    report = fastload.pack(folder, tmp_path / "a.pyz", main="applied.cli:main")

    with zipfile.ZipFile(tmp_path / "a.pyz") as archive:
        assert archive.testzip() is None
        found = archive.infolist()
        data = (tmp_path / "a.pyz").read_bytes()
        for info in found:
            assert info.compress_type == zipfile.ZIP_STORED
            names, extra = np.frombuffer(data, "<u2", 2, info.header_offset + 26)
            assert (info.header_offset + 30 + int(names) + int(extra)) % 64 == 0
        assert archive.read("applied/größe.txt") == "ß".encode()
    assert [info.filename for info in found] == [
        "__main__.py",
        "applied/",
        "applied/__init__.py",
        "applied/cli.py",
        "applied/größe.txt",
        "applied/model.safetensors",
    ]
    assert report == (str(tmp_path / "a.pyz"), 5, os.path.getsize(tmp_path / "a.pyz"), ())


def test_python_runs_the_archive_and_its_model_is_mapped(folder, tmp_path):
    path = tmp_path / "a.pyz"
    fastload.pack(folder, path, main="applied.cli:main", python=sys.executable)
    environment = {**os.environ, "PYTHONPATH": os.path.dirname(os.path.dirname(fastload.__file__))}

    for command in ([path], [sys.executable, path]):
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
        assert done.stdout == "member [1.0, 2.0] 0\n"
    assert stat.S_IMODE(path.stat().st_mode) & 0o100


def test_the_same_files_make_the_same_archive(folder, tmp_path):
    fastload.pack(folder, tmp_path / "a.zip")
    os.utime(folder / "applied" / "cli.py", (1, 1))
    (folder / "applied" / "cli.py").chmod(0o700)

    fastload.pack(folder, tmp_path / "b.zip")

    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


def test_a_file_that_is_there_is_replaced_on_demand_alone(folder, tmp_path):
    (tmp_path / "a.zip").write_bytes(b"old")

    with pytest.raises(FileExistsError):
        fastload.pack(folder, tmp_path / "a.zip")

    assert (tmp_path / "a.zip").read_bytes() == b"old"
    fastload.pack(folder, tmp_path / "a.zip", overwrite=True)
    assert zipfile.is_zipfile(tmp_path / "a.zip")


def test_links_within_the_folder_are_followed_and_those_that_leave_it_refused(folder, tmp_path):
    (folder / "again.safetensors").symlink_to("applied/model.safetensors")
    (folder / "more").symlink_to("applied")
    fastload.pack(folder, tmp_path / "a.zip")

    for name in ("again.safetensors", "more/model.safetensors", "applied/model.safetensors"):
        assert fastload.open(tmp_path / "a.zip", member=name)["w"].tolist() == [1, 2]

    (folder / "out").symlink_to("/etc/passwd")
    with pytest.raises(FormatError, match="'out' is a symbolic link that leaves the folder"):
        fastload.pack(folder, tmp_path / "b.zip")
    assert not (tmp_path / "b.zip").exists()


def test_a_link_to_a_folder_around_it_is_refused(folder, tmp_path):
    (folder / "applied" / "loop").symlink_to(".")

    with pytest.raises(FormatError, match="'applied/loop' is a symbolic link to a folder that it lies in"):
        fastload.pack(folder, tmp_path / "a.zip")


def test_a_broken_link_is_refused(folder, tmp_path):
    (folder / "gone").symlink_to("nothing")

    with pytest.raises((FormatError, FileNotFoundError)):
        fastload.pack(folder, tmp_path / "a.zip")


def test_an_archive_is_not_packed_into_itself(folder):
    (folder / "a.zip").write_bytes(b"old")

    with pytest.raises(FormatError, match=r"'a\.zip' is the archive that is to be written"):
        fastload.pack(folder, folder / "a.zip", overwrite=True)


def test_pipes_are_refused(folder, tmp_path):
    os.mkfifo(folder / "pipe")

    with pytest.raises(UnsupportedError, match="'pipe' is a device, pipe or socket"):
        fastload.pack(folder, tmp_path / "a.zip")


def test_a_program_with_nothing_to_run_is_refused(folder, tmp_path):
    with pytest.raises(UnsupportedError, match="nothing to run"):
        fastload.pack(folder, tmp_path / "a.pyz")
    (folder / "__main__.py").write_text("")
    fastload.pack(folder, tmp_path / "a.pyz")
    with pytest.raises(UnsupportedError, match=r"has a __main__\.py already"):
        fastload.pack(folder, tmp_path / "b.pyz", main="applied.cli:main")


@pytest.mark.parametrize("main", ["", "x", "a:b:c", "a;b:c", "1a:b", "a.:b", "a:b()"])
def test_odd_functions_are_refused(folder, tmp_path, main):
    with pytest.raises(ValueError, match="package"):
        fastload.pack(folder, tmp_path / "a.pyz", main=main)


def test_compiled_modules_are_told_of(folder, tmp_path):
    (folder / "applied" / "fast.so").write_bytes(b"\x7fELF")

    assert fastload.pack(folder, tmp_path / "a.zip").not_importable == ("applied/fast.so",)


def test_the_current_folder_is_packed(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder)

    fastload.pack(".", "../a.zip")

    assert fastload.open("../a.zip", member="applied/model.safetensors")["w"].tolist() == [1, 2]
