"""Polygons to masks and back, against analytic shapes and scikit-image."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.measure import points_in_poly

from transforms.dicom.contours import crossed, fill_polygons, outlines

SHAPE = (31, 23)
CENTRES = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), -1).reshape(-1, 2)
some = settings(max_examples=60)


def ellipse(centre, radii, count=4000):
    turn = np.linspace(0, 2 * np.pi, count, endpoint=False)
    return np.column_stack([np.cos(turn), np.sin(turn)]) * radii + centre


@given(x=st.floats(5, 25), y=st.floats(5, 18), a=st.floats(0.3, 20), b=st.floats(0.3, 20), back=st.booleans())
@some
def test_an_ellipse_holds_the_centres_of_its_equation(x, y, a, b, back):
    polygon = ellipse((x, y), (a, b))
    mask = fill_polygons([polygon[::-1] if back else polygon], SHAPE)
    value = ((CENTRES - (x, y)) ** 2 / np.square((a, b))).sum(1).reshape(SHAPE)
    clear = np.abs(value - 1) > 1e-4  # the polygon keeps that near to the curve
    np.testing.assert_array_equal(mask[clear], (value < 1)[clear])


@given(seed=st.integers(0, 10**6), count=st.integers(3, 40), several=st.integers(1, 4))
@some
def test_any_polygons_equal_scikit_image(seed, count, several):
    random = np.random.default_rng(seed)
    polygons = [random.uniform(-6, 36, (count, 2)) for _ in range(several)]  # they cross themselves
    expected = np.zeros(SHAPE, bool)
    for polygon in polygons:
        expected ^= points_in_poly(CENTRES, polygon).reshape(SHAPE)
    np.testing.assert_array_equal(fill_polygons(polygons, SHAPE), expected)


def test_hole_island_and_keyhole():
    rings = [ellipse((15, 11), (radius, radius)) for radius in (9.4, 6.3, 2.2)]
    distance = np.hypot(*(CENTRES - (15, 11)).T).reshape(SHAPE)
    expected = ((distance < 9.4) & (distance > 6.3)) | (distance < 2.2)
    np.testing.assert_array_equal(fill_polygons(rings, SHAPE), expected)
    outer, inner = rings[0], rings[1][::-1]
    keyhole = np.vstack(
        [outer, outer[:1], inner[-1:], inner]
    )  # in along a cut, round the hole, back along the cut
    np.testing.assert_array_equal(fill_polygons([keyhole], SHAPE), (distance < 9.4) & (distance > 6.3))


def test_overlaps_are_told_from_holes():
    big, hole, beside, far = (
        ellipse(centre, (radius, radius))
        for centre, radius in (((12, 11), 8.3), ((12, 11), 4.2), ((19, 11), 6.4), ((28, 3), 1.7))
    )
    assert crossed([big], SHAPE) == crossed([big, hole, far], SHAPE) == 0
    both = fill_polygons([big], SHAPE) & fill_polygons([beside], SHAPE)
    assert crossed([beside, far, big], SHAPE) == both.sum() > 0


@given(seed=st.integers(0, 10**6))
@some
def test_neighbours_share_no_centre_and_leave_none_out(seed):
    """Also where the common edge runs through centres: vertices on whole numbers."""
    random = np.random.default_rng(seed)
    middle = np.column_stack([random.integers(5, 25, 6), np.linspace(-1, 24, 6).astype(int)])
    left = np.vstack([middle, [[-1, 24], [-1, -1]]])
    right = np.vstack([middle, [[40, 24], [40, -1]]])
    both = fill_polygons([left], SHAPE).astype(int) + fill_polygons([right], SHAPE)
    assert (both == 1).all()


@given(seed=st.integers(0, 10**6), share=st.floats(0.05, 0.95))
@some
def test_outlines_give_any_mask_back(seed, share):
    mask = np.random.default_rng(seed).random(SHAPE) < share
    polygons = list(outlines(mask))
    np.testing.assert_array_equal(fill_polygons(polygons, SHAPE), mask)
    rounded = [
        polygon + np.random.default_rng(seed).uniform(-1e-3, 1e-3, polygon.shape) for polygon in polygons
    ]
    np.testing.assert_array_equal(fill_polygons(rounded, SHAPE), mask)


def test_outlines_have_no_point_on_a_straight_line():
    mask = np.zeros(SHAPE, bool)
    assert list(outlines(mask)) == []
    mask[3:20, 4:17] = True
    (polygon,) = outlines(mask)
    assert len(polygon) == 8
    assert polygon.min(axis=0) == pytest.approx([2.5, 3.5])
    assert polygon.max(axis=0) == pytest.approx([19.5, 16.5])
