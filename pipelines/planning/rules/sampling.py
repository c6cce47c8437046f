"""Where patches are taken from, along which axes they may be flipped, and how strongly they are augmented."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from pipelines.planning.records import Fingerprint, PlannedValue
from pipelines.planning.rules.typical import Typical, times

USUAL = 0.33
"""Share of patches that hold a class for sure (nnU-Net's `oversample_foreground_percent`)."""

RARE = ((0.02, 0.67), (0.1, 0.5))
"""Probability that a random patch touches the rarest class, and the share below it."""

ORDERED = 0.95
"""Share of the cases in which two classes lie the same way round, from which on that is no chance."""

ENOUGH_CASES = 5
"""Cases below which chance may have laid classes the same way round."""

APART = 0.02
"""Of the image's size: how far apart two centres are at least, or a centre from the middle, to count as apart."""

OFF_CENTRE = 0.1
"""Of the image's size: how far from the middle a class lies on one side, typically."""

FEW_CASES = 10
"""Cases below which a dataset shows little of how scans differ."""

SPREAD = 2.0
"""Largest over smallest voxel along an axis, from which on scans differ in how fine they are."""

SMOOTH, SMOOTH_SHARE = 100.0, 0.1
"""Voxels that are added to both sides of Dice, and the most that they are of the smallest class."""

NAMES = {2: ("X", "Y"), 3: ("R", "A", "S")}


def foreground(image: Typical, patch: Sequence[int], spacing: Sequence[float]) -> PlannedValue:
    """Share of the patches that are centred on a voxel of a class.

    Args:
        image: typical image and structures.
        patch: voxels per axis.
        spacing: millimetres per axis.
    """
    grid = image.on_grid(spacing)
    if all(p >= n for p, n in zip(patch, grid, strict=True)):
        return PlannedValue(
            0.0, f"a patch is as large as the typical image of {times(grid)} voxels: it holds every class"
        )
    if not image.structures:
        return PlannedValue(USUAL, "a third of the patches, as in nnU-Net")
    chance, name = min((_chance(s.extent, patch, grid, spacing), s.name) for s in image.structures)
    share = next((share for limit, share in RARE if chance < limit), USUAL)
    said = "less than 1%" if chance < 0.01 else f"about {chance:.0%}"
    if share == USUAL:
        return PlannedValue(
            USUAL, f"a third, as in nnU-Net: {said} of random patches touch {name}, the rarest, anyway"
        )
    return PlannedValue(share, f"only {said} of random patches touch {name}, the rarest class")


def dice_smooth(image: Typical, spacing: Sequence[float]) -> PlannedValue:
    """Voxels added to numerator and denominator of the loss's Dice.

    A patch that holds a few voxels of a class, whose outline a reader may draw one voxel further in or out, then does
    not weigh as much as one that holds much of it. Of a class of a few voxels these are all that is learned from.

    Args:
        image: typical image and structures.
        spacing: millimetres per axis.
    """
    sizes = [(s.voxels_on(spacing, image.dims), s.name) for s in image.structures]
    if not sizes:
        return PlannedValue(SMOOTH, f"{SMOOTH:.0f} voxels, so that patches with little of a class weigh less")
    voxels, name = min(sizes)
    found = min(SMOOTH, SMOOTH_SHARE * voxels)
    if found == SMOOTH:
        return PlannedValue(SMOOTH, f"{SMOOTH:.0f} voxels, so that patches with little of a class weigh less")
    rounded = float(f"{found:.2g}")
    return PlannedValue(
        rounded,
        f"{rounded:g} voxels, a tenth of {name}, the smallest class, so that patches with little of a class weigh less",
    )


def _chance(
    extent: Sequence[float], patch: Sequence[int], grid: Sequence[int], spacing: Sequence[float]
) -> float:
    """Probability that a patch at random touches the bounding box of a structure in the middle of an image."""
    chance = 1.0
    for e, p, n, s in zip(extent, patch, grid, spacing, strict=False):
        if n > p:
            chance *= min(1.0, (e / s + p) / n)
    return chance


def flip_axes(fingerprint: Fingerprint, dims: int) -> PlannedValue:
    """Axes along which mirrored patches are as good as the true ones.

    nnU-Net mirrors along all axes by default. Where classes lie the same way round in every case, a network learns
    that sooner than their looks, and mirrored patches take it away: left and right above all, but also front from back
    (the parts of a hippocampus) or the side that the liver is on.

    Args:
        fingerprint: of the dataset.
        dims: axes of a patch.
    """
    allowed, why = [], []
    for axis in range(dims):
        obstacle = _order_along(fingerprint, axis)
        if obstacle:
            why.append(f"not along {NAMES[dims][axis]}, as {obstacle}")
        else:
            allowed.append(axis)
    names = " and ".join(NAMES[dims][axis] for axis in allowed)
    if allowed:
        why.insert(0, f"along {names}, where nothing lies the same way round in all cases")
    return PlannedValue(allowed, "; ".join(why))


def augmentation(fingerprint: Fingerprint) -> PlannedValue:
    """How often patches are rotated and scaled, see `transforms.PatchAugmentation`.

    What is resampled is smoother than a scan, so that a network which sees little else learns less of fine outlines in
    the same time. Where scans differ more than the training cases show, that is worth it.

    Args:
        fingerprint: of the dataset.
    """
    cases = fingerprint["cases"]
    if len(cases) < FEW_CASES:
        number = "one case shows" if len(cases) == 1 else f"{len(cases)} cases show"
        return PlannedValue("strong", f"{number} little of how scans differ")
    for axis, sizes in enumerate(zip(*(case["spacing"] for case in cases), strict=True)):
        if max(sizes) > SPREAD * min(sizes):
            name = NAMES[len(cases[0]["spacing"])][axis]
            return PlannedValue(
                "strong",
                f"some cases are {max(sizes) / min(sizes):.2g} times as coarse as others along {name}",
            )
    return PlannedValue(
        "moderate",
        f"the voxels of all {len(cases)} cases are about equally large: most patches keep those of their scan, as in nnU-Net",
    )


def _order_along(fingerprint: Fingerprint, axis: int) -> str:
    """What lies the same way round along an axis in nearly all cases, in words; empty if nothing does."""
    labels = fingerprint["labels"]
    if axis == 0 and fingerprint["pairs"]:
        pair = fingerprint["pairs"][0]
        return f"{labels[str(pair['left'])]} and {labels[str(pair['right'])]} are left and right"
    centres = {
        label: {
            case["case"]: record["centre"][axis]
            for case in fingerprint["cases"]
            if (record := case["classes"].get(label)) is not None and record["voxels"] > 0
        }
        for label in labels
        if label != "0"
    }
    for label, found in centres.items():
        off = [centre - 0.5 for centre in found.values()]
        if _one_sided(off) and abs(_mean(off)) > OFF_CENTRE:
            return f"{labels[label]} is always on the same side of the image"
    for one, other in itertools.combinations(centres, 2):
        both = [centres[one][case] - centres[other][case] for case in centres[one] if case in centres[other]]
        if _one_sided(both) and abs(_mean(both)) > APART:
            return f"{labels[one]} and {labels[other]} always lie the same way round"
    return ""


def _one_sided(values: Sequence[float]) -> bool:
    if len(values) < ENOUGH_CASES:
        return False
    positive = sum(value > 0 for value in values)
    return max(positive, len(values) - positive) >= math.ceil(ORDERED * len(values))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
