"""Checkpoints that come with a package: of a folder, of the archive it was imported from, of a loader of bytes."""

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import io
import os
import sys
import zipfile

import pytest

import fastload
from builders import smallest_file
from fastload import MemberNotFoundError, UnsupportedError
from reading import mappings_of

DATA = smallest_file("safetensors")


@pytest.fixture(autouse=True)
def packages(tmp_path, monkeypatch):
    """A folder on the path of modules; what is imported from it is forgotten afterwards."""
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith("applied"):
            del sys.modules[name]


def make_package(folder, files=("model.safetensors",)):
    (folder / "applied" / "data").mkdir(parents=True)
    (folder / "applied" / "__init__.py").write_text("")
    (folder / "applied" / "data" / "__init__.py").write_text("raise RuntimeError('need not be imported')")
    for file in files:
        (folder / "applied" / "data" / file).write_bytes(DATA)


def make_archive(path, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in {
            "applied/__init__.py": b"",
            "applied/data/": b"",
            "applied/data/__init__.py": b"",
            "applied/data/model.safetensors": DATA,
        }.items():
            archive.writestr(name, data)


def test_a_file_of_a_package_is_mapped_and_the_package_not_imported(packages):
    make_package(packages)

    checkpoint = fastload.open_resource("applied.data", "model.safetensors", allow_copy=False)

    path = str(packages / "applied" / "data" / "model.safetensors")
    assert checkpoint.source == ("file", path, None)
    assert mappings_of(checkpoint["w"]) == {path}
    assert "applied.data" not in sys.modules


def test_a_module_says_where_it_lies_as_its_name_does(packages):
    make_package(packages)
    import applied

    by_module = fastload.open_resource(applied, "data/model.safetensors", rename={"w": "v"})

    assert by_module["v"].tolist() == [1, 2]
    (packages / "applied" / "single.py").write_text("")
    assert fastload.open_resource(importlib.import_module("applied.single"), "data/model.safetensors").keys() == {"w"}


def test_a_package_without_init_has_files_in_all_of_its_folders(packages, monkeypatch):
    for folder in ("one", "two"):
        (packages / folder / "applied_space").mkdir(parents=True)
        monkeypatch.syspath_prepend(packages / folder)
    (packages / "one" / "applied_space" / "m").write_bytes(DATA)

    assert fastload.open_resource("applied_space", "m")["w"].tolist() == [1, 2]


@pytest.mark.parametrize("how", ["by name", "imported", "as module"])
def test_a_stored_file_of_an_archive_is_mapped_in_place(packages, monkeypatch, how):
    archive = packages / "app.pyz"
    make_archive(archive)
    monkeypatch.syspath_prepend(archive)
    package = "applied.data" if how == "by name" else importlib.import_module("applied.data")

    checkpoint = fastload.open_resource("applied.data" if how == "imported" else package, "model.safetensors")

    assert checkpoint.source == ("member", str(archive), "applied/data/model.safetensors")
    assert mappings_of(checkpoint["w"]) == {str(archive)}


def test_a_package_within_a_folder_of_an_archive_has_its_files(packages, monkeypatch):
    with zipfile.ZipFile(packages / "a.zip", "w") as archive:
        archive.writestr("lib/applied_deep/__init__.py", b"")
        archive.writestr("lib/applied_deep/w/m", DATA)
    monkeypatch.syspath_prepend(packages / "a.zip" / "lib")

    checkpoint = fastload.open_resource("applied_deep", "w/m")

    assert checkpoint.source.member == "lib/applied_deep/w/m"


def test_a_deflated_file_of_an_archive_is_inflated_or_refused(packages, monkeypatch):
    make_archive(packages / "app.pyz", zipfile.ZIP_DEFLATED)
    monkeypatch.syspath_prepend(packages / "app.pyz")

    assert fastload.open_resource("applied.data", "model.safetensors").source.kind == "inflated"
    with pytest.raises(UnsupportedError, match="is compressed"):
        fastload.open_resource("applied.data", "model.safetensors", allow_copy=False)


class InMemory(importlib.abc.Loader):
    """Has its package in memory."""

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        pass


class Bytes(InMemory):
    """Has the files of its package there, too."""

    def get_data(self, path):
        if os.path.basename(path) != "model.safetensors":
            raise FileNotFoundError(path)
        return DATA


class Readers(InMemory):
    """Gives them by a reader of resources, and no other way."""

    def get_resource_reader(self, name):
        return self

    def open_resource(self, name):
        if name != "model.safetensors":
            raise FileNotFoundError(name)
        return io.BytesIO(DATA)


@pytest.mark.parametrize("loader", [Bytes, Readers])
@pytest.mark.parametrize("location", ["/nowhere/at/all", sys.executable])
def test_a_loader_that_gives_only_bytes_has_them_viewed(monkeypatch, loader, location):
    spec = importlib.machinery.ModuleSpec("applied_memory", loader(), is_package=True)
    spec.submodule_search_locations.append(os.path.join(location, "applied_memory"))
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "applied_memory", module)

    for package in (module, "applied_memory"):
        checkpoint = fastload.open_resource(package, "model.safetensors", allow_copy=False, include="w")

        assert checkpoint.source == ("resource", None, "applied_memory/model.safetensors")
        assert checkpoint["w"].tolist() == [1, 2]
    with pytest.raises(MemberNotFoundError, match=r"'applied_memory' has no file 'm\.pt'|no member"):
        fastload.open_resource(module, "m.pt")


class Compiled(InMemory, importlib.abc.MetaPathFinder):
    """Tells where a package lies only once that is imported, as compiled packages do that Nuitka has made."""

    def __init__(self, folder):
        self.folder = folder

    def find_spec(self, name, path, target=None):
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if name == "applied_compiled" else None

    def exec_module(self, module):
        module.__path__ = [str(self.folder)]


def test_a_package_that_tells_its_place_when_it_is_imported_has_its_files_mapped(packages, monkeypatch):
    (packages / "model.safetensors").write_bytes(DATA)
    monkeypatch.setattr(sys, "meta_path", [Compiled(packages), *sys.meta_path])

    for _ in range(2):  # the second time, it is loaded
        checkpoint = fastload.open_resource("applied_compiled", "model.safetensors")

        assert checkpoint.source == ("file", str(packages / "model.safetensors"), None)


INDEX = b'{"weight_map": {"w": "model.safetensors"}}'


@pytest.mark.parametrize("name", ["index.json", "weights/index.json", "weights", "weights/"])
def test_a_sharded_checkpoint_is_opened_by_its_index_or_folder(packages, monkeypatch, name):
    folder = "applied/data/weights" if "weights" in name else "applied/data"
    files = {"applied/__init__.py": b"", "applied/data/__init__.py": b""}
    files |= {f"{folder}/index.json": INDEX, f"{folder}/model.safetensors": DATA}
    (packages / "disk" / folder).mkdir(parents=True)
    with zipfile.ZipFile(packages / "app.pyz", "w") as archive:
        for path, data in files.items():
            (packages / "disk" / path).write_bytes(data)
            archive.writestr(path, data)

    for root, kinds in ((packages / "disk", {"file", "folder"}), (packages / "app.pyz", {"member"})):
        with monkeypatch.context() as patch:
            patch.syspath_prepend(root)
            checkpoint = fastload.open_resource("applied.data", name, allow_copy=False)
        assert checkpoint["w"].tolist() == [1, 2] and checkpoint.source.kind in kinds
        mapped = root if root.is_file() else root / folder / "model.safetensors"
        assert mappings_of(checkpoint["w"]) == {str(mapped)}
        for module in [module for module in sys.modules if module.startswith("applied")]:
            del sys.modules[module]


def test_a_file_that_is_not_there_is_told_with_near_names(packages):
    make_package(packages)

    with pytest.raises(
        MemberNotFoundError,
        match=r"package 'applied\.data' has no file 'model\.safetensor'; near: 'model\.safetensors'",
    ):
        fastload.open_resource("applied.data", "model.safetensor")


def test_a_package_that_is_not_there_is_told():
    with pytest.raises(ModuleNotFoundError, match="applied_nowhere"):
        fastload.open_resource("applied_nowhere", "m")


@pytest.mark.parametrize("name", ["", "/", "/etc/passwd", "../x", "a/../b", "a//b", "a//", "a\0b", "."])
def test_names_that_leave_the_package_are_refused(packages, name):
    make_package(packages)

    with pytest.raises(ValueError, match="is a path within its package"):
        fastload.open_resource("applied.data", name)
