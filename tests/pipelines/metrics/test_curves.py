"""Curves and the areas under them, against scikit-learn's of the exact probabilities."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from pipelines.metrics.curves import area_under_roc, average_precision, histogram, precision_recall, roc


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    pixels=st.integers(50, 5000),
    share=st.floats(0.05, 0.95),
    apart=st.floats(-2, 6),
    spread=st.floats(0.1, 5),
)
def test_the_area_is_that_of_the_exact_probabilities_but_for_pairs_in_one_bin(
    seed, pixels, share, apart, spread
):
    random = torch.Generator().manual_seed(seed)
    reference = torch.rand(pixels, generator=random) < share
    reference[:2] = torch.tensor([True, False])
    logits = spread * torch.randn(pixels, generator=random) + torch.where(reference, apart, -apart)
    probabilities = torch.sigmoid(logits)
    counts = histogram(probabilities, reference)
    assert int(counts.sum()) == pixels
    # Pairs of pixels in one bin count as equal, half a pair each.
    without, with_it = counts.double()
    tied = float((without * with_it).sum() / (without.sum() * with_it.sum()))
    exact = roc_auc_score(reference, probabilities)
    assert abs(area_under_roc(counts) - exact) <= tied / 2 + 1e-12


@pytest.mark.parametrize("apart", [0.5, 2.0, 6.0])
def test_many_pixels(apart):
    random = torch.Generator().manual_seed(3)
    reference = torch.rand(400_000, generator=random) < 0.08
    logits = 3 * torch.randn(len(reference), generator=random) + torch.where(reference, apart, -apart)
    probabilities = torch.sigmoid(logits)
    counts = histogram(probabilities, reference)
    assert area_under_roc(counts) == pytest.approx(roc_auc_score(reference, probabilities), abs=1e-5)
    exact = average_precision_score(reference, probabilities)
    assert average_precision(counts) == pytest.approx(exact, abs=1e-4)


def test_histograms_of_images_add_up_and_leave_out_what_does_not_count():
    random = torch.Generator().manual_seed(4)
    probabilities, draws = torch.rand(2, 3, 500, generator=random)
    reference, counted = draws < 0.3, torch.rand(3, 500, generator=random) < 0.7
    together = sum(histogram(*row) for row in zip(probabilities, reference, counted, strict=True))
    assert torch.equal(together, histogram(probabilities, reference, counted))
    assert torch.equal(together, histogram(probabilities[counted], reference[counted]))


def test_certainty_and_its_absence():
    probabilities = torch.tensor([0.0, 0.0, 1.0, 1.0])
    right = torch.tensor([False, False, True, True])
    assert area_under_roc(histogram(probabilities, right)) == 1.0
    assert area_under_roc(histogram(probabilities, ~right)) == 0.0
    assert area_under_roc(histogram(torch.full((4,), 0.5), right)) == 0.5
    assert math.isnan(area_under_roc(histogram(probabilities, torch.ones(4, dtype=torch.bool))))
    assert math.isnan(average_precision(histogram(probabilities, torch.zeros(4, dtype=torch.bool))))


def test_what_is_very_unlikely_is_still_in_order():
    """As of a network that is sure of the background: float32 has numbers down to 1e-45."""
    probabilities = torch.tensor([1e-38, 1e-30, 1e-20, 1e-12, 1e-9, 1.0])
    reference = torch.tensor([False, True, False, True, False, True])
    found = area_under_roc(histogram(probabilities, reference))
    assert found == pytest.approx(roc_auc_score(reference, probabilities))


def test_curves_run_from_the_surest_to_the_last_pixel():
    random = torch.Generator().manual_seed(5)
    probabilities = torch.rand(2000, generator=random)
    counts = histogram(probabilities, torch.rand(2000, generator=random) < probabilities)
    curve = roc(counts)
    assert (curve.x[0], curve.y[0], curve.x[-1], curve.y[-1]) == (0, 0, 1, 1)
    assert (np.diff(curve.x) >= 0).all()
    assert (np.diff(curve.y) >= 0).all()
    recall, precision = precision_recall(counts)
    assert (recall[0], precision[0], recall[-1]) == (0, 1, 1)
    assert precision[-1] == pytest.approx(int(counts[1].sum()) / 2000)
