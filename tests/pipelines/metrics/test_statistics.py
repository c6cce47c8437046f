"""Statistics of paired differences, against published examples and independent computations."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from pipelines.metrics.statistics import Paired, bootstrap_interval, holm, paired, signed_rank

# Hollander and Wolfe, Nonparametric Statistical Methods, 1973, page 29: Hamilton depression scale of nine patients
# at the first and second visit; the example of R's wilcox.test, which prints V = 40, p-value = 0.03906 two-sided.
VISIT_1 = np.array([1.83, 0.50, 1.62, 2.48, 1.68, 1.88, 1.55, 3.06, 1.30])
VISIT_2 = np.array([0.878, 0.647, 0.598, 2.05, 1.06, 1.29, 1.06, 3.14, 1.29])

# Darwin's maize: cross-fertilised minus self-fertilised heights in eighths of an inch. R. A. Fisher, The Design of
# Experiments, 1935, section 17, where the sum is 314.
DARWIN = np.array([49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48], float)


def test_the_signed_rank_test_is_that_of_r() -> None:
    assert signed_rank(VISIT_1 - VISIT_2) == pytest.approx(0.0390625)
    result = paired(VISIT_1, VISIT_2)
    assert result.p == pytest.approx(0.0390625)
    assert (result.more, result.less, result.equal) == (2, 7, 0)
    assert result.difference == pytest.approx(VISIT_2.mean() - VISIT_1.mean())


def test_the_signed_rank_test_of_darwins_maize_counts_every_sign() -> None:
    """All 2^15 signs of the ranks, which have no ties: the definition of the exact test."""
    ranks = np.arange(1, 16)
    order = np.argsort(np.abs(DARWIN))
    observed = ranks[DARWIN[order] > 0].sum()
    sums = np.array(list(product((0, 1), repeat=15))) @ ranks
    expected = 2 * (sums >= observed).mean()
    assert observed == 96
    assert signed_rank(DARWIN) == pytest.approx(expected)
    assert signed_rank(DARWIN) == pytest.approx(0.04126, abs=5e-6)


def test_zeros_are_left_out_and_too_few_cases_have_no_p() -> None:
    changed = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    assert signed_rank(np.concatenate([changed, np.zeros(20)])) == pytest.approx(2 / 2**6)
    assert signed_rank(np.zeros(6)) == 1.0
    assert np.isnan(signed_rank(changed[:5]))
    assert np.isnan(signed_rank(np.array([])))


@settings(max_examples=25)
@given(st.lists(st.sampled_from([-3.0, -2.0, -1.0, 1.0, 2.0, 3.0]), min_size=6, max_size=9))
def test_ties_are_counted_exactly_in_small_samples(differences: list[float]) -> None:
    values = np.array(differences)
    ranks = stats.rankdata(np.abs(values))
    observed = ranks[values > 0].sum()
    sums = np.array(list(product((0, 1), repeat=len(values)))) @ ranks
    expected = min(1.0, 2 * min((sums >= observed - 1e-9).mean(), (sums <= observed + 1e-9).mean()))
    assert signed_rank(values) == pytest.approx(expected)


def test_holm_by_hand() -> None:
    """0.005 x 4, 0.01 x 3, 0.03 x 2, then 0.04 x 1, which may not fall below the one before it."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_holm_of_r() -> None:
    """p.adjust(c(0.01, 0.02, 0.03, 0.04, 0.05), "holm") is 0.05 0.08 0.09 0.09 0.09."""
    assert holm([0.01, 0.02, 0.03, 0.04, 0.05]) == pytest.approx([0.05, 0.08, 0.09, 0.09, 0.09])


@given(st.lists(st.one_of(st.floats(0, 1), st.just(float("nan"))), max_size=12))
def test_holm_is_the_step_down_procedure(p: list[float]) -> None:
    """Holm 1979: reject in order while p(k) <= level / (m - k + 1); the adjusted p is the least such level."""
    adjusted = holm(p)
    known = sorted(value for value in p if value == value)
    for value, found in zip(p, adjusted, strict=True):
        if value != value:
            assert np.isnan(found)
            continue
        levels = [len(known) - k for k in range(len(known))]
        needed = max(known[k] * levels[k] for k in range(known.index(value) + 1))
        assert found == pytest.approx(min(1.0, needed))
        assert found >= value


def test_the_interval_is_bca() -> None:
    """The formulas of Efron 1987 over the resamples of another generator."""
    random = np.random.default_rng(11)
    means = random.choice(DARWIN, (200_000, len(DARWIN))).mean(1)
    z0 = stats.norm.ppf((means < DARWIN.mean()).mean())
    left_out = np.array([np.delete(DARWIN, i).mean() for i in range(len(DARWIN))])
    u = left_out.mean() - left_out
    a = (u**3).sum() / (6 * (u**2).sum() ** 1.5)
    ends = []
    for share in (0.025, 0.975):
        z = z0 + stats.norm.ppf(share)
        ends.append(np.quantile(means, stats.norm.cdf(z0 + z / (1 - a * z))))
    # One interval rests on 9999 resamples; its ends vary by about 0.4 from seed to seed.
    found = np.mean([bootstrap_interval(DARWIN, seed) for seed in range(25)], axis=0)
    assert found == pytest.approx(ends, abs=0.3)
    assert bootstrap_interval(DARWIN) == bootstrap_interval(DARWIN, seed=0)
    assert bootstrap_interval(DARWIN) != bootstrap_interval(DARWIN, seed=1)


def test_the_interval_covers_the_truth() -> None:
    random = np.random.default_rng(5)
    hits = 0
    for sample in random.normal(0.02, 0.05, (200, 30)):
        low, high = bootstrap_interval(sample)
        hits += low <= 0.02 <= high
    assert 180 <= hits <= 200


def test_intervals_of_hardly_any_cases() -> None:
    assert np.isnan(bootstrap_interval(np.array([0.3]))).all()
    assert bootstrap_interval(np.full(7, 0.25)) == (0.25, 0.25)
    low, high = bootstrap_interval(np.array([0.0] * 99 + [1.0]))
    assert 0 <= low <= 0.01 <= high <= 0.1


def test_absent_values_are_counted_and_never_averaged() -> None:
    nan = float("nan")
    result = paired(np.array([0.5, nan, 0.7, nan, 0.9]), np.array([0.6, 0.8, nan, nan, 0.8]))
    assert result.pairs == 2
    assert result.difference == pytest.approx(0.0)
    assert (result.baseline, result.other) == (pytest.approx(0.7), pytest.approx(0.7))
    assert (result.only_baseline, result.only_other, result.neither) == (1, 1, 1)
    nothing = paired(np.array([nan, 0.5]), np.array([0.5, nan]))
    assert nothing.pairs == 0
    assert np.isnan([nothing.difference, nothing.low, nothing.high, nothing.p, nothing.baseline]).all()


def test_rounding_noise_is_no_change() -> None:
    """0.1 + 0.2 is not 0.3 in floating point; two such runs are equal."""
    result = paired(np.full(8, 0.3), np.full(8, 0.1 + 0.2))
    assert (result.equal, result.p, result.low, result.high) == (8, 1.0, 0.0, 0.0)


@settings(max_examples=30)
@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=12))
def test_swapping_the_runs_turns_everything_round(pairs: list[tuple[float, float]]) -> None:
    first, second = np.array(pairs).T
    there, back = paired(first, second), paired(second, first)
    assert there.difference == pytest.approx(-back.difference, abs=1e-12)
    assert (there.more, there.less, there.equal) == (back.less, back.more, back.equal)
    assert there.p == pytest.approx(back.p, nan_ok=True)
    assert there.low <= there.difference + 1e-9
    assert there.difference <= there.high + 1e-9


def test_values_of_different_cases_are_refused() -> None:
    with pytest.raises(ValueError, match="one value per case"):
        paired(np.zeros(3), np.zeros(4))
    assert isinstance(paired(np.zeros(1), np.ones(1)), Paired)
