"""Which classes are the left and the right one of a pair: a picture that is mirrored shows them the wrong way round.

By name: two names that are the same but for a word that says the side, in English, Latin and the languages around.
By place: two classes that lie on either side of the middle of nearly every image, as far from it, as high, as deep,
and are as large.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from pipelines.planning.records import CaseFingerprint, Pair

__all__ = ["left_right_pairs"]

_WORDS = {
    "left": (
        "left lt lft l lh lhs sin sinister sinistra sinistrum sinistri sinistrae os links linke linker linkes linken"
        " gauche izquierdo izquierda izq sinistro sx esquerdo esquerda 左"
    ),
    "right": (
        "right rt rgt r rh rhs dex dext dexter dextra dextrum dextri dextrae od rechts rechte rechter rechtes rechten"
        " droit droite derecho derecha der destro destra dx direito direita 右"
    ),
}
_SIDES = {word: side for side, words in _WORDS.items() for word in words.split()}
_LONG = sorted(
    (word for word in _SIDES if len(word) > 4 or not word.isascii() or word == "left"), key=len, reverse=True
)
"""Words that are known inside of others too, as in "leftkidney"."""
_LOBES = {
    f"{letter}{lobe}": (side, lobe)
    for letter, side in (("l", "left"), ("r", "right"))
    for lobe in ("ul", "ll")
}
"""Of the lung, as radiologists write them: LUL, RUL, LLL, RLL."""
_PARTS = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|[0-9]+|[^\W\dA-Za-z_]+")
"""Words of a name, with those in "LeftKidney", "LKidney" and "kidney2R" told apart."""

_CASES = 3
"""Fewer cases with both classes prove no pair."""
_NEARLY_ALL = 0.9
_MIDDLE = 0.1
"""Share of the image's size by which the middle between the two may be off that of the image, or one be off the other."""
_ALIKE = 1.6
"""One may have so many times the volume, or the extent, of the other."""
_APART = 0.5
"""The centres are so many extents apart at least, across the middle."""


def left_right_pairs(labels: Mapping[int, str], cases: Sequence[CaseFingerprint]) -> list[Pair]:
    """The left and right classes of a dataset, each class in one pair at most.

    Args:
        labels: class id to name, background included.
        cases: where the classes lie. In 2D nothing is known of left and right but by name.
    """
    names = {value: name for value, name in labels.items() if value != 0}
    named = _by_name(names)
    placed = _by_place(list(names), cases)
    pairs: list[Pair] = []
    for left, right in named:
        mirrored = (left, right) in placed
        pairs.append({"left": left, "right": right, "by": "name and place" if mirrored else "name"})
    taken = {value for pair in named for value in pair}
    sided = {value for value, name in names.items() if _readings(name)}
    for left, right in placed:
        # A class whose name says a side, and whose partner was not found by it, is no pair of unnamed ones.
        if not {left, right} & (taken | sided):
            pairs.append({"left": left, "right": right, "by": "place"})
    return sorted(pairs, key=lambda pair: (min(pair["left"], pair["right"]), pair["left"]))


# -- by name -----------------------------------------------------------------------------------------------


class _Reading(NamedTuple):
    """A name taken as a side and what is on that side."""

    side: str
    rest: tuple[str, ...]


def _by_name(names: Mapping[int, str]) -> list[tuple[int, int]]:
    found: dict[tuple[str, ...], dict[str, set[int]]] = {}
    for value, name in names.items():
        for side, rest in _readings(name):
            found.setdefault(rest, {"left": set(), "right": set()})[side].add(value)
    pairs: list[tuple[int, int]] = []
    taken: set[int] = set()
    # Names with the longest rest first: what has two readings is meant by the one that leaves more.
    for rest in sorted(found, key=lambda rest: (-len(rest), rest)):
        left, right = found[rest]["left"] - taken, found[rest]["right"] - taken
        if len(left) == len(right) == 1 and left != right:
            pairs.append((min(left), min(right)))
            taken |= left | right
    return pairs


def _readings(name: str) -> set[_Reading]:
    words = [word.casefold() for word in _PARTS.findall(name)]
    sided = [(at, *split) for at, word in enumerate(words) for split in _splits(word)]
    readings = {
        _Reading(side, tuple(sorted([*words[:at], *rest, *words[at + 1 :]]))) for at, side, rest in sided
    }
    sides = {side for _, side, _ in sided}
    if len(sides) == 1 and len(sided) > 1:
        # "left lung, left lobe"
        rest = [word for word in words if not list(_splits(word))]
        readings.add(_Reading(sides.pop(), tuple(sorted(rest))))
    return readings


def _splits(word: str) -> Iterator[tuple[str, list[str]]]:
    """The sides that a word may say, each with what is left of the word."""
    if word in _SIDES:
        yield _SIDES[word], []
    elif word in _LOBES:
        side, lobe = _LOBES[word]
        yield side, [lobe]
    else:
        part = next((part for part in _LONG if part in word), None)
        if part is not None:
            yield _SIDES[part], [word.replace(part, "", 1)]


# -- by place ----------------------------------------------------------------------------------------------


def _by_place(values: Sequence[int], cases: Sequence[CaseFingerprint]) -> list[tuple[int, int]]:
    """Pairs (left, right) of classes that mirror one another, the best first."""
    placed = [case for case in cases if len(case["shape"]) == 3]
    if not placed:
        return []
    # Shares of the image's size along R, A, S, and the extent along R as such a share; NaN where a class is missing.
    centres = np.full((len(placed), len(values), 3), np.nan)
    widths, voxels = np.full((2, len(placed), len(values)), np.nan)
    for row, case in enumerate(placed):
        for column, value in enumerate(values):
            found = case["classes"].get(str(value))
            if found is not None and found["voxels"]:
                centres[row, column] = found["centre"]
                widths[row, column] = found["extent"][0] / (case["shape"][0] * case["spacing"][0])
                voxels[row, column] = found["voxels"]
    candidates: list[tuple[float, int, int]] = []
    for one, first in enumerate(values):
        for other in range(one + 1, len(values)):
            across = centres[:, other, 0] - centres[:, one, 0]
            both = ~np.isnan(across)
            if both.sum() < _CASES:
                continue
            off = (centres[:, other] - centres[:, one])[both]
            off[:, 0] = (centres[:, other, 0] + centres[:, one, 0] - 1)[both]
            apart = np.abs(across[both]) >= _APART * (widths[:, one] + widths[:, other])[both] / 2
            mirrored = (np.abs(off) <= _MIDDLE).all(axis=1) & apart
            times = np.exp(np.median(np.log(voxels[both, other] / voxels[both, one])))
            if not 1 / _ALIKE <= times <= _ALIKE:
                continue
            for left, right, sign in ((first, values[other], 1), (values[other], first, -1)):
                if (mirrored & (sign * across[both] > 0)).mean() >= _NEARLY_ALL:
                    candidates.append((float(np.median(np.abs(off).max(axis=1))), left, right))
    pairs: list[tuple[int, int]] = []
    taken: set[int] = set()
    for _, left, right in sorted(candidates):
        if not {left, right} & taken:
            pairs.append((left, right))
            taken |= {left, right}
    return pairs
