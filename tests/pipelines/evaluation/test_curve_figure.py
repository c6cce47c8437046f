"""The figure of the curves."""

import numpy as np
import torch
from PIL import Image

from pipelines.evaluation.curve_figure import draw_curves
from pipelines.metrics.overlap import confusion_matrix
from pipelines.metrics.pixels import pixel_histograms, pooled_scores


def drawn(path, names, quality, classes=None):
    """The pixels of the figure of a network that knows so much of the reference."""
    random = torch.Generator().manual_seed(1)
    reference = torch.randint(0, classes or len(names) + 1, (60, 60), generator=random)
    hot = torch.nn.functional.one_hot(reference, len(names) + 1).movedim(-1, 0)
    probabilities = (torch.randn(hot.shape, generator=random) + quality * hot).softmax(0)
    confusion = confusion_matrix(probabilities.max(0).indices, reference, len(names) + 1)
    histograms = pixel_histograms(probabilities, reference, names)
    draw_curves(path, histograms, pooled_scores(confusion, histograms, names))
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def blue(pixels, rows, columns):
    """How many pixels of a part of the figure have the colour of the first curve."""
    height, width = pixels.shape[:2]
    part = pixels[
        int(rows[0] * height) : int(rows[1] * height), int(columns[0] * width) : int(columns[1] * width)
    ]
    return int((np.abs(part - (0x1F, 0x77, 0xB4)).sum(-1) < 30).sum())


def test_a_better_network_is_nearer_to_the_corners(tmp_path):
    poor, good = (drawn(tmp_path / f"{quality}.png", ["vessel"], quality) for quality in (0.5, 6.0))
    # The middle of the left half, where the curve of chance runs, and the upper left corner of it.
    assert blue(poor, (0.3, 0.7), (0.12, 0.4)) > 50 > blue(good, (0.3, 0.7), (0.12, 0.4))
    assert blue(good, (0.0, 0.15), (0.05, 0.2)) > 50


def test_a_structure_that_nothing_has_is_left_out(tmp_path):
    pixels = drawn(tmp_path / "curves.png", ["artery", "vein"], 2.0, classes=1)
    assert blue(pixels, (0, 1), (0, 1)) == 0
