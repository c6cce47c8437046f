"""Costs between and beyond those that were measured."""

import pytest

from pipelines.planning.extrapolation import Line, StepLine
from pipelines.planning.records import StepCost


def test_costs_on_a_line_are_found_again():
    shapes = [((32, 32, 32), 1), ((64, 64, 32), 2), ((64, 64, 64), 1)]

    def cost(patch, batch):
        voxels = batch * patch[0] * patch[1] * patch[2]
        return StepCost(0.2 + 1e-6 * voxels, 50_000_000 + 700 * voxels, 0.01 + 3e-7 * voxels / batch)

    line = StepLine(shapes, [cost(*shape) for shape in shapes])
    found, wanted = line.at((96, 96, 64), 2), cost((96, 96, 64), 2)
    assert found == pytest.approx(wanted, rel=1e-6)
    assert isinstance(found.memory, int)


def test_a_line_is_never_negative():
    steep = Line.through([1.0, 2.0], [1.0, 5.0])
    assert steep.start == 0
    assert 1 < steep.slope < 2.5
    falling = Line.through([1.0, 2.0], [5.0, 4.0])
    assert falling.slope == 0
    assert 4 < falling.start < 5


def test_small_costs_count_as_much_as_large_ones():
    # Least absolute squares would miss the small one by more than a third.
    line = Line.through([1.0, 10.0, 100.0], [2.0, 11.0, 140.0])
    assert line(1.0) == pytest.approx(2.0, rel=0.2)


def test_windows_that_only_differ_in_the_batch():
    line = StepLine([((8, 8), 1), ((8, 8), 2)], [StepCost(1.0, 100, 0.2), StepCost(2.0, 200, 0.4)])
    assert line.at((8, 8), 4).window_seconds == pytest.approx(0.3)
    assert line.at((16, 8), 1).window_seconds == pytest.approx(0.6)


def test_windows_that_were_not_timed():
    line = StepLine([((8, 8), 1), ((8, 8), 2)], [StepCost(1.0, 100), StepCost(2.0, 200)])
    assert line.at((8, 8), 3).window_seconds == 0


@pytest.mark.parametrize(("xs", "ys"), [([1.0], [1.0]), ([1.0, 1.0], [1.0, 2.0]), ([1.0, 2.0], [0.0, 1.0])])
def test_what_is_no_line(xs, ys):
    with pytest.raises(ValueError, match="costs"):
        Line.through(xs, ys)
