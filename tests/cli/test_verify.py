"""`fastload verify`: one line or one JSON object, and no tensor data read."""

import json

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
