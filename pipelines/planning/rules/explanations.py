"""Why the search chose as it did, in words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pipelines.planning.rules.patches import PATCHES_TO_SHARE
from pipelines.planning.rules.schedule import LONGEST_EPOCH, VALIDATION_SHARE, Length
from pipelines.planning.rules.search import MEMORY_SHARE, STEP_IN_TRAINING, Choice, Meter, Options
from pipelines.planning.rules.typical import count, times


def patch(options: Options, meter: Meter, choice: Choice, without_unit: bool = False) -> str:
    """Why the patch is as large as it is.

    Args:
        options, meter, choice: of the search.
        without_unit: see `pipelines.planning.rules.spacing.is_without_unit`.
    """
    setting = choice.setting
    grid = options.image.on_grid(setting.spacing)
    if all(p >= n for p, n in zip(setting.patch, grid, strict=True)):
        return f"the whole typical image of {times(grid)} voxels, in sizes that a network can halve"
    share = options.image.share_of(setting.patch, setting.spacing)
    words = f"{share:.0%} of the typical image of {times(grid)} voxels"
    if not without_unit:
        shown = times([round(p * s, 1) for p, s in zip(setting.patch, setting.spacing, strict=False)])
        words = f"{shown} mm, {words}"
    larger = [p for p in options.patches(setting.spacing) if math.prod(p) > setting.voxels]
    if not larger:
        return words
    cost = meter.expected(setting._replace(patch=larger[-1]))
    if cost is None or cost.memory > MEMORY_SHARE * options.memory:
        return f"{words}; a larger one would not keep the memory of {options.memory / 2**30:.3g} GB"
    fewer = 1 - setting.voxels / math.prod(larger[-1])
    return f"{words}; of {times(larger[-1])} there would be {fewer:.0%} fewer in the time"


def features(options: Options, meter: Meter, choice: Choice) -> str:
    """Why the network is as wide and deep as it is."""
    setting = choice.setting
    if setting.features is None:
        return "the network's own"
    depth = len(setting.features) - 1
    words = (
        f"{setting.features[0]} channels for {count(options.image.classes, 'class').replace('classs', 'classes')}, doubled at "
        f"each of {depth} halvings, after which the longest axis of {max(setting.patch)} voxels has "
        f"{math.ceil(max(setting.patch) / 2**depth)}"
    )
    wider = [f for f in options.features(setting.patch) if f is not None and f[0] > setting.features[0]]
    if not wider:
        return words
    cost = meter.expected(setting._replace(features=wider[0]))
    if cost is None or cost.memory > MEMORY_SHARE * options.memory:
        return f"{words}; {wider[0][0]} channels would not keep the memory of {options.memory / 2**30:.3g} GB"
    wider_step = STEP_IN_TRAINING * cost.seconds
    return f"{words}; with {wider[0][0]} channels a step takes {wider_step / choice.step:.2g} times as long"


def batch(options: Options, choice: Choice) -> str:
    """Why a step sees so many patches."""
    setting = choice.setting
    patches = choice.steps * setting.batch
    if setting.batch == 1:
        return f"{count(patches, 'patch').replace('patchs', 'patches')} fit into the training, best used as single steps"
    return (
        f"{patches:,} patches fit into the training, more than {PATCHES_TO_SHARE:,}: shared out between more steps and "
        "larger steps, whose gradients are less noisy"
    )


def epochs(length: Length, choice: Choice, minutes: float) -> str:
    """Why there are so many epochs."""
    return (
        f"{count(length.steps, 'step')} of {choice.step:.2g} s, {choice.seconds / 60:.3g} minutes of the {minutes:g} minutes, "
        f"in epochs of {count(length.steps_per_epoch, 'step')}"
    )


def patches_per_epoch(length: Length, batch_size: int) -> str:
    """Why an epoch is so long."""
    return (
        f"{count(length.steps_per_epoch, 'step')} of {batch_size}, a part of the training after which it can be looked at; at "
        f"most {LONGEST_EPOCH} steps, as in nnU-Net"
    )


def val_interval(length: Length, cases: int, choice: Choice) -> str:
    """Why validations are so often."""
    share = length.validations * choice.validation / max(choice.seconds, 1e-9)
    return (
        f"{count(length.validations, 'validation')} of {count(cases, 'case')} and {choice.validation:.2g} s, {share:.0%} of the "
        f"training's time (aimed at {VALIDATION_SHARE:.0%} at most)"
    )


def nothing_fits(options: Options, meter: Meter, given: Mapping[str, Any]) -> str:
    """That no setting keeps the memory, and what to do."""
    held = {name: given[name] for name in ("patch_size", "features", "batch_size") if name in given}
    needs = min((cost.memory for cost in meter.measured.values() if cost is not None), default=None)
    words = " and ".join(f"{name} {value}" for name, value in held.items())
    least = "" if needs is None else f", the smallest step that was tried takes {needs / 2**30:.2g} GB"
    advice = "make it smaller or leave it to the plan" if held else "give more memory"
    return (
        f"no step{f' of {words}' if words else ''} keeps the memory of {options.memory / 2**30:.2g} GB{least}: {advice} "
        "(--memory_gb says how much there is)"
    )
