"""A tilted CT on the right-angled grid of its geometry, compared in millimetres."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor

from tests.dicom_phantom import hounsfield, world_grid
from transforms.preprocess import Preprocess
from transforms.spatial.geometry import Geometry, orient, to_oriented
from transforms.spatial.shear import straighten, straighten_labels

SETTINGS = settings(max_examples=25, derandomize=True)


def smooth_field(world):
    """The phantom's field without its jumps, which no interpolation can follow."""
    return hounsfield(world) - 0.7 * world[..., 2] % 50


def sheared(degrees, order, signs, spacing=(0.9, 0.8, 2.5), sideways=0.0):
    """Slices that move along their columns by the tilt and along their rows by `sideways` mm each."""
    affine = np.diag([*spacing, 1.0])
    affine[1, 2] = spacing[2] * np.tan(np.radians(degrees))
    affine[0, 2] = sideways
    affine[:3, 3] = (-120.0, 40.0, 300.0)
    return affine[:, [*order, 3]] @ np.diag([*signs, 1.0])


@SETTINGS
@given(
    st.floats(-30, 30),
    st.permutations(range(3)),
    st.tuples(*[st.sampled_from([-1.0, 1.0])] * 3),
    st.floats(0.1, 1) | st.floats(-1, -0.1),
)
def test_the_field_is_where_the_straight_affine_says(degrees, order, signs, sideways):
    shape = tuple(np.array([40, 36, 12])[list(order)])
    affine = sheared(degrees, order, signs, sideways=sideways)
    values = torch.from_numpy(smooth_field(world_grid(shape, affine)))[None].float()
    geometry = orient(shape, affine)
    if geometry.shear is None:
        return
    straight = straighten(to_oriented(values, geometry), geometry)[0].numpy()
    assert straight.shape == geometry.straight_shape == geometry.grid
    at = geometry.straight_affine
    columns = at[:3, :3] / np.linalg.norm(at[:3, :3], axis=0)
    np.testing.assert_allclose(columns.T @ columns, np.eye(3), atol=1e-9)
    world = world_grid(straight.shape, at)
    index = (world - affine[:3, 3]) @ np.linalg.inv(affine[:3, :3]).T
    inside = ((index > 0.01) & (index < np.array(shape) - 1.01)).all(-1)
    assert inside.mean() > 0.3
    np.testing.assert_allclose(straight[inside], smooth_field(world)[inside], atol=1.0)
    air = ((index < -0.01) | (index > np.array(shape) - 0.99)).any(-1)
    assert (straight[air] == values.min().item()).all()
    assert Geometry.from_dict(json.loads(json.dumps(geometry.to_dict()))) == geometry


@pytest.mark.parametrize("degrees", [0.5, 5.0, 20.0])
def test_a_tilted_ct_through_preprocessing_and_back(degrees):
    """A ball in the world stays a ball on the network's grid, and its labels come back to the tilted grid."""
    shape = (60, 60, 30)
    affine = sheared(degrees, (0, 1, 2), (1, 1, 1))
    world = world_grid(shape, affine)
    centre = world[30, 30, 15]
    ball = np.linalg.norm(world - centre, axis=-1) < 15
    image = MetaTensor(
        torch.from_numpy(np.where(ball, 100.0, -1000.0)).float()[None], affine=torch.from_numpy(affine)
    )
    preprocess = Preprocess(spacing=1.0)
    prepared = preprocess.volume(image)
    at = world_grid(prepared.geometry.grid, prepared.geometry.prepared_affine)
    distance = np.linalg.norm(at - centre, axis=-1)
    assert (prepared.codes[0][distance < 12] > 50).all()
    assert (prepared.codes[0][distance > 18] < -900).all()
    labels = preprocess.label_volume(torch.from_numpy(ball.astype(np.uint8))[None], prepared.geometry)
    assert labels[distance < 13].all()
    assert not labels[distance > 17].any()
    logits = torch.stack([torch.from_numpy(distance - 15), torch.from_numpy(15 - distance)]).float()
    back = preprocess.restore(logits, prepared.geometry)
    np.testing.assert_allclose(back.affine.numpy(), affine)
    wrong = back[0].numpy().astype(bool) != ball
    assert wrong.mean() < 0.002
    assert np.abs(np.linalg.norm(world - centre, axis=-1)[wrong] - 15).max(initial=0) < 0.3


def test_labels_keep_their_values():
    geometry = orient((20, 20, 10), sheared(20, (0, 1, 2), (1, 1, 1)))
    labels = torch.full((20, 20, 10), 40000, dtype=torch.int32)
    straight = straighten_labels(labels, geometry)
    assert straight.unique().tolist() == [0, 40000]
    assert straight.dtype == torch.int32


def test_right_angles_are_left_alone():
    geometry = orient((20, 20, 10), sheared(0.01, (0, 1, 2), (1, 1, 1)))
    assert geometry.shear is None
    with pytest.raises(ValueError, match="only a sheared grid"):
        straighten(torch.zeros(1, 20, 20, 10), geometry)
