"""`fastload verify`: one line or one JSON object, and no tensor data read."""

import json

import numpy as np
import pytest

from builders import SMALLEST, safetensors_file, smallest_file, tensor, torch_file
from fastload.cli import main


@pytest.mark.parametrize("format_name", SMALLEST)
def test_a_sound_file_is_one_line(format_name, tmp_path, capsys):
    (tmp_path / "m").write_bytes(smallest_file(format_name))

    assert main(["verify", str(tmp_path / "m")]) == 0
    assert capsys.readouterr() == (f"ok: 1 tensor, {format_name}, 8 B\n", "")


def test_an_empty_checkpoint_is_sound(tmp_path, capsys):
    (tmp_path / "m").write_bytes(safetensors_file({}))

    assert main(["verify", str(tmp_path / "m")]) == 0
    assert capsys.readouterr().out == "ok: 0 tensors, safetensors, 0 B\n"


def test_json_has_the_numbers(tmp_path, capsys):
    path = tmp_path / "m.pt"
    path.write_bytes(torch_file({"w": tensor("float16", (2, 3), range(6)), "b": tensor("int64", (), [1])}))

    assert main(["verify", "--json", str(path)]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "schema": "fastload.verify/1", "path": str(path), "ok": True, "format": "pytorch-zip",
        "tensors": 2, "parameters": 7, "nbytes": 20, "values": None, "sums": None, "error": None,
    }  # fmt: skip


def test_json_of_a_bad_file_says_what_and_where(tmp_path, capsys):
    path = tmp_path / "m.safetensors"
    path.write_bytes(smallest_file("safetensors")[:-1])

    status = main(["verify", "--json", str(path)])

    out, err = capsys.readouterr()
    found = json.loads(out)
    assert status == 3 and err.count("\n") == 1
    assert (found["schema"], found["path"], found["ok"]) == ("fastload.verify/1", str(path), False)
    assert found["format"] == "safetensors" and found["error"]["type"] == "TruncatedError"
    assert found["error"]["message"] in err


def test_json_of_a_missing_file_is_an_object_too(tmp_path, capsys):
    assert main(["verify", "--json", str(tmp_path / "none")]) == 3

    found = json.loads(capsys.readouterr().out)
    assert found["error"]["type"] == "FileNotFoundError" and found["format"] is None


def test_a_wrong_local_header_is_found_though_opening_does_not_look(tmp_path, capsys):
    file = bytearray(torch_file({"w": tensor("float32", (2,), [1, 2])}))
    at = file.index(b"archive/data/0") - 30  # the local header, which stands before the directory
    file[at : at + 4] = b"XXXX"
    (tmp_path / "m.pt").write_bytes(file)

    assert main(["ls", str(tmp_path / "m.pt")]) == 0
    assert main(["verify", str(tmp_path / "m.pt")]) == 3
    assert capsys.readouterr().err.startswith(f"fastload: {tmp_path}/m.pt: ")
    assert main(["ls", "--json", str(tmp_path / "m.pt")]) == 3  # offsets are among what it says
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(f"fastload: {tmp_path}/m.pt: ") and err.count("\n") == 1


# Values and checksums.


@pytest.fixture
def path(tmp_path):
    floats = np.array([1, np.nan, np.inf, 2], "<f4").tobytes()
    file = safetensors_file({"w\x1b": ("F32", (4,), floats), "v": ("F32", (4,), bytes(16)), "i": ("I32", (4,), floats)})
    (tmp_path / "m.safetensors").write_bytes(file)
    return tmp_path / "m.safetensors"


def test_values_that_are_not_finite_are_status_1(path, capsys):
    assert main(["verify", str(path), "--values"]) == 1

    out = capsys.readouterr().out
    assert out == "w\\x1b: 1 NaN, 1 infinite\nnot ok: 3 tensors, safetensors, 48 B; 1 NaN, 1 infinite\n"


def test_finite_values_are_status_0(tmp_path, capsys):
    (tmp_path / "m").write_bytes(smallest_file("safetensors"))

    assert main(["verify", str(tmp_path / "m"), "--values"]) == 0
    assert capsys.readouterr().out == "ok: 1 tensor, safetensors, 8 B; 0 NaN, 0 infinite\n"


def test_sums_are_written_and_agree(path, tmp_path, capsys):
    assert main(["verify", str(path), "--write-sums", f"{tmp_path}/s.json"]) == 0
    assert main(["verify", str(path), "--sums", f"{tmp_path}/s.json"]) == 0

    told = "sha256 of 3 tensors and 1 file"
    out = capsys.readouterr().out.splitlines()
    assert out[0].endswith(f"{told} written to {tmp_path}/s.json") and out[1].endswith(f"{told}: 0 differences")
    assert out[0].startswith("ok: ") and out[1].startswith("ok: ")


def test_a_flipped_bit_is_status_1_and_named(path, tmp_path, capsys):
    assert main(["verify", str(path), "--write-sums", f"{tmp_path}/s.json"]) == 0
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)

    assert main(["verify", str(path), "--sums", f"{tmp_path}/s.json", "--json"]) == 1

    out = capsys.readouterr().out
    found = json.loads(out[out.index("{") :])
    assert not found["ok"]
    assert [(one["kind"], one["name"], one["what"]) for one in found["sums"]["differences"]] == [
        ("file", "m.safetensors", "sum"),
        ("tensor", "i", "sum"),
    ]


def test_sums_are_not_replaced_unless_that_is_said(path, tmp_path, capsys):
    line = ["verify", str(path), "--write-sums", f"{tmp_path}/s.json"]
    assert main(line) == 0

    assert main(line) == 2
    assert "is there already" in capsys.readouterr().err
    assert main([*line, "--overwrite"]) == 0


@pytest.mark.parametrize(
    "flags", [["--algorithm", "sha256"], ["--overwrite"], ["--sums", "a", "--write-sums", "b"], ["--algorithm", "md5"]]
)
def test_flags_that_do_not_go_together_are_wrong_usage(flags, path, capsys):
    assert main(["verify", str(path), *flags]) == 2
    assert capsys.readouterr().err.endswith("; see fastload verify --help\n")


def test_sums_that_are_none_are_a_bad_file_that_is_named(path, capsys):
    assert main(["verify", str(path), "--sums", str(path)]) == 3
    assert capsys.readouterr().err.startswith(f"fastload: {path}: is no file of checksums")


@pytest.mark.parametrize("flags", [[], ["--overwrite"]])
def test_sums_never_take_the_place_of_what_they_are_of(flags, tmp_path, capsys):
    path = tmp_path / "m.safetensors"
    path.write_bytes(smallest_file("safetensors"))

    assert main(["verify", str(path), "--write-sums", str(path), *flags]) == 2
    assert path.read_bytes() == smallest_file("safetensors")
