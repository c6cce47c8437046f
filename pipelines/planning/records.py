"""The records that planning hands on: fingerprints of cases and datasets, and the plan. All are plain JSON."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypedDict

FORMAT = 2

QUANTILES = (0.0, 0.5, *(float(q) for q in range(1, 100)), 99.5, 100.0)
"""Percent. With the number of voxels they give the quantiles of several cases together."""


class Intensities(TypedDict):
    """Values of one channel over a set of voxels, in the units of the file (HU in a CT).

    Attributes:
        voxels: how many voxels they are of; 0 leaves all else empty or 0.
        mean, deviation: over these voxels.
        quantiles: values at `QUANTILES`.
    """

    voxels: int
    mean: float
    deviation: float
    quantiles: list[float]


class ChannelFingerprint(TypedDict):
    """One channel of one case.

    Attributes:
        inside, outside: the voxels of any class and of the background.
        whole_numbers: whether every value is a whole number.
        hounsfield: whether nothing speaks against Hounsfield units, see `transforms.hounsfield`.
        air: share of the voxels below -900.
        minimum_share: share of the voxels that have the smallest value, as the masked background of a brain MR has.
    """

    inside: Intensities
    outside: Intensities
    whole_numbers: bool
    hounsfield: bool
    air: float
    minimum_share: float


class ClassFingerprint(TypedDict):
    """One class in one case.

    Attributes:
        voxels: of the class; 0 where the case has none of it, which leaves all else empty or 0.
        millilitres: its volume; in 2D its area in square millimetres.
        components: connected parts (faces, edges and corners touch).
        smallest_component, largest_component: in voxels.
        surface: in square millimetres; of a picture or single slice the length of its outline in millimetres. From the
            faces of its voxels, which are too many by a factor that is known on average over all directions.
        extent: millimetres of its bounding box along R, A, S (X, Y in 2D).
        centre: of its mass, as a share (0 to 1) of the image's size along the same axes.
    """

    voxels: int
    millilitres: float
    components: int
    smallest_component: int
    largest_component: int
    surface: float
    extent: list[float]
    centre: list[float]


class CaseFingerprint(TypedDict):
    """One labelled case, its axes turned to R, A, S (X, Y in 2D) as preprocessing turns them.

    Attributes:
        case: id.
        shape: voxels per axis.
        spacing: millimetres per axis.
        orientation: of the file, such as "LPS"; empty in 2D.
        channels: one record per channel.
        classes: class id as text to its record, the background left out; a region counts as a class.
        ignored: share of the voxels that have the ignore label.
        body: millimetres per axis of the box around all voxels above -500 in any channel that shows air in HU; of a
            picture or MR the whole image.
    """

    case: str
    shape: list[int]
    spacing: list[float]
    orientation: str
    channels: list[ChannelFingerprint]
    classes: dict[str, ClassFingerprint]
    ignored: float
    body: list[float]


class Pair(TypedDict):
    """Two classes that are left and right of one another.

    Attributes:
        left, right: class ids.
        by: "name", "place", or "name and place".
    """

    left: int
    right: int
    by: str


class Fingerprint(TypedDict):
    """A dataset: its labelled training cases, one by one.

    Attributes:
        format: of this record.
        name: of the dataset.
        labels: class id as text to name, the background included.
        channel_names: as dataset.json names them; empty where it does not.
        cases: of the training list.
        pairs: left and right.
        digest: SHA-256 over all of the above.
    """

    format: int
    name: str
    labels: dict[str, str]
    channel_names: list[str]
    cases: list[CaseFingerprint]
    pairs: list[Pair]
    digest: str


class PlannedValue(NamedTuple):
    """The value of a knob and why it was chosen, one sentence without a full stop."""

    value: Any
    reason: str


class StepCost(NamedTuple):
    """What one optimiser step costs on this machine.

    Attributes:
        seconds: of wall time, the median of several.
        memory: bytes that the process needs at most, beyond what it had before the network was made; on CUDA of the
            GPU.
        window_seconds: wall time of one window's forward pass in a validation; 0 where that was not measured.
    """

    seconds: float
    memory: int
    window_seconds: float = 0.0


@dataclass(frozen=True)
class Plan:
    """The knobs of a training.

    Attributes:
        values: every knob that was planned, in the order in which a person reads them.
        given: knobs that somebody gave and that the rest was planned around.
        minutes: that the training is expected to take; None where nothing was timed.
        cost: of a step as planned, None where nothing was timed.
        notices: what a person should know of the data or the plan, a sentence each.
    """

    values: dict[str, PlannedValue]
    given: dict[str, Any] = field(default_factory=dict)
    minutes: float | None = None
    cost: StepCost | None = None
    notices: tuple[str, ...] = ()
