"""Whose slices these are: a series UID is not proof enough, where copies of two patients got the same one."""

from __future__ import annotations

import re
from collections.abc import Sequence

from transforms.dicom.frame import Frame

__all__ = ["patient_numbers"]

_IDENTITY = ("PatientID", "PatientName", "PatientBirthDate", "PatientSex")


def patient_numbers(frames: Sequence[Frame]) -> list[int]:
    """Return for every slice the number of its patient, from 1; 1 for all where nothing says otherwise.

    What is empty in some slices and the same in all others says nothing (PS3.3 C.7.1.1 lets each be empty). The
    spelling of a name does not count: case, blanks and the signs between its parts.
    """
    telling = []
    for keyword in _IDENTITY:
        # Of a name in several scripts (PS3.5 6.2) the first one counts; not every writer keeps the others.
        values = [_spelt(frame.text(keyword).split("=")[0]) for frame in frames]
        if len(set(values) - {""}) > 1:
            telling.append(values)
    if not telling:
        return [1] * len(frames)
    patients = list(zip(*telling, strict=True))
    number = {patient: index for index, patient in enumerate(sorted(set(patients)), 1)}
    return [number[patient] for patient in patients]


def _spelt(text: str) -> str:
    return re.sub(r"[\s^=,.]+", " ", text).strip().casefold()
