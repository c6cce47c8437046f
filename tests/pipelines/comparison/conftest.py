"""Fixtures of the tests of comparisons."""

import numpy as np
import pytest

from pipelines.comparison.comparison import Comparison, compare
from tests.pipelines.comparison.some_results import results

NAN = float("nan")


@pytest.fixture
def pair() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(3)
    first = random.beta(20, 2, (24, 2))
    second = np.clip(first + random.normal(0.01, 0.02, (24, 2)), 0, 1)
    return first, second


@pytest.fixture
def comparison() -> Comparison:
    random = np.random.default_rng(3)
    first = random.beta(20, 2, (24, 2))
    second = np.clip(first + random.normal(0.01, 0.02, (24, 2)), 0, 1)
    second[3, 1] = NAN
    return compare([results("a", first), results("b", second)])
