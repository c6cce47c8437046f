"""How well a network's confidence tells the Dice that it gets."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypedDict

import numpy as np

__all__ = ["Agreement", "Estimates", "agreement", "factors", "mean_agreement"]

_FEWEST = 3
"""Cases from which an order can be told."""


class Estimates(TypedDict, total=False):
    """What a network says of its own result in a case, by the names of the classes.

    NaN (read back from JSON, None) of a class that it did not predict there.
    """

    confidence: Mapping[str, float | None]
    surface_entropy: Mapping[str, float | None]
    pass_agreement: Mapping[str, float | None]


class Agreement(TypedDict):
    """Confidence and Dice of a class over the cases where both have a value.

    Attributes:
        n: how many cases.
        spearman: rank correlation, -1 to 1; NaN of fewer than three cases, or where either is the same in all.
        mean_absolute_error: of the confidence as an estimate of the Dice; NaN without a case.
    """

    n: int
    spearman: float
    mean_absolute_error: float


def agreement(confidence: np.ndarray, dice: np.ndarray) -> Agreement:
    """Compare the confidence of some cases with their Dice; NaN in either leaves a case out.

    Examples:
        >>> found = agreement(np.array([0.75, 0.875, 1.0]), np.array([0.5, 0.875, 0.875]))
        >>> found["n"], round(found["spearman"], 3), found["mean_absolute_error"]
        (3, 0.866, 0.125)
    """
    both = np.isfinite(confidence) & np.isfinite(dice)
    confidence, dice = confidence[both], dice[both]
    error = float(np.abs(confidence - dice).mean()) if len(dice) else math.nan
    return {
        "n": len(dice),
        "spearman": _spearman(confidence, dice),
        "mean_absolute_error": error,
    }


def factors(cases: Iterable[Mapping[str, Any]], class_names: Sequence[str]) -> dict[str, float]:
    """By how much a network is too sure of each class: the ratio of Dice to confidence over labelled cases.

    One number a class can be told from few cases, and leaves their order as it is. A class of fewer than three cases
    has the ratio of all classes together, and without any it is 1.

    Args:
        cases: "dice" and "confidence" of each, by the names of the classes, as a model's card has them.

    Examples:
        >>> cases = [{"dice": {"lung": dice}, "confidence": {"lung": 1.0}} for dice in (0.75, 0.875, 1.0)]
        >>> factors(cases, ["lung", "lesion"])
        {'lung': 0.875, 'lesion': 0.875}
    """
    pairs: dict[str, list[tuple[float, float]]] = {name: [] for name in class_names}
    for case in cases:
        dice, sure = case.get("dice") or {}, case.get("confidence") or {}
        for name, found in pairs.items():
            if dice.get(name) is not None and sure.get(name) is not None:
                found.append((dice[name], sure[name]))
    together = [pair for found in pairs.values() for pair in found]
    return {
        name: _ratio(found if len(found) >= _FEWEST else together if len(together) >= _FEWEST else [])
        for name, found in pairs.items()
    }


def _ratio(pairs: Sequence[tuple[float, float]]) -> float:
    sure = sum(pair[1] for pair in pairs)
    return sum(pair[0] for pair in pairs) / sure if sure > 0 else 1.0


def mean_agreement(classes: Sequence[Agreement]) -> Agreement:
    """The means over the classes that have a value; `n` of all of them."""
    spearman = [each["spearman"] for each in classes if not math.isnan(each["spearman"])]
    error = [each["mean_absolute_error"] for each in classes if not math.isnan(each["mean_absolute_error"])]
    return {
        "n": sum(each["n"] for each in classes),
        "spearman": sum(spearman) / len(spearman) if spearman else math.nan,
        "mean_absolute_error": sum(error) / len(error) if error else math.nan,
    }


def _spearman(one: np.ndarray, other: np.ndarray) -> float:
    """Pearson's correlation of the ranks, equal values sharing theirs. C. Spearman, Am. J. Psychology 15, 1904."""
    if len(one) < _FEWEST or len(set(one.tolist())) == 1 or len(set(other.tolist())) == 1:
        return math.nan
    # It takes a while to import, and whoever predicts does without.
    from scipy.stats import rankdata

    return float(np.corrcoef(rankdata(one), rankdata(other))[0, 1])
