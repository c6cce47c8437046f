"""How long a training is, how often it validates, and its learning rate."""

from __future__ import annotations

import math
from typing import NamedTuple

from pipelines.planning.records import PlannedValue
from pipelines.planning.rules.typical import Typical, count

START_SECONDS = 60.0
"""Of loading libraries, opening the dataset, planning, and writing the results."""

PREPARED_PER_SECOND = 5e6
"""Voxels of files that one core brings into the patch store in a second."""

MINUTES = 5
"""Of a training of one case whose time nobody gave, see `minutes_for`."""

KEPT = 0.95
"""Share of the minutes that is planned with, so that they are kept."""

LEAST_TRAINED = 0.3
"""Share of the minutes that steps get, even where preparing takes longer than the rest."""

VALIDATION_SHARE = 0.12
"""Of the training's time, that validations take at most, but for the last one."""

MOST_VALIDATIONS = 20
WINDOW_SHARE = 1 / 3
"""Of the seconds of training on a patch, that a window takes where it was not timed: forward without backward."""

EPOCHS = 20
LONGEST_EPOCH = 250
"""Batches (nnU-Net's `num_iterations_per_epoch`)."""

WARMUP = 0.03
MOST_WARMUP = 500

BASE_STEPS = 500
"""Steps, and channels at full resolution, of the trainings by which the bundles' learning rates were chosen."""
BASE_WIDTH = 8
BASE_RATE = 0.001
"""Of AdamW, where a bundle has none."""
STEPS_POWER = 0.25
WIDTH_POWER = 0.25
LOWEST_RATE = 0.1
"""Of the bundle's rate."""

MANY_VIEWS = 20
"""Of each voxel in a training, from which on a network begins to learn the labels of its cases by heart."""
SHORT_AVERAGE, LONG_AVERAGE = 0.99, 0.999
"""Decays of the average of the weights: over the last hundred steps, and over a ninth of all steps so far (up to a thousand)."""


class Cost(NamedTuple):
    """What a training takes beside its steps.

    Attributes:
        fixed: seconds of starting and preparing.
        validation: seconds of one validation.
    """

    fixed: float
    validation: float


class Length(NamedTuple):
    """How many steps a training has, and how they are divided.

    Attributes:
        steps: of the optimiser.
        epochs, steps_per_epoch: their product is `steps`.
        val_interval: epochs between validations.
        validations: how many.
    """

    steps: int
    epochs: int
    steps_per_epoch: int
    val_interval: int
    validations: int


def preparing_seconds(image: Typical, validation_cases: int, cores: int) -> float:
    """Seconds until the first step: starting, and every case preprocessed once."""
    return START_SECONDS + (image.cases + validation_cases) * image.voxels / (PREPARED_PER_SECOND * cores)


def minutes_for(cases: int) -> float:
    """How long a training takes where nobody says: `MINUTES` times the square root of the number of its cases.

    More cases are worth a longer training, but their number is not worth a training that takes all the longer.
    """
    return round(MINUTES * math.sqrt(cases))


def training_seconds(minutes: float, fixed: float) -> float:
    """Seconds left for steps and validations."""
    return max(60 * minutes * KEPT - fixed, 60 * minutes * LEAST_TRAINED)


def steps_within(seconds: float, step: float, validation: float) -> int:
    """Steps that fit beside the validations, at least 1."""
    return max(1, int((seconds - validating(seconds, validation)) / step))


def validating(seconds: float, validation: float) -> float:
    """Seconds that validations take of a training's: at least one, else a share."""
    if validation <= 0:
        return 0.0
    times = max(1, min(MOST_VALIDATIONS, int(VALIDATION_SHARE * seconds / validation)))
    return min(times * validation, 0.7 * seconds)


def length_of(
    steps: int,
    seconds: float,
    validation: float,
    val_interval: int | None = None,
    epochs: int | None = None,
    steps_per_epoch: int | None = None,
) -> Length:
    """Divide steps into epochs and validations.

    Args:
        steps: that were planned; the result has about as many.
        seconds: of the training with its validations.
        validation: seconds of one.
        val_interval, epochs, steps_per_epoch: that somebody gave; the last two together overrule `steps`.
    """
    if epochs is None:
        usual = max(1, min(max(EPOCHS, math.ceil(steps / LONGEST_EPOCH)), steps))
        each = steps_per_epoch or max(1, steps // usual)
        epochs = usual if steps_per_epoch is None else max(1, steps // each)
    else:
        each = steps_per_epoch or max(1, steps // epochs)
    affordable = MOST_VALIDATIONS if validation <= 0 else max(1, int(VALIDATION_SHARE * seconds / validation))
    interval = val_interval or math.ceil(epochs / min(affordable, MOST_VALIDATIONS, epochs))
    return Length(epochs * each, epochs, each, interval, math.ceil(epochs / interval))


def learning_rate(base: float, steps: int, width: int | None) -> PlannedValue:
    """The peak of the schedule: the bundle's own for a short training, less for longer and wider ones.

    Args:
        base: the bundle's, for `BASE_STEPS` and `BASE_WIDTH`.
        steps: of the training.
        width: channels at full resolution; None where the plan has no say in it.
    """
    factor = (BASE_STEPS / max(steps, BASE_STEPS)) ** STEPS_POWER
    if width is not None:
        factor *= min(1.0, (BASE_WIDTH / width) ** WIDTH_POWER)
    rate = float(f"{base * max(LOWEST_RATE, factor):.2g}")
    if rate == base:
        return PlannedValue(rate, f"the bundle's own, which suits {count(steps, 'step')}")
    wide = f" and {width} channels" if width is not None and width > BASE_WIDTH else ""
    return PlannedValue(
        rate,
        f"lower than the bundle's {base:g}, which is for {BASE_STEPS} steps, as there are {steps:,}{wide}",
    )


def kind(views: float) -> PlannedValue:
    """How the learning rate goes.

    Args:
        views: in how many patches of the whole training each voxel of the dataset is, in the mean.
    """
    if views < MANY_VIEWS:
        return PlannedValue(
            "cosine",
            f"each voxel is in {views:.2g} patches, fewer than {MANY_VIEWS}: a rate that falls early ends better",
        )
    return PlannedValue(
        "wsd",
        f"each voxel is in {views:,.0f} patches, and from {MANY_VIEWS} on low rates learn labels by heart: it falls at the end only",
    )


def ema(kind: str) -> PlannedValue:
    """How long the average of the weights is, for a schedule."""
    if kind in ("wsd", "constant"):
        return PlannedValue(
            LONG_AVERAGE,
            "over a ninth of the steps so far, which does for a high rate what a falling one does",
        )
    return PlannedValue(SHORT_AVERAGE, "over a hundred steps, as the rate falls anyway")


def warmup(steps: int) -> PlannedValue:
    """Steps in which the learning rate rises."""
    value = max(1, min(MOST_WARMUP, round(WARMUP * steps)))
    return PlannedValue(value, f"{WARMUP:.0%} of {count(steps, 'step')}, at most {MOST_WARMUP}")
