"""Files of metrics, for spreadsheets and for comparisons."""

import csv
import json
import math

import numpy as np
import pytest
import torch

from pipelines.metrics.names import METRICS, OCCASIONAL_METRICS
from pipelines.metrics.overlap import overlap_metrics
from pipelines.metrics.result_files import (
    guarded,
    results,
    without_nan,
    write_csv,
    write_json,
    write_summary_csv,
)
from pipelines.metrics.summary import MISSED, summarise
from tests.pipelines.metrics.scored import CASES, NAMES, full_cases

MEASURED = [metric for metric in METRICS if metric not in OCCASIONAL_METRICS]


@pytest.mark.parametrize("name", ["=1+1", "+SUM(A1)", "-2+3", "@SUM(A1)", "\t=1", "-case"])
def test_a_formula_gets_an_apostrophe(name):
    assert guarded([name, "case", 1]) == [f"'{name}", "case", 1]


@pytest.mark.parametrize("cell", ["", "-0.5", "+1e-3", "case=1", "1-2", "a@b", -0.5, None])
def test_numbers_and_other_names_stay(cell):
    assert guarded([cell]) == [cell]


def test_tables_of_an_evaluation_hold_no_formula(tmp_path):
    names = ["=1+1"]
    cases = [
        {"case": "@SUM(A1)", **overlap_metrics(torch.tensor([[5, 1], [2, 3]]), names, 1.0)},
        {"case": "plain", **overlap_metrics(torch.tensor([[5, 0], [3, 2]]), names, 1.0)},
    ]
    write_csv(tmp_path / "metrics.csv", cases, names)
    write_summary_csv(tmp_path / "summary.csv", summarise(cases, names))
    lines = list(csv.DictReader((tmp_path / "metrics.csv").open()))
    assert [line["case"] for line in lines] == ["'@SUM(A1)", "plain"]
    assert {line["class"] for line in lines} == {"'=1+1"}
    assert [float(line["volume_error_ml"]) for line in lines] == [-1, -3]
    assert {line["class"] for line in csv.DictReader((tmp_path / "summary.csv").open())} == {"'=1+1"}


def test_csv_holds_every_case_and_class(tmp_path):
    write_csv(tmp_path / "new" / "metrics.csv", CASES, NAMES)
    with (tmp_path / "new" / "metrics.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 9
    assert rows[6] == {"case": "c, d", "class": "liver", "dice": "0.800000"}
    assert rows[1] == {"case": "a", "class": "cyst", "dice": ""}
    cases = full_cases()
    write_csv(tmp_path / "metrics.csv", cases, NAMES)
    with (tmp_path / "metrics.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert list(rows[0])[2 : 2 + len(MEASURED)] == MEASURED
    assert float(rows[1]["hd95_mm"]) == pytest.approx(cases[0]["hd95_mm"]["cyst"], abs=1e-6)
    missed = next(row for row in rows if row["outcome"] == MISSED)
    assert (missed["case"], missed["class"], missed["dice"]) == ("c2", "liver", "0.000000")
    assert missed["hd95_mm"] == missed["precision"] == ""
    assert missed["prediction_voxels"] == "0"


def test_the_summary_as_csv(tmp_path):
    summary = summarise(full_cases(), NAMES, intervals=True)
    write_summary_csv(tmp_path / "summary.csv", summary)
    with (tmp_path / "summary.csv").open(newline="") as stream:
        rows = {(row["class"], row["metric"]): row for row in csv.DictReader(stream)}
    assert len(rows) == len(NAMES) * len(MEASURED)
    row = rows["liver", "hd95_mm"]
    assert row["n"] == "3"
    assert row["missed"] == "1"
    assert float(row["mean"]) == pytest.approx(summary["classes"]["liver"]["hd95_mm"]["mean"], abs=1e-6)
    assert float(row["ci95_low"]) <= float(row["mean"]) <= float(row["ci95_high"])


def test_json_is_what_comparisons_read(tmp_path):
    summary = summarise(CASES, NAMES)
    write_json(tmp_path / "metrics.json", CASES, NAMES, summary)
    text = (tmp_path / "metrics.json").read_text()
    assert "NaN" not in text, "NaN is no JSON"
    read = json.loads(text)
    assert read == json.loads(json.dumps(results(CASES, NAMES, split="validation")))
    assert (read["format"], read["split"], read["classes"]) == (1, "validation", NAMES)
    assert read["cases"][1] == {"case": "b", "dice": {"liver": 0.7, "cyst": 0.5, "stone": None}}
    assert read["summary"]["classes"]["stone"]["dice"]["mean"] is None
    assert read["summary"]["mean_dice"] == pytest.approx(summary["mean_dice"])
    for case in results(full_cases(), NAMES)["cases"]:
        assert set(MEASURED) < set(case)
        assert all(set(case[metric]) == set(NAMES) for metric in MEASURED)


def test_cases_read_back_from_json_count_as_those_measured():
    for cases in (CASES, full_cases()):
        read = json.loads(json.dumps(without_nan(cases)))
        found, expected = (summarise(part, NAMES, intervals=True) for part in (read, cases))
        np.testing.assert_equal(found, expected)


def test_the_confidence_stands_last(tmp_path):
    sure = [{"confidence": {"liver": 0.8, "cyst": math.nan, "stone": math.nan}}, {}, {}]
    write_csv(tmp_path / "m.csv", [case | more for case, more in zip(CASES, sure, strict=True)], NAMES)
    lines = (tmp_path / "m.csv").read_text().splitlines()
    assert lines[:3] == ["case,class,dice,confidence", "a,liver,0.900000,0.800000", "a,cyst,,"]
    assert lines[4] == "b,liver,0.700000,"
