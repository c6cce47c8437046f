"""How whole cases are predicted: how densely windows lie, and along which axes they are mirrored too."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from pipelines.planning.records import PlannedValue
from pipelines.planning.rules.sampling import NAMES

USUAL, DENSE = 0.5, 0.75
"""Overlap of neighbouring windows as a fraction of their size: nnU-Net's, and one with up to eight times the windows."""

LONGEST = 5.0
"""Seconds of a typical case with all its passes. More of them are for whoever predicts to decide."""


class Passes(NamedTuple):
    """What a prediction of a typical case consists of.

    Attributes:
        overlap: of neighbouring windows, or one for each axis.
        mirrors: axes along which each window is mirrored too.
        seconds: of a case.
        fewest: seconds of a case with half overlap and nothing mirrored.
    """

    overlap: float | Sequence[float]
    mirrors: tuple[int, ...]
    seconds: float
    fewest: float


def windows(grid: Sequence[int], patch: Sequence[int], overlap: float | Sequence[float] = USUAL) -> int:
    """Windows of the sliding window over an image of so many voxels; `overlap` may be one for each axis."""
    overlaps = overlap if isinstance(overlap, Sequence) else [overlap] * len(patch)
    return math.prod(
        1 if n <= p else math.ceil((n - p) / max(1.0, p * (1 - o))) + 1
        for n, p, o in zip(grid, patch, overlaps, strict=True)
    )


def passes(
    grid: Sequence[int],
    patch: Sequence[int],
    window: float,
    flips: Sequence[int],
    longest: float = LONGEST,
    overlap: float | Sequence[float] | None = None,
    mirrors: Sequence[int] | None = None,
) -> Passes:
    """As many passes as are quick: the mean of several outputs errs less than one.

    Args:
        grid: voxels of the typical image.
        patch: of the window.
        window: seconds of one.
        flips: axes along which the training flips patches; along others a network knows no mirrored input.
        longest: seconds that a case may take.
        overlap, mirrors: that somebody gave.
    """
    fewest = windows(grid, patch) * window
    chosen, axes = USUAL if overlap is None else overlap, tuple(mirrors or ())
    seconds = windows(grid, patch, chosen) * window * 2 ** len(axes)
    if mirrors is None:
        for axis in flips:
            if 2 * seconds <= longest:
                axes, seconds = (*axes, axis), 2 * seconds
    dense = windows(grid, patch, DENSE) * window * 2 ** len(axes)
    if overlap is None and dense <= longest:
        chosen, seconds = DENSE, dense
    return Passes(chosen, axes, seconds, fewest)


def mirror_axes(found: Passes, flips: Sequence[int], dims: int) -> PlannedValue:
    """The axes, and why.

    Args:
        found: what was chosen.
        flips: as of `passes`.
        dims: axes of a patch.
    """
    if not flips:
        return PlannedValue([], "none, as patches are not flipped either")
    if not found.mirrors:
        return PlannedValue(
            [], f"none: a case takes {found.fewest:.2g} s on this machine, and twice as long for each axis"
        )
    names = " and ".join(NAMES[dims][axis] for axis in found.mirrors)
    some = "" if len(found.mirrors) == len(flips) else ", not along others to save time"
    return PlannedValue(
        list(found.mirrors),
        f"along {names}, as patches are{some}: the mean of {2 ** len(found.mirrors)} outputs errs less (nnU-Net)",
    )


def overlap(found: Passes) -> PlannedValue:
    """The overlap, and why."""
    if found.overlap == DENSE:
        return PlannedValue(
            DENSE,
            f"a case takes {found.seconds:.2g} s on this machine with it and all passes: the mean of more windows errs less",
        )
    return PlannedValue(
        found.overlap,
        f"half, as in nnU-Net: a case takes {found.seconds:.2g} s on this machine, and more with more windows",
    )
