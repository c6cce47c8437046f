import math
from collections.abc import Callable
from typing import Any

import pytest

from pipelines.planning.records import StepCost
from pipelines.planning.rules.patches import features_of
from pipelines.planning.rules.search import STEP_IN_TRAINING, Meter, Options, Setting, search
from pipelines.planning.rules.typical import typical
from tests.pipelines.planning.generated import DATASETS, Machine

GB = 2**30
ONE = (1.0, 1.0, 1.0)
SMALL = Setting(ONE, (32, 32, 32), (8, 16), 1)


def options(memory: int, lost: Callable[..., float] = lambda spacing, patch: 0.0, **changes: Any) -> Options:
    sizes = [(128, 128, 128), (64, 64, 64), (32, 32, 32)]
    return Options(
        image=typical(DATASETS["one class"], cropped=False),
        lost=lost,
        spacings=[ONE],
        patches=lambda spacing: sizes,
        features=lambda patch: [features_of(width, 2, 3) for width in (8, 16)],
        batch=1,
        patches_in_all=None,
        validation_cases=2,
        memory=memory,
    )._replace(**changes)


def test_costs_that_were_measured_are_not_measured_again() -> None:
    machine = Machine(GB)
    meter = Meter(machine)
    meter([SMALL, SMALL])
    meter([SMALL])
    assert len(machine.asked) == 1
    assert meter.expected(SMALL) == machine.cost(SMALL.knobs())


def test_other_sizes_lie_on_the_line_through_two() -> None:
    machine = Machine(64 * GB)
    meter = Meter(machine)
    meter([SMALL, SMALL._replace(patch=(64, 64, 64))])
    other = SMALL._replace(patch=(96, 96, 96), batch=2)
    found, true = meter.expected(other), machine.cost(other.knobs())
    assert found is not None
    assert found.seconds == pytest.approx(true.seconds, rel=0.01)
    assert found.memory == pytest.approx(true.memory, rel=0.01)


def test_what_is_larger_than_what_was_too_much_is_too_much() -> None:
    meter = Meter(
        lambda candidates: [StepCost(1.0, GB) if c["features"][0] < 16 else None for c in candidates]
    )
    meter([SMALL, SMALL._replace(features=(16, 32))])
    assert meter.expected(SMALL._replace(patch=(64, 64, 64))) is not None
    assert meter.expected(SMALL._replace(patch=(64, 64, 64), features=(24, 48))) is None


def test_the_choice_was_measured_and_keeps_the_memory() -> None:
    for memory in (GB // 4, GB, 16 * GB):
        machine = Machine(memory)
        meter = Meter(machine)
        choice = search(options(memory, lost=lambda spacing, patch: -math.prod(patch)), meter, 1000.0)
        assert choice is not None
        # A training takes longer than a step that was timed times the number of steps.
        assert choice.step == STEP_IN_TRAINING * machine.cost(choice.setting.knobs()).seconds
        assert machine.cost(choice.setting.knobs()).memory <= memory


def test_all_passes_are_time_of_validations() -> None:
    for longest in (0.0, 1.0, 1e9):
        for given in ({}, {"overlap": 0.75, "mirrors": (1,)}):
            wanted = options(GB, flips=(0, 1), **given)
            choice = search(wanted, Meter(Machine(GB)), longest * wanted.validation_cases / 0.12 + 100.0)
            assert choice is not None
            assert choice.validation == pytest.approx(wanted.validation_cases * choice.passes.seconds)
            if given:
                assert choice.passes[:2] == (0.75, (1,))


def test_a_machine_that_needs_more_than_it_seems_from_small_steps_is_believed() -> None:
    """Memory grows with the square of the voxels, so that what is expected is always too little."""

    def measure(candidates: list[dict[str, Any]]) -> list[StepCost | None]:
        costs = [StepCost(0.1, round(math.prod(c["patch_size"]) ** 2 / 10)) for c in candidates]
        return [cost if cost.memory <= 10**10 else None for cost in costs]

    choice = search(options(10**10, lost=lambda spacing, patch: -math.prod(patch)), Meter(measure), 1000.0)
    assert choice is not None
    assert choice.setting.patch == (64, 64, 64)


def test_nothing_fits() -> None:
    assert search(options(10), Meter(Machine(10)), 1000.0) is None


def test_a_given_length_is_not_changed() -> None:
    choice = search(options(64 * GB, patches_in_all=77), Meter(Machine(64 * GB)), 60.0)
    assert choice is not None
    assert choice.steps == 77
