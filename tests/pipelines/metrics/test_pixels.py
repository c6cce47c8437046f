"""Metrics of pixels, against scikit-learn's."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score, precision_score, recall_score, roc_auc_score

from pipelines.metrics.overlap import confusion_matrix
from pipelines.metrics.pixels import (
    pixel_histograms,
    pixel_scores,
    pooled_figures,
    pooled_scores,
    pooled_table,
)

NAMES, REGIONS = ["artery", "vein"], {"vessel": (1, 2), "vein (all)": (2,)}
IGNORE = 3


def image(seed):
    """Probabilities (3, X, Y) that know a little of the reference, whose value 3 does not count."""
    random = torch.Generator().manual_seed(seed)
    reference = torch.randint(0, 3, (40, 30), generator=random)
    logits = torch.randn(3, 40, 30, generator=random)
    logits += torch.nn.functional.one_hot(reference, 3).movedim(-1, 0)
    reference[torch.rand(40, 30, generator=random) < 0.2] = IGNORE
    return logits.softmax(0), reference.to(torch.int32)


def measured(seed, regions):
    probabilities, reference = image(seed)
    confusion = confusion_matrix(probabilities.max(0).indices, reference, 3, IGNORE)
    return confusion, pixel_histograms(probabilities, reference, NAMES, regions, IGNORE)


def plain(seeds, values):
    """Reference, prediction and probability of a structure in all pixels that count, as arrays."""
    columns = []
    for probabilities, reference in map(image, seeds):
        counted = (reference != IGNORE).numpy()
        found = np.isin(probabilities.max(0).indices, values), probabilities[list(values)].sum(0).numpy()
        columns.append([x[counted] for x in (np.isin(reference, values), *found)])
    return [np.concatenate(column) for column in zip(*columns, strict=True)]


@pytest.mark.parametrize("regions", [None, REGIONS])
def test_a_case(regions):
    found = pixel_scores(*measured(1, regions), NAMES, regions)
    for name, values in (regions or {"artery": (1,), "vein": (2,)}).items():
        reference, prediction, probability = plain([1], values)
        assert found["accuracy"][name] == pytest.approx(accuracy_score(reference, prediction))
        assert found["specificity"][name] == pytest.approx(recall_score(~reference, ~prediction))
        assert found["auc"][name] == pytest.approx(roc_auc_score(reference, probability), abs=1e-4)


@pytest.mark.parametrize("regions", [None, REGIONS])
def test_the_pixels_of_all_cases_together(regions):
    confusion, histograms = (
        sum(parts) for parts in zip(*(measured(s, regions) for s in (1, 2)), strict=True)
    )
    found = pooled_scores(confusion, histograms, NAMES, regions)
    for name, values in (regions or {"artery": (1,), "vein": (2,)}).items():
        reference, prediction, probability = plain([1, 2], values)
        row = found[name]
        assert row["dice"] == pytest.approx(f1_score(reference, prediction))
        assert row["sensitivity"] == pytest.approx(recall_score(reference, prediction))
        assert row["precision"] == pytest.approx(precision_score(reference, prediction))
        assert row["specificity"] == pytest.approx(recall_score(~reference, ~prediction))
        assert row["accuracy"] == pytest.approx(accuracy_score(reference, prediction))
        assert row["auc"] == pytest.approx(roc_auc_score(reference, probability), abs=1e-4)


def test_a_structure_that_no_image_has_is_not_measured_but_its_accuracy_is():
    probabilities = torch.tensor([0.9, 0.1, 0.0]).reshape(3, 1, 1).expand(3, 4, 4)
    reference = torch.zeros(4, 4, dtype=torch.int32)
    confusion = confusion_matrix(probabilities.max(0).indices, reference, 3)
    found = pooled_scores(confusion, pixel_histograms(probabilities, reference, NAMES), NAMES)
    assert found["artery"]["accuracy"] == found["artery"]["specificity"] == 1
    assert all(
        math.isnan(found["artery"][key]) for key in ("dice", "sensitivity", "auc", "average_precision")
    )
    figures = pooled_figures({"vein (all)": found["artery"]})
    assert figures == {"pooled_accuracy_vein _all_": 1, "pooled_specificity_vein _all_": 1}
    assert "nan" in pooled_table(found)
