"""The spacing at which a network sees images: the dataset's own, and coarser where time is short."""

from __future__ import annotations

import math

import numpy as np

from pipelines.planning.records import Fingerprint, PlannedValue
from pipelines.planning.rules.typical import Typical, count, medians, times

ANISOTROPIC = 3.0
"""An axis is coarse from this many times the spacing of the others on, with as many times fewer voxels (nnU-Net v2,
`ANISO_THRESHOLD` of nnunetv2/configuration.py; Isensee et al., Nature Methods 18, 2021, supplementary note 2)."""

COARSE_PERCENTILE = 10.0
"""Of the spacings along a coarse axis, so that most images lose nothing along it (nnU-Net, the same place)."""

STEPS = (1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0, 8.0)
"""How many times the finest axis' spacing is tried."""

VOXELS_ACROSS = 4.0
"""That the smallest typical structure keeps: with fewer its outline is lost (an interpolated outline is off by about
a quarter of a voxel on each side)."""

SMALL = {2: 256**2, 3: 64**3}
"""Voxels of an image up to which it stays as it is: a network learns enough of it in any time."""


def full_spacing(fingerprint: Fingerprint) -> PlannedValue:
    """The dataset's own spacing, per axis of its files.

    Returns:
        Millimetres per axis: the median, on a coarse axis of anisotropic data the 10th percentile.
    """
    cases = fingerprint["cases"]
    spacings = np.array([case["spacing"] for case in cases], float)
    target = np.array(medians(spacings.tolist()))
    shape = np.array(medians(case["shape"] for case in cases))
    source = (
        "the only case's"
        if len(cases) == 1
        else f"all {count(len(cases), 'case')} have it"
        if np.ptp(spacings, axis=0).max() < 1e-6
        else f"the median of the {count(len(cases), 'case')}"
    )
    axis = int(target.argmax())
    others = np.delete(target, axis)
    finer = np.delete(shape, axis).min() > ANISOTROPIC * shape[axis]
    if len(target) == 3 and shape[axis] > 1 and target[axis] > ANISOTROPIC * others.max() and finer:
        low = float(np.percentile(spacings[:, axis], COARSE_PERCENTILE))
        target[axis] = max(low, others.max())
        if len(cases) > 1 and np.ptp(spacings[:, axis]) > 1e-6:
            source += (
                f", along the coarse axis {'RAS'[axis]} the {COARSE_PERCENTILE:.0f}th percentile, so that most images "
                "lose no slices"
            )
    value = [float(f"{s:.6g}") for s in target]
    return PlannedValue(value, f"{_unit(fingerprint, value)}: {source}")


def coarser(full: list[float], image: Typical, without_unit: bool) -> list[list[float]]:
    """Spacings to choose from, the dataset's own first, each with more cubic and fewer voxels than the one before.

    Small images (`SMALL`) stay as they are.

    Args:
        full: of `full_spacing`.
        image: typical image and structures.
        without_unit: whether it is a picture, whose spacing of 1 means pixels; it has no other.
    """
    if without_unit or math.prod(image.on_grid(full)) <= SMALL[image.dims]:
        return [full]
    seen = full[: image.dims]
    smallest = min((s.size for s in image.structures), default=0.0)
    found = [full]
    for step in STEPS:
        spacing = [max(s, min(seen) * step) for s in seen]
        if any(new > max(own, smallest / VOXELS_ACROSS) for new, own in zip(spacing, seen, strict=True)):
            break
        if spacing != found[-1][: image.dims]:
            found.append([float(f"{s:.6g}") for s in spacing] + full[image.dims :])
    return found


def reason(full: PlannedValue, chosen: list[float], image: Typical, seconds: float) -> str:
    """Why a spacing of `coarser` was chosen, given the seconds of training that decided."""
    if chosen == full.value:
        return full.reason
    smallest = min(image.structures, key=lambda structure: structure.size)
    coarser = max(new for new, own in zip(chosen, full.value, strict=True) if new != own)
    return (
        f"{times(chosen)} mm instead of the dataset's {times(full.value)} mm, as in {seconds / 60:.3g} minutes a network "
        f"learns more from patches that show more of the body; {smallest.name}, the smallest structure, keeps "
        f"{smallest.size / coarser:.1f} voxels across"
    )


def is_without_unit(fingerprint: Fingerprint) -> bool:
    """Whether images are pictures of 1 x 1, the spacing of files that have none."""
    return all(len(c["shape"]) == 2 and set(c["spacing"]) == {1.0} for c in fingerprint["cases"])


def _unit(fingerprint: Fingerprint, value: list[float]) -> str:
    return f"{times(value)} pixels" if is_without_unit(fingerprint) else f"{times(value)} mm"
