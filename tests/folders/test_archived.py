"""Sharded checkpoints within archives: by their index or folder, each stored shard mapped where it lies."""

import contextlib
import json
import multiprocessing
import os
import zipfile

import numpy as np
import pytest

import fastload
from builders import safetensors_file, smallest_file, tensor, torch_file
from fastload import FormatError, LimitError, MemberNotFoundError, UnknownFormatError, UnsupportedError
from fastload.cli import main
from reading import mappings_of

STORED, DEFLATED = zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED
FIRST, SECOND = "model-00001-of-00002", "model-00002-of-00002"
ARRAYS = {"a.weight": np.arange(4, dtype="<f4"), "b.weight": np.arange(4, 7, dtype="<f4")}


def safetensors_of(names):
    return safetensors_file({name: ("F32", ARRAYS[name].shape, ARRAYS[name].tobytes()) for name in names})


def torch_of(names):
    return torch_file({name: tensor("float32", ARRAYS[name].shape, ARRAYS[name].tolist()) for name in names})


WRITERS = {"safetensors": (".safetensors", safetensors_of), "torch": (".bin", torch_of)}


def index_of(files, **more):
    return json.dumps({"weight_map": files, **more}).encode()


def shards(kind="safetensors"):
    """The files of a checkpoint of two shards, and the name of its index."""
    ending, write = WRITERS[kind]
    files = {f"{FIRST}{ending}": write(["a.weight"]), f"{SECOND}{ending}": write(["b.weight"])}
    said = {"b.weight": f"{SECOND}{ending}", "a.weight": f"{FIRST}{ending}"}
    return files | {f"model{ending}.index.json": index_of(said, metadata={"total_size": 28})}


def archive_of(path, files, compression=STORED, folder="app/weights/"):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("app/__init__.py", "")
        for name, data in files.items():
            method = compression(name) if callable(compression) else compression
            archive.writestr(folder + name, data, method)
    return path


@pytest.mark.parametrize("io", ["mmap", "read"])
@pytest.mark.parametrize("member", ["app/weights", "app/weights/", "app/weights/model{}.index.json"])
@pytest.mark.parametrize("kind", WRITERS)
def test_stored_shards_are_one_checkpoint_mapped_in_place(tmp_path, kind, member, io):
    path = archive_of(tmp_path / "a.pyz", shards(kind))
    member = member.format(WRITERS[kind][0])

    checkpoint = fastload.open(path, member=member, io=io, allow_copy=False)

    assert list(checkpoint) == ["b.weight", "a.weight"]
    assert all(checkpoint[name].tolist() == array.tolist() for name, array in ARRAYS.items())
    assert checkpoint.source == ("member", str(path), member) and checkpoint.path == str(path)
    assert checkpoint.metadata == {"total_size": 28}
    assert all(entry.zero_copy for entry in checkpoint.entries())
    assert len({entry.storage for entry in checkpoint.entries()}) == 2
    if io == "mmap":
        assert all(mappings_of(array) == {str(path)} for array in checkpoint.values())
    checkpoint.verify()
    assert checkpoint.still_valid()


def test_a_set_without_an_index_and_a_single_file_are_found_in_their_folder(tmp_path):
    files = shards()
    del files["model.safetensors.index.json"]
    two = archive_of(tmp_path / "two.zip", files)
    one = archive_of(tmp_path / "one.zip", {"m.safetensors": safetensors_of(ARRAYS), "README": b"of it"})

    for path in (two, one):
        checkpoint = fastload.open(path, member="app/weights", allow_copy=False)
        assert list(checkpoint) == ["a.weight", "b.weight"]
        assert checkpoint.source.kind == "member"


def test_an_archive_says_how_to_open_the_shards_in_it(tmp_path):
    files = shards()
    path = archive_of(tmp_path / "a.zip", files)
    with pytest.raises(UnsupportedError, match=r"open it with member='app/weights/model\.safetensors\.index\.json'"):
        fastload.open(path)

    del files["model.safetensors.index.json"]
    with pytest.raises(UnsupportedError, match="open it with member='app/weights'"):
        fastload.open(archive_of(tmp_path / "b.zip", files))


def test_an_index_may_lie_at_the_top_of_an_archive(tmp_path):
    path = archive_of(tmp_path / "a.zip", shards(), folder="")

    assert list(fastload.open(path, member="model.safetensors.index.json")) == ["b.weight", "a.weight"]
    data = path.read_bytes()
    viewed = fastload.open(data, member="model.safetensors.index.json", allow_copy=False)
    assert viewed.source == ("member", None, "model.safetensors.index.json")
    assert np.shares_memory(viewed["b.weight"], np.frombuffer(data, np.uint8))


def test_deflated_shards_are_inflated_or_refused(tmp_path):
    path = archive_of(tmp_path / "a.zip", shards(), DEFLATED)

    for member in ("app/weights", "app/weights/model.safetensors.index.json"):
        checkpoint = fastload.open(path, member=member)
        assert checkpoint.source == ("inflated", str(path), member)
        assert checkpoint["a.weight"].tolist() == [0, 1, 2, 3]
        with pytest.raises(UnsupportedError, match=rf"{FIRST}.*is compressed|{SECOND}.*is compressed"):
            fastload.open(path, member=member, allow_copy=False)
    with pytest.raises(LimitError, match="max_inflated"):
        fastload.open(path, member="app/weights", max_inflated=10)


def test_a_deflated_index_of_stored_shards_is_no_copy_of_tensors(tmp_path):
    path = archive_of(tmp_path / "a.zip", shards(), lambda name: DEFLATED if name.endswith(".json") else STORED)

    for member in ("app/weights", "app/weights/model.safetensors.index.json"):
        checkpoint = fastload.open(path, member=member, allow_copy=False)
        assert checkpoint.source.kind == "member"
        assert mappings_of(checkpoint["a.weight"]) == {str(path)}


@pytest.mark.parametrize(
    "name", ["../secret", "/secret", "sub/../../secret", "..\\secret", "C:secret", "", "a\0b", "./m", "sub//m"]
)
def test_names_that_leave_the_folder_are_refused(tmp_path, name):
    files = {"model.safetensors.index.json": index_of({"w": name}), "../secret": smallest_file("safetensors")}
    path = archive_of(tmp_path / "a.zip", files)

    for member in ("app/weights/", "app/weights/model.safetensors.index.json"):
        with pytest.raises(FormatError, match=r"index says that it holds 'w'") as caught:
            fastload.open(path, member=member)
        assert not isinstance(caught.value, UnknownFormatError) and caught.value.path == str(path)


def test_a_shard_may_lie_in_a_folder_below(tmp_path):
    files = {"model.safetensors.index.json": index_of({"w": "sub/m"}), "sub/m": smallest_file("safetensors")}

    assert fastload.open(archive_of(tmp_path / "a.zip", files), member="app/weights")["w"].tolist() == [1, 2]


def test_a_shard_that_is_not_there_is_told_with_its_tensors(tmp_path):
    files = shards()
    del files[f"{SECOND}.safetensors"]
    path = archive_of(tmp_path / "a.zip", files)

    with pytest.raises(FormatError, match=rf"'{SECOND}.safetensors' is missing.*holds 'b.weight'"):
        fastload.open(path, member="app/weights")


def test_errors_of_a_shard_tell_its_name(tmp_path):
    files = shards() | {f"{SECOND}.safetensors": safetensors_of(["a.weight"]), f"{FIRST}.safetensors": b"<html>" * 9}
    checkpoint = fastload.open(archive_of(tmp_path / "a.zip", files), member="app/weights")

    with pytest.raises(FormatError, match=f"member 'app/weights/{FIRST}.safetensors': .*HTML"):
        checkpoint["a.weight"]
    with pytest.raises(FormatError, match=r"the index 'app/weights/model\.safetensors\.index\.json' promises"):
        checkpoint["b.weight"]


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"README": b"nothing here"}, "is a folder, with no checkpoint among its 1 files"),
        ({"a.safetensors": safetensors_of(["a.weight"]), "b.bin": torch_of(["b.weight"])}, "holds 2 checkpoints"),
        ({".metadata": b"\x80\2}.", "__0_0.distcp": b"x"}, "is a folder of torch.distributed.checkpoint, which"),
        ({"data.pkl": b"x", "data/0": b"x"}, "is a PyTorch file that was unpacked"),
    ],
    ids=["nothing", "two", "distributed", "unpacked"],
)
def test_folders_that_are_no_one_checkpoint_say_why(tmp_path, files, said):
    path = archive_of(tmp_path / "a.zip", files)

    with pytest.raises((UnknownFormatError, UnsupportedError), match=f"member 'app/weights': {said}"):
        fastload.open(path, member="app/weights")


def test_a_folder_that_is_not_there_is_no_member(tmp_path):
    path = archive_of(tmp_path / "a.zip", shards())

    for member in ("app/weight", "app/weight/", "weights/", "/", "app//"):
        with pytest.raises(MemberNotFoundError):
            fastload.open(path, member=member)


def value_of(ref):
    return np.asarray(ref).tolist()


def test_references_and_plans_and_copies_work_as_of_files(tmp_path):
    path = archive_of(tmp_path / "a.pyz", shards())
    checkpoint = fastload.open(path, member="app/weights", remap=[(r"\.weight$", "")])

    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(value_of, (checkpoint.ref("b"),)) == [4, 5, 6]
    assert fastload.load(path, member="app/weights")["a.weight"].tolist() == [0, 1, 2, 3]
    fastload.save(checkpoint, tmp_path / "m.safetensors")
    assert fastload.open(tmp_path / "m.safetensors")["b"].tolist() == [4, 5, 6]


def test_a_replaced_archive_is_noticed(tmp_path):
    path = archive_of(tmp_path / "a.pyz", shards())
    checkpoint = fastload.open(path, member="app/weights", io="read")

    os.replace(archive_of(tmp_path / "b.pyz", shards() | {"more": b""}), path)

    assert not checkpoint.still_valid()


@pytest.mark.parametrize("member", ["app/weights", "app/weights/model.safetensors.index.json"])
def test_a_packed_folder_is_opened_by_the_command_line(tmp_path, capsys, member):
    (tmp_path / "tree" / "app" / "weights").mkdir(parents=True)
    for name, data in shards().items():
        (tmp_path / "tree" / "app" / "weights" / name).write_bytes(data)
    path = f"{tmp_path}/a.zip"
    assert main(["pack", f"{tmp_path}/tree", "-o", path]) == 0

    assert main(["verify", path, "--member", member]) == 0
    assert main(["ls", path, "--member", member]) == 0

    assert "sharded-safetensors, 2 tensors" in capsys.readouterr().out
    assert main(["convert", path, f"{tmp_path}/m.pt", "--member", member, "--cast", "float16"]) == 0
    assert main(["diff", path, f"{tmp_path}/m.pt", "--member", member, "--cast", "float16"]) == 0
    assert main(["split", path, f"{tmp_path}/shards", "--member", member]) == 0
    assert fastload.open(f"{tmp_path}/m.pt")["b.weight"].tolist() == [4, 5, 6]
    assert fastload.open(f"{tmp_path}/shards").keys() == ARRAYS.keys()


def test_every_prefix_of_an_archive_is_refused(tmp_path):
    whole = archive_of(tmp_path / "a.zip", shards()).read_bytes()

    for end in range(1, len(whole)):
        with pytest.raises((FormatError, MemberNotFoundError)):
            fastload.open(whole[:end], member="app/weights")


def test_mutations_of_an_archive_are_read_or_refused(tmp_path):
    whole = archive_of(tmp_path / "a.zip", shards()).read_bytes()

    for place in range(len(whole)):
        data = bytearray(whole)
        data[place] ^= 0x41
        with contextlib.suppress(fastload.FastloadError):
            for array in fastload.open(bytes(data), member="app/weights").values():
                array.tobytes()
