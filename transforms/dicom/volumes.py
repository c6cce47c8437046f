"""Grouping of the DICOM files of a folder into volumes.

All slices of a volume have the same patient, series (0020,000E), modality, image size, orientation, frame of reference
and scan; localizers are separate. Scans (time, heartbeat, acquisition, kernel ...) are separated by header attributes,
but only if slices would otherwise have the same position, be interleaved or have a gap: a stack whose AcquisitionNumber
grows from slice to slice is one volume.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np

from transforms.dicom.headers import CT_CLASSES, Frame, scan_files
from transforms.dicom.patients import patient_numbers
from transforms.dicom.phases import split_phases

__all__ = [
    "NO_IMAGE",
    "Volume",
    "find_all",
    "find_volumes",
    "is_ct",
    "is_localizer",
    "is_secondary_capture",
    "modality_of",
]

SAME_ORIENTATION = 0.02
"""Largest difference of direction cosines inside a volume when grouping (1 degree); the checks are stricter."""

# Objects with rows and columns that are not images to segment, and objects without them (PS3.3 A.1.4).
NO_IMAGE = frozenset(
    [
        "SEG",
        "RTSTRUCT",
        "RTDOSE",
        "RTPLAN",
        "RTRECORD",
        "RTIMAGE",
        "SR",
        "PR",
        "KO",
        "REG",
        "FID",
        "RWV",
        "DOC",
        "PLAN",
    ]
)
_SCOUTS = frozenset(["LOCALIZER", "SCOUT", "SCANOSCOPE", "SCANOGRAM", "TOPOGRAM", "SURVIEW"])
_T = TypeVar("_T")


@dataclass(frozen=True)
class Volume:
    """One image volume of a folder, not yet checked and without pixels.

    Attributes:
        number: position in the list, from 1; a value for ``--series``.
        uid, description, modality, study_uid: SeriesInstanceUID (0020,000E), SeriesDescription (0008,103E),
            Modality (0008,0060), StudyInstanceUID.
        count: slices.
        size: columns and rows; 0 if the header does not state them.
        orientation: axial, coronal, sagittal, oblique or unknown.
        localizer: a scout view (ImageType LOCALIZER).
        phase: the attribute that distinguishes it from other volumes of the series; "" if there are none.
        files: its files, sorted by path.
    """

    number: int
    uid: str
    description: str
    modality: str
    count: int
    size: tuple[int, int]
    orientation: str
    localizer: bool
    phase: str
    files: tuple[Path, ...]
    study_uid: str = ""
    frames: tuple[Frame, ...] = field(default=(), repr=False, compare=False)
    stack: int = field(default=0, repr=False, compare=False)
    """Equal for volumes that are pieces of one stack, with a gap or another distance between them; 0 for others."""

    def __str__(self) -> str:
        name = f" '{self.description}'" if self.description else ""
        kind = f"localizer, {self.orientation}" if self.localizer else self.orientation
        phase = f", {self.phase}" if self.phase else ""
        return (
            f"{self.modality or 'unknown modality'}{name}: {self.count} slice(s) of {self.size[0]} x {self.size[1]},"
            f" {kind}{phase}, such as {self.files[0].name} (series {self.uid or 'without a UID'})"
        )


def find_volumes(folder: str | Path) -> list[Volume]:
    """List all image volumes in a folder and its subfolders, or in one file, from the headers alone.

    The order, and with it the numbers, depend on series number, UIDs and phases, not on file names.

    Raises:
        ImageError: there is no such folder, or a DICOM file whose header is damaged.
    """
    return find_all(Path(folder))[0]


def find_all(folder: Path) -> tuple[list[Volume], list[Frame]]:
    """Return all volumes in a folder, or in one file, and the frames that are not images of a volume."""
    scanned = scan_files(folder)
    images = [frame for frame in scanned if not _is_no_image(frame)]
    others = [frame for frame in scanned if _is_no_image(frame)]
    by_series = _grouped(
        images, lambda f: (f.text("StudyInstanceUID"), f.text("SeriesInstanceUID"), modality_of(f))
    )
    # No frame of a dose report or screen shot with modality CT has a position. A slice that lost its position belongs
    # to a series with other slices; one that lost its UID and size, too, is damaged.
    lost = [
        key
        for key, frames in by_series.items()
        if not any(frame.has("ImagePositionPatient") for frame in frames)
        and all(frame.has("SeriesInstanceUID") and frame.has("Rows") for frame in frames)
    ]
    if len(lost) < len(by_series):
        for key in lost:
            others += by_series.pop(key)
    found = []
    for frames in by_series.values():
        found += _volumes_of(frames)
    found.sort(key=lambda item: item[0])
    stacks = {
        first: number for number, first in enumerate(dict.fromkeys(item[3] for item in found if item[3]), 1)
    }
    return [
        _volume(number, label, frames, stacks.get(stack, 0))
        for number, (_, label, frames, stack) in enumerate(found, 1)
    ], others


def _is_no_image(frame: Frame) -> bool:
    if is_secondary_capture(frame):
        return True
    kind, no_size = frame.text("SOPClassUID"), not (frame.has("Rows") or frame.has("Columns"))
    if no_size and kind and kind not in CT_CLASSES:  # raw data and the like, which scanners also label as CT
        return True
    if is_ct(
        frame
    ):  # even if attributes are missing: the checks report that, and the frame must not be left out
        return False
    return frame.text("Modality") in NO_IMAGE or no_size


def is_ct(frame: Frame) -> bool:
    """Whether an image is CT by modality or SOP class; one of the two may be missing."""
    return modality_of(frame) == "CT" or frame.text("SOPClassUID") in CT_CLASSES


def is_secondary_capture(frame: Frame) -> bool:
    """Whether it is a secondary capture, such as a screen shot, with one frame or several."""
    return (frame.text("SOPClassUID") + ".").startswith(
        "1.2.840.10008.5.1.4.1.1.7."
    )  # and its multi-frame kinds


def modality_of(frame: Frame) -> str:
    """The modality; if it is missing, that of the SOP class."""
    stated = frame.text("Modality").upper()
    return stated or ("CT" if frame.text("SOPClassUID") in CT_CLASSES else "")


def _grouped(items: Iterable[_T], key: Callable[[_T], Hashable]) -> dict[Hashable, list[_T]]:
    groups: dict[Hashable, list[_T]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def _volumes_of(frames: list[Frame]) -> list[tuple[tuple, str, list[Frame], str]]:
    """Split the frames of one series.

    Returns for every part its sort key, its distinguishing label, its frames, and, if it is a piece of a stack, a text
    that all pieces of the stack share.
    """
    references = {frame.text("FrameOfReferenceUID") for frame in frames}
    patients = patient_numbers(frames)
    parts = []
    for group in _grouped(
        range(len(frames)),
        lambda i: (
            patients[i],
            is_localizer(frames[i]),
            _size(frames[i]),
            frames[i].text("FrameOfReferenceUID"),
        ),
    ).values():
        patient = (
            f"patient {patients[group[0]]} of {max(patients)} (PatientID, name, birth date or sex differ)"
        )
        for oriented in _by_orientation([frames[i] for i in group]):
            reference = oriented[0].text("FrameOfReferenceUID") or "missing"
            for phase, order, members, pieced in split_phases(oriented):
                label = [patient] if max(patients) > 1 else []
                label += [phase] if phase else []
                label += [f"frame of reference {reference}"] if len(references) > 1 else []
                parts.append((label, order, members, oriented[0].place if pieced else ""))
    first = frames[0]
    number = first.text("SeriesNumber")
    return [
        (
            (
                int(number) if number.isdigit() else 2**31,
                first.text("StudyInstanceUID"),
                first.text("SeriesInstanceUID"),
                modality_of(first),
                is_localizer(part[0]),
                order,
                -len(part),
                _size(part[0]),
                label,
                min(frame.place for frame in part),
            ),
            ", ".join(label),
            part,
            stack,
        )
        for label, order, part, stack in parts
    ]


def is_localizer(frame: Frame) -> bool:
    """Whether a frame is a scout view."""
    image_type = (*frame.values.get("ImageType", ()), *frame.values.get("FrameType", ()))
    return any(str(value).upper() in _SCOUTS for value in image_type)


def _size(frame: Frame) -> tuple[int, int]:
    return frame.integer("Columns", 0), frame.integer("Rows", 0)


def _by_orientation(frames: list[Frame]) -> list[list[Frame]]:
    clusters: list[tuple[np.ndarray, list[Frame]]] = []
    unknown = []
    for frame in frames:
        cosines = frame.known_cosines
        if cosines is None:
            unknown.append(frame)
            continue
        for centre, members in clusters:
            if np.abs(centre - cosines).max() <= SAME_ORIENTATION:
                members.append(frame)
                break
        else:
            clusters.append((cosines, [frame]))
    groups = sorted((members for _, members in clusters), key=len, reverse=True)
    if unknown:  # slices that lost their orientation, which the checks report, or a series without any
        groups = [[*groups[0], *unknown], *groups[1:]] if groups else [unknown]
    return groups


def _orientation(frame: Frame) -> str:
    cosines = frame.known_cosines
    if cosines is None:
        return "unknown orientation"
    normal = np.abs(np.cross(cosines[:3], cosines[3:]))
    axis = int(normal.argmax())
    return ("sagittal", "coronal", "axial")[axis] if normal[axis] > np.cos(np.radians(2)) else "oblique"


def _volume(number: int, label: str, frames: list[Frame], stack: int) -> Volume:
    first = frames[0]
    return Volume(
        number=number,
        uid=first.text("SeriesInstanceUID"),
        description=first.text("SeriesDescription"),
        modality=modality_of(first),
        count=len(frames)
        if is_ct(first)
        else sum(int(frame.text("NumberOfFrames") or 1) for frame in frames),
        size=_size(first),
        orientation=_orientation(first),
        localizer=is_localizer(first),
        phase=label,
        files=tuple(sorted({frame.path for frame in frames})),
        study_uid=first.text("StudyInstanceUID"),
        frames=tuple(frames),
        stack=stack,
    )
