"""Damaged files of every layout that is read: each gives its tensors or a FastloadError. `make fuzz` does many more."""

import warnings

import pytest

import fastload
from builders import FOLDERS, SMALLEST, WRAPPED
from fastload.formats import CONTAINERS, FORMATS
from fuzz import Fuzzer
from reading import read_all

MUTATIONS = 40  # of each layout, which are more than fifty


@pytest.fixture(scope="module")
def fuzzer():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = Fuzzer()
    yield made
    made.folder.cleanup()


def test_every_format_has_a_smallest_file():
    assert {format.NAME for format in FORMATS} == set(SMALLEST)
    assert {container.NAME for container in CONTAINERS} == set(WRAPPED)


def test_every_layout_is_read_while_it_is_whole(fuzzer):
    for layout in fuzzer.layouts:
        assert read_all(fuzzer.sources[layout.name] or layout.files[""]), layout.name


@pytest.mark.parametrize("name", FOLDERS)
def test_smallest_folders_are_read(name, tmp_path):
    for file, raw in FOLDERS[name]().items():
        (tmp_path / file).write_bytes(raw)

    assert fastload.open(tmp_path)["w"].tolist() == [1, 2]


def test_damaged_files_of_every_layout(fuzzer):
    for layout in fuzzer.layouts:
        for number in range(MUTATIONS):
            fuzzer.check(layout, number)

    assert not fuzzer.findings, "\n".join(fuzzer.findings[:5])
    assert fuzzer.counts["read"] and fuzzer.counts["refused"]
