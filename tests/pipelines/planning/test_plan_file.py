"""A plan survives its file, and whoever reads one gets either it or a sentence."""

import json

import pytest
from monai.bundle import ConfigParser

from pipelines.config.executed import ExecutedConfig
from pipelines.planning.plan_file import (
    PlanError,
    as_overlay,
    asked_of,
    executed_plan,
    from_overlay,
    read_plan,
    write_plan,
)
from pipelines.planning.records import Plan, PlannedValue, StepCost

PLAN = Plan(
    values={
        "spacing": PlannedValue([1.0, 1.0, 3.0], "the median of 4 cases"),
        "window": PlannedValue(None, "no CT"),
        "epochs": PlannedValue(20, "what fits into 30 minutes"),
    },
    given={"learning_rate": 0.001},
    minutes=29.5,
    cost=StepCost(0.25, 2_000_000_000),
    notices=("one case has no label of 'tumour'",),
)


def test_a_plan_comes_back_from_its_file(tmp_path):
    write_plan(tmp_path / "plan.json", as_overlay(PLAN, asked="abc"))
    overlay = read_plan(tmp_path / "plan.json")
    assert from_overlay(overlay) == PLAN
    assert asked_of(overlay) == "abc"


def test_the_file_is_an_overlay_for_monai(tmp_path):
    """Beside a bundle's config it gives the values, and its reasons are a comment."""
    write_plan(tmp_path / "plan.json", as_overlay(PLAN))
    (tmp_path / "train.json").write_text(
        '{"spacing": "auto", "window": "auto", "epochs": "auto", "run": []}', encoding="utf-8"
    )
    parser = ConfigParser()
    parser.read_config([str(tmp_path / "train.json"), str(tmp_path / "plan.json")])
    config = ExecutedConfig(parser)
    assert config.raw == {"spacing": [1.0, 1.0, 3.0], "window": None, "epochs": 20, "run": []}
    assert from_overlay(executed_plan(config)) == PLAN


def test_a_value_given_beside_the_plan_is_none_of_it():
    parser = ConfigParser({**as_overlay(PLAN), "epochs": 40})
    assert set(from_overlay(executed_plan(ExecutedConfig(parser))).values) == {"spacing", "window"}


def test_a_config_without_plan_has_none():
    assert executed_plan(ExecutedConfig(ConfigParser({"epochs": 3}))) is None


@pytest.mark.parametrize(
    "content", ["", "[1]", "{}", '{"_desc_planned": "text"}', '{"_desc_planned": {"reasons": 3}}']
)
def test_what_is_no_plan_is_refused_by_name(tmp_path, content):
    path = tmp_path / "plan.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(PlanError, match=r"plan\.json is no plan.*remove it") as caught:
        read_plan(path)
    assert caught.value.exit_status


def test_a_knob_a_line(tmp_path):
    write_plan(tmp_path / "plan.json", as_overlay(PLAN))
    lines = (tmp_path / "plan.json").read_text(encoding="utf-8").splitlines()
    assert '    "spacing": [1.0, 1.0, 3.0],' in lines
    assert json.loads((tmp_path / "plan.json").read_text(encoding="utf-8"))["epochs"] == 20
