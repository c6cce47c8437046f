"""Voxels on another spacing, true in millimetres."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.transforms.spatial.grids import affines
from transforms.spatial.geometry import cropped, cut, orient, resampled, to_oriented
from transforms.spatial.resample import axis_weights, resample, resample_labels

SETTINGS = settings(max_examples=30, derandomize=True)


def world(affine, shape):
    """World coordinates (3, *shape) of all voxels of a grid."""
    dims = len(shape)
    indices = np.zeros((4, *shape))
    indices[:dims] = np.indices(shape)
    indices[3] = 1
    return np.tensordot(affine, indices, axes=1)[:3]


@SETTINGS
@given(affines(), st.integers(0, 2**32 - 1), st.floats(0.5, 6.0))
def test_a_linear_field_lies_at_the_prepared_affine(affine, seed, spacing):
    random = np.random.default_rng(seed)
    shape = tuple(int(n) for n in random.integers(12, 24, 3))
    gradient = random.normal(size=3) * 10
    field = np.tensordot(gradient, world(affine, shape), axes=1)
    geometry = orient(shape, affine)
    crop = tuple(
        (int(random.integers(0, 3)), n - int(random.integers(0, 3))) for n in geometry.oriented_shape
    )
    geometry = resampled(cropped(geometry, crop), spacing)
    values = resample(cut(to_oriented(torch.from_numpy(field)[None].float(), geometry), crop), geometry.grid)
    expected = np.tensordot(gradient, world(geometry.prepared_affine, geometry.grid), axes=1)
    # Near an edge the interpolation has nothing to lean on; coarsening leans on as many voxels as it merges.
    inner = []
    for have, want in zip(geometry.cropped_shape, geometry.grid, strict=True):
        centres = (np.arange(want) + 0.5) * have / want - 0.5
        reach = max(1.0, have / want)
        inner.append(np.flatnonzero((centres >= reach - 1) & (centres <= have - reach)))
    box = np.ix_(*inner)
    difference = np.abs(values[0].numpy()[box] - expected[box])
    # Triangles of a width that is no whole number of voxels sit up to 0.07 voxels beside their centre.
    step = np.abs(gradient @ affine[:3, :3]).sum()
    assert difference.size == 0 or difference.max() < 0.08 * step + 1e-3 * np.abs(field).max()


@SETTINGS
@given(affines(), st.floats(0.2, 1.0))
def test_refining_a_linear_field_is_exact(affine, factor):
    shape = (7, 6, 5)
    field = np.tensordot([3.0, -7.0, 2.0], world(affine, shape), axes=1)
    start = orient(shape, affine)
    spacing = [s * factor for s in start.prepared_spacing]
    geometry = resampled(start, spacing)
    values = resample(to_oriented(torch.from_numpy(field)[None], geometry).float(), geometry.grid)[0].numpy()
    expected = np.tensordot([3.0, -7.0, 2.0], world(geometry.prepared_affine, geometry.grid), axes=1)
    margin = [int(np.ceil(want / have / 2)) for have, want in zip(start.grid, geometry.grid, strict=True)]
    box = tuple(slice(m, -m) for m in margin)
    np.testing.assert_allclose(values[box], expected[box], atol=1e-4 * np.abs(field).max())


def test_nothing_changes_where_nothing_is_asked():
    affine = np.diag([0.7, 0.7, 2.5, 1.0])
    volume = torch.randn(2, 9, 8, 7)
    geometry = resampled(orient((9, 8, 7), affine), (0.7, None, 2.5))
    assert geometry == orient((9, 8, 7), affine)
    assert torch.equal(resample(to_oriented(volume, geometry), geometry.grid), volume)
    np.testing.assert_array_equal(geometry.prepared_affine, affine)
    labels = torch.randint(0, 5, (9, 8, 7), dtype=torch.uint8)
    assert torch.equal(resample_labels(labels, geometry.grid), labels)


def test_upsampling_is_that_of_torch():
    volume = torch.randn(3, 5, 7, 4, generator=torch.Generator().manual_seed(0))
    grid = (11, 14, 9)
    reference = torch.nn.functional.interpolate(
        volume[None], size=grid, mode="trilinear", align_corners=False
    )[0]
    torch.testing.assert_close(resample(volume, grid), reference, atol=1e-5, rtol=1e-5)


def test_downsampling_is_that_of_torch_with_antialias():
    image = torch.randn(3, 40, 37, generator=torch.Generator().manual_seed(0))
    grid = (13, 20)
    reference = torch.nn.functional.interpolate(
        image[None], size=grid, mode="bilinear", align_corners=False, antialias=True
    )[0]
    torch.testing.assert_close(resample(image, grid), reference, atol=1e-5, rtol=1e-5)


@SETTINGS
@given(st.integers(1, 60), st.integers(1, 60))
def test_every_input_voxel_counts_and_constants_stay(have, want):
    weights = axis_weights(have, want)
    torch.testing.assert_close(weights.sum(1), torch.ones(want))
    assert (weights.sum(0) > 0).all()
    torch.testing.assert_close(
        resample(torch.full((1, have, 3), -871.0), (want, 3)), torch.full((1, want, 3), -871.0)
    )


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_coarsening_keeps_the_mean_and_averages_noise(factor):
    noise = torch.randn(1, 60, 60, 60, generator=torch.Generator().manual_seed(1)) + 5
    coarse = resample(noise, (60 // factor,) * 3)
    assert abs(float(coarse.mean()) - float(noise.mean())) < 0.02
    assert float(coarse.std()) < 1.3 * (2 / 3 / factor) ** 1.5, "white noise falls by the triangle's norm"


@SETTINGS
@given(
    st.lists(st.integers(1, 12), min_size=2, max_size=3).flatmap(
        lambda shape: st.tuples(
            st.just(tuple(shape)),
            st.lists(st.integers(1, 15), min_size=len(shape), max_size=len(shape)),
        )
    ),
    st.integers(0, 2**32 - 1),
)
def test_labels_are_never_invented(grids, seed):
    shape, grid = grids
    generator = torch.Generator().manual_seed(seed)
    values = torch.tensor([0, 3, 7, 200], dtype=torch.uint8)
    labels = values[torch.randint(0, 4, shape, generator=generator)]
    result = resample_labels(labels, grid)
    assert result.dtype == labels.dtype
    assert tuple(result.shape) == tuple(grid)
    assert set(result.unique().tolist()) <= set(labels.unique().tolist())
    # the same as the largest of all resampled one-hot maps, the lower class where two are equal
    present = labels.unique()
    soft = resample(torch.stack([(labels == value).float() for value in present]), grid)
    best = soft.max(0).values
    chosen = soft.gather(0, torch.searchsorted(present, result)[None])[0]
    torch.testing.assert_close(chosen, best, atol=1e-6, rtol=0)


def test_labels_of_many_classes_and_types():
    labels = torch.zeros(6, 6, 6, dtype=torch.int32)
    labels[:3] = 1000
    assert resample_labels(labels, (12, 6, 6))[:6].unique().tolist() == [1000]
    half = resample_labels(torch.tensor([[1, 1, 2, 2]], dtype=torch.uint8), (1, 1))
    assert half.tolist() == [[1]], "equal coverage goes to the lower class"
