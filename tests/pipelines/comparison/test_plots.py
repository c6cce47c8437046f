"""Plots of a comparison: what is drawn lies where its value is."""

import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from pipelines.comparison.comparison import Comparison, compare
from pipelines.comparison.plots import boxes, differences
from pipelines.utils.svg import LABELS, RIGHT, WIDTH
from tests.pipelines.comparison.some_results import results

NAN = float("nan")


def test_points_lie_where_the_differences_are(comparison: Comparison) -> None:
    root = ElementTree.fromstring(differences(comparison, 1))
    values = (comparison.values[1] - comparison.values[0]).T.ravel()
    means = comparison.means[1] - comparison.means[0]
    expected = np.concatenate([values, means])
    expected = expected[~np.isnan(expected)]
    x = np.array([float(circle.attrib["cx"]) for circle in root.iter("circle")])
    assert len(x) == len(expected) == 24 + 23 + 24
    assert np.corrcoef(x, expected)[0, 1] > 0.99999
    assert x.min() >= LABELS
    assert x.max() <= WIDTH - RIGHT
    (zero,) = [line for line in root.iter("line") if line.attrib["class"] == "zero"]
    clear = np.abs(expected) > 1e-3
    assert np.array_equal(np.sign(x - float(zero.attrib["x1"]))[clear], np.sign(expected)[clear])
    kinds = {circle.attrib["class"] for circle in root.iter("circle")}
    assert kinds <= {"better", "worse", "same"}
    better = sum(circle.attrib["class"] == "better" for circle in root.iter("circle"))
    assert better == int((expected > 0).sum())
    bars = [line for line in root.iter("line") if line.attrib["class"] == "interval"]
    assert len(bars) == 3


def test_boxes_have_the_quartiles(comparison: Comparison) -> None:
    root = ElementTree.fromstring(boxes(comparison))
    rectangles = list(root.iter("rect"))
    assert len(rectangles) == 4
    values = comparison.values[:, :, 0]
    x = np.array([float(r.attrib["x"]) for r in rectangles[:2]])
    w = np.array([float(r.attrib["width"]) for r in rectangles[:2]])
    quartiles = np.quantile(values, (0.25, 0.75), axis=1)
    # One axis for all: the same scale turns values into places.
    scale = w[0] / (quartiles[1, 0] - quartiles[0, 0])
    assert w[1] == pytest.approx(scale * (quartiles[1, 1] - quartiles[0, 1]), abs=0.2)
    assert x[1] - x[0] == pytest.approx(scale * (quartiles[0, 1] - quartiles[0, 0]), abs=0.3)


def test_degenerate_comparisons_draw() -> None:
    """One case, no difference at all, a class without any value."""
    comparison = compare([results("a", [[0.5, NAN]]), results("b", [[0.5, NAN]])])
    for svg in (differences(comparison, 1), boxes(comparison)):
        text = ElementTree.tostring(ElementTree.fromstring(svg)).decode()
        assert "nan" not in text.lower().replace("nance", "")
        assert "inf" not in text.lower()
