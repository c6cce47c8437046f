"""A plan in words."""

from pipelines.planning.records import Plan, PlannedValue
from pipelines.planning.table import as_text, lines


def test_a_line_for_each_value_with_its_reason():
    plan = Plan(
        {"spacing": PlannedValue([1.0, 1.0, 2.5], "the median"), "epochs": PlannedValue(20, "the time")},
        given={"patch_size": [64, 64, 32]},
        notices=("look at case a",),
    )
    assert list(lines(plan)) == [
        "spacing  [1, 1, 2.5]: the median",
        "epochs   20: the time",
        "patch_size  [64, 64, 32]: given",
        "notice: look at case a",
    ]


def test_numbers_are_as_short_as_they_can_be():
    assert as_text(0.0031622776) == "0.003162"
    assert as_text([0.97656, 1.0, None]) == "[0.9766, 1, null]"
    assert as_text("CT") == '"CT"'
