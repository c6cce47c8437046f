"""Names that a spreadsheet would run."""

import csv

import pytest
import torch

from pipelines.metrics.overlap import overlap_metrics
from pipelines.metrics.result_files import guarded, write_csv, write_summary_csv
from pipelines.metrics.summary import summarise


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
