"""`fastload bench`: what it says of small files. No figure is held against another: that is the matter of a machine."""

import fractions
import json
import mmap
import os
import pathlib
import xml.etree.ElementTree as ElementTree
import zipfile

import numpy as np
import pytest
import torch

from builders import SMALLEST, safetensors_file, smallest_file, tensor, torch_file
from fastload.benching import chart, kernel, limits, run
from fastload.benching.readers import FASTLOAD, QUESTIONS, READERS, Job, arrays_in, touch
from fastload.benching.report import Report, spread_of
from fastload.cli import main

QUICK = ["--repeat", "1"]
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """(the report, the text, the chart) of a file of two tensors, beside safetensors, and beside numpy in vain."""
    folder = tmp_path_factory.mktemp("bench")
    path = folder / "m.safetensors"
    path.write_bytes(safetensors_file({"w": ("F32", (2, 3), bytes(24)), "n": ("I64", (2,), bytes(16))}))
    files = ["--json", str(folder / "m.json"), "--plot", str(folder / "m.svg")]

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "200")
        status = main(["bench", str(path), "--against", "safetensors,numpy", "--repeat", "2", *files])

    assert status == 0
    return json.loads((folder / "m.json").read_text()), str(path), (folder / "m.svg").read_text()


def test_json_says_what_was_read_and_on_what(measured):
    report, path, _ = measured

    assert report["schema"] == "fastload.bench/1"
    assert report.keys() - {"schema"} == Report.__annotations__.keys()
    assert report["source"] == {
        "path": path, "member": None, "format": "safetensors", "files": 1, "tensors": 2, "nbytes": 40,
        "file_nbytes": os.path.getsize(path),
    }  # fmt: skip
    assert report["settings"] == {"repeat": 2, "threads": None, "cold": False, "dtype": "bfloat16"}
    assert report["machine"]["cores"] >= 1 and report["machine"]["numpy"] == np.__version__


@pytest.mark.parametrize(("flags", "refused"), [([], []), (["--against", "safetensors"], ["safetensors"])])
def test_a_member_is_read_by_fastload_alone(flags, refused, tmp_path, capsys):
    path = str(tmp_path / "m.zip")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("weights/m.safetensors", smallest_file("safetensors"))

    status = main(["bench", path, "--member", "weights/m.safetensors", *QUICK, *flags, "--json"])

    report = json.loads(capsys.readouterr().out)
    assert status == 0 and report["source"]["member"] == "weights/m.safetensors"
    assert report["source"]["format"] == "safetensors" and report["source"]["tensors"] == 1
    assert {row["reader"] for row in report["results"]} == {"fastload"}
    assert {row["question"] for row in report["results"]} == set(QUESTIONS)
    assert [row["reader"] for row in report["refused"]] == refused


def test_a_member_is_told_with_its_archive(tmp_path, capsys):
    path = str(tmp_path / "m.zip")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("m.safetensors", smallest_file("safetensors"))

    assert main(["bench", path, "--member", "m.safetensors", "--against", "none", *QUICK]) == 0

    assert capsys.readouterr().out.startswith(f"m.safetensors in {path}: safetensors, 1 tensor, 8 B\n")


def test_each_question_is_answered_by_each_reader(measured):
    results = measured[0]["results"]

    asked = {(row["question"], row["reader"]) for row in results}
    assert asked == {(question, reader) for question in QUESTIONS for reader in ("fastload", "safetensors")}
    assert {row["state"] for row in results} == {"warm"}


def test_figures_are_consistent(measured):
    for row in measured[0]["results"]:
        seconds = row["seconds"]
        assert 0 < seconds["low"] <= seconds["median"] <= seconds["high"] and len(seconds["runs"]) == 2
        assert (row["gb_per_s"] is not None) == (row["question"] in ("touch", "load", "cast"))
        if row["gb_per_s"]:
            assert row["gb_per_s"]["runs"] == [40 / second / 1e9 for second in seconds["runs"]]
        if row["reader"] == "fastload":
            assert row["ratio"]["runs"] == [1, 1]


def test_readers_give_all_tensors(measured):
    for row in measured[0]["results"]:
        nbytes = {"views": 40, "touch": 40, "load": 40, "cast": 28}.get(row["question"])
        assert (row["tensors"], row["nbytes"]) == (nbytes and 2, nbytes)


@pytest.mark.skipif(not os.path.exists(kernel.ROLLUP), reason="only Linux tells")
def test_memory_and_faults_are_told(measured):
    for row in measured[0]["results"]:
        assert row["memory"].keys() == {"private", "page_cache", "peak"} and min(row["memory"].values()) >= 0
        assert row["faults"].keys() == {"minor", "major"} and min(row["faults"].values()) >= 0


def test_the_limits_of_the_machine_are_found_in_the_same_run(measured):
    found = measured[0]["limits"]

    told = limits.LIMITS if hasattr(mmap, "MADV_HUGEPAGE") else limits.LIMITS[:2]
    assert {row["name"] for row in found} == {limit.name for limit in told}
    assert all(row["gb_per_s"]["low"] > 0 and len(row["seconds"]["runs"]) == 2 for row in found)


def test_a_peer_that_was_not_made_for_the_file_has_a_row_that_says_why(measured):
    [refusal] = measured[0]["refused"]

    assert refusal == {"reader": "numpy", "question": None, "why": "reads npz, npy, and this is safetensors"}


def test_readers_say_what_they_do(measured):
    for row in measured[0]["readers"]:
        assert row["work"] and row["version"] and row["executes"] == "nothing"


def test_the_chart_is_xml_and_names_readers_and_questions(measured):
    root = ElementTree.fromstring(measured[2])

    texts = [text.text for text in root.iter(f"{SVG}text")]
    assert texts[0] == "m.safetensors: 40 B"
    assert {"fastload", "safetensors", "warm, load: GB/s, longer is better"} <= set(texts)
    assert "prefers-color-scheme: dark" in root.find(f"{SVG}style").text
    widths = [float(bar.get("width")) for bar in root.iter(f"{SVG}rect")]
    assert all(0 <= width <= chart.WIDTH for width in widths)


def test_the_table_has_a_row_for_each_reader_and_a_word_on_each(tmp_path, capsys):
    path = tmp_path / "m.npz"
    np.savez(path, w=np.zeros(4, "float16"))

    assert main(["bench", str(path), *QUICK]) == 0

    out, err = capsys.readouterr()
    assert err == "" and out.startswith(f"{path}: npz, 1 tensor, 8 B\n")
    assert "warm, the same, floats in another dtype: float32\n" in out
    assert out.count("\nfastload ") == len(QUESTIONS) + 1 and "\nnumpy " in out
    assert "np.load(allow_pickle=False)" in out and "copy into fresh 4 KiB pages" in out


@pytest.mark.parametrize("format", SMALLEST)
def test_every_format_can_be_measured(format, tmp_path):
    path = tmp_path / "m"
    path.write_bytes(smallest_file(format))
    subject = run.look_at(str(path))
    job = Job(str(path), subject.paths, "float16", None)

    answers = {question: list(arrays_in(FASTLOAD.answers[question](job))) for question in ("views", "touch", "load")}

    assert subject.source["format"] == format and subject.paths == [str(path)]
    assert {sum(array.nbytes for array in arrays) for arrays in answers.values()} == {8}


def test_a_folder_of_shards_is_measured_whole(tmp_path, capsys):
    for number in (1, 2):
        file = safetensors_file({f"w{number}": ("U8", (5,), bytes(5))})
        (tmp_path / f"m-0000{number}-of-00002.safetensors").write_bytes(file)

    assert main(["bench", str(tmp_path), "--against", "safetensors", "--json", *QUICK]) == 0

    report = json.loads(capsys.readouterr().out)
    assert report["source"]["files"] == 2 and report["settings"]["dtype"] is None
    assert {row["nbytes"] for row in report["results"] if row["question"] == "load"} == {10}
    assert {row["reader"] for row in report["results"]} == {"fastload", "safetensors"}
    assert report["notes"] == ["no cast was measured: the tensors hold no floats"]


def test_a_peer_that_refuses_the_file_says_so_in_its_row(tmp_path, capsys):
    path = tmp_path / "m.pt"
    torch.save({"w": torch.zeros(2), "other": fractions.Fraction(1, 2)}, path)

    assert main(["bench", str(path), "--against", "torch", "--json", *QUICK]) == 0

    report = json.loads(capsys.readouterr().out)
    [refusal] = report["refused"]
    assert (refusal["reader"], refusal["question"]) == ("torch", "views")
    assert refusal["why"].startswith("UnpicklingError: ")
    assert {row["reader"] for row in report["results"]} == {"fastload"}


def test_a_peer_that_is_not_installed_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr("fastload.benching.readers.find_spec", lambda module: None)

    peers, refused = run.choose(["torch"], "pytorch-zip")

    assert peers == []
    assert refused == [{"reader": "torch", "question": None, "why": "is not installed: pip install torch"}]


def test_without_names_all_that_read_the_format_are_taken():
    names = [reader.name for reader in run.choose(None, "sharded-pytorch-zip")[0]]

    assert names == ["torch", "torch-mmap"]


def test_an_unknown_peer_is_wrong_usage_and_the_known_are_listed(tmp_path, capsys):
    assert main(["bench", str(tmp_path), "--against", "torch,tensorflaw"]) == 2

    out, err = capsys.readouterr()
    assert out == "" and "there is no peer 'tensorflaw'; there are safetensors, " in err
    assert all(reader.name in err for reader in READERS)


@pytest.mark.parametrize("flags", [["--repeat", "0"], ["--threads", "x"], ["--dtype", "int8"], ["--dtype", "none"]])
def test_wrong_flags_are_status_2(flags, capsys):
    assert main(["bench", "m", *flags]) == 2
    assert capsys.readouterr().err.endswith("; see fastload bench --help\n")


def test_a_folder_that_is_not_there_is_told_before_anything_is_measured(tmp_path, capsys):
    path = tmp_path / "m.safetensors"
    path.write_bytes(smallest_file("safetensors"))

    status = main(["bench", str(path), "--plot", str(tmp_path / "none" / "m.svg")])

    assert status == 3
    assert capsys.readouterr() == ("", f"fastload: {tmp_path}/none/m.svg: there is no such folder\n")


def test_a_checkpoint_without_bytes_is_status_3(tmp_path, capsys):
    (tmp_path / "m").write_bytes(safetensors_file({}))

    assert main(["bench", str(tmp_path / "m")]) == 3
    assert capsys.readouterr().err.endswith("holds no bytes of tensors: there is nothing to measure\n")


@pytest.mark.skipif(not os.path.isdir("/dev/shm"), reason="only Linux has a tmpfs there")
def test_cold_says_where_files_cannot_leave_memory(capsys):
    path = pathlib.Path(f"/dev/shm/fastload-test-bench-{os.getpid()}.safetensors")
    path.write_bytes(safetensors_file({"w": ("F32", (8,), bytes(32))}))
    try:
        status = main(["bench", str(path), "--cold", "--against", "none", "--json", *QUICK])
    finally:
        path.unlink()

    report = json.loads(capsys.readouterr().out)
    assert status == 0 and report["settings"]["cold"] is False
    assert report["notes"] == [
        "nothing was measured cold: 100 % of it stay in memory: its file system is memory (tmpfs), "
        "or a process has it mapped"
    ]
    assert {row["state"] for row in report["results"]} == {"warm"}


def test_cold_is_measured_where_the_file_can_leave_memory(tmp_path, capsys):
    path = tmp_path / "m.safetensors"
    path.write_bytes(safetensors_file({"w": ("F32", (8,), bytes(32))}))
    if kernel.evict([str(path)]):
        pytest.skip("the folder for temporary files is no disk")

    assert main(["bench", str(path), "--cold", "--against", "none", "--json", *QUICK]) == 0

    report = json.loads(capsys.readouterr().out)
    assert report["settings"]["cold"] is True and report["notes"] == []
    assert {row["question"] for row in report["results"] if row["state"] == "cold"} == QUESTIONS.keys()
    assert limits.DISK.name in {row["name"] for row in report["limits"]}


def test_residency_is_a_share_of_pages(tmp_path):
    path = tmp_path / "m"
    path.write_bytes(bytes(1 << 20))
    path.read_bytes()

    assert kernel.residency(str(path)) in (None, 1.0)


def test_a_process_that_dies_refuses():
    answer = run._answer({"task": "read", "reader": "none such"})

    assert "refused" in answer


def test_modules_in_the_current_folder_are_not_imported(tmp_path, monkeypatch):
    (tmp_path / "numpy.py").write_text("raise SystemExit(9)")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(os.path.abspath, os.environ.get("PYTHONPATH", "").split(":"))))
    monkeypatch.chdir(tmp_path)

    assert "limits" in run._answer({"task": "limits", "cold": False, "nbytes": 1, "threads": 1})


def test_every_byte_is_touched_of_arrays_of_any_layout():
    array = np.arange(24, dtype=">u2").reshape(4, 6)

    assert touch([array, array.T, array[::2, ::-1], np.array(7.5), np.zeros((0, 3))]) == 64


def test_arrays_are_found_at_any_depth_of_what_torch_has_read():
    nested = {"a": torch.zeros(3, dtype=torch.bfloat16), "b": [torch.zeros(2), {"c": (torch.ones(1).bool(), 5)}]}

    assert [array.nbytes for array in arrays_in(nested)] == [6, 8, 1]


@pytest.mark.filterwarnings("ignore::UserWarning")  # torch will let go of its quantised tensors
def test_arrays_of_torch_are_found_though_numpy_has_no_such_thing():
    unusual = [
        torch.quantize_per_tensor(torch.ones(3), 0.5, 0, torch.qint8),
        torch.ones(2, dtype=torch.complex64).conj(),
        torch.zeros(2, 3).T,
        torch.nn.Parameter(torch.zeros(1)),
    ]

    assert [array.nbytes for array in arrays_in(unusual)] == [3, 16, 24, 4]


def test_a_spread_has_the_median_and_the_ends():
    assert spread_of([3, 1, 2]) == {"median": 2, "low": 1, "high": 3, "runs": [3, 1, 2]}


def test_names_in_a_chart_are_escaped():
    bar = chart.Bar('<b>&"\x07', 1, 1, 2, "peer", "1 GB/s")
    drawn = chart.bar_chart("</title><script>", "\u202e", [chart.Bars("]]>", [bar])])

    texts = [text.text for text in ElementTree.fromstring(drawn).iter(f"{SVG}text")]

    assert texts == ["</title><script>", "\\u202e", "]]>", '<b>&"\\x07', "1 GB/s"]


def test_curves_lie_within_their_axes():
    curves = [chart.Curve("a", [(10, 0.001), (200_000, 5)]), chart.Curve("b", [(1_000, 0.01)])]

    root = ElementTree.fromstring(chart.curve_chart("growth", "", curves, ("tensors", "ms")))

    for dot in root.iter(f"{SVG}circle"):
        assert 0 <= float(dot.get("cx")) <= chart.WIDTH and 0 <= float(dot.get("cy")) <= float(root.get("height"))
    assert len(list(root.iter(f"{SVG}polyline"))) == 2


def test_a_tied_tensor_counts_for_each_of_its_names(tmp_path, capsys):
    path = tmp_path / "m.pt"
    shared = tensor("float32", (2,), [1, 2])
    path.write_bytes(torch_file({"a": shared, "b": shared}))

    assert main(["bench", str(path), "--against", "none", "--json", *QUICK]) == 0

    report = json.loads(capsys.readouterr().out)
    assert report["source"]["nbytes"] == 16
