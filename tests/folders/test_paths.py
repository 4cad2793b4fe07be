"""Names of files that a checkpoint gives: they stay inside its folder, and nothing is opened to find out."""

import os
import pathlib

import pytest

import fastload
from fastload.folders.paths import inside


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "model" / "sub").mkdir(parents=True)
    (tmp_path / "model" / "a.bin").write_bytes(b"inside")
    (tmp_path / "model" / "sub" / "b.bin").write_bytes(b"inside")
    (tmp_path / "secret").write_bytes(b"outside")
    return str(tmp_path / "model")


@pytest.mark.parametrize("name", ["a.bin", "sub/b.bin"])
def test_files_in_the_folder_and_in_its_sub_folders_are_found(folder, name):
    assert inside(folder, name) == os.path.join(folder, name)


@pytest.mark.parametrize("name", ["", "\0", "a.bin\0", "a.bin\0/../../secret"])
def test_empty_names_and_nul_are_refused(folder, name):
    with pytest.raises(fastload.FormatError, match="no name of a file"):
        inside(folder, name)


@pytest.mark.parametrize(
    "name", ["../secret", "sub/../../secret", "sub/../a.bin", "..", "./a.bin", "sub//b.bin", "sub/"]
)
def test_dots_and_empty_parts_are_refused(folder, name):
    with pytest.raises(fastload.FormatError, match="plainly"):
        inside(folder, name)


@pytest.mark.parametrize("name", ["/etc/passwd", "//host/share", "C:/a.bin", "c:a.bin", "C:"])
def test_absolute_paths_and_drives_are_refused(folder, name):
    with pytest.raises(fastload.FormatError, match="absolute"):
        inside(folder, name)


@pytest.mark.parametrize("name", ["..\\secret", "sub\\b.bin", "\\\\host\\share", "C:\\a.bin"])
def test_backslashes_are_refused_even_where_they_are_plain_characters(folder, name):
    with pytest.raises(fastload.FormatError, match="backslash"):
        inside(folder, name)


def test_a_fifo_is_refused_without_waiting_for_a_writer(folder):
    os.mkfifo(os.path.join(folder, "pipe"))

    with pytest.raises(fastload.FormatError, match="pipe or socket"):
        inside(folder, "pipe")


def test_a_link_to_a_device_is_refused(folder):
    os.symlink("/dev/zero", os.path.join(folder, "zero"))

    with pytest.raises(fastload.FormatError, match="device"):
        inside(folder, "zero")


def test_a_folder_is_refused(folder):
    with pytest.raises(fastload.FormatError, match="is a folder"):
        inside(folder, "sub")


@pytest.mark.parametrize("name", ["nowhere", "nowhere/a.bin", "sub/nowhere"])
def test_a_missing_file_is_reported_by_name(folder, name):
    with pytest.raises(fastload.FormatError, match=f"{name!r} is missing"):
        inside(folder, name)


@pytest.mark.parametrize("name", ["a" * 300, "\ud800", "a.bin/b"])
def test_names_that_the_system_refuses_are_our_error(folder, name):
    with pytest.raises(fastload.FormatError, match="cannot be found"):
        inside(folder, name)


def test_a_link_that_the_folder_itself_lists_may_lead_out_of_it(folder):
    os.symlink("../secret", os.path.join(folder, "linked.bin"))

    assert pathlib.Path(inside(folder, "linked.bin")).read_bytes() == b"outside"


def test_a_link_to_nothing_and_one_to_itself_are_refused(folder):
    os.symlink("nowhere", os.path.join(folder, "dangling"))
    os.symlink("loop", os.path.join(folder, "loop"))

    with pytest.raises(fastload.FormatError, match="link to nothing"):
        inside(folder, "dangling")
    with pytest.raises(fastload.FormatError, match="'loop'"):
        inside(folder, "loop")


def test_a_linked_sub_folder_must_stay_inside(folder, tmp_path):
    (tmp_path / "model-2").mkdir()
    (tmp_path / "model-2" / "b.bin").write_bytes(b"outside")
    os.symlink("..", os.path.join(folder, "up"))
    os.symlink("../model-2", os.path.join(folder, "beside"))  # whose path begins with that of the folder
    os.symlink("sub", os.path.join(folder, "same"))

    assert inside(folder, "same/b.bin") == os.path.join(folder, "same/b.bin")
    for name in ("up/secret", "beside/b.bin"):
        with pytest.raises(fastload.FormatError, match="symbolic link"):
            inside(folder, name)


def test_a_link_within_a_sub_folder_must_stay_inside(folder):
    os.symlink("../../secret", os.path.join(folder, "sub", "out.bin"))
    os.symlink("../a.bin", os.path.join(folder, "sub", "in.bin"))

    assert pathlib.Path(inside(folder, "sub/in.bin")).read_bytes() == b"inside"
    with pytest.raises(fastload.FormatError, match="symbolic link"):
        inside(folder, "sub/out.bin")


def test_the_folder_may_be_a_link_itself_or_the_current_one(folder, tmp_path, monkeypatch):
    os.symlink(folder, tmp_path / "link")
    monkeypatch.chdir(folder)

    assert inside(str(tmp_path / "link"), "sub/b.bin") == str(tmp_path / "link" / "sub" / "b.bin")
    assert inside("", "sub/b.bin") == "sub/b.bin"
