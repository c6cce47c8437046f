"""What a config asks of a plan, and how it gets it."""

import pytest
from monai.bundle import ConfigParser

from pipelines.config.executed import ExecutedConfig
from pipelines.data.dataset_folder import load_dataset
from pipelines.planning.plan_file import PlanError, as_overlay, executed_plan
from pipelines.planning.planned_config import put_in, wish_of
from pipelines.planning.records import Plan, PlannedValue
from tests.pipelines.small import write_dataset

CONFIG = {
    "imports": [],
    "spacing": "auto",
    "patch_size": [32, 32, 16],
    "window": None,
    "epochs": "auto",
    "learning_rate": "$0.001 * 2",
    "minutes": "auto",
    "memory_gb": 4,
    "planning": {"learning_rate": 0.004},
    "network": {"size": "@patch_size", "spacing": "@spacing"},
}


def config(**given):
    return ExecutedConfig(ConfigParser({**CONFIG, **given}))


def test_what_is_auto_is_open_and_all_else_is_given():
    wish = wish_of(config())
    assert wish.open == ("spacing", "epochs")
    assert wish.given == {"patch_size": [32, 32, 16], "window": None, "learning_rate": 0.002}
    assert wish.minutes is None
    assert wish.memory_gb == 4.0
    assert wish.network == {"learning_rate": 0.004}


def test_what_the_network_does_not_use_is_not_planned():
    assert "features" not in wish_of(config(features="auto")).open
    assert "features" in wish_of(config(features="auto", network_def={"features": "@features"})).open


@pytest.mark.parametrize("value", [0, -3, "soon", True])
def test_minutes_are_a_number_above_0(value):
    with pytest.raises(PlanError, match=r"minutes is .*; give a number above 0, or 'auto'"):
        wish_of(config(minutes=value))


def test_the_values_of_a_plan_reach_whatever_refers_to_them():
    executed = config()
    wish = wish_of(executed)
    plan = Plan(
        {"spacing": PlannedValue([1.0, 1.0, 2.0], "the median"), "epochs": PlannedValue(7, "the time")}
    )
    put_in(executed.parser, as_overlay(plan), wish)
    assert executed.parser.get_parsed_content("network") == {"size": [32, 32, 16], "spacing": [1.0, 1.0, 2.0]}
    assert executed.knobs()["epochs"] == 7
    assert executed_plan(executed)["spacing"] == [1.0, 1.0, 2.0]
    assert wish_of(executed).open == ()


def test_a_plan_without_a_value_that_is_needed_is_refused():
    executed = config()
    plan = Plan({"spacing": PlannedValue([1.0, 1.0, 2.0], "the median")})
    with pytest.raises(PlanError, match="the plan has no value for epochs: give --epochs, or --resume new"):
        put_in(executed.parser, as_overlay(plan), wish_of(executed))


def test_more_epochs_are_the_same_wish(tmp_path):
    """As they are the same training; another patch is another one."""
    data = load_dataset(write_dataset(tmp_path))

    def digest(**given):
        return wish_of(config(**given)).digest(data, {"_target_": "networks.R2UNet"})

    assert digest() == digest(epochs=30) == digest()
    assert digest() != digest(patch_size=[16, 16, 16])
    assert digest() != digest(minutes=30)
