"""The flags of all verbs: one that two verbs have means the same in both. And completion, which knows them all."""

import argparse
import shutil
import subprocess
import sys

import pytest

from fastload.cli import VERBS, main, whole_parser
from fastload.cli.verify import ALGORITHMS
from fastload.sums import ALGORITHMS as MADE

(VERB_PARSERS,) = [a for a in whole_parser()._actions if isinstance(a, argparse._SubParsersAction)]
ACTIONS = [(verb, action) for verb, parser in VERB_PARSERS.choices.items() for action in parser._actions]
FLAGS = sorted({flag for _, action in ACTIONS for flag in action.option_strings})


def meaning(verb, action):
    """What a flag is, but for the schema that bears the verb's name, and the orders that only one verb knows."""
    about = action.help.replace(f"fastload.{verb}/", "fastload.VERB/")
    return action.option_strings, about, action.dest, action.type, action.metavar, action.nargs, type(action)


@pytest.mark.parametrize("flag", FLAGS)
def test_a_flag_means_the_same_everywhere(flag):
    # bench prints a table of what took minutes, and writes the JSON beside it.
    alike = [(verb, action) for verb, action in ACTIONS if (verb, flag) != ("bench", "--json")]
    meanings = [meaning(verb, action) for verb, action in alike if flag in action.option_strings]

    assert all(other == meanings[0] for other in meanings)


def test_a_checkpoint_that_is_read_is_described_the_same_everywhere():
    told = {
        action.help for verb, action in ACTIONS if action.dest == "path" and verb not in {"embed", "pack", "doctor"}
    }

    assert told == {"a checkpoint: a file, a folder, an index of shards"}


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_json_with_a_versioned_schema(verb):
    (action,) = [action for name, action in ACTIONS if name == verb and "--json" in action.option_strings]

    assert f"schema fastload.{verb}/1" in action.help


@pytest.mark.parametrize("verb", VERBS)
def test_help_fits_a_terminal(verb, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")

    assert main([verb, "--help"]) == 0

    assert max(map(len, capsys.readouterr().out.splitlines())) <= 100  # an example is one line, to be copied


@pytest.mark.parametrize("threads", ["0", "-1", "two", "1001", "9" * 5000, "²"])
def test_a_number_of_threads_that_is_none_is_wrong_usage(threads, capsys):
    assert main(["stats", f"--threads={threads}", "m.pt"]) == 2
    assert "is not a number from 1 to 1000" in capsys.readouterr().err


def test_the_algorithms_that_are_offered_are_those_there_are():
    assert set(ALGORITHMS) == MADE.keys()


# Completion.


@pytest.fixture
def script(capsys):
    def script(shell):
        assert main(["--print-completion", shell]) == 0
        return capsys.readouterr().out

    return script


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_a_completion_names_every_verb_and_flag(shell, script):
    text = script(shell)

    assert [word for word in VERBS if word not in text] == []
    assert [flag for flag in FLAGS if flag.lstrip("-") not in text] == []


# Calls the function that bash would, for the last word, and prints what it offers.
ASK = r"""
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
function=$(complete -p fastload | sed 's/.*-F \([^ ]*\).*/\1/')
"$function" fastload "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
printf '%s\n' "${COMPREPLY[@]}"
"""


def completed(script, *words):
    """What bash offers for the last of *words*."""
    line = ["bash", "-c", f"{script}\n{ASK}", "bash", *words]
    return subprocess.run(line, capture_output=True, text=True, check=True).stdout.split()


@pytest.mark.skipif(shutil.which("bash") is None, reason="this system has no bash")
def test_bash_completes_verbs_flags_choices_and_files(script, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.pt").touch()
    text = script("bash")

    assert completed(text, "fastload", "st") == ["stats"]
    assert completed(text, "fastload", "verify", "--write") == ["--write-sums"]
    assert completed(text, "fastload", "verify", "--algorithm", "bl") == ["blake3"]
    assert completed(text, "fastload", "ls", "mod") == ["model.pt"]
    assert completed(text, "fastload", "merge", "-o", "mod") == ["model.pt"]


def test_without_shtab_completion_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "shtab", None)

    assert main(["--print-completion", "bash"]) == 2
    assert capsys.readouterr() == (
        "",
        "fastload: completion needs the package shtab: pip install 'fastload-ckpt[completion]'\n",
    )


def test_a_shell_that_is_not_known_is_wrong_usage(capsys):
    assert main(["--print-completion", "fish"]) == 2
    assert "invalid choice: 'fish'" in capsys.readouterr().err
