"""The command line as a whole: exit statuses, one line on standard error, closed pipes, and what it imports."""

import os
import subprocess
import sys

import pytest

import fastload
from builders import safetensors_file, smallest_file
from fastload import opening
from fastload.cli import VERBS, main

COMMAND = [sys.executable, "-X", "dev", "-m", "fastload"]


@pytest.fixture
def small(tmp_path):
    path = tmp_path / "m.safetensors"
    path.write_bytes(smallest_file("safetensors"))
    return str(path)


@pytest.fixture
def long(tmp_path):
    """A file whose listing is longer than a pipe holds."""
    path = tmp_path / "long.safetensors"
    path.write_bytes(safetensors_file({f"layers.{n}.weight": ("U8", (1,), b"\0") for n in range(5000)}))
    return str(path)


def with_closed_pipe(arguments, **environment):
    """The finished process of a command whose standard output nobody reads."""
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    reading, writing = os.pipe()
    os.close(reading)
    try:
        return subprocess.run([*COMMAND, *arguments], stdout=writing, stderr=subprocess.PIPE, env=kept | environment)
    finally:
        os.close(writing)


def test_version_goes_to_standard_output(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr() == (f"fastload {fastload.__version__}\n", "")


def test_version_needs_neither_rich_nor_ml_dtypes():
    code = "import sys; from fastload.cli import main; main(['--version']); print(*sys.modules)"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert not {"rich", "ml_dtypes", "torch"} & {name.split(".")[0] for name in done.stdout.split()}


def test_a_verb_brings_its_own_room_alone(small):
    code = f"import sys; from fastload.cli import main; main(['ls', {small!r}]); print(*sys.modules)"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    rooms = {*VERBS.keys() - {"ls"}, "completion", "writing"}
    brought = set(done.stdout.split())
    assert not {f"fastload.cli.{room}" for room in rooms} & brought
    assert not {"fastload.converting", "fastload.saving", "fastload.plan.adapt", "fastload.statistics"} & brought


def test_the_module_runs_as_the_command(small):
    done = subprocess.run([*COMMAND, "verify", small], capture_output=True, text=True)

    assert (done.returncode, done.stdout, done.stderr) == (0, "ok: 1 tensor, safetensors, 8 B\n", "")


def test_without_a_verb_help_goes_to_standard_error(capsys):
    status = main([])

    out, err = capsys.readouterr()
    assert status == 2 and out == "" and err.startswith("usage: fastload ") and all(verb in err for verb in VERBS)


@pytest.mark.parametrize(
    "arguments", [["frob"], ["ls"], ["verify"], ["ls", "--sort", "colour", "x"], ["ls", "--js", "x"]]
)
def test_wrong_usage_is_status_2_and_told_in_one_line(arguments, capsys):
    status = main(arguments)

    out, err = capsys.readouterr()
    assert status == 2 and out == ""
    assert err.startswith("fastload: ") and err.endswith(" --help\n") and err.count("\n") == 1


def test_arguments_of_wrong_usage_are_escaped(capsys):
    assert main(["verify", "one", "two\x1b[31m\u202e"]) == 2
    assert capsys.readouterr().err.startswith("fastload: unrecognized arguments: two\\x1b[31m\\u202e; see")


@pytest.mark.parametrize("verb", [[], *([verb] for verb in VERBS)], ids=lambda verb: " ".join(verb) or "fastload")
def test_help_states_the_exit_statuses_and_ends_in_an_example(verb, capsys):
    assert main([*verb, "--help"]) == 0

    out, err = capsys.readouterr()
    assert err == "" and "Exit status: 0 " in out
    assert out.splitlines()[-1].startswith(f"example: fastload {' '.join(verb)}")


NEEDED = {  # what a verb wants beside the file
    "convert": ["never.pt"],
    "diff": ["never.pt"],
    "embed": ["--c", "-o", "never.c"],
    "merge": ["-o", "never.pt"],
    "pack": ["-o", "never.zip"],
    "report": ["-o", "never.html"],
    "show": ["w"],
    "split": ["never"],
}


@pytest.mark.parametrize("verb", VERBS)
def test_a_missing_file_is_status_3_and_one_line(verb, tmp_path, capsys):
    path = str(tmp_path / "no\nsuch\u202e file")

    assert main([verb, path, *NEEDED.get(verb, [])]) == 3
    assert capsys.readouterr() == ("", f"fastload: {tmp_path}/no\\nsuch\\u202e file: No such file or directory\n")


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize(
    "content", [b"", b"<html>", b"not a checkpoint", smallest_file("safetensors")[:-1], b"PK\3\4", b"\x80\2N."]
)
def test_a_bad_file_is_status_3_and_one_line_with_its_name(verb, content, tmp_path, capsys):
    path = tmp_path / "bad\x07.pt"
    path.write_bytes(content)

    status = main([verb, str(path), *NEEDED.get(verb, [])])

    out, err = capsys.readouterr()
    assert status == 3 and out == ""
    assert err.startswith(f"fastload: {tmp_path}/bad\\x07.pt: ") and err.count("\n") == 1 and err[:-1].isprintable()


@pytest.mark.parametrize("verb", sorted(VERBS.keys() - {"doctor", "pack"}))
def test_a_folder_is_status_3_and_one_line(verb, tmp_path, capsys):
    assert main([verb, str(tmp_path), *NEEDED.get(verb, [])]) == 3
    assert capsys.readouterr().err.startswith(f"fastload: {tmp_path}: is a folder")


WRITING = {  # what makes a verb write to `made`
    "bench": ["{}", "--against", "none", "--repeat", "1", "--plot", "made.svg"],
    "convert": ["{}", "made.pt"],
    "embed": ["{}", "--c", "-o", "made.c"],
    "merge": ["{}", "-o", "made.pt"],
    "pack": [".", "-o", "../made.zip"],
    "report": ["{}", "-o", "made.html"],
    "split": ["{}", "made"],
    "verify": ["{}", "--write-sums", "made.json"],
}


@pytest.mark.parametrize("verb", WRITING)
def test_what_is_there_already_is_status_2_and_says_the_flag(verb, small, tmp_path, monkeypatch, capsys):
    (tmp_path / "in").mkdir()
    monkeypatch.chdir(tmp_path / "in")
    line = [verb, *(argument.format(small) for argument in WRITING[verb])]
    assert main(line) == 0
    capsys.readouterr()

    assert main(line) == 2

    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and "already: give --overwrite to replace" in err
    assert main([*line, "--overwrite"]) == 0


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (["convert", "{}", "folder"], "the suffix '' tells no format: give --format, one of"),
        (["merge", "{}", "-o", "m.xyz"], "the suffix '.xyz' tells no format: give --format, one of"),
        (["convert", "{}", "folder", "--format", "npz", "--overwrite"], "is a folder, and no file"),
        (["ls", "{}", "--subtree", "nothing"], "nothing"),
        (["ls", "{}", "--rename", "a=b"], "no tensor 'a'"),
        (["show", "{}", "v"], "no tensor 'v'"),
        (["pack", "folder", "-o", "a.pyz"], "FOLDER has no __main__.py, so that there is nothing to run: give --main"),
        (["pack", "program", "-o", "a.pyz", "--main", "a:b"], "FOLDER has a __main__.py, which --main would replace"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_another_command_would_do_is_status_2(line, said, small, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "program").mkdir()
    (tmp_path / "program" / "__main__.py").touch()

    assert main([argument.format(small) for argument in line]) == 2

    out, err = capsys.readouterr()
    assert out == "" and said in err


def test_a_package_that_is_missing_is_status_2_and_named(small, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "blake3", None)

    assert main(["verify", small, "--write-sums", f"{tmp_path}/s.json", "--algorithm", "blake3"]) == 2

    assert capsys.readouterr().err.endswith(
        "checksums by blake3 need a package that is not installed: pip install blake3\n"
    )


UNBUFFERED = [{}, {"PYTHONUNBUFFERED": "1"}]


@pytest.mark.parametrize("environment", UNBUFFERED, ids=["buffered", "unbuffered"])
@pytest.mark.parametrize("arguments", [["ls"], ["ls", "--json"], ["ls", "--collapse"], ["verify"]], ids=" ".join)
def test_a_pipe_that_was_closed_is_met_with_silence(arguments, environment, long):
    done = with_closed_pipe([*arguments, long], **environment)

    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize("environment", UNBUFFERED, ids=["buffered", "unbuffered"])
@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["ls", "--help"]], ids=" ".join)
def test_help_into_a_closed_pipe_is_met_with_silence(arguments, environment):
    done = with_closed_pipe(arguments, **environment)

    assert done.stderr == b"" and done.returncode in {0, 141}  # argparse forgives an unbuffered stream


def test_a_pipe_may_close_after_the_first_line(long):
    with subprocess.Popen([*COMMAND, "ls", long], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        first = process.stdout.readline()
        process.stdout.close()
        talk = process.stderr.read()

    assert first.split() == [b"name", b"dtype", b"shape", b"size"]
    assert (process.returncode, talk) == (141, b"")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="only Linux has /dev/full")
def test_a_full_disk_is_one_line(small):
    with open("/dev/full", "wb") as full:
        done = subprocess.run([*COMMAND, "ls", small], stdout=full, stderr=subprocess.PIPE)

    assert (done.returncode, done.stderr) == (3, b"fastload: No space left on device\n")


def test_no_standard_output_at_all_is_no_error(small):
    line = f"exec {sys.executable} -m fastload ls {small} >&-"

    assert subprocess.run(["sh", "-c", line], stderr=subprocess.PIPE).returncode == 0


def test_an_interrupt_is_status_130_without_a_word(small, monkeypatch, capsys):
    def interrupted(path):
        raise KeyboardInterrupt

    monkeypatch.setattr(opening, "open", interrupted)

    assert main(["ls", small]) == 130
    assert capsys.readouterr() == ("", "")


def test_a_terminal_of_ascii_gets_numbers_for_letters(tmp_path):
    path = tmp_path / "m.safetensors"
    path.write_bytes(safetensors_file({"层": ("U8", (1,), b"\0")}))

    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([*COMMAND, "ls", path], capture_output=True, text=True, env=environment)

    assert done.returncode == 0 and "\\u5c42" in done.stdout
