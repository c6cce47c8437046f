"""The grid that the network works on: where its voxels lie, and the way back."""

import json

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.transforms.spatial.grids import affines
from transforms.spatial.geometry import (
    Geometry,
    GeometryError,
    cropped,
    from_oriented,
    orient,
    resampled,
    to_oriented,
)

SETTINGS = settings(max_examples=30, derandomize=True)


shapes = st.lists(st.integers(1, 9), min_size=3, max_size=3)


def numbered(shape, channels=1):
    return torch.arange(channels * int(np.prod(shape)), dtype=torch.int32).reshape(channels, *shape)


@SETTINGS
@given(affines(), shapes)
def test_orientation_goes_there_and_back_exactly(affine, shape):
    volume = numbered(shape, 2)
    geometry = orient(shape, affine)
    there = to_oriented(volume, geometry)
    assert tuple(there.shape[1:]) == geometry.oriented_shape == geometry.grid
    assert torch.equal(from_oriented(there, geometry), volume)


@SETTINGS
@given(affines(), shapes)
def test_orientation_is_that_of_nibabel(affine, shape):
    volume = numbered(shape)
    reference = nib.as_closest_canonical(nib.Nifti1Image(volume[0].numpy(), affine))
    geometry = orient(shape, affine)
    np.testing.assert_array_equal(to_oriented(volume, geometry)[0].numpy(), np.asarray(reference.dataobj))
    np.testing.assert_allclose(geometry.prepared_affine, reference.affine, atol=1e-9)


def test_a_picture_keeps_its_axes():
    affine = np.diag([-0.2, -0.3, 1.0, 1.0])
    geometry = resampled(orient((20, 30), affine), 0.4)
    volume = numbered((20, 30), 3)
    assert geometry.axes == (0, 1)
    assert geometry.flips == (False, False)
    assert torch.equal(to_oriented(volume, geometry), volume)
    assert geometry.grid == (10, 22)
    np.testing.assert_allclose(geometry.prepared_spacing, (0.4, 0.3 * 30 / 22))
    # the corner of the first voxel stays where it was
    corner = geometry.prepared_affine @ [-0.5, -0.5, 0, 1]
    np.testing.assert_allclose(corner, affine @ [-0.5, -0.5, 0, 1], atol=1e-12)


def test_geometry_survives_json():
    geometry = resampled(cropped(orient((5, 6, 7), np.diag([1, -2, 3, 1.0])), ((1, 4), (0, 6), (2, 7))), 1.5)
    assert Geometry.from_dict(json.loads(json.dumps(geometry.to_dict()))) == geometry


@pytest.mark.parametrize(
    "affine", [np.zeros((4, 4)), np.diag([1, 1, 0, 1.0]), np.full((4, 4), np.nan), np.eye(3)], ids=str
)
def test_a_grid_without_a_place_in_space_is_refused(affine):
    with pytest.raises(GeometryError, match="position of the image in space is unknown"):
        orient((3, 3, 3), affine)


def test_wrong_spacing_and_wrong_predictions_are_refused():
    geometry = orient((4, 4, 4), np.eye(4))
    with pytest.raises(GeometryError, match="2 numbers for an image of 3 axes"):
        resampled(geometry, (1.0, 1.0))
    for spacing in (0.0, (1.0, -1.0, 1.0), (1.0, float("nan"), 1.0)):
        with pytest.raises(GeometryError, match="positive millimetres"):
            resampled(geometry, spacing)


@pytest.mark.parametrize("spacing", [1e-4, [1e-4, 1, 1e-3], 1e-320])
def test_a_spacing_that_asks_for_all_memory_is_refused(spacing):
    geometry = orient((512, 512, 300), np.diag([0.7, 0.7, 1.25, 1]))
    with pytest.raises(
        GeometryError, match=r"512 x 512 x 300 voxels would become .* near its own, 0\.7 x 0\.7 x 1\.25"
    ):
        resampled(geometry, spacing)
    assert resampled(geometry, 0.35).grid == (1024, 1024, 1071)
