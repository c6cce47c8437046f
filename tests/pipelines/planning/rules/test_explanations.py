from pipelines.planning.records import StepCost
from pipelines.planning.rules import explanations
from pipelines.planning.rules.prediction import Passes
from pipelines.planning.rules.schedule import length_of
from pipelines.planning.rules.search import Choice, Meter, Setting
from tests.pipelines.planning.generated import Machine
from tests.pipelines.planning.rules.test_search import GB, ONE, options

SETTING = Setting(ONE, (64, 64, 64), (8, 16, 32), 1)
CHOICE = Choice(SETTING, 1000, 600.0, 0.5, 20.0, 3.0, Passes(0.5, (), 1.0, 1.0))


def measured(memory: int) -> Meter:
    meter = Meter(Machine(64 * GB))
    meter([SETTING, SETTING._replace(features=(16, 32, 64))])
    return meter


def test_what_a_larger_patch_or_a_wider_network_would_cost() -> None:
    plenty = options(64 * GB)
    assert "of 128 x 128 x 128 there would be 88% fewer" in explanations.patch(
        plenty, measured(64 * GB), CHOICE
    )
    assert "with 16 channels a step takes" in explanations.features(plenty, measured(64 * GB), CHOICE)


def test_memory_is_named_where_it_decides() -> None:
    little = options(GB // 4)
    assert "memory of 0.25 GB" in explanations.patch(little, measured(GB), CHOICE)
    assert "memory of 0.25 GB" in explanations.features(little, measured(GB), CHOICE)


def test_the_schedule_in_words() -> None:
    length = length_of(1000, 600, 20)
    assert "1,000 steps of 0.5 s, 10 minutes of the 12 minutes" in explanations.epochs(length, CHOICE, 12)
    assert "3 validations of 5 cases and 20 s, 10%" in explanations.val_interval(length, 5, CHOICE)


def test_what_does_not_fit_names_what_was_given_and_what_it_takes() -> None:
    meter = Meter(lambda candidates: [StepCost(1.0, 3 * GB) for _ in candidates])
    meter([SETTING])
    words = explanations.nothing_fits(options(GB), meter, {"patch_size": [64, 64, 64]})
    assert "patch_size [64, 64, 64]" in words
    assert "takes 3 GB" in words
    assert "give more memory" in explanations.nothing_fits(options(GB), Meter(Machine(1)), {})
