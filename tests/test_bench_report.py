"""The page of the benchmarks, rendered from a small stored run."""

import xml.etree.ElementTree as ElementTree
from types import SimpleNamespace

import pytest

import pairs
import report

SPREAD = {"median": 0.5, "low": 0.25, "high": 1.0}


def found(script, group, *, name="test_x[peer]", median=0.5, **extra):
    """One benchmark, as `make bench` stores it."""
    stats = {"median": median, "min": median / 2, "max": median * 2}
    question = f"What does {script} ask?"
    return {"file": script, "group": group, "name": name, "question": question, "stats": stats, "extra_info": extra}


def side(name, seconds, ratio):
    """One side of those that took turns."""
    return {
        "name": name, "work": "copies | all", "gb_per_s": 2.5,
        "seconds": {"median": seconds, "low": seconds, "high": seconds},
        "ratio": {"median": ratio, "low": ratio, "high": ratio},
    }  # fmt: skip


@pytest.fixture
def results():
    grown = [
        found(
            "bench_scaling.py", f"open {count:,} tensors", curve=["open", "tensors", count],
            pairs=[side("fastload", count * 1e-6, 1), side("safe_open", count * 1e-5, 10)],
        )
        for count in (10, 1_000, 200)
    ]  # fmt: skip
    return {
        "datetime": "2030-01-02T03:04:05",
        "machine_info": {"cpu": "A <fast> one", "cores": 2, "memory": 4 << 30, "huge_pages": "madvise"},
        "benchmarks": [
            found("bench_list.py", "list", name="test[a]", work="all"),
            found("bench_list.py", "list", median=0.25, name="test[b]") | {"extra_info": {"name": "fastload"}},
            *grown,
            found(
                "bench_touch.py", "touch", bar="≥ 10 ×",
                pairs=[side("fastload", 2e-3, 1), side("load_file", 0.05, 25)],
            ),
            found("bench_memory.py", "memory", anonymous=1 << 20, file=0, peak=3 << 20, work="maps"),
            found(
                "bench_subset.py", "a tenth", name="test_a_tenth[cold]",
                subset={"name": "views", "work": "maps", "bar": "little", "seconds": 0.1, "anonymous": 0,
                        "file": 1 << 20, "read_bytes": 3 << 20, "nbytes": 2 << 20},
            ),
        ],
    }  # fmt: skip


@pytest.fixture
def page(results, tmp_path):
    report.write(results, tmp_path)
    return (tmp_path / "benchmarks.md").read_text(encoding="utf-8")


def test_each_file_has_its_question_and_the_machine_is_described(page):
    assert page.count("\n## ") == 5 and "What does bench_touch.py ask?" in page
    assert "| cpu | A &lt;fast> one |" in page and "| memory | 4.0 GiB |" in page and "| when | 2030-01-02 |" in page


def test_sides_that_took_turns_show_their_ratio_and_what_is_wanted(page):
    assert "Wanted: ≥ 10 ×." in page
    assert "| load_file | 50.00 ms | 50.00 ms – 50.00 ms | 2.50 | 25.00 (25.00 – 25.00) | copies \\| all |" in page


def test_readers_that_ran_one_after_the_other_are_sorted_with_their_ratio(page):
    rows = [line for line in page.splitlines() if line.startswith(("| fastload | 250", "| test[a]"))]

    assert rows == [
        "| fastload | 250.00 ms | 125.00 ms – 500.00 ms | 1.00 |  |",
        "| test[a] | 500.00 ms | 250.00 ms – 1.00 s | 2.00 | all |",
    ]


def test_memory_and_bytes_of_the_disk_have_tables(page):
    assert "| peer | 1.0 MiB | 0.0 MiB | 3.0 MiB | maps |" in page
    assert "| views | 100.00 ms | 0.0 MiB | 1.0 MiB | 3.0 MiB | 1.50 × | maps |" in page


def test_groups_are_in_the_order_of_their_numbers(page):
    places = [page.index(f"### open {count} tensors") for count in ("10", "200", "1,000")]

    assert places == sorted(places)


def test_charts_are_xml_and_linked(page, tmp_path):
    drawn = sorted(path.name for path in (tmp_path / "benchmarks").iterdir())

    assert drawn == ["bench_scaling.open.svg", "bench_touch.svg"]
    for name in drawn:
        ElementTree.fromstring((tmp_path / "benchmarks" / name).read_text(encoding="utf-8"))
        assert f"](benchmarks/{name})" in page


def test_a_curve_goes_through_its_points_in_order(results):
    [curve, other] = report.curves_of([found for found in results["benchmarks"] if found["extra_info"].get("curve")])

    assert curve.label == "fastload" and [x for x, _ in curve.points] == [10, 200, 1_000]
    assert other.label == "safe_open"


def test_sides_take_turns_and_the_order_turns_round():
    calls = []
    measures = [lambda: calls.append("a") or 1.0, lambda: calls.append("b") or 2.0]

    assert pairs.in_turn(measures, 3) == [[1, 1, 1], [2, 2, 2]]
    assert calls == ["a", "b", "b", "a", "a", "b"]


def test_ratios_are_taken_within_a_round():
    sides = [pairs.Side("ours", "", lambda: 0, nbytes=10**9), pairs.Side("theirs", "", lambda: 0)]

    ours, theirs = pairs.compared(sides, [[1, 2, 4], [3, 4, 20]])

    assert ours["ratio"] == {"median": 1, "low": 1, "high": 1} and ours["gb_per_s"] == 0.5
    assert theirs["ratio"] == {"median": 3, "low": 2, "high": 5} and theirs["gb_per_s"] is None


def test_the_time_of_many_is_told_for_one(monkeypatch):
    clock = SimpleNamespace(perf_counter=iter([1.0, 3.0]).__next__)
    monkeypatch.setattr(pairs, "time", clock)

    assert pairs.timed(pairs.Side("", "", lambda: 0, count=4)) == 0.5
