"""Changes of a patch's intensities by given amounts, on any device.

No function synchronises with the device: amounts are numbers on the host, and statistics of the image stay tensors. No
function changes its argument.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as functional

__all__ = ["CHANGES", "add_noise", "adjust_gamma", "blur", "coarsen", "scale_contrast", "scale_intensity"]


def add_noise(image: torch.Tensor, deviation: float, seed: int) -> torch.Tensor:
    """Add Gaussian noise; CPU and CUDA draw different values from one seed, with the same distribution."""
    generator = torch.Generator(image.device).manual_seed(seed)
    noise = torch.empty_like(image).normal_(0.0, deviation, generator=generator)
    return noise.add_(image)


def scale_intensity(image: torch.Tensor, factor: float) -> torch.Tensor:
    """Every value times a factor."""
    return image * factor


def scale_contrast(image: torch.Tensor, factor: float) -> torch.Tensor:
    """Deviations from the mean times a factor, within the image's own range."""
    low, high = torch.aminmax(image)
    mean = image.mean()
    return (image - mean).mul_(factor).add_(mean).clamp_(low, high)


def adjust_gamma(image: torch.Tensor, exponent: float, inverted: bool = False) -> torch.Tensor:
    """The image, scaled to [0, 1], to the power of an exponent, with its mean and deviation as before.

    Args:
        inverted: apply it to the negative, so that the bright end is stretched instead of the dark one.
    """
    if inverted:
        return adjust_gamma(-image, exponent).neg_()
    low, high = torch.aminmax(image)
    result = (image - low).div_(high - low + 1e-7).pow_(exponent)
    # Restoring mean and deviation also undoes the scaling to [0, 1].
    gain = image.std() / (result.std() + 1e-8)
    return result.sub_(result.mean()).mul_(gain).add_(image.mean())


def blur(image: torch.Tensor, sigmas: Sequence[float]) -> torch.Tensor:
    """Gaussian filter with a standard deviation in voxels for each axis; the border values are repeated outside.

    The kernel holds the Gaussian's integrals over voxels, up to 4 deviations. Shifted copies are added up, since a
    convolution of one channel leaves most of a CPU unused.
    """
    dims = image.ndim - 1
    for axis, sigma in enumerate(sigmas):
        weights = _gaussian(sigma)
        reach, n = len(weights) - 1, image.shape[1 + axis]
        padding = [0, 0] * dims
        padding[2 * (dims - 1 - axis)] = padding[2 * (dims - 1 - axis) + 1] = reach
        # The batch axis is for `pad`, which takes other shapes for edges of other dimensions.
        padded = functional.pad(image[None], padding, mode="replicate")[0]
        result = padded.narrow(1 + axis, reach, n) * weights[0]
        for step in range(1, reach + 1):
            pair = padded.narrow(1 + axis, reach - step, n) + padded.narrow(1 + axis, reach + step, n)
            result.add_(pair, alpha=weights[step])
        image = result
    return image


def coarsen(image: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Downsample to `size` voxels by averaging, as a scanner does, and upsample linearly."""
    mode = "trilinear" if len(size) == 3 else "bilinear"
    down = functional.interpolate(image[None], size=list(size), mode="area")
    return functional.interpolate(down, size=image.shape[1:], mode=mode, align_corners=False)[0]


def _gaussian(sigma: float) -> list[float]:
    """Weights of the centre voxel and of those 1, 2, ... voxels away; they sum to 1 over both sides."""
    reach = int(max(4 * sigma, 0.5) + 0.5)
    edges = [math.erf((x - 0.5) / (math.sqrt(2) * sigma)) for x in range(reach + 2)]
    weights = [(b - a) / 2 for a, b in itertools.pairwise(edges)]
    total = weights[0] + 2 * sum(weights[1:])
    return [w / total for w in weights]


CHANGES: dict[str, Callable[..., torch.Tensor]] = {
    "noise": add_noise,
    "blur": blur,
    "brightness": scale_intensity,
    "contrast": scale_contrast,
    "low_resolution": coarsen,
    "gamma": adjust_gamma,
}
"""Change by the name that `Variation.changes` gives it; the image and then the amounts."""
