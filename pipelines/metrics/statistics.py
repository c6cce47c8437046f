"""Means over cases and classes with confidence intervals, and paired differences between two runs."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from transforms.errors import SettingError

CONFIDENCE = 0.95
RESAMPLES = 2000
"""Number of bootstrap samples for the interval of one run's mean."""

PAIRED_RESAMPLES = 9999
"""Number of bootstrap samples for a comparison of two runs, which is computed far less often."""

# With five pairs the smallest two-sided p of the test is 2 / 2**5 = 0.0625, so it could never be significant.
SMALLEST_TEST = 6


@dataclass(frozen=True)
class Paired:
    """Statistics of the differences `other - baseline` of one class.

    Attributes:
        pairs: number of cases with a value in both runs; the statistics are over these cases.
        baseline, other: means of the two runs.
        difference: mean difference.
        low, high: ends of its 95% bootstrap interval; NaN for fewer than two pairs.
        p: p-value of the Wilcoxon signed-rank test, not corrected; NaN for fewer than six pairs.
        more, less, equal: number of pairs whose difference is positive, negative, zero.
        only_baseline, only_other, neither: cases with a value in one run or in none.
    """

    pairs: int
    baseline: float
    other: float
    difference: float
    low: float
    high: float
    p: float
    more: int
    less: int
    equal: int
    only_baseline: int
    only_other: int
    neither: int


def paired(baseline: np.ndarray, other: np.ndarray, seed: int = 0) -> Paired:
    """Compare two runs on one class.

    Args:
        baseline, other: values of the same cases in the same order, shape (cases,); NaN for a missing value.
        seed: seed of the bootstrap.

    Raises:
        SettingError: the shapes differ.

    Examples:
        >>> found = paired(np.array([0.7, 0.8, np.nan]), np.array([0.8, 0.9, 0.9]))
        >>> found.pairs, round(found.difference, 3), found.only_other
        (2, 0.1, 1)
    """
    baseline, other = np.asarray(baseline, float), np.asarray(other, float)
    if baseline.shape != other.shape or baseline.ndim != 1:
        raise SettingError(
            f"pairs need one value per case in both runs, not {baseline.shape} and {other.shape}"
        )
    first, second = ~np.isnan(baseline), ~np.isnan(other)
    both = first & second
    # Without rounding, 0.3 - 0.2 and 0.2 - 0.1 would differ by floating-point errors, which would affect the ranks.
    differences = np.round(other[both] - baseline[both], 12)
    low, high = bootstrap_interval(differences, seed)
    return Paired(
        pairs=int(both.sum()),
        baseline=_mean(baseline[both]),
        other=_mean(other[both]),
        difference=_mean(differences),
        low=low,
        high=high,
        p=signed_rank(differences),
        more=int((differences > 0).sum()),
        less=int((differences < 0).sum()),
        equal=int((differences == 0).sum()),
        only_baseline=int((first & ~second).sum()),
        only_other=int((second & ~first).sum()),
        neither=int((~first & ~second).sum()),
    )


def bootstrap_interval(differences: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """95% bootstrap interval of the mean, by resampling cases; (NaN, NaN) for fewer than two values.

    Examples:
        >>> bootstrap_interval(np.array([0.5, 0.5, 0.5]))
        (0.5, 0.5)
    """
    differences = np.asarray(differences, float)
    if len(differences) < 2:
        return np.nan, np.nan
    if np.all(differences == differences[0]):
        # Every resample has the same mean, and the acceleration of BCa would be 0 / 0.
        return float(differences[0]), float(differences[0])
    return _bca(lambda sample: differences[sample].mean(-1), len(differences), PAIRED_RESAMPLES, seed)


def signed_rank(differences: np.ndarray) -> float:
    """Two-sided p-value of the Wilcoxon signed-rank test; NaN for fewer than six pairs, which cannot reach 0.05.

    Pairs without a difference are left out of the ranks, as in F. Wilcoxon, Individual comparisons by ranking
    methods, Biometrics Bulletin 1(6), 1945; if no pair differs, p is 1. Exact up to 50 differences without ties, and
    up to 13 with ties; otherwise the normal approximation.

    Examples:
        >>> signed_rank(np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]))
        0.03125
    """
    differences = np.asarray(differences, float)
    if len(differences) < SMALLEST_TEST:
        return np.nan
    changed = differences[differences != 0]
    if not len(changed):
        return 1.0
    return float(stats.wilcoxon(changed).pvalue)


def holm(p: Sequence[float] | np.ndarray) -> np.ndarray:
    """p-values adjusted for multiple testing, so that the family-wise error rate is controlled.

    S. Holm, A simple sequentially rejective multiple test procedure, Scand J Statist 6(2), 1979. NaN stands for a
    missing test: it stays NaN and is not counted.

    Examples:
        >>> holm([0.01, 0.04, 0.03]).round(2).tolist()
        [0.03, 0.06, 0.06]
    """
    p = np.asarray(p, float)
    adjusted = np.full(p.shape, np.nan)
    tests = np.flatnonzero(~np.isnan(p))
    order = tests[np.argsort(p[tests], kind="stable")]
    steps = p[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else np.nan


def class_mean(values: np.ndarray) -> np.ndarray:
    """Mean over the classes of the means over the cases: (..., cases, classes) to (...).

    Examples:
        >>> float(class_mean(np.array([[0.8, 0.6], [1.0, np.nan]])))  # of 0.9 and 0.6
        0.75
    """
    known = ~np.isnan(values)
    count = known.sum(-2)
    with np.errstate(invalid="ignore"):
        means = np.where(known, values, 0).sum(-2) / count
        return np.where(count > 0, means, 0).sum(-1) / (count > 0).sum(-1)


def interval(values: np.ndarray) -> list[float] | None:
    """95% confidence interval of `class_mean` of values (cases, classes), by bootstrap over the cases.

    The bootstrap samples are the same in each call. Whole cases are resampled, because the classes of a case are not
    independent. None if fewer than two cases have a value.

    Examples:
        >>> interval(np.array([[0.5], [0.5], [0.5]]))
        [0.5, 0.5]
    """
    values = values[~np.isnan(values).all(1)]
    if len(values) < 2:
        return None
    estimate = float(class_mean(values))
    if np.array_equal(values, np.broadcast_to(values[:1], values.shape), equal_nan=True):
        return [estimate, estimate]
    return list(_bca(lambda sample: class_mean(values[sample]), len(values), RESAMPLES))


def _bca(
    statistic: Callable[[np.ndarray], np.ndarray], cases: int, resamples: int, seed: int = 0
) -> tuple[float, float]:
    """95% bootstrap interval of a statistic, by resampling cases: bias-corrected and accelerated (BCa).

    B. Efron, Better bootstrap confidence intervals, JASA 82(397), 1987.

    Args:
        statistic: from indices of cases (samples, cases) to values (samples,).
    """
    # BCa warns and returns NaN if the samples hardly differ; then the percentile interval is used instead.
    with warnings.catch_warnings(), np.errstate(invalid="ignore", divide="ignore"):
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        found = stats.bootstrap(
            (np.arange(cases),),
            lambda sample, axis: statistic(sample),
            n_resamples=resamples,
            batch=200,
            confidence_level=CONFIDENCE,
            method="BCa",
            rng=np.random.default_rng(seed),
        )
    low, high = found.confidence_interval
    if math.isnan(low) or math.isnan(high):
        low, high = np.percentile(found.bootstrap_distribution, (2.5, 97.5))
    return float(low), float(high)
