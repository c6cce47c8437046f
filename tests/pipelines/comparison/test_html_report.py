"""The comparison's page: complete in itself, true to the figures, safe with any name."""

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
from PIL import Image

from pipelines.comparison.comparison import Comparison, compare
from pipelines.comparison.html_report import MOST_BYTES, PICTURE_WIDTH, pictures, write_report
from pipelines.comparison.run_finder import RunFinder
from pipelines.comparison.run_results import read_results
from tests.pipelines.comparison.some_results import results
from tests.pipelines.tracked_runs import add_run, new_store

NAN = float("nan")


class Page(HTMLParser):
    """Tags, their attributes and the text of a page; complains about tags that do not match."""

    VOID = ("meta", "img", "br")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_the_page_loads_nothing_and_says_the_figures(comparison: Comparison, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    write_report(path, comparison, {})
    text = path.read_text()
    page = Page(text)
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in page.tags}
    assert not re.search(r"https?://|url\(|@import", text)
    assert all(not {"src", "href", "onclick", "onload"} & set(attributes) for _, attributes in page.tags)
    left = comparison.rows[0].statistics
    for figure in (f"{left.difference:+.4f}", f"{left.low:+.4f} to {left.high:+.4f}", f"{left.baseline:.4f}"):
        assert figure in page.words
    assert "prefers-color-scheme: dark" in text
    assert "The runs have no pictures of the cases that changed most." in page.words


def test_any_name_is_only_text(tmp_path: Path) -> None:
    evil = "<script>alert('x')</script> & \"co\""
    runs = [
        results(evil, [[0.5, 0.6]], [evil], [evil, "b"], params={evil: evil}),
        results("b", [[0.6, NAN]], [evil], [evil, "b"]),
    ]
    for run in runs:
        run.run_id = "0" * 32
    path = tmp_path / "page.html"
    write_report(path, compare(runs), {evil: ["data:image/jpeg;base64,AAAA", None]})
    page = Page(path.read_text())
    assert "script" not in {tag for tag, _ in page.tags}
    assert any(evil in words for words in page.words)


def test_a_large_comparison_stays_a_page(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    classes = [f"structure_{i}" for i in range(105)]
    tables = [random.beta(20, 3, (150, 105)) for _ in range(2)]
    path = tmp_path / "page.html"
    write_report(path, compare([results(n, t, None, classes) for n, t in zip("ab", tables, strict=True)]), {})
    assert path.stat().st_size < 1_000_000
    text = " ".join(Page(path.read_text()).words)
    assert "15900 points are too many to draw" in text
    assert "the classes are in the CSV" in text


def test_pictures_of_the_cases_that_changed_most(tmp_path: Path) -> None:
    client = new_store(tmp_path)
    first = np.full((9, 2), 0.8)
    second = first + np.array([0.0, -0.3, 0.0, -0.2, -0.1, 0.0, 0.05, 0.1, 0.0])[:, None]
    ids = [
        add_run(client, "first", {"dice": first}, pictures=True),
        add_run(client, "second", {"dice": second}, pictures=True),
        add_run(client, "third", {"dice": second}),
    ]
    finder = RunFinder(client.tracking_uri)
    runs = [read_results(finder, client.get_run(run_id)) for run_id in ids]
    shown = pictures(finder, compare(runs))
    assert list(shown) == ["case_1", "case_3", "case_4", "case_7", "case_6"]
    assert sum(len(uri) for row in shown.values() for uri in row if uri) < MOST_BYTES
    for row in shown.values():
        assert row[2] is None
        for uri in row[:2]:
            assert uri is not None
            head, data = uri.split(",")
            assert head == "data:image/jpeg;base64"
            with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
                assert picture.size == (PICTURE_WIDTH, 300)
    path = tmp_path / "page.html"
    write_report(path, compare(runs), shown)
    images = [attributes for tag, attributes in Page(path.read_text()).tags if tag == "img"]
    assert len(images) == 10
    assert images[0]["alt"] == "case_1, run 1"
    assert images[0]["src"] == shown["case_1"][0]
