"""The prepared voxels that an output voxel lies between."""

import numpy as np
import pytest
import torch

from tests.transforms.spatial.test_restore import tilted
from transforms.spatial.geometry import orient, resampled
from transforms.spatial.restore_grids import Sheared, Straight, keeps_planes

SHAPE = (7, 9, 6)


def grid_of(kind, axis):
    """A grid of this kind, and the shape of the prepared one with `axis` first."""
    affine = np.diag([0.9, 0.8, 2.5, 1.0]) if kind is Straight else tilted(15, SHAPE)
    geometry = resampled(orient(SHAPE, affine), (1.4, 1.1, 1.7))
    order = [axis, *(other for other in range(3) if other != axis)]
    return kind(geometry, axis), [geometry.grid[n] for n in order]


def everywhere(grid, axis):
    shape = [grid.shape[n] for n in (axis, *(other for other in range(3) if other != axis))]
    return shape, torch.from_numpy(np.argwhere(np.ones(shape)))


@pytest.mark.parametrize("kind", [Straight, Sheared])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_weights_are_of_the_eight_around(kind, axis):
    """The extremes of the classes are those among the voxels with a weight, and lie within `reach`."""
    grid, prepared = grid_of(kind, axis)
    best = torch.from_numpy(np.random.default_rng(axis).integers(0, 9, prepared))
    shape, where = everywhere(grid, axis)
    flat, weight = grid.support(where, prepared, 0, 0)
    torch.testing.assert_close(weight.sum(1), torch.ones(len(where)))
    low, high = grid.extremes(best, 0, 0, shape[0])
    found = best.reshape(-1)[flat]
    assert torch.equal(low.reshape(-1), found.amin(1))
    assert torch.equal(high.reshape(-1), found.amax(1))
    row = flat // (prepared[1] * prepared[2])
    first, last = grid.reach
    assert (row.amin(1) >= first[where[:, 0]]).all()
    assert (row.amax(1) <= last[where[:, 0]]).all()


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_interpolated_is_the_weighted_sum(axis):
    grid, prepared = grid_of(Straight, axis)
    values = torch.from_numpy(np.random.default_rng(axis).normal(size=(*prepared, 2))).float()
    shape, where = everywhere(grid, axis)
    flat, weight = grid.support(where, prepared, 0, 0)
    expected = (values.reshape(-1, 2)[flat] * weight[..., None]).sum(1).reshape(*shape, 2)
    found = grid.interpolated(values.clone(), 0, 0, shape[0])
    torch.testing.assert_close(found.movedim(1, -1), expected, atol=1e-5, rtol=1e-5)


def test_planes_of_a_tilted_gantry():
    """Slices stay slices; rows of different slices lie at different heights."""
    geometry = resampled(orient(SHAPE, tilted(15, SHAPE)), (1.4, 1.1, 1.7))
    assert [keeps_planes(geometry, axis) for axis in range(3)] == [True, False, True]
    assert all(keeps_planes(orient(SHAPE, np.diag([1.0, 1, 2, 1])), axis) for axis in range(3))
