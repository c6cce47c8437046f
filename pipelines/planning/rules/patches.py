"""Sizes of patches, the levels of a network that fit them, its width, and how many patches make a step."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pipelines.planning.rules.typical import Typical

SHORTEST = 4
"""Voxels below which no axis is halved (nnU-Net's `UNet_featuremap_min_edge_length`; `networks.strides` keeps to it)."""

MOST_LEVELS = 5
"""Halvings of an axis: 32 in all, which fits both networks and every patch up to 224 voxels."""

WIDTHS = (8, 16, 24, 32)
"""Channels at full resolution to choose from. 32 are nnU-Net's; fewer are for the processor of a PC."""

MOST_FEATURES = {2: 512, 3: 320}
"""Channels of a level at most (nnU-Net's `UNet_max_features_2d` and `_3d`)."""

SMALLEST_PATCH = {2: 32**2, 3: 16**3}
"""Voxels of the smallest patch that is tried, where images are not smaller themselves."""

BATCHES = (1, 2, 4, 8)
PATCHES_TO_SHARE = 1500
"""Patches of a training from which on they are shared out between more steps and larger steps: below, a step is one
patch. Large steps gain little until gradients are small beside their noise, late in a long training (McCandlish et
al., arXiv 1812.06162)."""

SHARE_OF_DATASET = 0.05
"""Of all training voxels, that a step sees at most (nnU-Net's `max_dataset_covered`)."""


def fits(voxels: int, levels: int) -> bool:
    """Whether an axis can be halved at up to so many levels and never has an odd number to halve.

    An axis of fewer than 8 voxels is halved no more, so 40 = 5 x 8 fits any number of levels. A network that halves
    the axis at fewer levels fits too, since halving less often leaves fewer chances of an odd number.
    """
    for _ in range(levels):
        if voxels < 2 * SHORTEST:
            return True
        if voxels % 2:
            return False
        voxels //= 2
    return True


def rounded(voxels: float, levels: int) -> int:
    """The size that fits and is nearest; the larger of two that are as near."""
    around = range(max(1, math.floor(voxels * 0.6)), math.ceil(voxels * 1.5) + 2)
    return min((n for n in around if fits(n, levels)), key=lambda n: (abs(n - voxels), -n))


def rounded_up(voxels: float, levels: int) -> int:
    """The smallest size that fits and is not smaller."""
    size = max(1, math.ceil(voxels))
    while not fits(size, levels):
        size += 1
    return size


def patch_sizes(image: Typical, spacing: Sequence[float], levels: int = MOST_LEVELS) -> list[tuple[int, ...]]:
    """Patches to choose from at a spacing, the whole image first.

    Smaller ones are worth a trial however small the image is: they are more steps in the same time, and the places that
    they are cut at differ, which keeps a network from learning its cases by heart. A patch is as long in millimetres
    along every axis, and nowhere longer than the image: a structure needs as much of its surroundings whichever way it
    lies.
    """
    grid = image.on_grid(spacing)
    whole = tuple(rounded_up(n, levels) for n in grid)
    found = [whole]
    length = max(n * s for n, s in zip(whole, spacing, strict=False))
    while math.prod(found[-1]) > SMALLEST_PATCH[image.dims]:
        length *= 2 ** (-1 / 4)
        patch = tuple(
            min(w, max(rounded(length / s, levels), min(w, SHORTEST)))
            for w, s in zip(whole, spacing, strict=False)
        )
        if patch != found[-1] and math.prod(patch) >= SMALLEST_PATCH[image.dims]:
            found.append(patch)
        if max(patch) <= SHORTEST:
            break
    return found


def levels_of(patch: Sequence[int], most: int = MOST_LEVELS) -> int:
    """Halvings after which the longest axis of a patch has 4 to 7 voxels, at least one and at most `most`."""
    longest = max(patch)
    levels = 0
    while longest >= 2 * SHORTEST and levels < most:
        longest = -(-longest // 2)
        levels += 1
    return max(1, levels)


def features_of(width: int, levels: int, dims: int) -> tuple[int, ...]:
    """Channels per level, doubled at each of so many halvings up to a limit."""
    return tuple(min(width * 2**level, MOST_FEATURES[dims]) for level in range(levels + 1))


def batch_of(patches: float, voxels: int, image: Typical, spacing: Sequence[float]) -> int:
    """Patches per step.

    Args:
        patches: that fit into the training.
        voxels: of a patch.
        image: the typical one.
        spacing: at which it is seen.
    """
    wanted = math.sqrt(max(1.0, patches / PATCHES_TO_SHARE))
    dataset = image.dataset_on_grid(spacing)
    most = max(2.0, SHARE_OF_DATASET * dataset / voxels)
    return max(b for b in BATCHES if b == 1 or (b <= most and b <= wanted * math.sqrt(2)))
