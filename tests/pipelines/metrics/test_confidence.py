"""Confidence against Dice."""

import math

import numpy as np
import pytest
from scipy.stats import spearmanr

from pipelines.metrics.confidence import agreement, factors, mean_agreement


def test_the_order_and_the_distance_of_both():
    random = np.random.default_rng(0)
    dice = random.random(40).round(1)  # many are equal
    confidence = dice + random.normal(0, 0.1, 40)
    confidence[3], dice[5] = np.nan, np.nan
    known = np.isfinite(confidence) & np.isfinite(dice)
    found = agreement(confidence, dice)
    assert found["n"] == 38
    assert found["spearman"] == pytest.approx(spearmanr(confidence[known], dice[known]).statistic)
    assert found["mean_absolute_error"] == pytest.approx(np.abs(confidence - dice)[known].mean())
    assert agreement(-dice, dice)["spearman"] == pytest.approx(-1.0)


@pytest.mark.parametrize("values", [[], [0.9], [0.9, 0.8], [0.9, 0.9, 0.9]])
def test_no_order_without_cases_that_differ(values):
    found = agreement(np.array(values), np.array(values))
    assert math.isnan(found["spearman"])
    assert math.isnan(found["mean_absolute_error"]) == (not values)


def test_the_mean_of_the_classes_that_have_a_value():
    some = {"n": 5, "spearman": 0.8, "mean_absolute_error": 0.1}
    other = {"n": 2, "spearman": math.nan, "mean_absolute_error": 0.3}
    none = agreement(np.array([]), np.array([]))
    assert mean_agreement([some, other, none]) == {
        "n": 7,
        "spearman": 0.8,
        "mean_absolute_error": pytest.approx(0.2),
    }
    assert math.isnan(mean_agreement([none])["spearman"])


def test_by_how_much_a_network_is_too_sure():
    cases = [
        {"dice": {"liver": dice, "cyst": cyst}, "confidence": {"liver": 0.9, "cyst": sure}}
        for dice, cyst, sure in ((0.9, None, None), (0.6, 0.0, None), (0.75, 0.3, 0.6))
    ]
    together = (0.9 + 0.6 + 0.75 + 0.3) / (3 * 0.9 + 0.6)
    found = factors(cases, ["liver", "cyst", "stone"])
    # A missed structure has no confidence, and of a single case little can be told.
    assert found == {
        "liver": pytest.approx(2.25 / 2.7),
        "cyst": pytest.approx(together),
        "stone": pytest.approx(together),
    }


@pytest.mark.parametrize(
    "cases",
    [[], [{"dice": {"liver": 0.5}}] * 5, [{"dice": {"liver": 0.5}, "confidence": {"liver": 0.9}}] * 2],
)
def test_nothing_is_told_from_too_few_cases(cases):
    assert factors(cases, ["liver"]) == {"liver": 1.0}
