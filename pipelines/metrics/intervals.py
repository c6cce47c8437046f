"""Means over cases and classes, and how sure they are."""

from __future__ import annotations

import math
import warnings

import numpy as np
from scipy import stats

RESAMPLES = 2000
"""Bootstrap samples behind a confidence interval."""


def class_mean(values: np.ndarray) -> np.ndarray:
    """Mean over the classes of the means over the cases: (..., cases, classes) to (...)."""
    known = ~np.isnan(values)
    count = known.sum(-2)
    with np.errstate(invalid="ignore"):
        means = np.where(known, values, 0).sum(-2) / count
        return np.where(count > 0, means, 0).sum(-1) / (count > 0).sum(-1)


def interval(values: np.ndarray) -> list[float] | None:
    """95% confidence interval of `class_mean` of values (cases, classes), by bootstrap over the cases.

    BCa (Efron, J Am Stat Assoc 82, 1987), always with the same samples. The classes of a case are not independent
    of each other, so that cases are drawn whole. None where fewer than two cases have a value.
    """
    values = values[~np.isnan(values).all(1)]
    if len(values) < 2:
        return None
    estimate = float(class_mean(values))
    if np.array_equal(values, np.broadcast_to(values[:1], values.shape), equal_nan=True):
        return [estimate, estimate]
    index = np.arange(len(values))
    # BCa has no answer, and says so at length, where the samples hardly differ; percentiles always have.
    with warnings.catch_warnings(), np.errstate(invalid="ignore", divide="ignore"):
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        found = stats.bootstrap(
            (index,),
            lambda sample, axis: class_mean(values[sample]),
            n_resamples=RESAMPLES,
            batch=200,
            method="BCa",
            rng=np.random.default_rng(0),
        )
    low, high = found.confidence_interval
    if math.isnan(low) or math.isnan(high):
        low, high = np.percentile(found.bootstrap_distribution, (2.5, 97.5))
    return [float(low), float(high)]
