"""The table of metrics against the functions that measure them."""

import numpy as np
import torch

from pipelines.metrics.centerlines import centerline_metrics
from pipelines.metrics.names import CENTERLINE_METRICS, METRICS, PIXEL_METRICS
from pipelines.metrics.overlap import overlap_metrics
from pipelines.metrics.pixels import pixel_histograms, pixel_scores
from pipelines.metrics.surfaces import surface_metrics


def test_the_table_holds_just_what_is_measured():
    labels = torch.tensor([[0, 1], [1, 1]])
    confusion = torch.tensor([[1, 0], [0, 3]])
    pixels = pixel_scores(confusion, pixel_histograms(torch.rand(2, 2, 2), labels, ["a"]), ["a"])
    assert tuple(pixels) == PIXEL_METRICS
    found = overlap_metrics(confusion, ["a"], 1.0) | pixels
    found |= surface_metrics(labels.numpy(), labels.numpy(), ["a"], np.eye(4), 1.0)
    lines = centerline_metrics(labels.numpy(), labels.numpy(), ["a"], ["a"])
    assert tuple(lines) == CENTERLINE_METRICS
    found |= lines
    assert found.keys() == {*METRICS, "reference_voxels", "prediction_voxels"}


def test_a_share_has_no_unit_and_more_digits():
    assert (METRICS["nsd"].heading, METRICS["nsd"].digits) == ("surface Dice (NSD)", 4)
    assert (METRICS["hd95_mm"].heading, METRICS["hd95_mm"].digits) == ("HD95 (mm)", 2)
