"""Knobs that somebody gave, checked against the data, so that the rest can be planned around them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.planning.plan_file import PlanError
from pipelines.planning.records import Fingerprint
from pipelines.planning.rules.intensities import WORDS
from pipelines.planning.rules.patches import MOST_LEVELS, fits, rounded
from pipelines.planning.rules.typical import Typical, times


def given_spacing(value: Any, full: Sequence[float]) -> list[float]:
    """A given spacing in millimetres per axis; None for an axis stands for the dataset's own.

    Raises:
        PlanError: it has too few numbers, or one that is not above 0.
    """
    values = list(value) if isinstance(value, (list, tuple)) else [value] * len(full)
    if len(values) < len(full):
        raise PlanError(
            f"spacing {value} has {len(values)} numbers, but the images have {len(full)} axes: give one number or {len(full)}"
        )
    if any(v is not None and not v > 0 for v in values):
        raise PlanError(f"spacing {value} has to be above 0 along every axis")
    return [float(own if v is None else v) for v, own in zip(values, full, strict=False)]


def given_patch(
    given: Mapping[str, Any], image: Typical, levels: int | None, halved: bool
) -> tuple[int, ...] | None:
    """A given patch, or None.

    Args:
        given: knobs that have a value.
        image: the typical one.
        levels: halvings of the network, where given too.
        halved: whether the network takes only sizes that it can halve.

    Raises:
        PlanError: it has three axes on pictures, or the network cannot halve it.
    """
    if "patch_size" not in given:
        return None
    patch = tuple(int(n) for n in given["patch_size"])
    if len(patch) not in (2, 3) or min(patch) < 1:
        raise PlanError(f"patch_size {list(patch)} has to be two or three numbers above 0")
    if len(patch) != image.dims:
        what = "pictures" if len(image.shape) == 2 else "single slices"
        raise PlanError(
            f"patch_size {list(patch)} has three axes, but the images are {what}: give two numbers"
        )
    if halved and not all(fits(n, levels or 1) for n in patch):
        nearest = [rounded(n, levels or MOST_LEVELS) for n in patch]
        raise PlanError(
            f"patch_size {times(patch)} cannot be halved{'' if levels is None else f' {levels} times, as features ask'}: "
            f"give {times(nearest)}, or leave one of them to the plan"
        )
    return patch


def given_steps(given: Mapping[str, Any]) -> int | None:
    """Patches of the whole training, where epochs and their length are both given."""
    if "epochs" in given and "patches_per_epoch" in given:
        return int(given["epochs"]) * int(given["patches_per_epoch"])
    return None


def given_words(fingerprint: Fingerprint, given: Mapping[str, Any], planned: list[str]) -> list[str]:
    """How each channel is normalised: as given, or as planned.

    Raises:
        PlanError: a word is unknown, or there are more or fewer than channels.
    """
    if "normalization" not in given:
        return planned
    words = list(given["normalization"])
    unknown = [word for word in words if str(word).lower() not in WORDS]
    if unknown:
        raise PlanError(
            f"normalization {unknown[0]!r} is not known; give one of {', '.join(WORDS.values())} per channel"
        )
    channels = len(fingerprint["cases"][0]["channels"])
    if len(words) != channels:
        raise PlanError(
            f"normalization has {len(words)} words, but the images have {channels} channels: give one each"
        )
    return [WORDS[word.lower()] for word in words]


def given_axes(given: Mapping[str, Any], name: str, dims: int) -> tuple[int, ...] | None:
    """Axes that somebody gave; None where nobody did.

    Raises:
        PlanError: one is no axis of a patch.
    """
    if name not in given:
        return None
    axes = given[name] if isinstance(given[name], (list, tuple)) else [given[name]]
    if not all(axis in range(dims) for axis in axes) or len(set(axes)) < len(axes):
        known = ", ".join(str(axis) for axis in range(dims))
        raise PlanError(f"{name} {given[name]} has to be a list of the axes {known}, each at most once")
    return tuple(int(axis) for axis in axes)


def given_overlap(given: Mapping[str, Any], dims: int) -> float | tuple[float, ...] | None:
    """The overlap of windows that somebody gave, a fraction or one for each axis; None where nobody did.

    Raises:
        PlanError: it is neither.
    """
    if "overlap" not in given:
        return None
    value = given["overlap"]
    several = isinstance(value, (list, tuple))
    parts = value if several else [value]
    numbers = all(isinstance(part, (int, float)) and 0 <= part < 1 for part in parts)
    if not numbers or (several and len(parts) != dims):
        raise PlanError(
            f"overlap {value} has to be a fraction of the window, 0 or more and below 1, or a list of {dims}"
        )
    return tuple(parts) if several else value
