"""From what a dataset looks like and what a machine can do to the settings of a training."""

from __future__ import annotations

import functools
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from pipelines.planning.knobs import PLANNED
from pipelines.planning.plan_file import PlanError
from pipelines.planning.records import Fingerprint, Plan, PlannedValue
from pipelines.planning.rules import (
    explanations,
    intensities,
    patches,
    prediction,
    sampling,
    schedule,
    spacing,
)
from pipelines.planning.rules.constraints import (
    given_axes,
    given_overlap,
    given_patch,
    given_spacing,
    given_steps,
    given_words,
)
from pipelines.planning.rules.expectation import grid_loss
from pipelines.planning.rules.search import Choice, Measure, Meter, Options, search
from pipelines.planning.rules.typical import Typical, typical
from pipelines.utils.cores import available_cores

VALIDATION_CASES = 0.25
"""Of the training cases, where their number is not said: a fold of five."""

FEW_STEPS = 300
"""Steps below which a training is hardly begun."""


def make_plan(
    fingerprint: Fingerprint,
    given: Mapping[str, Any],
    minutes: float | None,
    memory: int,
    measure: Measure,
    knobs: Collection[str],
    defaults: Mapping[str, Any],
) -> Plan:
    """Plan a training.

    Args:
        fingerprint: of the dataset.
        given: knobs that have a value; the rest is planned around them.
        minutes: wall time of the whole training; None takes `schedule.minutes_for`, with a notice.
        memory: bytes that a step may take.
        measure: times real steps, of settings with spacing, patch_size, batch_size and, where the bundle has it,
            features; None for one that does not fit the memory or does not build.
        knobs: ids to be planned.
        defaults: what the bundle's network wants: `learning_rate`, the base; `validation_cases`, how many the
            dataset has.

    Returns:
        The plan. The step of its setting was measured.

    Raises:
        PlanError: what was given contradicts the data or the memory.
    """
    if not fingerprint["cases"]:
        raise PlanError("the dataset has no training case to plan from")
    notices: list[str] = []
    wish, minutes = minutes, minutes or schedule.minutes_for(len(fingerprint["cases"]))
    full = spacing.full_spacing(fingerprint)
    planned = _of_intensities(fingerprint, given, notices)
    crop = given["crop_above"] if "crop_above" in given else planned["crop_above"].value
    image = typical(fingerprint, crop is not None, flat=len(given.get("patch_size") or ()) == 2)
    if image.dims < len(image.shape) and image.shape[-1] > 1:
        notices.append("patch_size has two numbers, so that a 2D network sees one axial slice at a time")
    planned["flip_axes"] = sampling.flip_axes(fingerprint, image.dims)
    options = _options(fingerprint, given, memory, knobs, defaults, full, image)._replace(
        flips=_flips(given, planned["flip_axes"], image.dims)
    )
    cores = available_cores()
    fixed = schedule.preparing_seconds(image, options.validation_cases, cores)
    seconds = schedule.training_seconds(minutes, fixed)
    meter = Meter(measure)
    choice = search(options, meter, seconds)
    if choice is None:
        raise PlanError(explanations.nothing_fits(options, meter, given))
    planned |= _of_choice(fingerprint, given, options, meter, choice, full)
    length = _length(planned, given, options, choice, seconds, minutes, defaults)
    total = fixed + length.steps * choice.step + length.validations * choice.validation
    notices += _notices(minutes, total, length, choice, fixed)
    if wish is None:
        notices.append(
            f"planned for {minutes:g} minutes, as nobody said how many; give --minutes for a longer or shorter training"
        )
    return Plan(
        values={name: planned[name] for name in PLANNED if name in knobs and name in planned},
        given={name: given[name] for name in PLANNED if name in given},
        minutes=total / 60,
        cost=meter.measured[choice.setting],
        notices=tuple(notices),
    )


def _of_intensities(
    fingerprint: Fingerprint, given: Mapping[str, Any], notices: list[str]
) -> dict[str, PlannedValue]:
    words, found = intensities.normalization(fingerprint)
    used = given_words(fingerprint, given, words.value)
    if "normalization" not in given:
        notices += found
    if given.get("window") is not None and "CT" not in used:
        notices.append(
            f"window {given['window']} is in HU, but no channel is treated as CT, so that it is not used"
        )
    return {
        "normalization": words,
        "window": intensities.window(fingerprint, used),
        "crop_above": intensities.crop_above(fingerprint, used),
    }


def _options(
    fingerprint: Fingerprint,
    given: Mapping[str, Any],
    memory: int,
    knobs: Collection[str],
    defaults: Mapping[str, Any],
    full: PlannedValue,
    image: Typical,
) -> Options:
    """What may be chosen."""
    has_features = "features" in knobs or "features" in given
    features = tuple(given["features"]) if "features" in given else None
    levels = patches.MOST_LEVELS if features is None else len(features) - 1
    if "spacing" in given:
        spacings = [given_spacing(given["spacing"], full.value)]
    else:
        spacings = spacing.coarser(full.value, image, spacing.is_without_unit(fingerprint))
    patch = given_patch(given, image, levels if features is not None else None, has_features)

    def features_for(size: Sequence[int]) -> list[tuple[int, ...] | None]:
        if features is not None or not has_features:
            return [features]
        deep = patches.levels_of(size)
        if patch is not None:
            deep = max(n for n in range(1, deep + 1) if all(patches.fits(voxels, n) for voxels in size))
        return [patches.features_of(width, deep, image.dims) for width in patches.WIDTHS]

    def sizes(grid: tuple[float, ...]) -> list[tuple[int, ...]]:
        return [patch] if patch is not None else patches.patch_sizes(image, grid, levels)

    return Options(
        image=image,
        lost=functools.cache(functools.partial(grid_loss, image, full.value)),
        spacings=[tuple(s) for s in spacings],
        patches=functools.cache(sizes),
        features=features_for,
        batch=given.get("batch_size"),
        patches_in_all=given_steps(given),
        validation_cases=int(defaults.get("validation_cases", math.ceil(VALIDATION_CASES * image.cases))),
        memory=memory,
        overlap=given_overlap(given, image.dims) if "overlap" in {*knobs, *given} else prediction.USUAL,
        mirrors=given_axes(given, "mirror_axes", image.dims) if "mirror_axes" in {*knobs, *given} else (),
    )


def _flips(given: Mapping[str, Any], planned: PlannedValue, dims: int) -> tuple[int, ...]:
    """Axes along which the training flips patches; given as None it flips along all."""
    if "flip_axes" in given and given["flip_axes"] is None:
        return tuple(range(dims))
    found = given_axes(given, "flip_axes", dims)
    return tuple(planned.value) if found is None else found


def _of_choice(
    fingerprint: Fingerprint,
    given: Mapping[str, Any],
    options: Options,
    meter: Meter,
    choice: Choice,
    full: PlannedValue,
) -> dict[str, PlannedValue]:
    setting, image = choice.setting, options.image
    return {
        "spacing": PlannedValue(
            list(setting.spacing), spacing.reason(full, list(setting.spacing), image, choice.seconds)
        )
        if "spacing" not in given
        else PlannedValue(list(setting.spacing), "given"),
        "patch_size": PlannedValue(
            list(setting.patch),
            explanations.patch(options, meter, choice, spacing.is_without_unit(fingerprint)),
        ),
        "features": PlannedValue(
            None if setting.features is None else list(setting.features),
            explanations.features(options, meter, choice),
        ),
        "batch_size": PlannedValue(setting.batch, explanations.batch(options, choice)),
        "foreground": sampling.foreground(image, setting.patch, setting.spacing),
        "dice_smooth": sampling.dice_smooth(image, setting.spacing),
        "overlap": prediction.overlap(choice.passes),
        "mirror_axes": prediction.mirror_axes(choice.passes, options.flips, image.dims),
        "augmentation": sampling.augmentation(fingerprint),
    }


def _length(
    planned: dict[str, PlannedValue],
    given: Mapping[str, Any],
    options: Options,
    choice: Choice,
    seconds: float,
    minutes: float,
    defaults: Mapping[str, Any],
) -> schedule.Length:
    """Add the schedule to what was planned."""
    batch = choice.setting.batch
    length = schedule.length_of(
        choice.steps,
        seconds,
        choice.validation,
        given.get("val_interval"),
        given.get("epochs"),
        None if "patches_per_epoch" not in given else math.ceil(given["patches_per_epoch"] / batch),
    )
    planned["epochs"] = PlannedValue(length.epochs, explanations.epochs(length, choice, minutes))
    planned["patches_per_epoch"] = PlannedValue(
        length.steps_per_epoch * batch, explanations.patches_per_epoch(length, batch)
    )
    base = float(defaults.get("learning_rate", schedule.BASE_RATE))
    planned["learning_rate"] = schedule.learning_rate(base, length.steps, choice.setting.width)
    planned["warmup_steps"] = schedule.warmup(length.steps)
    share = options.image.share_of(choice.setting.patch, choice.setting.spacing)
    planned["schedule"] = schedule.kind(length.steps * batch * share / options.image.images)
    planned["ema"] = schedule.ema(given.get("schedule", planned["schedule"].value))
    planned["val_interval"] = PlannedValue(
        length.val_interval, explanations.val_interval(length, options.validation_cases, choice)
    )
    return length


def _notices(
    minutes: float, total: float, length: schedule.Length, choice: Choice, fixed: float
) -> list[str]:
    found = []
    if total > 66 * minutes:
        found.append(
            f"the training takes about {total / 60:.3g} minutes, longer than {minutes:g}: starting and preparing the "
            f"dataset takes {fixed / 60:.2g}, a validation {choice.validation / 60:.2g}, a step {choice.step:.2g} s"
        )
    if length.steps < FEW_STEPS:
        found.append(
            f"only {length.steps} steps fit into {minutes:g} minutes on this machine: the network will hardly have begun to "
            "learn; give it more minutes"
        )
    return found
