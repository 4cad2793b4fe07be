"""Real programs with a model inside, made by their tools and started as a user would: the model is mapped in place."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

import fastload
from frozen.making import make, start

SPARSE_BYTES = 3 << 30  # beyond what code can reach


def pyinstaller(application, folder, *flags):
    """Freeze the program; of fastload itself, no flag says anything."""
    command = ("PyInstaller", "--noconfirm", "--log-level=ERROR", "--distpath", folder / "dist", "--specpath", folder)
    options = ("--workpath", folder / "work", *flags, application / "program.py")
    make(*command, *options, folder=folder, PYTHONPATH=str(application))
    return folder / "dist" / "program"


@pytest.fixture(scope="session")
def onefile(application, tmp_path_factory):
    """The program as one file, without a model."""
    return pyinstaller(application, tmp_path_factory.mktemp("onefile"), "--onefile")


def test_pyinstaller_in_a_folder(application, tmp_path, measure):
    folder = pyinstaller(application, tmp_path, "--onedir", "--collect-data", "appmodel")

    model = folder / "_internal" / "appmodel" / "model.safetensors"
    measure("PyInstaller onedir, data file", [folder / "program"], "resource", holder=model, kind="file")


def test_elf_section_in_a_pyinstaller_onefile(model, onefile, tmp_path, measure):
    program = shutil.copy(onefile, tmp_path / "program")

    make("fastload", "embed", model, "--into", program, folder=tmp_path)

    make("fastload", "verify", program, "--member", "weights", folder=tmp_path)
    measure(
        "PyInstaller onefile, ELF section", [program], "embedded", holder=program, kind="embedded", without=[onefile]
    )


def test_a_data_file_in_a_pyinstaller_onefile_is_unpacked_at_every_start(application, onefile, tmp_path, measure):
    """What a section spares its users, for comparison."""
    program = pyinstaller(application, tmp_path, "--onefile", "--collect-data", "appmodel")

    measure("PyInstaller onefile, data file", [program], "resource", kind="file", without=[onefile])


def test_elf_section_in_a_program_in_a_folder(model, application, tmp_path, measure):
    folder = pyinstaller(application, tmp_path, "--onedir")

    make("fastload", "embed", model, "--into", folder / "program", folder=tmp_path)

    program = folder / "program"
    measure("PyInstaller onedir, ELF section", [program], "embedded", holder=program, kind="embedded")


def test_cx_freeze(application, tmp_path, measure):
    command = ("cx_Freeze", "build_exe", f"--build-exe={tmp_path / 'dist'}", "--packages=appmodel", "--silent")
    make(*command, f"--script={application / 'program.py'}", folder=application, PYTHONPATH=str(application))

    model = tmp_path / "dist" / "lib" / "appmodel" / "model.safetensors"
    measure("cx_Freeze, data file", [tmp_path / "dist" / "program"], "resource", holder=model, kind="file")


def test_archive_that_python_runs(application, tmp_path, measure):
    archive = tmp_path / "app.pyz"

    make("fastload", "pack", application, "-o", archive, "--main", "program:run", folder=tmp_path)

    subprocess.run(["unzip", "-tqq", archive], check=True)
    command = [sys.executable, archive]
    measure("zipapp (fastload pack)", command, "resource", holder=archive, kind="member")


def test_archive_that_zipapp_has_made(application, tmp_path, measure):
    archive = tmp_path / "app.pyz"
    shutil.copytree(application, tmp_path / "app", ignore=shutil.ignore_patterns("__pycache__"))

    make("zipapp", "app", "-o", archive, "-m", "program:run", "-p", sys.executable, folder=tmp_path)

    measure("zipapp (python -m zipapp)", [archive], "resource", holder=archive, kind="member")


def test_c_extension(model, application, tmp_path, measure):
    make("fastload", "embed", model, "--c", "-o", tmp_path / "_weights.c", "--build", folder=tmp_path)

    command = [sys.executable, application / "program.py"]
    holder = tmp_path / "_weights.abi3.so"
    measure("C extension", command, "extension", holder=holder, kind="buffer", PYTHONPATH=str(tmp_path))


@pytest.mark.slow
def test_c_extension_of_more_than_code_can_reach(application, tmp_path, measure):
    model = tmp_path / "large.safetensors"
    with open(model, "wb") as file:  # a sparse file: its zeros take no room
        header = b'{"noise":{"dtype":"U8","shape":[%d],"data_offsets":[0,%d]},' % (SPARSE_BYTES, SPARSE_BYTES)
        header += b'"last":{"dtype":"F32","shape":[3],"data_offsets":[%d,%d]}}' % (SPARSE_BYTES, SPARSE_BYTES + 12)
        header += b" " * (-len(header) % 8)
        file.write(len(header).to_bytes(8, "little") + header)
        file.seek(SPARSE_BYTES, os.SEEK_CUR)
        file.write(np.array([1, 2, 3], "<f4").tobytes())

    try:
        make("fastload", "embed", model, "--c", "-o", tmp_path / "_weights.c", "--build", folder=tmp_path)

        command = [sys.executable, application / "program.py"]
        holder = tmp_path / "_weights.abi3.so"
        measure("C extension, 3 GiB", command, "extension", holder=holder, kind="buffer", PYTHONPATH=str(tmp_path))
    finally:
        (tmp_path / "_weights.abi3.so").unlink(missing_ok=True)
        model.unlink()


def test_program_is_the_same_after_a_model_was_removed(model, onefile, tmp_path):
    program = shutil.copy(onefile, tmp_path / "program")

    fastload.embed_into(model, program)
    fastload.embed_into(model, program, "second")
    fastload.remove_embedded(program)
    fastload.remove_embedded(program, "second")

    assert fastload.list_embedded(program) == []
    assert abs(program.stat().st_size - onefile.stat().st_size) < 4096
    start([program], "none", tmp_path / "temporary")
