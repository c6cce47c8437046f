"""The page of a plan shows any dataset."""

import re

import pytest

from pipelines.planning.page import write_plan_page
from pipelines.planning.records import Plan, PlannedValue, StepCost
from tests.pipelines.planning import generated

PLAN = Plan(
    {"window": PlannedValue([-200, 300], "the labelled voxels"), "epochs": PlannedValue(20, "the time")},
    given={"seed": 3},
    minutes=29.6,
    cost=StepCost(0.25, 3 * 10**9),
    notices=("look at <case 1>",),
)


@pytest.mark.parametrize("found", generated.DATASETS.values(), ids=generated.DATASETS.keys())
def test_any_dataset_has_a_page(tmp_path, found):
    write_plan_page(tmp_path / "plan.html", PLAN, found)
    page = (tmp_path / "plan.html").read_text(encoding="utf-8")
    assert "30 minutes on this machine" in page
    assert "0.25 s and 3.00 GB" in page
    assert "look at &lt;case 1&gt;" in page
    for case in found["cases"]:
        assert case["case"] in page
    numbers = re.findall(r'="(-?(?:nan|inf)[^"]*)"', page)
    assert not numbers
    assert page.count("<svg") >= 3 + len(found["cases"][0]["channels"]) - 1
