"""Assignment of slices to patients, since copies of two patients' images may have got the same series UID."""

from __future__ import annotations

import re
from collections.abc import Sequence

from transforms.dicom.frame import Frame

__all__ = ["patient_numbers"]

_IDENTITY = ("PatientID", "PatientName", "PatientBirthDate", "PatientSex")


def patient_numbers(frames: Sequence[Frame]) -> list[int]:
    """Return the number of the patient of every slice, from 1; 1 for all if no attribute differs.

    An attribute that is empty in some slices and equal in all others is ignored (PS3.3 C.7.1.1 allows empty values).
    Names are compared without case, blanks and the separators between their parts.
    """
    telling = []
    for keyword in _IDENTITY:
        # Only the first script of a name counts (PS3.5 6.2), since some programs drop the others.
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
