import pytest

from pipelines.planning.rules import schedule
from pipelines.planning.rules.typical import typical
from tests.pipelines.planning.generated import DATASETS


def test_preparing_grows_with_the_files_and_shrinks_with_cores() -> None:
    image = typical(DATASETS["huge CT"], cropped=True)
    one, two = (schedule.preparing_seconds(image, 5, cores) - schedule.START_SECONDS for cores in (1, 2))
    assert one == pytest.approx(25 * 512 * 512 * 1000 / schedule.PREPARED_PER_SECOND)
    assert two == pytest.approx(one / 2)


def test_what_preparing_takes_is_taken_off_but_for_a_part() -> None:
    assert schedule.training_seconds(10, 100) == pytest.approx(470)
    assert schedule.training_seconds(10, 10_000) == pytest.approx(180)


@pytest.mark.parametrize(("validation", "share"), [(1.0, 0.04), (30.0, 0.12), (100.0, 0.17), (0.0, 0.0)])
def test_validations_take_a_small_share_but_there_is_at_least_one(validation: float, share: float) -> None:
    assert schedule.validating(600, validation) / 600 <= share
    assert schedule.validating(600, validation) >= min(validation, 1.0)


def test_steps_fit_beside_the_validations() -> None:
    assert schedule.steps_within(600, 1.0, 30.0) == 540
    assert schedule.steps_within(1, 5.0, 0.0) == 1


@pytest.mark.parametrize("steps", [1, 7, 480, 5_001, 100_000])
def test_epochs_divide_the_steps(steps: int) -> None:
    length = schedule.length_of(steps, 1000, 1)
    assert length.epochs * length.steps_per_epoch == length.steps
    assert 0.95 * steps <= length.steps <= steps
    assert length.steps_per_epoch <= schedule.LONGEST_EPOCH
    assert 1 <= length.validations <= schedule.MOST_VALIDATIONS
    assert length.epochs == max(1, min(length.epochs, steps))


def test_dear_validations_are_rare() -> None:
    length = schedule.length_of(1000, 1000, 60)
    assert length.validations == 2
    assert schedule.length_of(1000, 1000, 900).validations == 1


def test_given_parts_of_the_schedule_are_kept() -> None:
    assert schedule.length_of(1000, 1000, 1, epochs=7)[:3] == (994, 7, 142)
    assert schedule.length_of(1000, 1000, 1, steps_per_epoch=30)[:3] == (990, 33, 30)
    assert schedule.length_of(1000, 1000, 1, epochs=3, steps_per_epoch=4)[:3] == (12, 3, 4)
    assert schedule.length_of(1000, 1000, 1, val_interval=6).validations == 4


def test_the_rate_falls_slowly_with_steps_and_width() -> None:
    assert schedule.learning_rate(0.004, 480, 8).value == 0.004
    assert schedule.learning_rate(0.004, 8000, 8).value == 0.002
    assert schedule.learning_rate(0.004, 480, 32).value == 0.0028
    assert schedule.learning_rate(0.004, 10**9, 8).value == 0.0004
    assert schedule.learning_rate(0.001, 550, None).value == pytest.approx(0.00098)


def test_warmup_is_a_small_part() -> None:
    assert [schedule.warmup(n).value for n in (1, 1000, 10**6)] == [1, 30, 500]


def test_a_rate_falls_late_where_every_voxel_is_seen_often() -> None:
    few, many = schedule.kind(13.4), schedule.kind(1234.5)
    assert few.value == "cosine"
    assert "in 13 patches, fewer than 20" in few.reason
    assert many.value == "wsd"
    assert "in 1,234 patches" in many.reason
    ema = {kind: schedule.ema(kind).value for kind in ("cosine", "poly", "wsd", "constant")}
    assert ema == {"cosine": 0.99, "poly": 0.99, "wsd": 0.999, "constant": 0.999}


def test_more_cases_are_worth_a_longer_training() -> None:
    assert [schedule.minutes_for(cases) for cases in (1, 16, 160, 1000)] == [5, 20, 63, 158]
