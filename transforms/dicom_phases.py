"""Phases of one series told apart: stacks of slices that stand at the same places, or between one another."""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Sequence

import numpy as np

from transforms.dicom_headers import Frame
from transforms.errors import ImageError

__all__ = ["is_close", "numbers_or_none", "split_phases"]

SAME_PLACE_MM = 0.01
SAME_PLACE = 0.01
"""Slices nearer to each other than this (mm, or times the slice distance, whichever is more) stand at one place."""
_PHASES = {
    "TemporalPositionIdentifier": "temporal position {}",
    "TemporalPositionIndex": "temporal position {}",
    "TemporalPositionTimeOffset": "{} s",
    "NominalPercentageOfCardiacPhase": "cardiac phase {} %",
    "TriggerTime": "trigger time {} ms",
    "AcquisitionNumber": "acquisition {}",
    "FrameAcquisitionNumber": "acquisition {}",
    "ConvolutionKernel": "kernel {}",
    "KVP": "{} kV",
    "StackID": "stack {}",
    "SeriesDescription": "'{}'",
    "SeriesNumber": "series number {}",
    "ImageType": "{}",
    "FrameType": "{}",
    "SliceThickness": "slices {} mm thick",
    "PixelSpacing": "pixels of {} mm",
    "ReconstructionDiameter": "field of view {} mm",
    "AcquisitionTime": "acquired at {}",
    "FrameAcquisitionDateTime": "acquired at {}",
}
_TIMES = ("AcquisitionTime", "FrameAcquisitionDateTime")


def is_close(distance: np.ndarray | float, usual: float) -> np.ndarray | bool:
    """Whether slices this far apart (mm) stand at one place, for slices that are usually `usual` mm apart."""
    return np.abs(distance) <= max(SAME_PLACE_MM, SAME_PLACE * usual)


def numbers_or_none(frame: Frame, keyword: str, length: int) -> np.ndarray | None:
    """The numbers, or None where the checks will find fault with them."""
    try:
        values = frame.numbers(keyword)
    except ImageError:
        return None
    return values if len(values) == length and np.isfinite(values).all() else None


def split_phases(frames: list[Frame]) -> list[tuple[str, tuple, list[Frame]]]:
    """Split slices that stand at the same places by what tells them apart: ``(label, sort key, frames)``."""
    whole: list[tuple[str, tuple, list[Frame]]] = [("", (), frames)]
    cosines = numbers_or_none(frames[0], "ImageOrientationPatient", 6)
    positions = [numbers_or_none(frame, "ImagePositionPatient", 3) for frame in frames]
    if cosines is None or any(position is None for position in positions):
        return whole
    along = np.asarray(positions) @ np.cross(cosines[:3], cosines[3:])
    seen: dict[Hashable, int] = {}
    # A copy of the same instance is no phase; it goes where its twin goes.
    for index, frame in enumerate(frames):
        seen.setdefault((frame.text("SOPInstanceUID") or frame.path, frame.index), index)
    single = sorted(seen.values())
    crowd = _crowd(np.sort(along[single]))
    if crowd == 1 and _is_even(np.sort(along[single])):
        return whole
    varying = [name for name in _PHASES if len({frame.text(name) for frame in frames}) > 1]
    # More times than phases are those of the slices.
    slow = [name for name in _TIMES if len({frame.text(name) for frame in frames}) != crowd]
    varying = [name for name in varying if name not in slow]
    for count in sorted({1, 2, len(varying)}):
        for names in itertools.combinations(varying, count):
            keys = [tuple(frame.text(name) for name in names) for frame in frames]
            stacks: dict[tuple[str, ...], list[float]] = {}
            for index in single:
                stacks.setdefault(keys[index], []).append(along[index])
            if len(stacks) > 1 and _are_phases([np.sort(stack) for stack in stacks.values()], crowd):
                return [
                    (
                        ", ".join(
                            _PHASES[name].format(value or "unknown")
                            for name, value in zip(names, key, strict=True)
                        ),
                        tuple(_natural(value) for value in key),
                        [frame for frame, own in zip(frames, keys, strict=True) if own == key],
                    )
                    for key in stacks
                ]
    return whole


def _crowd(along: np.ndarray) -> int:
    """Largest number of slices at one place."""
    gaps = np.diff(along)
    usual = gaps[gaps > SAME_PLACE_MM]
    apart = ~np.asarray(is_close(gaps, float(np.median(usual)) if len(usual) else 0.0))
    return int(np.bincount(np.concatenate([[0], np.cumsum(apart)])).max())


def _is_even(along: np.ndarray) -> bool:
    if len(along) < 3:
        return True
    even = np.linspace(along[0], along[-1], len(along))
    return bool(np.all(is_close(along - even, float(even[1] - even[0]))))


def _are_phases(stacks: Sequence[np.ndarray], crowd: int) -> bool:
    """Whether parts are stacks of their own rather than pieces of one stack."""
    if any(_crowd(stack) > 1 for stack in stacks):
        return False
    if crowd > 1:
        return len(stacks) == crowd or min(len(stack) for stack in stacks) > 1
    # Nothing stands at one place, but the distances vary: two stacks between one another?
    stacks = sorted(stacks, key=lambda stack: stack[0])
    return all(len(stack) > 2 and _is_even(stack) for stack in stacks) and all(
        upper[0] < lower[-1] for lower, upper in itertools.pairwise(stacks)
    )


def _natural(text: str) -> tuple[bool, float, str]:
    try:
        return (False, float(text), "")
    except ValueError:
        return (True, 0.0, text)
