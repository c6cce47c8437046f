"""How slices stand along a line: at one place, evenly, between one another, or with a gap."""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Sequence

import numpy as np

__all__ = [
    "SAME_PLACE_MM",
    "crowd_of",
    "interleave",
    "is_close",
    "is_even",
    "pieces",
    "places_of",
    "ranks_at_places",
]

SAME_PLACE_MM = 0.01
SAME_PLACE = 0.01
"""Slices nearer to each other than this (mm, or times the slice distance, whichever is more) stand at one place."""
_NEAR = 0.1
"""How far, in usual distances, slices on a grid may lie off it, when only their order is asked for."""
_MOSTLY = 0.6
"""Part of the distances that have to be the usual one for a grid."""
_OTHER, _OTHER_MM = 0.25, 0.15
"""From this difference on (times the distance, and mm) a distance is another one and no rounding."""


def is_close(distance: np.ndarray | float, usual: float) -> np.ndarray | bool:
    """Whether slices this far apart (mm) stand at one place, for slices that are usually `usual` mm apart."""
    return np.abs(distance) <= max(SAME_PLACE_MM, SAME_PLACE * usual)


def crowd_of(along: np.ndarray) -> int:
    """Return the largest number of slices at one place, of sorted places in mm."""
    return int(np.bincount(_place_numbers(along)).max())


def ranks_at_places(values: np.ndarray, along: np.ndarray) -> np.ndarray | None:
    """Number slices at each place by their values; None unless all places have equally many, of different values."""
    numbers = _place_numbers(along)
    if len(set(np.bincount(numbers))) > 1:
        return None
    ranks = np.zeros(len(values), dtype=int)
    for number in range(numbers[-1] + 1):
        here = np.flatnonzero(numbers == number)
        if len(np.unique(values[here])) < len(here):
            return None
        ranks[here] = np.argsort(np.argsort(values[here]))
    return ranks


def _place_numbers(along: np.ndarray) -> np.ndarray:
    """Number of the place that each slice stands at, of sorted places in mm."""
    gaps = np.diff(along)
    usual = gaps[gaps > SAME_PLACE_MM]
    apart = ~np.asarray(is_close(gaps, float(np.median(usual)) if len(usual) else 0.0))
    return np.concatenate([[0], np.cumsum(apart)]).astype(int)


def is_even(along: np.ndarray) -> bool:
    """Whether sorted places in mm have one distance throughout."""
    if len(along) < 3:
        return True
    even = np.linspace(along[0], along[-1], len(along))
    return bool(np.all(is_close(along - even, float(even[1] - even[0]))))


def places_of(along: np.ndarray) -> np.ndarray | None:
    """Return sorted places in mm as whole numbers of the usual distance; None where they are on no grid."""
    if len(along) < 3:
        return None
    gaps = np.diff(along)
    steps = gaps / np.median(gaps)
    whole = np.rint(steps)
    if np.abs(steps - whole).max() > _NEAR or whole.min() < 1 or (whole == 1).mean() < _MOSTLY:
        return None
    return np.concatenate([[0], np.cumsum(whole)]).astype(int)


def interleave(stacks: Sequence[np.ndarray], along: np.ndarray) -> bool:
    """Whether stacks stand between one another, so that they are scans of their own.

    On an even grid each of n stacks has every n-th place: two blocks of one volume, or a few slices scanned again, have
    not. Off a grid, where nothing is one volume anyway, slices of one stack stand singly among those of another.

    Args:
        stacks: sorted places in mm of each.
        along: all of them, sorted.
    """
    count = len(stacks)
    if count < 2 or min(len(stack) for stack in stacks) < 2:
        return False
    mixed = any(_changes(one, other) >= 3 for one, other in itertools.combinations(stacks, 2))
    if not mixed:
        return False
    grid = places_of(along)
    if grid is None:
        return min(len(stack) for stack in stacks) > 2 and any(
            _stand_singly(one, other) or _stand_singly(other, one)
            for one, other in itertools.combinations(stacks, 2)
            if _changes(one, other) >= 3
        )
    rests = [np.unique(grid[np.searchsorted(along, stack)] % count) for stack in stacks]
    return all(len(rest) == 1 for rest in rests) and len({int(rest[0]) for rest in rests}) == count


def _merged(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """For all slices of two stacks in order whether they are of the first."""
    return np.repeat([True, False], [len(one), len(other)])[np.argsort(np.concatenate([one, other]))]


def _changes(one: np.ndarray, other: np.ndarray) -> int:
    return int(np.count_nonzero(np.diff(_merged(one, other))))


def _stand_singly(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether no two slices of the first follow one another where the second is, too."""
    order = _merged(one, other)
    inside = np.flatnonzero(~order)
    shared = order[inside[0] : inside[-1] + 1]
    return not bool((shared[1:] & shared[:-1]).any())


def pieces(values: Sequence[Hashable], along: np.ndarray) -> list[int] | None:
    """Return for each slice the number of its piece, for pieces that follow one another and differ in a value.

    A piece ends where the value changes and the distance is another than before or after. None where a value comes
    again after another one, or where there is one piece only.

    Args:
        values: what each slice says.
        along: their places in mm, sorted.
    """
    starts = [0, *(index for index in range(1, len(values)) if values[index] != values[index - 1])]
    if len({values[index] for index in starts}) < len(starts):
        return None
    runs = [along[start:stop] for start, stop in itertools.pairwise([*starts, len(values)])]
    usual = float(np.median(np.diff(along)))
    steps = [float(np.median(np.diff(run))) if len(run) > 1 else usual for run in runs]
    numbers, piece = [0] * len(runs[0]), 0
    for (lower, upper), run, gap in zip(
        itertools.pairwise(steps),
        runs[1:],
        (after[0] - before[-1] for before, after in itertools.pairwise(runs)),
        strict=True,
    ):
        piece += any(abs(gap - step) > max(_OTHER * step, _OTHER_MM) for step in (lower, upper))
        numbers += [piece] * len(run)
    return numbers if piece else None
