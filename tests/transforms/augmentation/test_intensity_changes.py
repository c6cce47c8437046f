"""Intensity changes against MONAI's own, and what MONAI's do wrong at a border."""

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.transforms import AdjustContrast, GaussianSmooth, ScaleIntensity, ScaleIntensityFixedMean

from transforms.augmentation.intensity_changes import (
    CHANGES,
    add_noise,
    adjust_gamma,
    blur,
    coarsen,
    scale_contrast,
    scale_intensity,
)

SIZES = [(14, 12, 17), (19, 22)]


def image(size, seed=0, channels=2):
    random = np.random.default_rng(seed)
    values = random.normal(size=(channels, *size)) + np.linspace(-1, 1, size[0]).reshape(
        -1, *[1] * (len(size) - 1)
    )
    return torch.from_numpy(values.astype(np.float32))


@pytest.mark.parametrize("size", SIZES)
@settings(max_examples=20)
@given(amount=st.floats(0.3, 2.5), seed=st.integers(0, 99))
def test_monai_computes_the_same(size, amount, seed):
    x = image(size, seed)
    for ours, theirs in (
        (scale_intensity(x, amount), ScaleIntensity(None, None, amount - 1)(x)),
        (scale_contrast(x, amount), ScaleIntensityFixedMean(amount - 1, preserve_range=True)(x)),
        (adjust_gamma(x, amount), AdjustContrast(amount, retain_stats=True)(x)),
        (adjust_gamma(x, amount, True), AdjustContrast(amount, invert_image=True, retain_stats=True)(x)),
    ):
        torch.testing.assert_close(ours, theirs.as_tensor(), atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("size", SIZES)
@settings(max_examples=20)
@given(sigmas=st.lists(st.floats(0.05, 1.2), min_size=3, max_size=3))
def test_blur_is_monai_s_inside_and_leaves_a_constant_alone_at_the_border(size, sigmas):
    sigmas = sigmas[: len(size)]
    x = image(size)
    inner = (slice(None), *[slice(5, -5)] * len(size))
    expected = GaussianSmooth(sigmas)(x).as_tensor()
    torch.testing.assert_close(blur(x, sigmas)[inner], expected[inner], atol=5e-4, rtol=1e-4)
    air = torch.full((1, *size), -1.0)
    torch.testing.assert_close(blur(air, sigmas), air)


def test_each_axis_is_blurred_by_its_own_sigma():
    point = torch.zeros(1, 21, 21, 21)
    point[0, 10, 10, 10] = 1
    found = blur(point, (0.5, 1.0, 2.0))[0]
    place = torch.arange(21.0) - 10
    for axis, sigma in enumerate((0.5, 1.0, 2.0)):
        profile = found.sum([a for a in range(3) if a != axis])
        # the Gaussian's variance and that of the voxel over which it is averaged
        assert float((profile * place**2).sum()) == pytest.approx(sigma**2 + 1 / 12, rel=3e-2)


def test_noise_is_gaussian_and_a_function_of_its_seed():
    x = torch.full((1, 40, 40, 40), 0.25)
    state = torch.get_rng_state()
    one, same, other = (add_noise(x, 0.1, seed) - x for seed in (7, 7, 8))
    assert torch.equal(torch.get_rng_state(), state), "dropout would be shifted"
    assert torch.equal(one, same)
    assert scipy.stats.kstest(one.numpy().ravel() / 0.1, "norm").pvalue > 0.001
    assert abs(np.corrcoef(one.numpy().ravel(), other.numpy().ravel())[0, 1]) < 0.02
    assert add_noise(x, 0.0, 2**32 - 1).equal(x)


def test_coarser_voxels_are_averages():
    x = image((12, 9, 8))
    found = coarsen(x, (6, 9, 8))
    pairs = x.reshape(2, 6, 2, 9, 8).mean(2)
    # linear interpolation between the pairs' centres, a quarter of the way
    expected = 0.75 * pairs[:, 1:-1] + 0.25 * pairs[:, :-2]
    torch.testing.assert_close(found[:, 2:-2:2], expected)
    assert torch.equal(coarsen(x, (12, 9, 8)), x)


AMOUNTS = {
    "noise": (0.1, 3),
    "blur": ((0.7, 0.7, 0.7),),
    "brightness": (1.1,),
    "contrast": (0.8,),
    "low_resolution": ((6, 5, 4),),
    "gamma": (0.8, True),
}


@pytest.mark.parametrize("name", CHANGES)
def test_the_argument_stays_as_it_is(name):
    x = image((8, 8, 8))
    before = x.clone()
    result = CHANGES[name](x, *AMOUNTS[name])
    assert result.shape == x.shape
    assert result.dtype == torch.float32
    assert not torch.equal(result, before)
    assert torch.equal(x, before)
