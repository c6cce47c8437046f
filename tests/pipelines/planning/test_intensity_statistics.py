"""Quantiles of voxels, counted or sorted, and of several cases together."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from pipelines.planning.intensity_statistics import inside_and_outside, pooled_quantiles, whole_numbers
from pipelines.planning.records import QUANTILES


def values_of(dtype):
    random = np.random.default_rng(3)
    values = random.normal(-200, 500, (11, 13, 7)).astype(dtype)
    return values * 100 if dtype == np.int32 else values


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.float32])
@pytest.mark.parametrize("order", ["C", "F"])
def test_intensities_are_those_of_numpy(dtype, order):
    channel = np.asarray(values_of(dtype), order=order)
    inside = np.zeros(channel.shape, bool)
    inside[2:5, 3:9, 1:6] = True
    for found, voxels in zip(
        inside_and_outside(channel, inside), (channel[inside], channel[~inside]), strict=True
    ):
        wanted = voxels.astype(np.float64)
        assert found["voxels"] == wanted.size
        assert found["mean"] == pytest.approx(wanted.mean())
        assert found["deviation"] == pytest.approx(wanted.std())
        assert found["quantiles"] == pytest.approx(list(np.percentile(wanted, QUANTILES)))


def test_whole_numbers_are_counted_whatever_their_type_and_range():
    extremes = np.array([-32768, -32768, 32767, 0, 5], np.int16).reshape(5, 1, 1)
    inside = np.ones(extremes.shape, bool)
    counted = inside_and_outside(extremes, inside)[0]
    assert counted == inside_and_outside(extremes.astype(np.float32), inside)[0]
    assert counted["quantiles"][0] == -32768
    assert counted["quantiles"][-1] == 32767
    # One more does not fit the counters.
    beyond = extremes.astype(np.int32)
    beyond[2] = 32768
    assert inside_and_outside(beyond, inside)[0]["quantiles"][-1] == 32768


def test_a_constant_image_and_an_empty_mask():
    channel = np.full((4, 4, 4), 7, np.int16)
    inside, outside = inside_and_outside(channel, np.zeros(channel.shape, bool))
    assert inside == {"voxels": 0, "mean": 0.0, "deviation": 0.0, "quantiles": []}
    assert outside["quantiles"] == [7.0] * len(QUANTILES)
    assert (outside["mean"], outside["deviation"]) == (7.0, 0.0)


def test_whole_numbers_of_floats():
    assert whole_numbers(np.array([[1.0, -2.0]], np.float32))
    assert not whole_numbers(np.array([[1.0], [-2.5]], np.float32))
    assert whole_numbers(np.array([[1]], np.int32))


# -- several cases -----------------------------------------------------------------------------------------

VOXELS = arrays.arrays(
    np.float32,
    st.tuples(st.integers(1, 300), st.just(1)),
    elements=st.one_of(st.integers(-3, 3).map(float), st.floats(-1000, 1000, width=32)),
)


def record(voxels):
    return inside_and_outside(voxels, np.ones(voxels.shape, bool))[0]


@given(st.lists(VOXELS, min_size=1, max_size=5))
def test_pooled_quantiles_have_the_share_of_voxels_that_they_say(cases):
    together = np.sort(np.concatenate(cases).ravel().astype(np.float64))
    found = pooled_quantiles([record(case) for case in cases], QUANTILES)
    assert found == sorted(found)
    assert together[0] <= found[0]
    assert found[-1] <= together[-1]
    # A case knows each of its quantiles to 1%, and to a voxel.
    slack = 0.01 + sum(2 for _ in cases) / together.size
    for value, percent in zip(found, QUANTILES, strict=True):
        tiny = 1e-6 * max(1, abs(value))
        below = np.searchsorted(together, value - tiny, "left") / together.size
        upto = np.searchsorted(together, value + tiny, "right") / together.size
        assert below - slack <= percent / 100 <= upto + slack


@given(VOXELS, st.integers(1, 4))
def test_a_case_is_what_it_is_however_often_it_counts(voxels, times):
    one = record(voxels)
    found = pooled_quantiles([one] * times, QUANTILES)
    # Where voxels jump, a quantile may be anywhere in the jump: what is said is where the share is reached.
    lower, upper = np.array([one["quantiles"][0], *one["quantiles"][:-1]]), np.array(one["quantiles"])
    slack = 1e-9 * np.maximum(1, np.abs(upper))
    assert (np.array(found) >= lower - slack).all()
    assert (np.array(found) <= upper + slack).all()


def test_pooled_quantiles_weigh_voxels():
    few = record(np.full((10, 1), -5, np.float32))
    many = record(np.full((90, 1), 5, np.float32))
    assert pooled_quantiles([few, many], [0, 5, 9.9, 10.1, 50, 100]) == [-5, -5, -5, 5, 5, 5]
    assert pooled_quantiles([], [50]) == []
    empty = inside_and_outside(np.zeros((3, 1), np.int16), np.zeros((3, 1), bool))[0]
    assert pooled_quantiles([empty], [50]) == []
    assert pooled_quantiles([empty, many], [50]) == [5]


def test_pooled_quantiles_of_even_spreads():
    low, high = (
        record(np.linspace(start, start + 100, 1001, dtype=np.float32)[:, None]) for start in (0, 50)
    )
    found = pooled_quantiles([low, high], [0, 25, 50, 75, 100])
    assert found == pytest.approx([0, 50, 75, 100, 150], abs=0.2)
