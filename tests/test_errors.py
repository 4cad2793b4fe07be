"""Errors: one hierarchy that doubles as builtins; a message says what, where and what to do next, on one line."""

import copy
import pickle

import pytest

import fastload
from builders import safetensors_raw, smallest_file, tensor, torch_file, torch_pickle, torch_zip
from fastload import (
    FastloadError,
    FormatError,
    LimitError,
    TensorNotFoundError,
    TruncatedError,
    UnknownFormatError,
    UnsupportedError,
)

HTML = b"<!DOCTYPE html>\n<html><head><title>404 Not Found</title></head></html>" + b" " * 100
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943\nsize 4070000000\n"


def error_of(file, **options):
    """The error that opening *file* and reading all of it raises."""
    with pytest.raises(FastloadError) as caught:
        list(fastload.open(file, **options).values())
    return caught.value


def not_found(name):
    with pytest.raises(TensorNotFoundError) as caught:
        fastload.open(smallest_file("safetensors")).entry(name)
    return caught.value


def test_the_hierarchy_doubles_as_builtins():
    assert issubclass(FormatError, (FastloadError, ValueError)) and issubclass(FormatError, ValueError)
    assert all(issubclass(error, FormatError) for error in (UnknownFormatError, TruncatedError, LimitError))
    assert issubclass(UnsupportedError, FastloadError) and issubclass(UnsupportedError, NotImplementedError)
    assert issubclass(TensorNotFoundError, FastloadError) and issubclass(TensorNotFoundError, KeyError)
    assert not issubclass(UnsupportedError, FormatError)


def test_a_cut_download_says_how_much_is_there_and_how_much_was_promised(tmp_path):
    header = '{"w":{"dtype":"F32","shape":[1000],"data_offsets":[0,4000]}}'
    (tmp_path / "model.safetensors").write_bytes(safetensors_raw(header, bytes(1000)))

    error = error_of(tmp_path / "model.safetensors")

    assert isinstance(error, TruncatedError)
    assert "model.safetensors" in str(error) and "download" in str(error)


def test_a_cut_zip_says_so(tmp_path):
    (tmp_path / "model.pt").write_bytes(smallest_file("pytorch-zip")[:-30])

    error = error_of(tmp_path / "model.pt")

    assert isinstance(error, TruncatedError) and "download" in str(error)


@pytest.mark.parametrize(
    ("file", "words"),
    [
        (HTML, "(?i)html"),
        (HTML.lower().lstrip(b"<!doctype html>"), "(?i)html|format"),
        (LFS, "(?i)lfs"),
        (b"", "(?i)empty"),
    ],
    ids=["html", "html without a doctype", "git lfs pointer", "empty"],
)
def test_what_people_download_by_mistake_is_recognised_by_name(file, words, tmp_path):
    (tmp_path / "model.safetensors").write_bytes(file)

    error = error_of(tmp_path / "model.safetensors")

    assert isinstance(error, FormatError)
    with pytest.raises(FastloadError, match=words):
        raise error


@pytest.mark.parametrize(
    "file",
    [b"\x89PNG\r\n\x1a\n" + bytes(100), b"hello, world\n" * 9, b"\xff" * 4096, bytes(4096), b"\x1f\x8b" + bytes(99)],
)
def test_bytes_of_no_known_format_are_a_format_error(file):
    assert isinstance(error_of(file), (FormatError, UnsupportedError))


def test_a_format_error_knows_its_path_offset_and_format(tmp_path):
    (tmp_path / "bad.safetensors").write_bytes(
        safetensors_raw('{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,9]}}', bytes(9))
    )

    error = error_of(tmp_path / "bad.safetensors")

    assert error.path == str(tmp_path / "bad.safetensors") and error.format == "safetensors"
    assert error.offset is None or 8 <= error.offset < 100
    assert str(tmp_path / "bad.safetensors") in str(error) and "'w'" in str(error)


def test_an_error_of_a_pickle_points_into_it():
    stream, records = torch_pickle({"w": tensor("float32", (2,), [1, 2])})
    file = torch_zip(stream[:-1] + b"\xff", records)

    error = error_of(file)

    assert error.format == "pytorch-zip" and error.path is None
    assert file[error.offset] == 0xFF and f"{error.offset:#x}" in str(error)


def test_a_tensor_is_named_where_it_is_at_fault():
    file = torch_file({"layer": {"weight": tensor("float32", (9,), bytes(8))}})

    assert "layer.weight" in str(error_of(file)) or "data/0" in str(error_of(file))


ERRORS = [
    lambda: error_of(safetensors_raw("{}", b"x")),
    lambda: error_of(b""),
    lambda: error_of(smallest_file("pytorch-zip")[:-1]),
    lambda: error_of(safetensors_raw("{}", length=2**40)),
    lambda: error_of(torch_file({"w": tensor("float32", (2,), [1, 2])}, deflate=["data/0"]), allow_copy=False),
    lambda: not_found("v"),
]


@pytest.mark.parametrize("make", ERRORS)
@pytest.mark.parametrize("again", [copy.copy, lambda error: pickle.loads(pickle.dumps(error))], ids=["copy", "pickle"])
def test_errors_survive_copy_and_pickle(make, again):
    error = make()

    twin = again(error)

    assert type(twin) is type(error) and str(twin) == str(error)
    assert (twin.path, twin.offset, twin.format) == (error.path, error.offset, error.format)


@pytest.mark.parametrize("make", ERRORS)
def test_a_message_is_one_line_of_plain_text(make):
    message = str(make())

    assert message and "\n" not in message and message.isprintable()
    assert "invalid data" not in message.lower()


@pytest.mark.parametrize(
    "name", ["a\nb", "\x1b[31mred", "\u202egnp.exe", "\u2066isolate", "\x00", "\x9b2J", "\ud800"], ids=ascii
)  # fmt: skip
def test_control_and_bidi_characters_of_a_name_are_escaped_in_messages(name):
    file = torch_file({name: tensor("float32", (9,), bytes(8))})

    for message in (str(error_of(file)), str(not_found(name))):
        assert message.isprintable()
        message.encode()


def test_a_name_of_any_length_does_not_flood_the_message():
    name = "n" * 1_000_000

    assert len(str(error_of(torch_file({name: tensor("float32", (9,), bytes(8))})))) < 10_000


def test_a_path_with_control_characters_is_escaped(tmp_path):
    path = tmp_path / "a\nb\x1b.safetensors"
    path.write_bytes(b"\xff" * 100)

    assert str(error_of(path)).isprintable()
    assert error_of(path).path == str(path)
