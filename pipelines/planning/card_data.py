"""What a model's card keeps of a dataset's fingerprint and of the plan."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from pipelines.inference.card_plan import LONGEST_REASON, CardPlan
from pipelines.inference.training_data import PERCENTS, ChannelData, Quantiles, TrainingData
from pipelines.planning.intensity_statistics import pooled_quantiles
from pipelines.planning.plan_file import from_overlay
from pipelines.planning.records import QUANTILES, ChannelFingerprint, Fingerprint, Intensities
from pipelines.planning.summary import figures_of, pooled, summarise

__all__ = ["card_plan", "training_data"]


def card_plan(overlay: Mapping[str, Any]) -> CardPlan:
    """A plan as a model's card keeps it: the settings that the training has from it.

    Args:
        overlay: the plan as a config, see `pipelines.planning.plan_file.executed_plan`.
    """
    plan = from_overlay(overlay)
    return {
        "minutes": plan.minutes,
        "settings": {
            name: {"value": planned.value, "reason": _short(planned.reason)}
            for name, planned in plan.values.items()
        },
    }


def _short(reason: str) -> str:
    return reason if len(reason) <= LONGEST_REASON else f"{reason[: LONGEST_REASON - 3]}..."


def training_data(found: Fingerprint, ct_channels: Collection[int]) -> TrainingData:
    """The few figures of a fingerprint with which `predict` compares its inputs.

    Args:
        found: of the dataset.
        ct_channels: channels that the model takes for Hounsfield units, from 0.
    """
    summary = summarise(found)
    channels = enumerate(summary["channels"])
    return {
        "cases": summary["cases"],
        "spacing": summary["spacing"],
        "extent": summary["size"],
        "orientations": {name: count for name, count in summary["orientations"].items() if name},
        "channels": [
            _channel(
                [case["channels"][at] for case in found["cases"]],
                channel["name"],
                at in ct_channels,
                _kept(channel["inside"]),
                _kept(channel["outside"]),
            )
            for at, channel in channels
        ],
        "volumes": {each["name"]: each["millilitres"] for each in summary["classes"].values()},
    }


def _channel(
    cases: Sequence[ChannelFingerprint], name: str, hounsfield: bool, inside: Quantiles, outside: Quantiles
) -> ChannelData:
    rows = [_whole(case, hounsfield) for case in cases]
    return {
        "name": name,
        "hounsfield": hounsfield,
        "inside": inside,
        "outside": outside,
        "image": {
            f"{percent:g}": figures_of([row[at] for row in rows]) for at, percent in enumerate(PERCENTS)
        },
    }


def _whole(case: ChannelFingerprint, hounsfield: bool) -> list[float]:
    """Quantiles of one whole image, see `pipelines.inference.training_data.ChannelData`."""
    parts = [case["inside"], case["outside"]]
    values = pooled_quantiles(parts, PERCENTS)
    if hounsfield:
        return values
    together = pooled(parts)
    deviation = together["deviation"] or 1.0
    return [float(value) for value in (np.array(values) - together["mean"]) / deviation]


def _kept(record: Intensities) -> Quantiles:
    if not record["quantiles"]:
        return {}
    return {f"{percent:g}": record["quantiles"][QUANTILES.index(percent)] for percent in PERCENTS}
