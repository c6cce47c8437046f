"""Arrangement of slices along a line: at the same position, evenly spaced, interleaved, or with a gap."""

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
"""Slices closer than this (mm, or times the slice distance, whichever is larger) have the same position."""
_NEAR = 0.1
"""Largest deviation from an even grid, in usual distances, when only the order of slices matters."""
_MOSTLY = 0.6
"""Share of the distances that have to equal the usual one for an even grid."""
_OTHER, _OTHER_MM = 0.25, 0.15
"""Distances that differ by at least this (times the distance, and mm) differ by more than rounding."""


def is_close(distance: np.ndarray | float, usual: float) -> np.ndarray | bool:
    """Whether slices this far apart (mm) have the same position, given the usual distance `usual` (mm)."""
    return np.abs(distance) <= max(SAME_PLACE_MM, SAME_PLACE * usual)


def crowd_of(along: np.ndarray) -> int:
    """Return the largest number of slices at one position, for sorted positions in mm."""
    return int(np.bincount(_place_numbers(along)).max())


def ranks_at_places(values: np.ndarray, along: np.ndarray) -> np.ndarray | None:
    """Number the slices at each position by their values; None unless each has equally many, with different values."""
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
    """Number of each slice's position, for sorted positions in mm."""
    gaps = np.diff(along)
    usual = gaps[gaps > SAME_PLACE_MM]
    apart = ~np.asarray(is_close(gaps, float(np.median(usual)) if len(usual) else 0.0))
    return np.concatenate([[0], np.cumsum(apart)]).astype(int)


def is_even(along: np.ndarray) -> bool:
    """Whether sorted positions in mm are evenly spaced."""
    if len(along) < 3:
        return True
    even = np.linspace(along[0], along[-1], len(along))
    return bool(np.all(is_close(along - even, float(even[1] - even[0]))))


def places_of(along: np.ndarray) -> np.ndarray | None:
    """Return sorted positions in mm as whole numbers of the usual distance; None if they are on no even grid."""
    if len(along) < 3:
        return None
    gaps = np.diff(along)
    steps = gaps / np.median(gaps)
    whole = np.rint(steps)
    if np.abs(steps - whole).max() > _NEAR or whole.min() < 1 or (whole == 1).mean() < _MOSTLY:
        return None
    return np.concatenate([[0], np.cumsum(whole)]).astype(int)


def interleave(stacks: Sequence[np.ndarray], along: np.ndarray) -> bool:
    """Whether stacks are interleaved, so that each of them is a separate scan.

    On an even grid each of n stacks has every n-th position, unlike two blocks of one volume or a few repeated slices.
    Without an even grid, single slices of one stack lie among those of another.

    Args:
        stacks: sorted positions in mm of each.
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
    """For the sorted slices of two stacks, whether each belongs to the first."""
    return np.repeat([True, False], [len(one), len(other)])[np.argsort(np.concatenate([one, other]))]


def _changes(one: np.ndarray, other: np.ndarray) -> int:
    return int(np.count_nonzero(np.diff(_merged(one, other))))


def _stand_singly(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether no two slices of the first are adjacent within the range of the second."""
    order = _merged(one, other)
    inside = np.flatnonzero(~order)
    shared = order[inside[0] : inside[-1] + 1]
    return not bool((shared[1:] & shared[:-1]).any())


def pieces(values: Sequence[Hashable], along: np.ndarray) -> list[int] | None:
    """Return the number of the piece of each slice, for consecutive pieces that differ in a value.

    A piece ends where the value changes and the distance differs from that before or after. None if a value recurs
    after another one, or if there is only one piece.

    Args:
        values: value of each slice.
        along: sorted positions of the slices in mm.
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
