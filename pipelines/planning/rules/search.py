"""The search for the setting that a machine trains best in a given time and memory, by timing real steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from pipelines.planning.extrapolation import StepLine
from pipelines.planning.records import StepCost
from pipelines.planning.rules.expectation import learning_loss, width_loss
from pipelines.planning.rules.patches import batch_of
from pipelines.planning.rules.prediction import LONGEST, Passes, passes
from pipelines.planning.rules.schedule import (
    MOST_VALIDATIONS,
    VALIDATION_SHARE,
    WINDOW_SHARE,
    steps_within,
    validating,
)
from pipelines.planning.rules.typical import Typical

Measure = Callable[[list[dict[str, Any]]], list[StepCost | None]]

MEMORY_SHARE = 0.9
"""Of the memory that a step may be expected to take, as its real peak is known only when it is measured."""

PROBE_VOXELS = {2: 192**2, 3: 48**3}
"""Of the first step timed at each width: seconds on a processor."""

ROUNDS = 4
"""Of timing the best setting and searching again with what was found."""

OVERTIME_LOSS = 20.0
"""Points of Dice for every time that a training of given length takes twice the time that there is."""

WIDER = 1.4
"""Power of the width with which the seconds of a step grow, where a width was not timed: between channels (memory) and
channels squared (arithmetic)."""

STEP_IN_TRAINING, WINDOW_IN_TRAINING = 1.1, 1.5
"""How much longer they take within a training than the median of the steps and the quickest of the windows that were timed:
patches are read and augmented, cases put back on their grids and measured. Measured on two cores, by whole trainings: 1.07 to
1.14, 1.3 and 2 (docs/planning.md)."""

CALM_GAIN = 0.05
"""Points of Dice of sharing out many patches between more steps and larger steps, see `patches.batch_of`."""

MOST_STEPS = 250_000
"""nnU-Net's 1,000 epochs of 250."""


class Setting(NamedTuple):
    """What the cost of a step depends on.

    Attributes:
        spacing: millimetres per axis of the files.
        patch: voxels per axis.
        features: channels per level; None where the plan has no say in it.
        batch: patches per step.
    """

    spacing: tuple[float, ...]
    patch: tuple[int, ...]
    features: tuple[int, ...] | None
    batch: int

    @property
    def width(self) -> int | None:
        return None if self.features is None else self.features[0]

    @property
    def voxels(self) -> int:
        return math.prod(self.patch)

    def knobs(self) -> dict[str, Any]:
        """As the ids of a config."""
        found: dict[str, Any] = {
            "spacing": list(self.spacing),
            "patch_size": list(self.patch),
            "batch_size": self.batch,
        }
        return found if self.features is None else {**found, "features": list(self.features)}


class Options(NamedTuple):
    """What may be chosen, given knobs having one value.

    Attributes:
        image: the typical one.
        lost: points of Dice by a spacing and a patch, `expectation.grid_loss`.
        spacings: to choose from.
        patches: to choose from at a spacing, the largest first.
        features: to choose from for a patch; a single None where the plan has no say.
        batch: that somebody gave.
        patches_in_all: of the whole training, where epochs and their length were given.
        validation_cases: how many.
        memory: bytes.
        flips: axes along which patches are flipped.
        overlap, mirrors: of the passes of a prediction, that somebody gave.
    """

    image: Typical
    lost: Callable[[tuple[float, ...], tuple[int, ...]], float]
    spacings: Sequence[tuple[float, ...]]
    patches: Callable[[tuple[float, ...]], Sequence[tuple[int, ...]]]
    features: Callable[[Sequence[int]], Sequence[tuple[int, ...] | None]]
    batch: int | None
    patches_in_all: int | None
    validation_cases: int
    memory: int
    flips: tuple[int, ...] = ()
    overlap: float | Sequence[float] | None = None
    mirrors: tuple[int, ...] | None = None


class Choice(NamedTuple):
    """A setting with what is expected of it.

    Attributes:
        setting: the setting.
        steps: of the training.
        seconds: of the training, validations included.
        step: seconds.
        validation: seconds of one.
        loss: points of Dice.
        passes: of the prediction of a case.
    """

    setting: Setting
    steps: int
    seconds: float
    step: float
    validation: float
    loss: float
    passes: Passes


class Meter:
    """Costs of settings: measured, or by voxels from those that were."""

    def __init__(self, measure: Measure) -> None:
        self.measure = measure
        self.measured: dict[Setting, StepCost | None] = {}
        self._expected: dict[Setting, StepCost | None] = {}

    def __call__(self, settings: Sequence[Setting]) -> None:
        """Measure those that were not yet."""
        new = [s for s in dict.fromkeys(settings) if s not in self.measured]
        if new:
            self._expected.clear()
            self.measured.update(zip(new, self.measure([s.knobs() for s in new]), strict=True))

    def expected(self, setting: Setting) -> StepCost | None:
        """The cost of a setting; None where it was too large, or nothing is known of any."""
        if setting in self.measured:
            return self.measured[setting]
        if setting not in self._expected:
            self._expected[setting] = self._from_nearest(setting)
        return self._expected[setting]

    def _from_nearest(self, setting: Setting) -> StepCost | None:
        """By the line through what was measured at the nearest width, see `StepLine`."""
        voxels, width = setting.voxels * setting.batch, setting.width or 1
        known: dict[int, list[tuple[Setting, StepCost]]] = {}
        for other, cost in self.measured.items():
            wide = other.width or 1
            if cost is not None:
                known.setdefault(wide, []).append((other, cost))
            elif other.voxels * other.batch <= voxels and wide <= width:
                return None
        if not known:
            return None
        nearest = min(known, key=lambda wide: (abs(math.log(wide / width)), wide))
        cost = _on_line(setting, known[nearest])
        wider = width / nearest
        return StepCost(
            cost.seconds * wider**WIDER, math.ceil(cost.memory * wider), cost.window_seconds * wider**WIDER
        )


def _on_line(setting: Setting, known: Sequence[tuple[Setting, StepCost]]) -> StepCost:
    """What a setting costs, from others of the same width; in proportion where they are all of one size."""
    if len({other.voxels * other.batch for other, _ in known}) > 1:
        line = StepLine([(other.patch, other.batch) for other, _ in known], [cost for _, cost in known])
        return line.at(setting.patch, setting.batch)
    other, cost = known[0]
    times = setting.voxels * setting.batch / (other.voxels * other.batch)
    return StepCost(
        cost.seconds * times,
        math.ceil(cost.memory * times),
        cost.window_seconds * setting.voxels / other.voxels,
    )


def probe(options: Options, meter: Meter) -> bool:
    """Time a small step at each width, smaller ones where that is too much.

    Returns:
        Whether any could be done.
    """
    spacing = options.spacings[0]
    limit: float = PROBE_VOXELS[options.image.dims]
    sizes = list(options.patches(spacing))
    for _ in range(4):
        patch = next((p for p in sizes if math.prod(p) <= limit), sizes[-1])
        settings = [Setting(spacing, patch, f, options.batch or 1) for f in options.features(patch)]
        meter([s for s in settings if not _known(meter, s.width)])
        if all(_known(meter, s.width) for s in settings) or patch == sizes[-1]:
            break
        limit /= 4
    return any(cost is not None for cost in meter.measured.values())


def _known(meter: Meter, width: int | None) -> bool:
    return any(s.width == width and cost is not None for s, cost in meter.measured.items())


def search(options: Options, meter: Meter, seconds: float) -> Choice | None:
    """The setting with the least expected loss, whose own step was measured and keeps the memory.

    Args:
        options: to choose from.
        meter: that times steps.
        seconds: for steps and validations.

    Returns:
        None where no setting keeps the memory.
    """
    if not probe(options, meter):
        return None
    for _ in range(ROUNDS):
        choice = _best(options, meter, seconds)
        if choice is None or choice.setting in meter.measured:
            return choice
        meter([choice.setting])
    # Of what was measured already, so that the search ends: it is nearly as good.
    return _best(options, meter, seconds, known=True)


def _best(options: Options, meter: Meter, seconds: float, known: bool = False) -> Choice | None:
    choices = _choices(options, meter, seconds)
    allowed = (c for c in choices if not known or c.setting in meter.measured)
    # Of equals the one that takes less of the machine, then the first: always the same.
    return min(allowed, key=lambda c: (round(c.loss, 6), c.step, repr(c.setting)), default=None)


def _choices(options: Options, meter: Meter, seconds: float) -> Iterator[Choice]:
    for spacing in options.spacings:
        for patch in options.patches(spacing):
            for features in options.features(patch):
                first = Setting(spacing, patch, features, options.batch or 1)
                choice = choice_of(options, meter, first, seconds)
                if choice is None:
                    continue
                yield choice
                batch = batch_of(choice.steps, first.voxels, options.image, spacing)
                while options.batch is None and batch > 1:
                    larger = choice_of(options, meter, first._replace(batch=batch), seconds)
                    if larger is not None:
                        yield larger._replace(loss=larger.loss - CALM_GAIN)
                        break
                    batch //= 2


def choice_of(options: Options, meter: Meter, setting: Setting, seconds: float) -> Choice | None:
    """What is expected of a setting; None where it does not keep the memory."""
    cost = meter.expected(setting)
    if cost is None:
        return None
    if cost.memory > options.memory * (1.0 if setting in meter.measured else MEMORY_SHARE):
        return None
    step = STEP_IN_TRAINING * cost.seconds
    window = WINDOW_IN_TRAINING * (cost.window_seconds or WINDOW_SHARE * cost.seconds / setting.batch)
    grid = options.image.on_grid(setting.spacing)
    # At least one validation is to take no more than its share.
    longest = min(LONGEST, VALIDATION_SHARE * seconds / max(options.validation_cases, 1))
    found = passes(grid, setting.patch, window, options.flips, longest, options.overlap, options.mirrors)
    validation = options.validation_cases * found.seconds
    given = options.patches_in_all
    loss = 0.0
    if given is None:
        steps = min(MOST_STEPS, steps_within(seconds, step, validation))
        taken = steps * step + validating(seconds, validation)
    else:
        steps = max(1, given // setting.batch)
        taken = steps * step + min(MOST_VALIDATIONS, 5) * validation
        loss = OVERTIME_LOSS * max(0.0, math.log2(taken / seconds))
    image = options.image
    loss += options.lost(setting.spacing, setting.patch)
    loss += learning_loss(image, setting.voxels, steps * setting.batch, setting.batch)
    if setting.width is not None:
        loss += width_loss(setting.width, image.classes)
    return Choice(setting, steps, taken, step, validation, loss, found)
