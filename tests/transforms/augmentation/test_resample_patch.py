"""Rotation and scale against torch's and scipy's own resampling."""

import math

import numpy as np
import pytest
import scipy.ndimage
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from transforms.augmentation.resample_patch import resample_patch


def rotation(angles, zoom):
    dims = 3 if len(angles) == 3 else 2
    matrix = np.eye(dims) / zoom
    for (a, b), angle in zip(((1, 2), (0, 2), (0, 1))[-len(angles) :], angles, strict=True):
        turn = np.eye(dims)
        turn[a, a] = turn[b, b] = math.cos(angle)
        turn[a, b], turn[b, a] = -math.sin(angle), math.sin(angle)
        matrix = matrix @ turn
    return matrix


def volume(size, seed, channels=2):
    random = np.random.default_rng(seed)
    image = scipy.ndimage.gaussian_filter(random.normal(size=(channels, *size)), (0, *[1.5] * len(size)))
    return torch.from_numpy((image / np.abs(image).max()).astype(np.float32))


def torch_s(image, matrix, size):
    """By affine_grid and grid_sample, whose axes run backwards from -1 to 1 between outer faces."""
    source = image.shape[1:]
    scaled = matrix * np.asarray(size)[None, :] / np.asarray(source)[:, None]
    theta = torch.from_numpy(np.concatenate([scaled[::-1, ::-1], np.zeros((len(size), 1))], 1))[None]
    grid = functional.affine_grid(theta, [1, 1, *size], align_corners=False)
    found = functional.grid_sample(
        image[None].double(), grid, mode="bilinear", padding_mode="border", align_corners=False
    )
    return found[0].float()


@settings(max_examples=60)
@given(data=st.data(), dims=st.sampled_from([2, 3]), zoom=st.floats(0.4, 2.5), seed=st.integers(0, 99))
def test_it_is_torch_s_resampling_beyond_the_border_too(data, dims, zoom, seed):
    size, source = (
        data.draw(st.tuples(*[st.integers(1 if least == 1 else 4, 19)] * dims)) for least in (1, 4)
    )
    angles = data.draw(
        st.one_of(
            st.just((0.0,) * (3 if dims == 3 else 1)),
            st.tuples(*[st.floats(-math.pi, math.pi)] * (3 if dims == 3 else 1)),
        )
    )
    image, matrix = volume(source, seed), rotation(angles, zoom)
    found, none = resample_patch(image, None, matrix, size)
    assert none is None
    assert found.shape == (2, *size)
    torch.testing.assert_close(found, torch_s(image, matrix, size), atol=3e-4, rtol=0)


@settings(max_examples=40)
@given(
    dims=st.sampled_from([2, 3]),
    angle=st.one_of(st.just(0.0), st.floats(-1, 1)),
    zoom=st.floats(0.6, 1.6),
    dtype=st.sampled_from([torch.uint8, torch.int32]),
)
def test_labels_are_those_of_the_nearest_voxel(dims, angle, zoom, dtype):
    size, source = (11, 9, 12)[:dims], (21, 23, 20)[:dims]
    matrix = rotation((angle,) * (3 if dims == 3 else 1), zoom)
    random = np.random.default_rng(0)
    values = random.integers(0, 70_000 if dtype == torch.int32 else 256, source)
    label = torch.from_numpy(values).to(dtype)[None]
    image = torch.zeros(1, *source)
    found = resample_patch(image, label, matrix, size)[1]
    assert found.dtype == dtype
    offset = (np.array(source) - 1) / 2 - matrix @ ((np.array(size) - 1) / 2)
    place = matrix @ np.indices(size).reshape(dims, -1) + offset[:, None]
    unsure = (np.abs(place - np.floor(place) - 0.5) < 1e-4).any(0).reshape(size)
    nearest = [np.rint(p).clip(0, n - 1).astype(int) for p, n in zip(place, source, strict=True)]
    expected = values[tuple(nearest)].reshape(size)
    assert (found[0].numpy() == expected)[~unsure].all()
    assert set(np.unique(found)) <= set(np.unique(values)), "no class is invented"


def test_the_largest_sources_are_exact_enough():
    """Planes of one long image: float32 places in it are the coarser the longer it is."""
    source = (250, 240, 96)
    ramp = [
        torch.arange(n, dtype=torch.float32).reshape([-1 if i == a else 1 for i in range(3)])
        for a, n in enumerate(source)
    ]
    image = torch.stack([r.expand(source) for r in ramp])
    size, matrix = (24, 24, 24), rotation((0.3, -0.4, 0.5), 0.3)
    found, _ = resample_patch(image, None, matrix, size)
    offset = (np.array(source) - 1) / 2 - matrix @ ((np.array(size) - 1) / 2)
    place = (matrix @ np.indices(size).reshape(3, -1) + offset[:, None]).reshape(3, *size)
    inside = (place < np.array(source).reshape(3, 1, 1, 1) - 1).all(0) & (place > 0).all(0)
    assert inside.mean() > 0.9
    # beside the last row of a plane lies the next plane's first: a thousandth of it may show
    error = np.abs(found.numpy() - place)[:, inside]
    assert np.quantile(error, 0.999) < 0.01
    assert error.max() < 0.01 * max(source)


@pytest.mark.parametrize("angle", [0.0, 0.3])
def test_half_precision_around_it_changes_nothing(angle):
    image, matrix = volume((20, 20, 20), 0), rotation((angle,) * 3, 0.9)
    expected, _ = resample_patch(image, None, matrix, (12, 12, 12))
    with torch.autocast("cpu", torch.bfloat16):
        found, _ = resample_patch(image, None, matrix, (12, 12, 12))
    assert torch.equal(found, expected)
