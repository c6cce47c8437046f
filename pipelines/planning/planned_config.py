"""The knobs of a bundle's config that are "auto", planned and put in.

A config asks for a plan by `"patch_size": "auto"` and the like. What somebody gave instead wins, and the rest is
planned around it. `"minutes"` and `"memory_gb"` say how long the training may take and how much memory it may have;
`"planning"` says what the bundle's network wants of a plan.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from monai.bundle import ConfigParser

from pipelines.config.executed import ExecutedConfig, referenced, reparse
from pipelines.config.knobs import AUTO, Knob, knobs_of
from pipelines.data.cases import Dataset
from pipelines.planning.fingerprint import fingerprint
from pipelines.planning.knobs import PLANNED
from pipelines.planning.machine import memory_for_training
from pipelines.planning.plan_file import PlanError, as_overlay
from pipelines.planning.planner import make_plan
from pipelines.planning.records import Fingerprint, Plan, StepCost
from pipelines.planning.steps import StepTimer
from pipelines.utils.anonymity import without_places

MEASURED_SHARE = 0.05
SHORTEST, LONGEST = 180.0, 600.0
"""Seconds. A machine that does nothing else needs a fraction of them."""


class Wish(NamedTuple):
    """What a config asks of a plan.

    Attributes:
        open: ids to be planned.
        given: ids that have a value already.
        minutes: of the whole training; None leaves it to the plan.
        memory_gb: that a training may take; None takes what the machine has.
        network: what the bundle's network wants, the config's "planning".
    """

    open: tuple[str, ...]
    given: dict[str, Any]
    minutes: float | None
    memory_gb: float | None
    network: dict[str, Any]

    def digest(self, data: Dataset, network_def: Any) -> str:
        """Of everything that decides the plan but the machine and the files' content.

        What may change between two starts of one training, such as more epochs, is left out.
        """
        free = knobs_of(Knob.RESUMING)
        kept = {name: value for name, value in self.given.items() if name not in free}
        asked = [kept, self.minutes, self.memory_gb, self.network, network_def, data.name, data.class_names]
        return hashlib.sha256(json.dumps(asked, sort_keys=True, default=str).encode()).hexdigest()


def wish_of(config: ExecutedConfig) -> Wish:
    """What the config asks of a plan.

    Raises:
        PlanError: minutes or memory are no positive numbers.
    """
    raw = config.parser.get()
    unused = set(knobs_of(Knob.NETWORK)) - referenced(raw)
    present = [name for name in PLANNED if name in raw and name not in unused]
    return Wish(
        open=tuple(name for name in present if raw[name] == AUTO),
        given={name: config.resolved(name) for name in present if raw[name] != AUTO},
        minutes=_positive(config, "minutes"),
        memory_gb=_positive(config, "memory_gb"),
        network=dict(raw.get("planning") or {}),
    )


def plan_for(config: ExecutedConfig, wish: Wish, data: Dataset, store_dir: Path) -> tuple[Plan, Fingerprint]:
    """Look at the dataset and at this machine, and plan.

    Args:
        config: of a bundle's training.
        wish: what it asks for.
        data: the dataset; its training cases are looked at.
        store_dir: folder of the patch store, beside which fingerprints are kept.

    Raises:
        PlanError: no plan fits what was given.
        DatasetError: a case cannot be read.
    """
    found = fingerprint(data, store_dir)
    channels = len(found["cases"][0]["channels"])
    timer = StepTimer(config.parser.get(), channels=channels, classes=data.num_classes)
    memory = memory_for_training(config.parser.get_parsed_content("device"), wish.memory_gb)
    deadline = time.monotonic() + _seconds_to_measure(wish.minutes)

    def measure(candidates: Sequence[Mapping[str, Any]]) -> list[StepCost | None]:
        return timer.measure(candidates, max(1.0, deadline - time.monotonic()), memory.bytes)

    plan = make_plan(
        found,
        given=wish.given,
        minutes=wish.minutes,
        memory=memory.bytes,
        measure=measure,
        knobs=wish.open,
        defaults={**wish.network, "validation_cases": len(data.validation)},
    )
    return plan, found


def put_in(parser: ConfigParser, overlay: Mapping[str, Any], wish: Wish) -> None:
    """Give the open ids of a config the values of a plan.

    Raises:
        PlanError: the plan has no value for one of them.
    """
    config = parser.get()
    missing = [name for name in wish.open if name not in overlay]
    if missing:
        raise PlanError(
            f"the plan has no value for {', '.join(missing)}: give --{missing[0]}, or --resume new to plan anew"
        )
    config |= {
        name: value for name, value in overlay.items() if name in wish.open or name.startswith("_desc_")
    }
    reparse(parser)


def settings_of(config: ExecutedConfig) -> dict[str, Any]:
    """The knobs of a training, also planned ones that hold words, such as a normalisation for each channel."""
    planned = {name: config.resolved(name) for name in PLANNED if name in config.raw}
    return dict(without_places(config.knobs())) | planned


def overlay_of(config: ExecutedConfig, wish: Wish, data: Dataset, plan: Plan) -> dict[str, Any]:
    """The plan as a file holds it, see `pipelines.planning.plan_file`."""
    return as_overlay(plan, wish.digest(data, config.raw.get("network_def")))


def _seconds_to_measure(minutes: float | None) -> float:
    """How long steps are timed: a small part of a training, but long enough for a handful of settings."""
    return min(max(MEASURED_SHARE * 60 * (minutes or 0.0), SHORTEST), LONGEST)


def _positive(config: ExecutedConfig, name: str) -> float | None:
    if name not in config.parser.get():
        return None
    value = config.resolved(name)
    if value is None or value == AUTO:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
        raise PlanError(f"{name} is {value!r}; give a number above 0, or 'auto'")
    return float(value)
