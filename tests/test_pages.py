"""The README and the pages of the documentation: what they show runs, from top to bottom, and prints what they say."""

import html
import importlib.util
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from fastload import cli, saving
from fastload.formats.writing import dtype_matrix

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "SECURITY.md", *sorted(DOCS.rglob("*.md"))]

BLOCK = re.compile(
    r"(?:^ *<!-- needs (?P<needs>\w+) -->\n)?"  # a package that tests can do without: the block is only compiled then
    r"^(?P<indent> *)```(?P<language>[^\n]*)\n(?P<text>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)
SHOWN_ONLY = {"text", "{.python}"}  # the last takes in the file of samples, which is run before all else
STATUS = re.compile(r"# exit status (\d)")
GAP = "…\n"  # a line that stands for any lines of output


@pytest.fixture(scope="module")
def sample_files(tmp_path_factory):
    """The folder of files that the pages open."""
    folder = tmp_path_factory.mktemp("samples")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        runpy.run_path(str(DOCS / "sample_files.py"))
    return folder


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_what_a_page_shows_runs(page, sample_files, tmp_path, monkeypatch, capsys):
    text = page.read_text(encoding="utf-8")
    folder = shutil.copytree(sample_files, tmp_path / "page")
    monkeypatch.chdir(folder)

    namespace = {"__name__": "page"}
    for block in BLOCK.finditer(text):
        line = text.count("\n", 0, block.start("text"))
        language = block["language"]
        shown = textwrap.dedent(block["text"])
        if language == "python":
            code = compile("\n" * line + shown, page, "exec")  # so that a traceback names the page's line
            if block["needs"] is None or importlib.util.find_spec(block["needs"]):
                exec(code, namespace)
        elif language == "console":
            for session in re.split(r"^(?=\$ )", shown, flags=re.MULTILINE)[1:]:
                check_session(session, capsys, f"{page}:{line}")
        elif language == "shell":
            check_commands(shown)
        else:
            assert language in SHOWN_ONLY, f"{page}:{line}: a block of which language?"


def check_session(session, capsys, place):
    """A command, and what it prints: all of it, but where a line is an ellipsis; or whatever it likes, if nothing."""
    command, _, output = session.removeprefix("$ ").partition("\n")
    program, *arguments = shlex.split(command, comments=True)
    if program == "python":
        done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
        status, printed, talk = done.returncode, done.stdout, done.stderr
    else:
        assert program == "fastload", f"{place}: {program} does not run in the tests: make it a block of shell"
        capsys.readouterr()
        status = cli.main(arguments)
        printed, talk = capsys.readouterr()
    expected = STATUS.search(command)
    assert status == int(expected[1] if expected else 0), f"{place}: {command}\n{printed}{talk}"
    if output.strip():
        pattern = "".join(r"(?:.*\n)*?" if line == GAP else re.escape(line) for line in output.splitlines(True))
        assert re.fullmatch(pattern, printed + talk), f"{place}: {command}\n{printed}{talk}"


def check_commands(shown):
    """Commands that tests do not start (`tests/frozen` does): those of fastload have arguments that it knows."""
    for line in shown.replace("\\\n", " ").splitlines():
        program, *arguments = shlex.split(line, comments=True) or [""]
        if program == "fastload":
            cli.whole_parser().parse_args(arguments)


def test_every_page_is_in_the_list_of_pages():
    listed = set(re.findall(r"[\w/-]+\.md", (ROOT / "mkdocs.yml").read_text(encoding="utf-8")))

    assert {page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")} == listed


def test_the_picture_of_ls_shows_what_it_prints(tmp_path, monkeypatch, capsys):
    picture = runpy.run_path(str(DOCS / "picture.py"))
    monkeypatch.chdir(tmp_path)
    picture["write_model"](Path("model.safetensors"))

    cli.main(shlex.split(picture["COMMAND"])[1:])

    texts = re.findall(r"<text[^>]*>(.*?)</text>", (DOCS / "ls.svg").read_text(encoding="utf-8"))
    assert set(capsys.readouterr().out.split()) <= set(html.unescape(" ".join(texts)).split())


def test_the_table_of_what_each_format_holds():
    head, *rows = dtype_matrix({writer.name: writer.module for writer in saving.WRITERS})

    lines = (DOCS / "reference" / "formats.md").read_text(encoding="utf-8").splitlines()
    start = lines.index("| " + " | ".join(head) + " |") + 2
    shown = {}
    for line in lines[start : lines.index("", start)]:
        dtypes, *cells = line.strip("| ").split(" | ")
        shown.update({dtype: cells for dtype in dtypes.split(", ")})

    assert shown == {dtype: cells for dtype, *cells in rows}
