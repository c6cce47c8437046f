"""Figures of a validation: the darkest cell is where the voxels are, and every case is a point."""

import math

import numpy as np
import pytest
from PIL import Image

from pipelines.evaluation.mlflow_results import case_table, draw_confusion, draw_dice


def cells(path, classes):
    """Mean grey of every cell of the matrix, found by the frame around it: the longest black lines."""
    pixels = np.asarray(Image.open(path).convert("L"))
    black = pixels < 40
    rows, columns = (np.flatnonzero(black.sum(axis) > 0.9 * black.sum(axis).max()) for axis in (1, 0))
    top, left, size = rows[0], columns[0], rows[-1] - rows[0]
    edges = np.linspace(0, size, classes + 1).round().astype(int)
    return np.array(
        [
            [
                # The corner of a cell: its middle holds the number.
                pixels[
                    top + edges[r] + 3 : top + edges[r] + 6, left + edges[c] + 3 : left + edges[c] + 6
                ].mean()
                for c in range(classes)
            ]
            for r in range(classes)
        ]
    )


@pytest.mark.parametrize("classes", [3, 30])
def test_each_row_shows_where_its_class_went(tmp_path, classes):
    random = np.random.default_rng(0)
    went = random.permutation(classes)
    counts = np.zeros((classes, classes), np.int64)
    # Rows of very different size: shares count, not voxels.
    counts[np.arange(classes), went] = 10 ** random.integers(1, 9, classes)
    absent = 1
    counts[absent] = 0
    path = tmp_path / "confusion.png"
    draw_confusion(path, counts, [f"class {value}" for value in range(classes)])
    shade = cells(path, classes)
    for row in range(classes):
        if row == absent:
            assert shade[row].min() > 240, "an absent class has no errors"
        else:
            assert shade[row].argmin() == went[row]
            assert shade[row].min() < 100
            assert np.delete(shade[row], went[row]).min() > 200


def test_every_value_is_a_point_and_absent_structures_have_none(tmp_path):
    def points(*dice):
        path = tmp_path / "dice.png"
        draw_dice(path, [{"dice": {"a": value, "b": 0.5}} for value in dice], ["a", "b"])
        pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
        # Blue as the points are, on white.
        half = pixels[: pixels.shape[0] // 2]
        return np.count_nonzero((half[..., 2] - half[..., 0]) > 40)

    one = points(0.2, None, math.nan)
    assert one > 8
    assert points(0.2, 0.5, 0.8) > 2 * one
    assert points(None, None) == 0


def test_the_table_has_a_row_per_case_and_class():
    record = {
        "classes": ["a", "b"],
        "cases": [{"case": "1", "dice": {"a": 0.5, "b": None}, "iou": {"a": 0.3, "b": None}}],
    }
    assert case_table(record) == {
        "case": ["1", "1"],
        "class": ["a", "b"],
        "dice": [0.5, None],
        "iou": [0.3, None],
    }
