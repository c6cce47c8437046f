"""The way back on a GPU gives the CPU's classes."""

import numpy as np
import pytest
import torch

from tests.cuda import exact, room
from tests.transforms.spatial.test_restore import AFFINE, assert_equal_but_ties, smooth, tilted
from transforms.spatial.geometry import cropped, orient, resampled
from transforms.spatial.restore import NonFiniteError, Restorer

pytestmark = pytest.mark.cuda


@pytest.fixture(autouse=True)
def exactly():
    with exact():
        yield


def both(geometry, maps, axis, rows, **options):
    found = []
    for device in ("cpu", "cuda"):
        restorer = Restorer(geometry, len(maps), axis, **options)
        for part in maps.split(rows, axis + 1):
            restorer.push(part.to(device))
        found.append(restorer)
    return found


def straight(shape, spacing):
    geometry = orient(shape, AFFINE)
    return resampled(cropped(geometry, tuple((1, n - 2) for n in geometry.oriented_shape)), spacing)


@pytest.mark.parametrize("spacing", [None, 2.0, (0.5, 1.0, 3.0)])
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("classes", [3, 20, 300])
def test_labels_are_those_of_the_cpu(spacing, axis, classes):
    geometry = straight((33, 31, 22), spacing)
    maps = smooth(classes, geometry.grid, 3)
    host, device = (restorer.labels() for restorer in both(geometry, maps, axis, 5))
    assert device.device.type == "cpu"
    assert device.dtype == host.dtype
    if spacing is None:
        assert torch.equal(host, device)
    assert_equal_but_ties(device, maps, geometry)
    assert (host.long() == device.long()).float().mean() > 0.999


@pytest.mark.parametrize("kind", ["straight", "tilted"])
def test_probabilities_too(kind):
    if kind == "straight":
        geometry = straight((33, 31, 22), 2.0)
    else:
        geometry = resampled(orient((22, 40, 14), tilted(18, (22, 40, 14))), 1.3)
    maps = smooth(6, geometry.grid, 5)
    host, device = both(geometry, maps, 2, 4, keep_probabilities=True)
    torch.testing.assert_close(device.probabilities(), host.probabilities(), atol=1e-5, rtol=0)
    assert (device.labels() == host.labels()).float().mean() > 0.999


def test_a_tilted_grid_is_restored_alike():
    geometry = resampled(orient((40, 60, 24), tilted(20, (40, 60, 24))), 1.5)
    maps = smooth(9, geometry.grid, 2)
    host, device = (restorer.labels() for restorer in both(geometry, maps, 2, 7))
    assert (host == device).float().mean() > 0.999


def test_rows_may_leave_the_device_on_the_way():
    geometry = straight((33, 31, 22), 2.0)
    maps = smooth(5, geometry.grid, 3)
    restorer = Restorer(geometry, 5, 0)
    for number, part in enumerate(maps.split(3, 1)):
        restorer.push(part if number > 2 else part.cuda())
    assert_equal_but_ties(restorer.labels(), maps, geometry)


def test_a_full_device_hands_over_to_the_host():
    """Half-way, with the rows on the device: 31 MiB at a time, for which there is no room again."""
    geometry = resampled(orient((128, 128, 128), np.diag([1.0, 1.0, 1.0, 1.0])), 0.8)
    maps = smooth(20, geometry.grid, 1)
    expected, restorer = (Restorer(geometry, 20, 0) for _ in range(2))
    first, *others = maps.split(16, 1)
    for part in (first, *others):
        expected.push(part)
    restorer.push(first.cuda())
    held = [part.cuda() for part in others]
    with room(8):
        for part in held:
            restorer.push(part)
    assert restorer._on_host
    assert (restorer.labels() == expected.labels()).float().mean() > 0.9999


@pytest.mark.parametrize("spacing", [None, 2.0])
def test_nan_has_no_class(spacing):
    geometry = straight((13, 11, 12), spacing)
    maps = smooth(4, geometry.grid, 3).cuda()
    maps[:, 2, 3, 3] = float("nan")
    with pytest.raises(NonFiniteError, match="NaN or infinite in 1 voxels"):
        Restorer(geometry, 4, 0).push(maps)
