"""Separation of the scans and reconstructions of one series by attributes of their slices.

If several slices have the same position, if scans are interleaved, or if a stack has a gap, the slices are split by
the first attribute that separates them into stacks. A difference of values alone is not enough: acquisition numbers
and times also grow from slice to slice or from block to block within one volume. The order in space decides
(`transforms.dicom.order`).
"""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np

from transforms.dicom.frame import Frame
from transforms.dicom.order import crowd_of, interleave, is_even, pieces, places_of, ranks_at_places

__all__ = ["split_phases"]

_STATED = {
    "RescaleType": "values in {}",
    "TemporalPositionIdentifier": "temporal position {}",
    "TemporalPositionIndex": "temporal position {}",
    "NominalPercentageOfCardiacPhase": "cardiac phase {} %",
    "NominalPercentageOfRespiratoryPhase": "respiratory phase {} %",
    "AcquisitionNumber": "acquisition {}",
    "FrameAcquisitionNumber": "acquisition {}",
    "ConvolutionKernel": "kernel {}",
    "ConvolutionKernelGroup": "kernel {}",
    "ReconstructionAlgorithm": "reconstruction {}",
    "KVP": "{} kV",
    "StackID": "stack {}",
    "SeriesDescription": "'{}'",
    "SeriesNumber": "series number {}",
    "ImageType": "{}",
    "FrameType": "{}",
    "SliceThickness": "slices {} mm thick",
    "PixelSpacing": "pixels of {} mm",
    "ReconstructionDiameter": "field of view {} mm",
    "FilterType": "filter {}",
    "ContrastBolusAgent": "contrast agent {}",
    "AcquisitionUID": "acquisition {}",
    "IrradiationEventUID": "irradiation event {}",
    "AcquisitionType": "{} acquisition",
    "ScanOptions": "scan options {}",
    "SpiralPitchFactor": "pitch {}",
    "SingleCollimationWidth": "rows of {} mm",
    "TotalCollimationWidth": "collimation {} mm",
    "DataCollectionDiameter": "data of {} mm",
    "GantryDetectorTilt": "tilt {} degrees",
    "ProtocolName": "protocol '{}'",
    "BodyPartExamined": "{}",
    "PatientPosition": "patient {}",
    "MultienergyCTAcquisition": "multi-energy {}",
    "DerivationDescription": "'{}'",
    "WindowCenter": "window centre {}",
    "WindowWidth": "window width {}",
    "StudyID": "study {}",
    "AccessionNumber": "accession number {}",
    "AcquisitionDate": "acquired on {}",
    "SeriesDate": "series of {}",
    "SeriesTime": "series of {}",
    "Manufacturer": "{}",
    "ManufacturerModelName": "{}",
    "StationName": "station {}",
    "DeviceSerialNumber": "scanner {}",
    "SoftwareVersions": "software {}",
}
"""Attributes that are identical in all slices of one scan, with the label of a volume; the most specific first.

Tube current, exposure and values derived from them vary within a scan, as do slope and intercept.
"""
_MEASURED = {
    "TemporalPositionTimeOffset": "{} s",
    "TriggerTime": "trigger time {} ms",
    "NominalCardiacTriggerDelayTime": "trigger time {} ms",
    "ActualCardiacTriggerDelayTime": "trigger time {} ms",
    "NominalRespiratoryTriggerDelayTime": "respiratory delay {} ms",
    "ActualRespiratoryTriggerDelayTime": "respiratory delay {} ms",
    "AcquisitionTime": "acquired at {}",
    "AcquisitionDateTime": "acquired at {}",
    "FrameAcquisitionDateTime": "acquired at {}",
    "FrameReferenceDateTime": "acquired at {}",
}
"""Attributes measured for each slice: the values of one phase form a cluster, separate from the next phase's."""
_MOST = 4
"""Numbers of interleaved scans that are looked for by the times of their slices."""
_FEWEST = 6
"""Number of slices from which alternating times are no coincidence."""


@dataclass(frozen=True)
class _Split:
    """Slices grouped by the value of an attribute: a key for each slice; label and sort key of every key."""

    keys: list[Hashable]
    labels: dict[Hashable, str]
    order: dict[Hashable, tuple]

    def stacks(self, along: np.ndarray) -> list[np.ndarray]:
        """Sorted positions in mm of every key."""
        found: dict[Hashable, list[float]] = {}
        for key, place in zip(self.keys, along, strict=True):
            found.setdefault(key, []).append(place)
        return [np.sort(places) for places in found.values()]


def split_phases(frames: list[Frame]) -> list[tuple[str, tuple, list[Frame], bool]]:
    """Split slices that are not a single stack by the attributes in which they differ.

    Returns:
        Label, sort key and slices of every part, and whether the parts are consecutive pieces of one stack,
        with a gap or another distance between them.
    """
    whole: list[tuple[str, tuple, list[Frame], bool]] = [("", (), frames, False)]
    cosines = frames[0].known_cosines
    positions = [frame.known_position for frame in frames]
    if cosines is None or any(position is None for position in positions):
        return whole
    places = np.asarray(positions) @ np.cross(cosines[:3], cosines[3:])
    # A copy of the same instance is not a phase; it stays with the original.
    twins = [(frame.text("SOPInstanceUID") or frame.path, frame.index) for frame in frames]
    seen: dict[Hashable, int] = {}
    for index, twin in enumerate(twins):
        seen.setdefault(twin, index)
    single = sorted(seen.values(), key=lambda index: places[index])
    members, along = [frames[index] for index in single], places[single]
    crowd = crowd_of(along)
    found, pieced = None, False
    if crowd > 1:
        found = next((s for s in _splits(members, along, crowd) if _are_phases(s.stacks(along), crowd)), None)
    else:
        grid = places_of(along)
        found = next((s for s in _single_splits(members, grid) if interleave(s.stacks(along), along)), None)
        if found is None and not is_even(along):
            found, pieced = _pieces(members, along), True
    if found is None:
        return whole
    key_of = {twins[index]: key for index, key in zip(single, found.keys, strict=True)}
    return [
        (
            label,
            found.order[key],
            [frame for frame, twin in zip(frames, twins, strict=True) if key_of[twin] == key],
            pieced,
        )
        for key, label in found.labels.items()
    ]


def _are_phases(stacks: Sequence[np.ndarray], crowd: int) -> bool:
    """Whether parts are separate stacks rather than pieces of one stack."""
    if len(stacks) < 2 or any(crowd_of(stack) > 1 for stack in stacks):
        return False
    return len(stacks) == crowd or min(len(stack) for stack in stacks) > 1


def _splits(frames: list[Frame], along: np.ndarray, crowd: int) -> Iterator[_Split]:
    """Yield splits by one attribute, by two and by all; up to `crowd` slices have the same position."""
    stated = _varying(frames)
    for name in (*_STATED, *_MEASURED):
        if name in stated:
            yield _by_value(frames, [name])
        elif name in _MEASURED:
            values = _measured(frames, name)
            if values is None:
                continue
            yield from _by_range(frames, name, values, _clusters(values, crowd))
            # Times that drift from position to position, with the heartbeat or the table.
            ranks = ranks_at_places(values, along)
            if ranks is not None:
                yield _by_number(frames, name, values, ranks)
    for count in sorted({2, len(stated)}):
        for names in itertools.combinations(stated, count):
            yield _by_value(frames, names)


def _single_splits(frames: list[Frame], grid: np.ndarray | None) -> Iterator[_Split]:
    """Yield splits by one attribute, for slices at different positions; `grid`: positions as whole numbers, if even."""
    for name in _varying(frames):
        yield _by_value(frames, [name])
    for name in _MEASURED if len(frames) >= _FEWEST else ():
        values = _measured(frames, name)
        if values is None:
            continue
        for parts in range(2, _MOST + 1):
            clusters = _clusters(values, parts) if grid is None else grid % parts
            yield from _by_range(frames, name, values, clusters)


def _varying(frames: list[Frame]) -> list[str]:
    """Attributes with at least two values, one of which several slices share."""
    found = []
    for name in _STATED:
        count = len({frame.values.get(name) for frame in frames})
        if 1 < count <= max(2, len(frames) // 2):
            found.append(name)
    return found


def _by_value(frames: list[Frame], names: Sequence[str]) -> _Split:
    keys: list[Hashable] = [tuple(frame.text(name) for name in names) for frame in frames]
    labels, order = {}, {}
    for key in dict.fromkeys(keys):
        texts = [_STATED[name].format(value or "unknown") for name, value in zip(names, key, strict=True)]  # type: ignore[call-overload]
        labels[key], order[key] = ", ".join(texts), tuple(_natural(value) for value in key)  # type: ignore[attr-defined]
    return _Split(keys, labels, order)


def _measured(frames: list[Frame], name: str) -> np.ndarray | None:
    if any(name not in frame.values for frame in frames):
        return None
    try:
        values = np.array([_number(name, frame.text(name)) for frame in frames])
    except ValueError:
        return None
    return values if np.isfinite(values).all() and np.ptp(values) > 0 else None


def _number(name: str, text: str) -> float:
    if name.endswith("DateTime"):  # YYYYMMDDHHMMSS.FFFFFF&ZZXX (PS3.5 6.2)
        clock = text[:14].ljust(14, "0")
        part = text[14:].split("+")[0].split("-")[0] or "0"
        return datetime.strptime(clock, "%Y%m%d%H%M%S").timestamp() + float(part)
    if name == "AcquisitionTime":  # HHMMSS.FFFFFF
        return 3600 * int(text[:2]) + 60 * int(text[2:4] or 0) + float(text[4:] or 0)
    return float(text)


def _clusters(values: np.ndarray, parts: int) -> np.ndarray:
    """Number of the cluster of each value, split into `parts` clusters at the widest gaps."""
    known = np.unique(values)
    widest = np.sort(np.argsort(np.diff(known))[::-1][: parts - 1])
    return (
        np.searchsorted(known[widest], values, side="left") if len(known) >= parts else np.zeros(len(values))
    )


def _by_range(frames: list[Frame], name: str, values: np.ndarray, clusters: np.ndarray) -> Iterator[_Split]:
    """Yield the split if the ranges of the clusters do not overlap."""
    numbers = np.unique(clusters)
    ranges = [(values[clusters == number].min(), values[clusters == number].max()) for number in numbers]
    if any(upper[0] <= lower[1] for lower, upper in itertools.pairwise(sorted(ranges))):
        return
    yield _by_number(frames, name, values, clusters)


def _by_number(frames: list[Frame], name: str, values: np.ndarray, clusters: np.ndarray) -> _Split:
    labels, order = {}, {}
    for number in np.unique(clusters):
        inside = list(np.flatnonzero(clusters == number))
        ends = [frames[end(inside, key=values.__getitem__)].text(name) for end in (min, max)]
        labels[int(number)] = _MEASURED[name].format(" to ".join(dict.fromkeys(ends)))
        order[int(number)] = (float(values[inside].min()),)
    return _Split([int(number) for number in clusters], labels, order)  # type: ignore[arg-type]


def _pieces(frames: list[Frame], along: np.ndarray) -> _Split | None:
    """Consecutive pieces of a stack, with a gap or another distance between them."""
    for name in _varying(frames):
        values = [frame.text(name) for frame in frames]
        numbers = pieces(values, along)
        if numbers is None:
            continue
        labels, order = {}, {}
        for number in range(max(numbers) + 1):
            own = list(dict.fromkeys(v for v, n in zip(values, numbers, strict=True) if n == number))
            ends = own if len(own) < 3 else [own[0], own[-1]]
            labels[number] = _STATED[name].format(" to ".join(value or "unknown" for value in ends))
            order[number] = (number,)
        return _Split(list(numbers), labels, order)  # type: ignore[arg-type]
    return None


def _natural(text: str) -> tuple[bool, float, str]:
    try:
        return (False, float(text), "")
    except ValueError:
        return (True, 0.0, text)
