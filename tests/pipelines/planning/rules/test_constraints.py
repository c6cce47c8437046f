import pytest

from pipelines.planning.plan_file import PlanError
from pipelines.planning.rules import constraints
from pipelines.planning.rules.typical import typical
from tests.pipelines.planning.generated import DATASETS

CT = typical(DATASETS["one class"], cropped=False)


def test_a_spacing_may_be_a_number_or_leave_axes_open() -> None:
    assert constraints.given_spacing(2, [1.0, 1.0, 3.0]) == [2.0, 2.0, 2.0]
    assert constraints.given_spacing([None, 2, None], [1.0, 1.0, 3.0]) == [1.0, 2.0, 3.0]
    assert constraints.given_spacing(None, [1.0, 1.0, 3.0]) == [1.0, 1.0, 3.0]


def test_a_patch_is_checked_by_what_halves_it() -> None:
    assert constraints.given_patch({}, CT, None, True) is None
    assert constraints.given_patch({"patch_size": [36, 36, 36]}, CT, 2, True) == (36, 36, 36)
    assert constraints.given_patch({"patch_size": [33, 33, 33]}, CT, None, False) == (33, 33, 33)
    with pytest.raises(PlanError, match="cannot be halved 3 times, as features ask: give 40 x 40 x 40"):
        constraints.given_patch({"patch_size": [36, 36, 36]}, CT, 3, True)
    with pytest.raises(PlanError, match="two or three"):
        constraints.given_patch({"patch_size": [36]}, CT, None, True)


def test_steps_follow_from_both_parts_of_the_schedule_only() -> None:
    assert constraints.given_steps({"epochs": 3, "patches_per_epoch": 8}) == 24
    assert constraints.given_steps({"epochs": 3}) is None


def test_words_are_taken_in_any_case() -> None:
    found = DATASETS["one class"]
    assert constraints.given_words(found, {"normalization": ["ct"]}, ["zscore"]) == ["CT"]
    assert constraints.given_words(found, {}, ["zscore"]) == ["zscore"]
