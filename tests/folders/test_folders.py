"""What a folder is opened as: its index, its set of files, its single one; else an error lists what there is."""

import json
import os
import re

import pytest

import fastload
import fastload.folders
from builders import safetensors_file, smallest_file, torch_file


@pytest.fixture
def folder(tmp_path):
    """Writes files of the folder by name, and returns its path."""

    def written(**files):
        for name, data in files.items():
            (tmp_path / name).write_bytes(data)
        return tmp_path

    written.path = tmp_path
    return written


SAFETENSORS = smallest_file("safetensors")
TORCH = smallest_file("pytorch-zip")


def index(file, name="w"):
    return json.dumps({"metadata": {}, "weight_map": {name: file}}).encode()


def test_one_index_wins_over_other_checkpoints(folder):
    files = {"a.safetensors": SAFETENSORS, "b.pt": TORCH, "model.safetensors.index.json": index("a.safetensors")}

    assert fastload.open(folder(**files)).format == "sharded-safetensors"


def test_of_two_indexes_of_different_formats_that_for_safetensors_wins(folder):
    files = {
        "a.bin": TORCH,
        "b.safetensors": SAFETENSORS,
        "a.index.json": index("a.bin"),
        "b.index.json": index("b.safetensors"),
        "flax.msgpack.index.json": index("flax.msgpack"),
    }

    assert fastload.open(folder(**files)).format == "sharded-safetensors"


def test_of_two_indexes_that_for_pytorch_wins_over_those_of_other_libraries(folder):
    files = {"a.bin": TORCH, "a.h5.index.json": index("a.h5"), "b.bin.index.json": index("a.bin")}

    assert fastload.open(folder(**files)).format == "sharded-pytorch-zip"


def test_two_indexes_of_one_format_are_listed(folder):
    files = {"a.safetensors": SAFETENSORS, "x.index.json": index("a.safetensors")}
    files["x.fp16.index.json"] = index("a.safetensors")

    with pytest.raises(fastload.UnknownFormatError, match=r"'x\.fp16\.index\.json', 'x\.index\.json'"):
        fastload.open(folder(**files))


def test_an_index_json_of_another_kind_is_passed_over_and_a_broken_one_is_not(folder):
    files = {"model.safetensors": SAFETENSORS, "search.index.json": b'{"documents": []}'}
    assert fastload.open(folder(**files))["w"].tolist() == [1, 2]

    with pytest.raises(fastload.FormatError, match=r"search\.index\.json: is no sound JSON"):
        fastload.open(folder(**{"search.index.json": b'{"weight_map": '}))


@pytest.mark.parametrize("only", [SAFETENSORS, TORCH])
def test_a_single_checkpoint_is_opened_among_files_of_other_kinds(folder, only):
    files = {
        "weights": only,
        "config.json": b"{}",
        "README.md": b"# model\n",
        "vocab.txt": b"a\nb\n",
        ".hidden.pt": TORCH,
    }
    checkpoint = fastload.open(folder(**files))

    assert checkpoint["w"].tolist() == [1, 2]
    assert checkpoint.path == str(folder.path / "weights")


def test_several_checkpoints_are_listed(folder):
    with pytest.raises(fastload.UnknownFormatError, match=r"2 checkpoints.*'a\.pt', 'b\.safetensors'") as caught:
        fastload.open(folder(**{"a.pt": TORCH, "b.safetensors": SAFETENSORS, "c.txt": b"text"}))
    assert caught.value.path == str(folder.path)


@pytest.mark.parametrize("unfinished", [b"", b"version https://git-lfs.github.com/spec/v1\n", SAFETENSORS[:5]])
def test_an_unfinished_download_does_not_leave_another_file_as_the_single_one(folder, unfinished):
    with pytest.raises(fastload.UnknownFormatError, match=r"'model\.safetensors', 'optimizer\.pt'"):
        fastload.open(folder(**{"model.safetensors": unfinished, "optimizer.pt": TORCH}))


def test_the_error_of_a_single_unfinished_checkpoint_is_its_own(folder):
    with pytest.raises(fastload.FormatError, match=r"model\.safetensors: is empty"):
        fastload.open(folder(**{"model.safetensors": b""}))


def test_a_folder_without_checkpoints_says_what_it_holds(folder):
    with pytest.raises(fastload.UnknownFormatError, match="no checkpoint among its 0 files"):
        fastload.open(folder())
    with pytest.raises(fastload.UnknownFormatError, match=r"'model\.gguf' is a GGUF file"):
        fastload.open(folder(**{"model.gguf": b"GGUF" + bytes(100), "notes": b"\xff\xff"}))


def of_set(count, numbers, *, stem="model", ending=".safetensors"):
    return {
        f"{stem}-{n:05}-of-{count:05}{ending}": safetensors_file({f"w{n}": ("U8", (1,), bytes([n]))}) for n in numbers
    }


@pytest.mark.parametrize("numbers", [(1, 2, 3), (0, 1, 2)])
@pytest.mark.parametrize("ending", [".safetensors", ".fp16.safetensors", ""])
def test_a_set_is_read_whether_it_counts_from_0_or_1(folder, numbers, ending):
    checkpoint = fastload.open(folder(**of_set(3, numbers, ending=ending), **{"optimizer.pt": TORCH}))

    assert [int(array[0]) for array in checkpoint.values()] == list(numbers)


@pytest.mark.parametrize(("numbers", "lost"), [((1, 3), 2), ((2, 3), 1), ((0, 2), 1), ((1, 2), 3)])
def test_a_missing_member_of_a_set_is_named(folder, numbers, lost):
    with pytest.raises(fastload.FormatError, match=re.escape(f"lacks 'model-{lost:05}-of-00003.safetensors'")):
        fastload.open(folder(**of_set(3, numbers)))


def test_a_set_that_claims_very_many_members_costs_nothing(folder):
    with pytest.raises(fastload.FormatError, match="and 999,999,997 more"):
        fastload.open(folder(**{"a-1-of-999999999.pt": TORCH}))


def test_a_member_beyond_the_count_of_its_set_is_an_error(folder):
    with pytest.raises(fastload.FormatError, match=r"'model-00004-of-00003\.safetensors' is not one of"):
        fastload.open(folder(**of_set(3, (1, 2, 3, 4))))


def test_two_sets_are_listed_and_a_set_of_other_files_is_no_set(folder):
    files = of_set(1, (1,)) | {"train-00000-of-00001.parquet": b"PAR1" + bytes(50)}
    assert list(fastload.open(folder(**files))) == ["w1"]

    with pytest.raises(fastload.UnknownFormatError, match=r"'ema-…-of-00001\.safetensors', 'model-"):
        fastload.open(folder(**of_set(1, (1,), stem="ema")))


def test_a_folder_of_very_many_files_is_not_probed(folder, monkeypatch):
    folder(**{"a.pt": TORCH, "b": b"text"})
    monkeypatch.setattr(fastload.folders.folder, "MAX_PROBED_FILES", 2)
    assert fastload.open(folder.path)["w"].tolist() == [1, 2]

    monkeypatch.setattr(fastload.folders.folder, "MAX_PROBED_FILES", 1)
    with pytest.raises(fastload.LimitError, match="name the checkpoint"):
        fastload.open(folder.path)


def test_an_unpacked_torch_file_is_refused_by_name(folder):
    (folder.path / "data").mkdir()

    with pytest.raises(fastload.UnsupportedError, match="zip -0"):
        fastload.open(folder(**{"data.pkl": b"\x80\x02}."}))


def test_pipes_and_links_in_a_folder_are_left_alone(folder):
    os.mkfifo(folder.path / "pipe.safetensors")
    os.symlink("nowhere", folder.path / "dangling.pt")
    os.symlink("loop", folder.path / "loop.pt")

    assert fastload.open(folder(**{"model.pt": torch_file({})})).path == str(folder.path / "model.pt")
