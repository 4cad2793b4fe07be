"""The README's Python runs as printed, from top to bottom."""

import re
from pathlib import Path

from fastload import saving
from fastload.formats.writing import dtype_matrix

README = Path(__file__).resolve().parents[1] / "README.md"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_python_blocks_run_in_an_empty_folder(tmp_path, monkeypatch):
    text = README.read_text(encoding="utf-8")
    blocks = list(BLOCK.finditer(text))
    monkeypatch.chdir(tmp_path)

    namespace = {}
    for block in blocks:
        lines_above = "\n" * text.count("\n", 0, block.start(1))  # so that a traceback names the README's line
        exec(compile(lines_above + block[1], README, "exec"), namespace)

    assert len(blocks) >= 5


def test_the_table_of_what_each_format_holds():
    head, *rows = dtype_matrix({writer.name: writer.module for writer in saving.WRITERS})

    lines = README.read_text(encoding="utf-8").splitlines()
    start = lines.index("| " + " | ".join(head) + " |") + 2
    shown = {}
    for line in lines[start : lines.index("", start)]:
        dtypes, *cells = line.strip("| ").split(" | ")
        shown.update({dtype: cells for dtype in dtypes.split(", ")})

    assert shown == {dtype: cells for dtype, *cells in rows}
