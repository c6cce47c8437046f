import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipelines.inference.sliding_window import SlidingWindow
from pipelines.planning.rules import prediction
from pipelines.planning.rules.prediction import DENSE, USUAL, passes, windows

GRID, PATCH = (48, 48), (32, 32)
"""Four windows of half overlap, nine of three quarters."""


@given(
    st.lists(st.tuples(st.integers(8, 40), st.sampled_from([8, 16])), min_size=2, max_size=3), st.booleans()
)
def test_windows_are_those_of_the_sliding_window(axes: list[tuple[int, int]], dense: bool) -> None:
    grid, patch = zip(*axes, strict=True)
    overlap = DENSE if dense else USUAL
    seen = 0

    def network(batch: torch.Tensor) -> torch.Tensor:
        nonlocal seen
        seen += len(batch)
        return batch

    SlidingWindow(patch, 1, overlap=overlap)(torch.zeros(1, 1, *grid), network)
    assert seen == windows(grid, patch, overlap)


@pytest.mark.parametrize(
    ("window", "flips", "overlap", "mirrors"),
    [
        (0.01, (), DENSE, ()),
        (0.01, (0, 2), DENSE, (0, 2)),
        (0.3, (0, 2), USUAL, (0, 2)),
        (0.5, (0, 2), USUAL, (0,)),
        (0.6, (), USUAL, ()),
        (2.0, (0, 2), USUAL, ()),
    ],
)
def test_as_many_passes_as_are_quick(
    window: float, flips: tuple[int, ...], overlap: float, mirrors: tuple[int, ...]
) -> None:
    found = passes(GRID, PATCH, window, flips)
    assert (found.overlap, found.mirrors) == (overlap, mirrors)
    assert found.seconds == pytest.approx(windows(GRID, PATCH, overlap) * 2 ** len(mirrors) * window)
    assert found.fewest == pytest.approx(4 * window)


def test_what_is_given_stays() -> None:
    found = passes(GRID, PATCH, 10.0, (0, 1), overlap=0.75, mirrors=(1,))
    assert (found.overlap, found.mirrors, found.seconds) == (0.75, (1,), pytest.approx(18 * 10.0))
    found = passes(GRID, PATCH, 0.001, (0, 1), overlap=0.25, mirrors=())
    assert (found.overlap, found.mirrors) == (0.25, ())


def test_each_axis_may_have_an_overlap_of_its_own() -> None:
    assert windows(GRID, PATCH, (0.5, 0.75)) == 2 * 3
    assert passes(GRID, PATCH, 1.0, (), overlap=(0.75, 0.5)).seconds == pytest.approx(6.0)


def test_less_time_fewer_passes() -> None:
    found = [passes(GRID, PATCH, 0.05, (0, 1), longest) for longest in (10.0, 1.0, 0.5, 0.1)]
    assert [len(f.mirrors) for f in found] == [2, 2, 1, 0]
    assert [f.overlap for f in found] == [DENSE, USUAL, USUAL, USUAL]


def test_the_reasons_say_what_a_case_takes() -> None:
    for window, axes, dense in ((0.01, [0, 2], DENSE), (0.5, [0], USUAL), (2.0, [], USUAL)):
        found = passes(GRID, PATCH, window, (0, 2))
        value, reason = prediction.mirror_axes(found, (0, 2), 3)
        assert value == axes
        assert ("to save time" in reason) is (len(axes) == 1)
        value, reason = prediction.overlap(found)
        assert value == dense
        assert f"{found.seconds:.2g} s" in reason
    assert "not flipped" in prediction.mirror_axes(passes(GRID, PATCH, 0.1, ()), (), 3).reason
