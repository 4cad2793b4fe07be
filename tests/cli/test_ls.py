"""`fastload ls`: the table, its totals, its order, its JSON, and its looks on a terminal."""

import json
import os
import re
import subprocess
import sys
import time

import pytest

from builders import Tensor, safetensors_file, safetensors_raw, storage, tensor, torch_file
from fastload.cli import main
from fastload.cli.document import MAX_DEPTH, MAX_SIZE, VALUE_SIZE, jsonable
from fastload.cli.table import width
from fastload.errors import LimitError
from pickles import Call, Global

ESCAPE = "\x1b"


@pytest.fixture
def ls(tmp_path, capsys):
    """Run `ls` on the bytes of a file, and return what it printed."""

    def run(file, *arguments):
        path = tmp_path / "m.bin"
        path.write_bytes(file)
        status = main(["ls", *arguments, str(path)])
        out, err = capsys.readouterr()
        assert (status, err) == (0, "")
        return out.replace(str(path), "PATH")

    return run


SIMPLE = {
    "model.embed.weight": ("F32", (1024, 1024), bytes(4 << 20)),
    "model.layers.10.w": ("F16", (2, 3), bytes(12)),
    "model.layers.9.w": ("F16", (2, 3), bytes(12)),
    "steps": ("I64", (), bytes(8)),
}


def test_the_table_and_its_totals(ls):
    assert ls(safetensors_file(SIMPLE)) == (
        "name                dtype    shape             size\n"
        "model.embed.weight  float32  (1024, 1024)  4.00 MiB\n"
        "model.layers.10.w   float16  (2, 3)            12 B\n"
        "model.layers.9.w    float16  (2, 3)            12 B\n"
        "steps               int64    ()                 8 B\n"
        "\n"
        "PATH: safetensors, 4 tensors, 1,048,589 parameters, 4.00 MiB\n"
        "  float32   1 tensor  1,048,576 parameters  4.00 MiB\n"
        "  float16  2 tensors         12 parameters      24 B\n"
        "  int64     1 tensor           1 parameter       8 B\n"
    )


def test_collapse_folds_layers_into_one_row(ls):
    lines = ls(safetensors_file(SIMPLE), "--collapse").splitlines()

    assert lines[2] == "model.layers.{9..10}.w × 2  float16  (2, 3)            24 B"
    assert len(lines) == 4 + 5


def test_an_empty_checkpoint_has_only_its_totals(ls):
    assert ls(safetensors_file({})) == "PATH: safetensors, 0 tensors, 0 parameters, 0 B\n"


@pytest.mark.parametrize(
    ("key", "names"),
    [
        ("name", ["a.2", "a.10", "b", "c"]),  # numbers by their value
        ("size", ["c", "a.10", "a.2", "b"]),
        ("offset", ["b", "c", "a.10", "a.2"]),
        ("dtype", ["c", "a.2", "b", "a.10"]),  # bool, int16, uint16, uint8
    ],
)
def test_rows_and_json_sort_alike(key, names, ls):
    header = (
        '{"a.10":{"dtype":"U8","shape":[4],"data_offsets":[7,11]},"b":{"dtype":"U16","shape":[0],"data_offsets":[0,0]},'
        '"c":{"dtype":"BOOL","shape":[7],"data_offsets":[0,7]},"a.2":{"dtype":"I16","shape":[1],"data_offsets":[11,13]}}'
    )
    file = safetensors_raw(header, bytes(13))

    rows = [line.split()[0] for line in ls(file, "--sort", key).splitlines()[1:5]]
    tensors = [entry["name"] for entry in json.loads(ls(file, "--sort", key, "--json"))["tensors"]]

    assert rows == tensors == names


def test_what_has_no_offset_comes_last(ls):
    root = {name: tensor("uint8", (1,), [n]) for n, name in enumerate("abc")}

    out = ls(torch_file(root, deflate=["data/0"]), "--sort", "offset")

    assert [line.split()[0] for line in out.splitlines()[1:4]] == ["b", "c", "a"]


def test_collapsed_rows_sort_by_the_size_of_all(ls):
    tensors = {"one": ("U8", (3,), bytes(3)), **{f"a.{n}": ("U8", (1,), b"\0") for n in range(4)}}

    out = ls(safetensors_file(tensors), "--collapse", "--sort", "size")

    assert [line.split()[0] for line in out.splitlines()[1:3]] == ["a.{0..3}", "one"]


def test_copies_and_kinds_are_marked(ls):
    hooks = Call(Global("collections", "OrderedDict"), ())
    parameter = Call(Global("torch._utils", "_rebuild_parameter"), (tensor("float32", (1,), [1]), True, hooks))
    root = {"p": parameter, "w": tensor("float32", (1,), [1]), "v": tensor("float32", (1,), [2])}

    lines = ls(torch_file(root, deflate=["data/1"])).splitlines()

    assert [line.split()[5:] for line in lines[1:4]] == [["parameter"], ["copy"], []]


def test_shared_storages_are_counted_once_beside_the_sum(ls):
    held = storage("float32", range(256))
    root = {
        "embed": tensor("float32", (256,), held),
        "head": tensor("float32", (256,), held),
        "broad": Tensor(storage("float32", [1]), (64, 4), (0, 0)),
    }

    assert "3 tensors, 768 parameters, 3.00 KiB in tensors, 1.00 KiB in storages" in ls(torch_file(root))
    totals = json.loads(ls(torch_file(root), "--json"))["totals"]
    assert (totals["nbytes"], totals["storage_nbytes"]) == (3072, 1028)


def test_a_storage_is_counted_whole_and_once(ls):
    held = storage("uint8", bytes(100))
    root = {"a": tensor("uint8", (60,), held), "b": tensor("uint8", (10,), held, offset=50)}

    totals = json.loads(ls(torch_file(root, deflate=["data/0"]), "--json"))["totals"]

    assert (totals["nbytes"], totals["storage_nbytes"]) == (70, 100)


def test_names_are_shown_with_control_and_bidi_characters_escaped(ls):
    out = ls(safetensors_file({"a\u202eb\n\x1b[31m": ("U8", (1,), b"\0")}))

    assert "a\\u202eb\\n\\x1b[31m" in out
    assert all(line.isprintable() for line in out.splitlines())


def test_a_path_is_escaped_too(tmp_path, capsys):
    path = tmp_path / "m\u202e.bin"
    path.write_bytes(safetensors_file({}))

    assert main(["ls", str(path)]) == 0
    assert "m\\u202e.bin: safetensors" in capsys.readouterr().out


def test_wide_and_combining_names_line_up(ls):
    tensors = {name: ("U8", (1,), b"\0") for name in ("层.权重", "e\u0301te\u0301", "plain")}

    lines = ls(safetensors_file(tensors)).splitlines()[:4]

    assert len({width(line[: line.index("uint8")]) for line in lines[1:]}) == 1
    assert len({width(line) for line in lines}) == 1


def test_names_are_never_cut_where_nobody_watches(ls):
    name = "x" * 5000

    assert name in ls(safetensors_file({name: ("U8", (1,), b"\0")}))


# JSON.

KEYS = ["name", "key_path", "dtype", "shape", "strides", "offset", "nbytes", "storage", "zero_copy", "kind"]


def test_json_has_a_schema_and_every_field(ls):
    found = json.loads(ls(safetensors_file(SIMPLE, metadata={"licence": "CC0"}), "--json"))

    assert list(found) == ["schema", "path", "format", "metadata", "totals", "tensors"]
    assert (found["schema"], found["path"], found["format"]) == ("fastload.ls/1", "PATH", "safetensors")
    assert found["metadata"] == {"licence": "CC0"}
    assert found["totals"] == {
        "tensors": 4, "parameters": 1048589, "nbytes": 4194336, "storage_nbytes": 4194336,
        "dtypes": {
            "float32": {"tensors": 1, "parameters": 1048576, "nbytes": 4194304},
            "float16": {"tensors": 2, "parameters": 12, "nbytes": 24},
            "int64": {"tensors": 1, "parameters": 1, "nbytes": 8},
        },
    }  # fmt: skip
    assert [list(entry) for entry in found["tensors"]] == [KEYS] * 4
    entry = found["tensors"][1]
    assert entry["shape"] == [2, 3] and entry["strides"] == [6, 2] and entry["nbytes"] == 12 and entry["zero_copy"]


def test_json_keeps_names_as_they_are_and_keys_typed(ls):
    one = tensor("uint8", (1,), [1])

    out = ls(torch_file({"a": {1: one, "\u202e\ud800\x1b": one}}), "--json")

    assert out.isascii()
    found = json.loads(out)["tensors"]
    assert [(entry["name"], entry["key_path"]) for entry in found] == [
        ("a.1", ["a", 1]),
        ("a.\u202e\ud800\x1b", ["a", "\u202e\ud800\x1b"]),
    ]


def test_json_with_collapse_has_the_rows_beside_the_tensors(ls):
    found = json.loads(ls(safetensors_file(SIMPLE), "--json", "--collapse"))

    assert len(found["tensors"]) == 4
    assert found["rows"][1] == {
        "name": "model.layers.{9..10}.w", "count": 2, "dtype": "float16", "shape": [2, 3], "nbytes": 24,
        "zero_copy": True, "kind": "tensor",
    }  # fmt: skip


def test_json_of_no_tensors_is_an_empty_list(ls):
    assert json.loads(ls(safetensors_file({}), "--json"))["tensors"] == []


def test_json_says_what_is_no_view(ls):
    (entry,) = json.loads(ls(torch_file({"w": tensor("uint8", (1,), [1])}, deflate=["data/0"]), "--json"))["tensors"]

    assert entry["offset"] is None and entry["zero_copy"] is False


def test_metadata_of_a_pickle_becomes_json(ls):
    state = {
        "_metadata": {"": {"version": 1}, "odd": {1: b"\0", "n": float("nan"), "big": 1 << 9000, "t": (None, True)}}
    }
    root = Call(Global("collections", "OrderedDict"), (), state)

    found = json.loads(ls(torch_file(root), "--json"))["metadata"]["_metadata"]

    assert found[""] == {"version": 1}
    assert found["odd"] == [[1, "b'\\x00'"], ["n", "nan"], ["big", hex(1 << 9000)], ["t", [None, True]]]


def test_what_refers_to_itself_is_not_written_for_ever():
    loop = []
    loop.append(loop)

    with pytest.raises(LimitError, match="deep"):
        jsonable(loop)


def test_what_repeats_itself_is_not_written_for_ever():
    bomb = ["x" * 1000]
    for _ in range(60):
        bomb = [bomb, bomb]

    with pytest.raises(LimitError, match="characters"):
        jsonable(bomb)


@pytest.mark.parametrize(("size", "refused"), [(MAX_SIZE - VALUE_SIZE, False), (MAX_SIZE - VALUE_SIZE + 1, True)])
def test_metadata_may_be_so_large_and_no_larger(size, refused):
    text = "x" * size

    if refused:
        with pytest.raises(LimitError):
            jsonable(text)
    else:
        assert jsonable(text) is text


@pytest.mark.parametrize(("depth", "refused"), [(MAX_DEPTH - 1, False), (MAX_DEPTH, True)])
def test_metadata_may_be_so_deep_and_no_deeper(depth, refused):
    value = None
    for _ in range(depth):
        value = [value]

    if refused:
        with pytest.raises(LimitError):
            jsonable(value)
    else:
        assert jsonable(value) == value


# On a terminal.


def on_a_terminal(arguments, *, before="", **environment):
    """What a command writes to a terminal of 60 columns."""
    pty = pytest.importorskip("pty", reason="no terminals on this system")
    master, slave = pty.openpty()
    code = f"import sys; {before}\nfrom fastload.cli import main; sys.exit(main({arguments!r}))"
    kept = {key: value for key, value in os.environ.items() if key not in {"NO_COLOR", "FORCE_COLOR", "COLORTERM"}}
    settings = kept | {"TERM": "xterm-256color", "COLUMNS": "60", "PYTHONIOENCODING": "utf-8"} | environment
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=slave, stdout=slave, stderr=slave, env=settings
    ) as process:
        os.close(slave)
        out = b""
        while True:
            try:
                piece = os.read(master, 65536)
            except OSError:  # Linux's way to say that the other end is closed
                break
            if not piece:
                break
            out += piece
    os.close(master)
    assert process.returncode == 0, out
    return out.decode().replace("\r\n", "\n")


@pytest.fixture
def long_name(tmp_path):
    path = tmp_path / "m.st"
    path.write_bytes(safetensors_file({f"model.{'层' * 50}.weight": ("U8", (1,), b"\0"), "w": ("U8", (1,), b"\0")}))
    return str(path)


def test_a_terminal_gets_colour_where_rich_is_installed(long_name):
    assert ESCAPE in on_a_terminal(["ls", long_name])


@pytest.mark.parametrize(
    "without",
    [{"NO_COLOR": "1"}, {"TERM": "dumb"}, {"before": "sys.modules['rich'] = None"}],
    ids=lambda w: next(iter(w)),
)
def test_no_colour_where_it_is_not_wanted_or_not_there(without, long_name):
    assert ESCAPE not in on_a_terminal(["ls", long_name], **without)


def test_json_has_no_colour_on_a_terminal(long_name):
    assert ESCAPE not in on_a_terminal(["ls", "--json", long_name])


def test_no_colour_and_no_rich_in_a_pipe(long_name):
    code = f"import sys; from fastload.cli import main; main(['ls', {long_name!r}]); print('rich' in sys.modules)"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)

    assert b"\x1b" not in done.stdout and done.stdout.endswith(b"False\n")


def test_long_names_lose_their_middle_to_fit_a_terminal(long_name):
    lines = re.sub(r"\x1b\[[0-9;]*m", "", on_a_terminal(["ls", long_name])).splitlines()[:3]

    assert max(map(width, lines)) <= 60
    assert lines[1].startswith("model.层") and "…" in lines[1] and "层.weight " in lines[1]


# Size.


@pytest.mark.parametrize("arguments", [[], ["--json"], ["--collapse"]])
def test_two_hundred_thousand_tensors_take_seconds(arguments, ls):
    count = 200_000
    header = ",".join(
        f'"layers.{n // 100}.experts.{n % 100}.w":{{"dtype":"U8","shape":[1,1],"data_offsets":[{n},{n + 1}]}}'
        for n in range(count)
    )
    file = safetensors_raw("{" + header + "}", bytes(count))

    start = time.perf_counter()
    out = ls(file, *arguments)

    assert time.perf_counter() - start < 20  # it takes about 1.5; the machine may be busy
    assert "200,000 tensors" in out or json.loads(out)["totals"]["tensors"] == count
