"""The page of an evaluation: whole, readable by a parser, and on its own."""

import re
import shutil
import subprocess
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from pipelines.evaluation.html_report import ROWS, badness, worst_first, write_report
from pipelines.metrics.overlap import confusion_matrix, overlap_metrics
from pipelines.metrics.result_files import results
from pipelines.metrics.summary import summarise
from pipelines.metrics.surfaces import surface_metrics
from pipelines.utils.svg import LABELS, RIGHT, WIDTH
from tests.pipelines import masks

NAMES = ["liver", "<b>cyst & co</b>", "stone"]


def found(count=6, names=NAMES, change=lambda index, prediction: None):
    import torch

    cases = []
    for index in range(count):
        prediction, reference = (masks.label_map(index + n, (9, 8, 7), len(names) + 1) for n in (0, 50))
        change(index, prediction)
        pair = (torch.from_numpy(prediction), torch.from_numpy(reference))
        record = {"case": f"c{index}"} | overlap_metrics(confusion_matrix(*pair, len(names) + 1), names, 0.1)
        cases.append(record | surface_metrics(prediction, reference, names, np.eye(4), 1.0))
    return results(cases, names, summarise(cases, names, intervals=True))


class Page(HTMLParser):
    """Checks that every tag is closed in order, and keeps texts, links and table rows."""

    VOID = ("meta", "img", "br", "line", "rect")

    def __init__(self, text):
        super().__init__()
        self.open, self.text, self.sources, self.rows = [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.sources += [value for key, value in attributes if key in ("src", "href", "action", "data")]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        assert tag in self.VOID

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data


def test_a_page_needs_nothing_else_and_escapes_names(tmp_path):
    picture = tmp_path / "c1.png"
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(picture)
    facts = {"model": "<script>alert(1)</script>"}
    write_report(tmp_path / "r.html", found(), "A & B", facts, {"c1": picture})
    text = (tmp_path / "r.html").read_text()
    page = Page(text)
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    assert len(page.sources) == 1
    assert "http" not in text
    assert "@import" not in text
    assert "url(" not in text
    assert "<b>cyst" not in text
    assert text.count("<script>") == 1
    assert "prefers-color-scheme: dark" in text
    assert "A & B" in page.text


def test_summary_and_table_say_what_the_results_say(tmp_path):
    def miss(index, prediction):
        if index == 2:
            prediction[prediction == 1] = 0

    result = found(change=miss)
    write_report(tmp_path / "r.html", result, "title")
    page = Page((tmp_path / "r.html").read_text())
    summary = next(row for row in page.rows if row[0] == "liver")
    assert summary[1:5] == ["6", "1", "0", "0"]
    assert summary[5].startswith(f"{result['summary']['classes']['liver']['dice']['mean']:.4f}")
    assert any(cell.endswith("of 5 cases") for cell in summary), "a missed structure has no distance"
    table = [row for row in page.rows if re.fullmatch(r"c\d", row[0])]
    assert len(table) == 18
    assert [row[0] for row in table[::3]] == [case["case"] for case in worst_first(result["cases"])]
    (missed,) = [row for row in table if row[-1] == "missed"]
    assert missed[:3] == ["c2", "liver", "0.0000"]
    assert "" in missed[3:-1]


def test_plots_are_valid_and_show_every_case(tmp_path):
    write_report(tmp_path / "r.html", found(), "title")
    plots = re.findall(r"<svg.*?</svg>", (tmp_path / "r.html").read_text(), re.S)
    assert len(plots) == 4
    for plot in plots:
        tree = ElementTree.fromstring(plot)
        assert tree.get("aria-label") in ("Dice", "surface Dice (NSD)", "HD95 (mm)", "volume error (ml)")
        dots = tree.findall("circle")
        assert len(dots) == 18
        assert all(LABELS <= float(dot.get("cx")) <= WIDTH - RIGHT for dot in dots)
        assert len(list(tree.iter("rect"))) == 3


def test_the_worst_case_is_the_one_of_the_lowest_mean_dice():
    cases = [
        {"case": "good", "dice": {"a": 0.9, "b": None}},
        {"case": "bad", "dice": {"a": 0.9, "b": 0.1}},
        {"case": "nothing", "dice": {"a": None, "b": float("nan")}},
    ]
    assert [case["case"] for case in worst_first(cases)] == ["bad", "good", "nothing"]
    assert badness(cases[1]) == (0.5, "bad")


@pytest.mark.parametrize(
    "names", [["only"], [f"a very long name of a structure, number {n}" for n in range(120)]]
)
def test_one_class_and_many(tmp_path, names):
    def nothing(index, prediction):
        prediction[:] = 0

    result = found(1, names, nothing)
    write_report(tmp_path / "r.html", result, "title")
    page = Page((tmp_path / "r.html").read_text())
    assert sum(row[0] == "c0" for row in page.rows) == sum(
        v is not None for v in result["cases"][0]["dice"].values()
    )


def test_dice_alone_makes_a_page_too(tmp_path):
    cases = [{"case": f"c{n}", "dice": {"a": 0.5 + n / 1e5}} for n in range(ROWS + 7)]
    write_report(tmp_path / "r.html", results(cases, ["a"]), "title")
    text = (tmp_path / "r.html").read_text()
    assert f"The first {ROWS} of {ROWS + 7} lines" in text
    table = [row for row in Page(text).rows if re.fullmatch(r"c\d+", row[0])]
    assert len(table) == ROWS
    write_report(tmp_path / "r.html", results([], ["a"]), "title")
    Page((tmp_path / "r.html").read_text())


def test_a_browser_sorts_the_table(tmp_path):
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium")
    write_report(tmp_path / "r.html", found(), "title")
    text = (tmp_path / "r.html").read_text()
    clicks = "<script>const b = document.querySelectorAll('table.sortable button'); b[4].click(); b[4].click();</script>"
    (tmp_path / "r.html").write_text(text.replace("</body>", f"{clicks}</body>"))
    words = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={tmp_path / 'profile'}",
        "--dump-dom",
    ]
    result = subprocess.run(
        [browser, *words, f"file://{tmp_path / 'r.html'}"], capture_output=True, text=True
    )
    page = Page(re.sub(r"<svg.*?</svg>", "", result.stdout, flags=re.S))
    column = [float(row[4]) for row in page.rows if re.fullmatch(r"c\d", row[0])]
    assert len(column) == 18
    assert column == sorted(column, reverse=True)
    assert len(set(column)) > 1
