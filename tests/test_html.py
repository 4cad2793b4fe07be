"""The report page as text: well-formed, its data whole, and no name in it more than data."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

import fastload
from builders import safetensors_file
from fastload import html
from fastload.comparing import findings
from fastload.histograms import largest

VOID = {"meta", "link", "input", "br", "hr", "img"}
HOSTILE = [
    "</script><script>alert(1)</script>",
    "<!--",
    "-->",
    "]]>",
    "$title $data ${script}",
    "&amp;&lt;",
    "\u202ereversed\u202c",
    "\u2028line\u2029",
    "nul\0",
    "\U0001f600a",
    "\U0001f600b",
    "e\u0301",
    "x" * 10_000,
    "x" * 10_000 + "y",
    "a." * 5_000,
    "",
]


class Page(HTMLParser):
    """The elements of a page, each with its attributes and text; refuses what is not closed in order."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open = [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes), []))
        if tag not in VOID:
            self.open.append(self.elements[-1])

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes), []))

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, text):
        for _, _, texts in self.open:
            texts.append(text)

    def all(self, tag):
        return [(attributes, "".join(texts)) for name, attributes, texts in self.elements if name == tag]

    @property
    def data(self):
        ((_, text),) = [found for found in self.all("script") if found[0].get("type") == "application/json"]
        return json.loads(text)


def file_of(names, shape=(2,)):
    return safetensors_file({name: ("F32", shape, bytes(4 * int(np.prod(shape)))) for name in names})


def an_entry(**changes):
    with fastload.open(file_of(["w"])) as checkpoint:
        return checkpoint.entry("w").changed(**changes)


def side_of(checkpoint, path="m.safetensors"):
    return html.Side(path, checkpoint.format, checkpoint.entries(), checkpoint.metadata)


def page_of(checkpoint, title="a title", **more):
    return Page(html.page(side_of(checkpoint), title=title, version="1", **more).decode())


def names_in(data):
    names = []
    for shared, rest in zip(data["names"]["shared"], data["names"]["rest"], strict=True):
        before = names[-1].encode("utf-16-le", "surrogatepass")[: 2 * shared] if names else b""
        names.append(before.decode("utf-16-le", "surrogatepass") + rest)
    return names


def column(data, name):
    values = data["columns"][name]
    return values if isinstance(values, list) else [values] * len(data["names"]["rest"])


def test_data_parses_back_to_the_entries():
    file = safetensors_file({"a.b": ("F32", (2, 3), bytes(24)), "a.c": ("I64", (), bytes(8)), "d": ("F32", (0,), b"")})
    with fastload.open(file) as checkpoint:
        data, entries = page_of(checkpoint).data, checkpoint.entries()

    assert names_in(data) == [entry.name for entry in entries]
    assert [data["dtypes"][code] for code in column(data, "dtype")] == [entry.dtype for entry in entries]
    assert [tuple(data["shapes"][code]) for code in column(data, "shape")] == [entry.shape for entry in entries]
    assert column(data, "nbytes") == [entry.nbytes for entry in entries]
    assert column(data, "offset") == [entry.offset for entry in entries]
    assert (data["a"]["tensors"], data["a"]["parameters"], data["a"]["nbytes"]) == (3, 7, 32)


@pytest.mark.parametrize("title", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_names_and_titles_are_data(title):
    with fastload.open(file_of(HOSTILE)) as checkpoint:
        page = page_of(checkpoint, title=title)
        expected = [entry.name for entry in checkpoint.entries()]

    assert names_in(page.data) == expected
    assert len(page.all("script")) == 2
    assert page.data["title"] == title
    assert {text for _, text in page.all("title") + page.all("h1")} == {fastload.errors.printable(title)}


def test_the_text_of_a_page_is_ascii_but_for_its_own_and_its_data_has_no_markup():
    with fastload.open(file_of(HOSTILE)) as checkpoint:
        text = html.page(side_of(checkpoint), title="\udc80 <b>", version="1").decode()

    (held,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text)
    assert held.isascii() and not set("<>&") & set(held)
    assert "\u202e" not in text and "\0" not in text and "<b>" not in text


def test_lone_surrogates_stay_as_they_are():
    entries = [an_entry(name=name) for name in ("a\udc80", "a\ud83dz", "a\ud83dy")]
    data = html.data(html.Side("p\udc80", "f", entries), title="\udc80", version="1")

    assert names_in(json.loads(html._encode(data))) == ["a\udc80", "a\ud83dz", "a\ud83dy"]


def test_the_policy_allows_the_two_own_parts_and_nothing_else():
    with fastload.open(file_of(["w"])) as checkpoint:
        page = page_of(checkpoint)

    (policy,) = [one["content"] for one, _ in page.all("meta") if one.get("http-equiv") == "Content-Security-Policy"]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    (style,), script = page.all("style"), page.all("script")[1]
    digest = {
        name: base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        for name, (_, text) in {"style-src": style, "script-src": script}.items()
    }
    assert rules.pop("img-src") == "data:"  # the icon
    assert {name: rules.pop(name) for name in digest} == {name: f"'sha256-{value}'" for name, value in digest.items()}
    assert rules == {"default-src": "'none'", "base-uri": "'none'", "form-action": "'none'"}


def test_a_page_asks_for_nothing_and_runs_no_attribute():
    with fastload.open(file_of(["w"])) as checkpoint:
        page = page_of(checkpoint)

    for tag, attributes, _ in page.elements:
        assert not any(name.startswith("on") or name == "style" for name in attributes), tag
        for name in ("src", "href"):
            assert attributes.get(name, "#").startswith(("#", "data:"))


def test_scripts_never_make_markup_of_text():
    scripts = "".join(map(html._part, html.SCRIPTS))

    ways = "innerHTML outerHTML insertAdjacentHTML document.write eval( Function( fetch( XMLHttp http:"
    for way in ways.split():
        assert way not in scripts.replace("http://www.w3.org/2000/svg", "")
    assert "</script" not in scripts and "<!--" not in scripts


def test_an_empty_checkpoint_has_a_page():
    with fastload.open(file_of([])) as checkpoint:
        data = page_of(checkpoint).data

    assert names_in(data) == [] and data["a"]["tensors"] == 0


def test_a_report_of_fifty_thousand_tensors_is_small():
    names = [f"model.layers.{n // 64}.experts.{n % 64}.down_proj.weight" for n in range(50_000)]
    with fastload.open(file_of(names, (1, 1))) as checkpoint:
        text = html.page(side_of(checkpoint), title="t", version="1")

    assert len(text) < 40 * len(names)


def test_integers_that_a_browser_would_round_are_text():
    entries = [an_entry(shape=(1 << 60, 3), nbytes=3 << 60)]

    data = html.data(html.Side("p", "f", entries), title="t", version="1")

    assert (data["shapes"], data["columns"]["nbytes"]) == ([[str(1 << 60), 3]], [str(3 << 60)])
    assert data["a"]["parameters"] == str(3 << 60)


def test_tensors_that_share_a_storage_are_known_by_its_number(tmp_path):
    import torch

    w = torch.ones(4)
    torch.save({"w": w, "tied": w, "own": torch.ones(1)}, tmp_path / "m.pt")
    with fastload.open(tmp_path / "m.pt") as checkpoint:
        data = page_of(checkpoint).data

    assert dict(zip(names_in(data), column(data, "storage"), strict=True)) == {"w": 0, "tied": 0, "own": None}


def test_differences_are_columns():
    ones, twos = ("F32", (1,), np.float32([1]).tobytes()), ("F32", (1,), np.float32([np.inf]).tobytes())
    a, b = fastload.open(safetensors_file({"v": ones, "x": ones})), fastload.open(safetensors_file({"v": twos}))
    with a, b:
        found = list(findings(a, b, None, values=True))
        comparison = html.Comparison(side_of(b), found, values=True)
        data = page_of(a, comparison=comparison).data["differences"]

    assert (data["name"], data["what"], data["common"]) == (["v", "x"], ["values", "only in a"], 1)
    assert (data["differing"], data["max_abs"]) == ([1, None], [None, None])


def test_histograms_and_why_there_are_none_go_by_row():
    file = safetensors_file({"a": ("F32", (3,), np.float32([1, 2, 9]).tobytes()), "b": ("F4", (4,), bytes(2))})
    with fastload.open(file) as checkpoint:
        data = page_of(checkpoint, histograms=largest(checkpoint, checkpoint.entries(), 9)).data

    row, packed = names_in(data).index("a"), names_in(data).index("b")
    assert data["histograms"]["row"] == [row] and sum(data["histograms"]["counts"][0]) == 3
    assert data["unsampled"] == {"row": [packed], "why": ["elements of float4_e2m1fn are packed into bytes"]}
