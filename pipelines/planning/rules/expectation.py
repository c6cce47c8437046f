"""What a setting is expected to cost in accuracy, so that settings can be compared.

A network that sees coarser voxels, smaller patches, fewer of them or has fewer channels segments worse; within a given
time, one is only to be had for another. Each loss here is in points of Dice (hundredths), a rule of thumb with the law
that theory or experiments give it. Only differences count; docs/planning.md explains the figures.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from pipelines.planning.rules.typical import Structure, Typical

SPACING_LOSS = 75.0
"""Points lost times the millimetres by which a spacing is coarser, over those of the structure. A ball of 1 mm voxels,
put on a grid as whole voxels, is off by a quarter of a voxel along its outline, which is 75 points times voxel over
diameter. The demo's reference labels, put on a grid of 3 x 3 x 9 mm and back, had a Dice of 0.942."""

LEARNING_LOSS = 6.0
"""Points still to be learned after `LEARNING_PATCHES` patches of `LEARNING_VOXELS`; falls with the square root of their
number (power laws of learning: Hestness et al., arXiv 1712.00409)."""
LEARNING_PATCHES = 500
LEARNING_VOXELS = {2: 256**2, 3: 64**3}

SCATTERED_LOSS = 12.0
"""The same where all classes are scattered: thin parts are learned late."""
VOXELS_POWER, SCATTERED_POWER = 0.5, 0.9
"""With which the voxels of a patch count, and where all classes are scattered: see `learning_loss`."""
FEW_STEPS = 300
"""Steps after which a training still loses a point by their number alone, however much a step sees."""

CONTEXT_LOSS = 1.0
"""Points for every time that a patch has half the volume of what a structure is recognised by."""
FEW_CASES = 10
"""Cases below which it is so many times as much as there are fewer: what is around then tells a structure from what merely
looks like it in these scans. Of the demo's one chest CT, trained for 4.5 minutes of a core of Zen 4 (2026-11-30), patches of
158 mm had a Dice of 0.49 on the other CT, patches that show the whole chest 0.94."""
SURROUNDINGS = 1.5
"""Times the extent of a structure: what it is recognised by."""
LEAST_SHARE = 0.25
"""Of the image's voxels that a patch shows: below, nnU-Net plans a coarser spacing (`lowres_creation_threshold`)."""
SCATTERED = 3.0
"""Times its size across: a class whose box is longer is a tree or many spots, recognised by the texture around each."""
TEXTURE = 15.0
"""Times its size across: of a scattered class what a part is recognised by. Retinal vessels with 64 x 64 pixels around
ended at a Dice of 0.77, with 256 x 256 they had that after two fifths of the time."""

SAME_VIEW_LOSS = 0.5
"""Points of patches that hold the whole image: each case is always the same patch, which a network soon knows by heart. Of
hippocampi a training of 3,800 whole images had a Dice of 0.900 on its training cases and of 0.8685 on the others, and
0.8733 by as much time of parts."""

WIDTH_LOSS = 3.0
"""Points of a network of 8 channels, compared with a very wide one."""
WIDTH_POWER = 0.66
CLASSES_PER_CHANNEL = 1.0
"""Beyond which every doubling of the classes costs a point: each needs a direction of its own at full resolution."""


def grid_loss(image: Typical, full: Sequence[float], spacing: Sequence[float], patch: Sequence[int]) -> float:
    """Points of Dice that a network loses by what a patch shows, however long it is trained.

    Args:
        image: typical image and structures.
        full: the dataset's own spacing.
        spacing: of the setting.
        patch: its voxels per axis.
    """
    shown = context_loss(image, spacing, patch) + same_view_loss(image, spacing, patch)
    return spacing_loss(image, full, spacing) + shown


def spacing_loss(image: Typical, full: Sequence[float], spacing: Sequence[float]) -> float:
    """Of voxels coarser than the dataset's own, the mean over the structures."""
    coarser = sum(s - f for s, f in zip(spacing, full, strict=True)) / image.dims
    if not image.structures or coarser <= 0:
        return 0.0
    return sum(SPACING_LOSS * coarser / s.size for s in image.structures) / len(image.structures)


def context_loss(image: Typical, spacing: Sequence[float], patch: Sequence[int]) -> float:
    """Of patches smaller than a quarter of the image, or than the largest structure with its surroundings.

    The quarter tells a patch where in the image it lies, which is of no use for classes that are everywhere.
    """
    quarter, few = LEAST_SHARE ** (1 / image.dims), max(1.0, FEW_CASES / image.cases)
    if is_everywhere(image):
        quarter, few = 0.0, 1.0
    loss = 0.0
    for axis in range(image.dims):
        size, shown = image.size[axis], patch[axis] * spacing[axis]
        structure = max((_extent(s, axis) for s in image.structures), default=0.0)
        place, surroundings = (
            math.log2(max(1.0, min(wanted, size) / shown)) for wanted in (quarter * size, structure)
        )
        loss += max(place, few * surroundings)
    return CONTEXT_LOSS * loss


def same_view_loss(image: Typical, spacing: Sequence[float], patch: Sequence[int]) -> float:
    """Of patches that are never cut elsewhere, as they hold the whole image."""
    grid = image.on_grid(spacing)
    return SAME_VIEW_LOSS if all(p >= n for p, n in zip(patch, grid, strict=True)) else 0.0


def _extent(structure: Structure, axis: int) -> float:
    if _is_scattered(structure):
        return min(structure.extent[axis], TEXTURE * structure.size)
    return SURROUNDINGS * min(structure.extent[axis], SCATTERED * structure.size)


def _is_scattered(structure: Structure) -> bool:
    return min(structure.extent) > SCATTERED * structure.size > 0


def is_everywhere(image: Typical) -> bool:
    """Whether all classes are trees or many spots, all over the image."""
    return bool(image.structures) and all(_is_scattered(s) for s in image.structures)


def learning_loss(image: Typical, voxels: int, patches: float, batch: int = 1) -> float:
    """Of a training that sees so many patches of so many voxels, `batch` at a step.

    A patch of eight times the voxels teaches more, but not eight times as much, for voxels side by side are alike, and
    fewer patches are fewer steps. Of structures that are everywhere it shows more of them.
    """
    loss, power = (SCATTERED_LOSS, SCATTERED_POWER) if is_everywhere(image) else (LEARNING_LOSS, VOXELS_POWER)
    seen = patches / LEARNING_PATCHES * (voxels / LEARNING_VOXELS[image.dims]) ** power
    return loss / math.sqrt(max(seen, 1e-6)) + FEW_STEPS * batch / max(patches, 1.0)


def width_loss(width: int, classes: int) -> float:
    """Of a network of few channels."""
    crowded = max(0.0, math.log2(classes / (CLASSES_PER_CHANNEL * width)))
    return WIDTH_LOSS * (8 / width) ** WIDTH_POWER + crowded
