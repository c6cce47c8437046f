"""The plan in a model's description, perhaps a stranger's: kept as it is, or refused by its name."""

import dataclasses
import json

import pytest

from pipelines.inference.card_plan import checked_card_plan
from pipelines.inference.card_values import CardError
from pipelines.planning.card_data import card_plan
from pipelines.planning.plan_file import as_overlay
from pipelines.planning.records import Plan, PlannedValue

PLAN = Plan(
    values={
        "spacing": PlannedValue([1.0, 1.0, 2.5], "the median of all cases"),
        "normalization": PlannedValue(["zscore"], "no unit"),
        "window": PlannedValue(None, "no CT"),
        "epochs": PlannedValue(40, "fits into the time"),
        "learning_rate": PlannedValue(0.002, "for 16 channels"),
    },
    given={"batch_size": 2},
    minutes=20.0,
)


def test_a_plan_is_kept_with_its_reasons():
    kept = card_plan(json.loads(json.dumps(as_overlay(PLAN))))
    assert checked_card_plan(json.loads(json.dumps(kept))) == kept
    assert kept["minutes"] == 20.0
    assert kept["settings"]["spacing"] == {"value": [1.0, 1.0, 2.5], "reason": "the median of all cases"}
    assert list(kept["settings"]) == list(PLAN.values)


def test_a_plan_of_many_channels_and_long_reasons_is_kept():
    words = ["zscore"] * 1024
    plan = dataclasses.replace(PLAN, values={"normalization": PlannedValue(words, "why " * 2000)})
    kept = checked_card_plan(card_plan(json.loads(json.dumps(as_overlay(plan)))))
    assert kept["settings"]["normalization"]["value"] == words
    assert kept["settings"]["normalization"]["reason"].startswith("why why ")
    assert kept["settings"]["normalization"]["reason"].endswith("...")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"settings": None}, "plan#settings is None, not a JSON object"),
        ({"settings": {str(at): {"value": 1, "reason": "why"} for at in range(65)}}, "65 entries"),
        ({"settings": {"epochs": 3}}, "plan#settings#epochs is 3, not a JSON object"),
        ({"settings": {"epochs": {"value": 3}}}, "plan#settings#epochs#reason is None"),
        ({"settings": {"epochs": {"value": 3, "reason": "a\x1b[2J"}}}, "control characters"),
        (
            {"settings": {"epochs": {"value": {"_target_": "os.system"}, "reason": "why"}}},
            "not a plain value",
        ),
        ({"settings": {"epochs": {"value": [[1]], "reason": "why"}}}, "not a plain value"),
        ({"settings": {"epochs": {"value": [1] * 1025, "reason": "why"}}}, "has 1025 items"),
        ({"settings": {"epochs": {"value": float("nan"), "reason": "why"}}}, "must be a number"),
        ({"minutes": -1}, "plan#minutes is -1"),
    ],
)
def test_what_is_no_plan_is_refused_by_its_name(change, message):
    with pytest.raises(CardError, match=message):
        checked_card_plan({"minutes": 20.0, "settings": {}, **change})
