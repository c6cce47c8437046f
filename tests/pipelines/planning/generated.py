"""Fingerprints of datasets that need not exist, and a machine that need not either."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.planning.records import (
    QUANTILES,
    CaseFingerprint,
    ChannelFingerprint,
    ClassFingerprint,
    Fingerprint,
    Intensities,
    StepCost,
)


def intensities(low: float, high: float, voxels: int = 1000) -> Intensities:
    """Values spread evenly over a range."""
    return {
        "voxels": voxels,
        "mean": (low + high) / 2,
        "deviation": (high - low) / math.sqrt(12),
        "quantiles": [low + q / 100 * (high - low) for q in QUANTILES],
    }


def channel(
    inside: tuple[float, float] = (0, 200),
    outside: tuple[float, float] = (0, 500),
    hounsfield: bool = False,
    air: float = 0.0,
) -> ChannelFingerprint:
    return {
        "inside": intensities(*inside),
        "outside": intensities(*outside),
        "whole_numbers": True,
        "hounsfield": hounsfield,
        "air": air,
        "minimum_share": 0.0,
    }


CT = channel((-120, 180), (-1000, 1500), hounsfield=True, air=0.5)
MR = channel()


def structure(
    extent: Sequence[float],
    spacing: Sequence[float],
    centre: Sequence[float] | None = None,
    components: int = 1,
    filled: float = 0.5,
) -> ClassFingerprint:
    """A class whose parts fill a share of a box of so many millimetres."""
    voxels = max(1, round(filled * math.prod(e / s for e, s in zip(extent, spacing, strict=True))))
    return {
        "voxels": voxels,
        "millilitres": voxels * math.prod(spacing) / 1000,
        "components": components,
        "smallest_component": max(1, voxels // components),
        "largest_component": max(1, voxels // components),
        "surface": sum(2 * math.prod(extent) / e for e in extent) * filled ** (1 - 1 / len(extent)),
        "extent": list(extent),
        "centre": list(centre or [0.5] * len(extent)),
    }


def case(
    name: str,
    shape: Sequence[int],
    spacing: Sequence[float],
    classes: Mapping[str, ClassFingerprint],
    channels: Sequence[ChannelFingerprint] = (MR,),
    body: Sequence[float] | None = None,
) -> CaseFingerprint:
    return {
        "case": name,
        "shape": list(shape),
        "spacing": list(spacing),
        "orientation": "RAS" if len(shape) == 3 else "",
        "channels": list(channels),
        "classes": dict(classes),
        "ignored": 0.0,
        "body": list(body or [n * s for n, s in zip(shape, spacing, strict=True)]),
    }


def dataset(cases: Sequence[CaseFingerprint], names: Sequence[str] = (), **more: Any) -> Fingerprint:
    """Classes are called by `names`, else by their numbers."""
    ids = sorted({label for c in cases for label in c["classes"]}, key=int)
    labels = {"0": "background"} | {
        label: names[index] if index < len(names) else f"class {label}" for index, label in enumerate(ids)
    }
    found: Fingerprint = {
        "format": 1,
        "name": "generated",
        "labels": labels,
        "channel_names": [],
        "cases": list(cases),
        "pairs": [],
        "digest": "",
    }
    found.update(more)  # type: ignore[typeddict-item]
    return found


def uniform(
    shape: Sequence[int],
    spacing: Sequence[float],
    extents: Sequence[Sequence[float]],
    count: int = 20,
    channels: Sequence[ChannelFingerprint] = (MR,),
    body: Sequence[float] | None = None,
    **more: Any,
) -> Fingerprint:
    """Cases that are all alike, with a class for each of the extents."""
    classes = {str(index + 1): structure(extent, spacing) for index, extent in enumerate(extents)}
    return dataset(
        [case(f"case{n:03}", shape, spacing, classes, channels, body) for n in range(count)], **more
    )


DATASETS: dict[str, Fingerprint] = {
    "photographs": uniform((999, 120), (1.0, 1.0), [(700, 80)], channels=[channel((0, 255), (0, 255))] * 3),
    "thick slices": uniform((320, 320, 18), (0.7, 0.7, 5.0), [(60, 50, 40), (20, 20, 15)]),
    "microscopy": uniform((1000, 1000), (1.0, 1.0), [(900, 900)]),
    "tiny": uniform((35, 50, 35), (1.0, 1.0, 1.0), [(20, 20, 16), (18, 22, 20)], count=160),
    "one class": uniform((256, 256, 160), (1.0, 1.0, 1.2), [(90, 80, 70)]),
    "105 classes": uniform(
        (300, 250, 400), (1.5, 1.5, 1.5), [(20 + n, 18 + n, 25 + n) for n in range(104)], channels=[CT]
    ),
    "3 voxels": uniform((200, 200, 150), (0.8, 0.8, 0.8), [(2.4, 2.4, 2.4)], channels=[CT]),
    "one case": uniform((128, 128, 64), (1.0, 1.0, 2.0), [(30, 30, 30)], count=1),
    "huge CT": uniform(
        (512, 512, 1000),
        (0.9, 0.9, 1.0),
        [(120, 200, 260), (130, 200, 260)],
        channels=[CT],
        body=(380, 270, 900),
    ),
    "4-channel MR": uniform(
        (240, 240, 155), (1.0, 1.0, 1.0), [(70, 60, 60), (30, 30, 30)], channels=[MR] * 4
    ),
}


class Machine:
    """A cost model in place of a machine: what a step takes is linear in its voxels.

    Args:
        speed: voxels in a second at 8 channels.
        memory: bytes; a step that takes more is None.
        classes: whose logits take memory too.
    """

    def __init__(self, memory: int, speed: float = 1e6, classes: int = 3) -> None:
        self.memory, self.speed, self.classes = memory, speed, classes
        self.asked: list[dict[str, Any]] = []

    def cost(self, knobs: Mapping[str, Any]) -> StepCost:
        voxels = math.prod(knobs["patch_size"])
        width = knobs.get("features", [12])[0]
        seconds = 0.02 + voxels * knobs["batch_size"] / self.speed * (width / 8) ** 1.4
        memory = 2 * 10**7 + voxels * knobs["batch_size"] * (90 * width + 16 * self.classes)
        return StepCost(seconds, memory, seconds / 3 / knobs["batch_size"])

    def __call__(self, candidates: list[dict[str, Any]]) -> list[StepCost | None]:
        self.asked += candidates
        costs = [self.cost(knobs) for knobs in candidates]
        return [cost if cost.memory <= self.memory else None for cost in costs]
