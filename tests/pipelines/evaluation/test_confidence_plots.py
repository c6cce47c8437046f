"""Confidence against Dice on the page of an evaluation."""

import math
import re
from xml.etree import ElementTree

import pytest

from pipelines.evaluation.confidence_plots import PLOTS, agreements
from pipelines.evaluation.html_report import write_report
from pipelines.metrics.result_files import results
from pipelines.metrics.summary import summarise
from tests.pipelines.evaluation.test_html_report import Page


def found(names=("liver", "<b>cyst</b>"), count=5):
    cases = []
    for index in range(count):
        dice = {name: 0.4 + 0.1 * index for name in names}
        sure = {name: 0.45 + 0.1 * index for name in names}
        cases.append({"case": f"c{index}", "dice": dice, "confidence": sure})
    cases.append(
        {"case": "none", "dice": dict.fromkeys(names, 0.5), "confidence": dict.fromkeys(names, math.nan)}
    )
    return results(cases, list(names), summarise(cases, list(names)))


def test_a_point_for_each_case_and_the_line_of_who_is_right():
    rows = agreements(found())
    assert [row["name"] for row in rows] == ["liver", "<b>cyst</b>", "mean of the classes"]
    assert [(row["n"], row["spearman"], row["error"]) for row in rows] == [
        (5, "1.000", "0.050"),
        (5, "1.000", "0.050"),
        (10, "1.000", "0.050"),
    ]
    plot = ElementTree.fromstring(rows[0]["plot"])
    points = plot.findall("circle")
    assert [point[0].text for point in points][:2] == [
        "c0: confidence 0.450, Dice 0.400",
        "c1: confidence 0.550, Dice 0.500",
    ]
    (line,) = plot.findall("line[@class='zero']")
    start, end = ((float(line.get(f"x{i}")), float(line.get(f"y{i}"))) for i in "12")
    for point in points:
        x, y = float(point.get("cx")), float(point.get("cy"))
        on_line = start[1] + (x - start[0]) / (end[0] - start[0]) * (end[1] - start[1])
        assert y > on_line + 5, "who is too sure lies below the line"
    heights = [float(point.get("cy")) for point in points]
    assert heights == sorted(heights, reverse=True)
    assert rows[2]["plot"] == ""


def test_the_page_has_them_and_is_whole(tmp_path):
    write_report(tmp_path / "report.html", found(), "page")
    page = (tmp_path / "report.html").read_text()
    assert ["<b>cyst</b>", "5", "1.000", "0.050"] in Page(page).rows
    assert page.count('aria-label="Dice of ') == 2


def test_the_plots_of_many_classes_are_of_those_it_tells_worst(tmp_path):
    record = found([f"class {index}" for index in range(PLOTS + 4)])
    for name, row in record["summary"]["confidence"]["classes"].items():
        row["mean_absolute_error"] = int(name.split()[1]) / 100
    rows = agreements(record)
    assert [row["name"] for row in rows if row["plot"]] == [f"class {i}" for i in range(4, PLOTS + 4)]


@pytest.mark.parametrize("confidence", [None, {"liver": None}])
def test_nothing_where_no_confidence_is_known(tmp_path, confidence):
    case = {"case": "a", "dice": {"liver": 0.9}} | ({} if confidence is None else {"confidence": confidence})
    record = results([case], ["liver"], summarise([case], ["liver"]))
    assert agreements(record) == []
    write_report(tmp_path / "report.html", record, "page")
    assert not re.search("[Cc]onfidence and Dice", (tmp_path / "report.html").read_text())
